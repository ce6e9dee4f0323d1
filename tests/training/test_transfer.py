"""Policies that decide for other agents than they were trained with, and those that must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.checkpoint_files import find_checkpoint, read_manifest
from camac_dra.training.checkpoints import environment_fingerprint
from camac_dra.training.deploy import policy_of
from camac_dra.training.evaluation import evaluate
from camac_dra.training.policy import TrainedPolicy
from camac_dra.training.transfer import check_problem
from camac_dra.utils.errors import CheckpointError
from camac_dra.utils.schema import Config, EnvironmentConfig
from tests.training.small_runs import train
from tests.training.test_networks_of_all_kinds import config_of

SECOND = {"kind": "synthetic", "synthetic": {"noise": 0.1}}


def trained(kind: str, folder: Path, **training: Any) -> tuple[Config, Path]:
    config = config_of("policy_gradient" if kind == "dqn" else kind, folder, num_episodes=8, **training)
    if kind == "dqn":
        model = {"type": "dqn", "hidden_sizes": [8]}
        config = Config.model_validate({**config.model_dump(), "model": model})
    return config, train(config)[1]


def changed(config: Config, **environment: Any) -> EnvironmentConfig:
    return EnvironmentConfig.model_validate({**config.environment.model_dump(), **environment})


KINDS = ["attention", "gnn", "gnn_mean", "attention_centralized", "gru_centralized", "communication", "dqn"]


@pytest.mark.parametrize("kind", KINDS)
def test_trained_on_few_it_decides_for_many_as_the_network_says(kind: str, tmp_path: Path) -> None:
    config, run = trained(kind, tmp_path)
    topology = "grid" if config.environment.observation_type == "graph" else "fully_connected"
    problem = changed(config, num_agents=9, topology=topology, dynamics=SECOND)
    own, other = TrainedPolicy.load(run), TrainedPolicy.load(run, problem)
    env = VectorEnvironment(problem, 3)
    observations = env.reset(4)
    actions = other.actions(observations)
    assert actions.shape == (3, 9)
    assert len(np.unique(actions)) > 1
    module = own._modules[0]
    if not module.network.memory_size and not module.network.communicates:
        rows = torch.from_numpy(observations).flatten(0, 1)  # (27, E, F + 1)
        scaled = rows if module.observation_scaler is None else module.observation_scaler(rows)
        inputs = module.policy(scaled)  # of the network as trained
        np.testing.assert_array_equal(actions.ravel(), inputs.argmax(0).numpy())
    assert np.isfinite(evaluate(other, problem, 2, 3).efficiency).all()
    # Agents in processes of their own do the same.
    spec = policy_of(run, config.model_copy(update={"environment": problem}))
    assert spec.assignment == (0,) * 9
    np.testing.assert_array_equal(spec.build().act(observations), actions)


def test_rows_for_neighbours_that_nobody_has_change_nothing(tmp_path: Path) -> None:
    config, run = trained("gnn", tmp_path)
    wider = changed(config, max_neighbors=6)
    own, other = TrainedPolicy.load(run), TrainedPolicy.load(run, wider)
    narrow = VectorEnvironment(config.environment, 8).reset(3)
    padded = VectorEnvironment(wider, 8).reset(3)
    assert padded.shape[2] > narrow.shape[2]
    np.testing.assert_array_equal(own.actions(narrow), other.actions(padded))


@pytest.mark.parametrize(
    ("kind", "sections", "changes", "message"),
    [
        ("per_agent_gnn", {}, {"num_agents": 6}, r"agents: the checkpoint has 4 .*shared\), got per_agent"),
        ("gnn", {}, {"num_agents": 6, "action_size": 5}, r"action space: .*Discrete\(4\), .*Discrete\(5\)$"),
        ("gnn", {}, {"num_agents": 6, "resource_limits": {"ram": 1.0}}, r"resources: the checkpoint has 2"),
        ("custom", {}, {"num_agents": 6, "observation_type": "full"}, "got partial in training and full"),
        ("custom", {}, {"observation_size": 60}, r"got \(27,\) in training and \(60,\) here for tests\."),
    ],
)
def test_what_does_not_fit_is_refused(
    kind: str, sections: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config, run = trained(kind, tmp_path, **sections)
    with pytest.raises(CheckpointError, match=f"belongs to another environment: .*{message}"):
        TrainedPolicy.load(run, changed(config, **changes))


def test_whoever_sees_everybody_in_order_is_refused(tmp_path: Path) -> None:
    """Padding may make the sizes equal; what stands where is another matter."""
    config = config_of("policy_gradient", tmp_path, num_episodes=8)
    full = changed(config, observation_type="full", observation_size=200)
    run = train(config.model_copy(update={"environment": full}))[1]
    with pytest.raises(CheckpointError, match=r"for other agents environment\.observation_type must be"):
        TrainedPolicy.load(run, full.model_copy(update={"num_agents": 5}))


def test_others_environments_are_for_the_agents_trained_in_them(tmp_path: Path) -> None:
    config, run = trained("custom", tmp_path)
    env, foreign = VectorEnvironment(config.environment), {"factory": "tests.training.other.Environment"}
    elsewhere = config.environment.model_copy(update=foreign)
    manifest = read_manifest(find_checkpoint(run, prefer_best=True))
    now = {**environment_fingerprint(env), "agents": ["another"]}
    with pytest.raises(CheckpointError, match=r"for other agents environment\.factory must be null"):
        check_problem(replace(manifest, environment=now), config, (27,), elsewhere, env)
