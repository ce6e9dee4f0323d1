"""Play whole episodes in the vectorised core and in the slow reference, and compare every step."""

from __future__ import annotations

import numpy as np

from camac_dra.environment.agreement import PerfectAgreement
from camac_dra.environment.vector_api import StepResult
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.schema.environment import EnvironmentConfig
from tests.environment.problems import random_actions
from tests.environment.reference import Events, Limits, Outcome, ReferenceEnvironment


def mechanism_rng(seed: int) -> np.random.Generator:
    """Return the generator that an environment of this seed resolves conflicts with: the second of three."""
    return np.random.default_rng(np.random.SeedSequence(seed).spawn(3)[1])


def assert_same(result: StepResult, copy: int, reference: ReferenceEnvironment, expected: Outcome) -> None:
    scale = np.array(reference.nominal_share)  # (N, R)
    for name in ("requests", "grants", "served", "backlog", "lost"):
        got = result.info[name][copy] / scale
        np.testing.assert_allclose(got, getattr(expected, name) / scale, rtol=1e-6, atol=1e-8, err_msg=name)
    for name in ("load", "overload"):
        got, wanted = result.info[name][copy], np.array(getattr(expected, name))  # (K, R)
        finite = np.isfinite(wanted)
        np.testing.assert_allclose(got[finite], wanted[finite], rtol=1e-6, atol=1e-8, err_msg=name)
        assert (got[~finite] > 1e6).all(), f"{name} of a group without capacity"
    np.testing.assert_allclose(result.info["values"][copy], expected.values, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(result.rewards[copy], expected.rewards, rtol=1e-6, atol=1e-6)


def play_both(
    config: EnvironmentConfig,
    num_envs: int,
    seed: int,
    agreement: str | None = None,
    limits: Limits | None = None,
) -> None:
    """Play an episode under random actions in the core and in references, and compare every step."""
    agreed = None if agreement is None else PerfectAgreement(agreement)
    env = VectorEnvironment(config, num_envs, seed, agreed)
    env.reset()
    references = [
        ReferenceEnvironment(config, weights, agreement, mechanism_rng(seed), limits)
        for weights in env.state.weights.tolist()
    ]
    rng = np.random.default_rng(seed)
    for _ in range(config.max_episode_length):
        draw, actions = env.state.draw, random_actions(config, num_envs, rng)
        result = env.step(actions)
        for copy, reference in enumerate(references):
            events = Events.of(draw, copy, config.num_agents)
            assert_same(result, copy, reference, reference.step_action(actions[copy].tolist(), events))
    assert result.done.all()
