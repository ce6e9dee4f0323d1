"""Trained policies among other agents than those they were trained with: where that is right, and where not.

A policy that decides for everybody, from what does not depend on how many there are, decides for other
agents as well: it is trained on 20 agents and runs on 200.
"""

from __future__ import annotations

from typing import Any

from camac_dra.models.checkpoint_files import Manifest
from camac_dra.models.network_spec import network_of
from camac_dra.training.checkpoints import check_environment, environment_fingerprint
from camac_dra.utils.errors import CheckpointError
from camac_dra.utils.schema import Config, EnvironmentConfig

_MAY_DIFFER = {"agents", "observation_space"}


def check_problem(
    manifest: Manifest,
    trained: Config,
    observation_shape: tuple[int, ...],
    problem: EnvironmentConfig,
    env: Any,
) -> bool:
    """Return whether the agents of ``env``, or the neighbours they hear, are others than in training.

    Args:
        manifest: of the checkpoint.
        trained: its configuration.
        observation_shape: of one agent there.
        problem: what the policy is to act in.
        env: an environment of it.

    Raises:
        CheckpointError: the policy does not fit the problem; the message says why.
    """
    now = environment_fingerprint(env)
    differing = {name for name, value in now.items() if manifest.environment.get(name) != value}
    if not differing:
        return False
    if not differing <= _MAY_DIFFER:
        check_environment(manifest, now)
    missing = _missing(trained, observation_shape, problem, tuple(env.single_observation_space.shape))
    if missing is None:
        return True
    try:
        check_environment(manifest, now)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; for other agents {missing}") from None
    return True


def _missing(
    trained: Config, before: tuple[int, ...], problem: EnvironmentConfig, after: tuple[int, ...]
) -> str | None:
    """Return what a policy lacks to decide for other agents, None where it can."""
    if trained.environment.factory is not None or problem.factory is not None:
        return "environment.factory must be null: what others' agents see may depend on who there is"
    kinds = (trained.environment.observation_type, problem.observation_type)
    if trained.training.policies != "shared":
        return f"one policy must decide for all (training.policies: shared), got {trained.training.policies}"
    if "full" in kinds or kinds[0] != kinds[1]:
        return (
            "environment.observation_type must be partial or graph as in training, "
            f"got {kinds[0]} in training and {kinds[1]} here"
        )
    if not network_of(trained.model).takes(before, after):
        return (
            "observations must have the size of the training, or be rows of neighbours that model.type "
            f"attention or gnn reads, got {before} in training and {after} here for {trained.model.type}"
        )
    return None
