"""The vectorised core against the slow reference, and a toy instance worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from camac_dra.environment.agreement import PerfectAgreement
from camac_dra.environment.allocation import STRATEGIES, is_deterministic
from camac_dra.environment.vector_api import StepResult
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.schema.environment import EnvironmentConfig
from tests.environment.reference import Events, ReferenceEnvironment

RESOURCES = ("cpu", "memory", "bandwidth")
STEPS = 6


@st.composite
def limits(draw: st.DrawFn, num_agents: int, resources: tuple[str, ...]) -> dict[str, Any]:
    """Return a ``constraints`` section: one pool, racks, or overlapping groups that bind for some resources
    only.
    """
    agents = st.integers(0, num_agents - 1)
    section: dict[str, Any] = {}
    kind = draw(st.sampled_from(["single", "disjoint", "overlapping"]))
    if kind == "disjoint":
        section["num_groups"] = draw(st.integers(1, num_agents))
    elif kind == "overlapping":
        section["groups"] = [
            {
                "name": f"cell_{k}",
                "agents": draw(st.lists(agents, min_size=1, max_size=num_agents, unique=True)),
                "limits": draw(st.dictionaries(st.sampled_from(resources), st.floats(0.5, 20.0))),
            }
            for k in range(draw(st.integers(1, 3)))
        ]
    if draw(st.booleans()):
        section["agent_limits"] = draw(st.dictionaries(st.sampled_from(resources), st.floats(0.2, 10.0)))
    if draw(st.booleans()):
        section["access"] = draw(
            st.dictionaries(st.sampled_from(resources), st.lists(agents, unique=True), max_size=2)
        )
    return section


@st.composite
def exogenous(draw: st.DrawFn) -> dict[str, Any]:
    """Return settings of the synthetic dynamics in which shocks, outages, churn and yields happen often."""
    section: dict[str, Any] = {"load": draw(st.floats(0.2, 2.5)), "day_length": 5.0, "burst_probability": 0.2}
    if draw(st.booleans()):
        section |= {"shock_probability": 0.4, "shock_duration": 2}
    if draw(st.booleans()):
        section |= {"outage_probability": 0.4, "outage_duration": 2, "outage_fraction": draw(st.floats(0, 1))}
    if draw(st.booleans()):
        section |= {"leave_probability": 0.4, "join_probability": 0.6}
    if draw(st.booleans()):
        section["yield_low"] = draw(st.floats(0.1, 1.0))
    if draw(st.booleans()):
        section["base_concentration"] = None
    return section


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Return an ``environment`` section; rewards and credits are left to the caller."""
    num_agents = draw(st.integers(1, 5))
    resources = RESOURCES[: draw(st.integers(1, 3))]
    return {
        "num_agents": num_agents,
        "num_resources": len(resources),
        "resource_limits": {name: draw(st.floats(1.0, 30.0)) for name in resources},
        "max_episode_length": STEPS,
        "constraints": draw(limits(num_agents, resources)),
        "dynamics": {"synthetic": draw(exogenous())},
        "contention": draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])),
        "contention_floor": draw(st.sampled_from([0.0, 0.3, 1.0])),
        "mechanism": draw(st.sampled_from(STRATEGIES)),
        "coupling": draw(st.sampled_from(["additive", "leontief"])),
        "backlog_limit": draw(st.sampled_from([None, 0.3, 2.0])),
        "holding_cost": draw(st.sampled_from([0.0, 0.1, 1.5])),
        "loss_cost": draw(st.sampled_from([0.0, 0.1, 1.0])),
        "action_type": draw(st.sampled_from(["discrete", "multi_discrete", "continuous"])),
        "action_size": draw(st.integers(2, 6)),
        "max_multiple": draw(st.sampled_from([None, 1.0, 3.0])),
    }


REWARDS = [
    {"reward_function": reward_function, "credit": credit}
    for reward_function in ("efficiency", "fairness", "hybrid")
    for credit in ("individual", "team", "marginal")
    if credit != "marginal" or reward_function == "efficiency"
]


def actions_for(config: EnvironmentConfig, num_envs: int, rng: np.random.Generator) -> np.ndarray:
    """Return random actions (B, N) or (B, N, R), the ends of their range among them."""
    cells = (num_envs, config.num_agents, config.num_resources)
    if config.action_type == "continuous":
        return np.clip(rng.uniform(-0.3, 1.3, cells), 0.0, 1.0)
    shape = cells[:2] if config.action_type == "discrete" else cells
    return rng.integers(config.action_size, size=shape)


def mechanism_rng(seed: int) -> np.random.Generator:
    """Return the generator that an environment of this seed resolves conflicts with: the second of three."""
    return np.random.default_rng(np.random.SeedSequence(seed).spawn(3)[1])


def assert_same(result: StepResult, copy: int, reference: ReferenceEnvironment, expected: Any) -> None:
    scale = np.array(reference.nominal_share)
    for name in ("requests", "grants", "served", "backlog", "lost"):
        got = result.info[name][copy] / scale
        np.testing.assert_allclose(got, getattr(expected, name) / scale, rtol=1e-6, atol=1e-8, err_msg=name)
    for name in ("load", "overload"):
        got, wanted = result.info[name][copy], np.array(getattr(expected, name))
        finite = np.isfinite(wanted)
        np.testing.assert_allclose(got[finite], wanted[finite], rtol=1e-6, atol=1e-8, err_msg=name)
        assert (got[~finite] > 1e6).all(), name
    np.testing.assert_allclose(result.info["values"][copy], expected.values, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(result.rewards[copy], expected.rewards, rtol=1e-6, atol=1e-6)


def play_both(config: EnvironmentConfig, num_envs: int, seed: int, agreement: str | None = None) -> None:
    """Play an episode in the core and in one reference per copy, and compare every step."""
    env = VectorEnvironment(
        config, num_envs, seed, agreement=None if agreement is None else PerfectAgreement(agreement)
    )
    env.reset()
    references = [
        ReferenceEnvironment(config, env.state.weights[b].tolist(), agreement, mechanism_rng(seed))
        for b in range(num_envs)
    ]
    rng = np.random.default_rng(seed)
    for _ in range(config.max_episode_length):
        draw, actions = env.state.draw, actions_for(config, num_envs, rng)
        result = env.step(actions)
        for copy, reference in enumerate(references):
            events = Events.of(draw, copy, config.num_agents)
            expected = reference.step_action(actions[copy].tolist(), events)
            assert_same(result, copy, reference, expected)
    assert result.done.all()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(section=configurations(), reward=st.sampled_from(REWARDS), seed=st.integers(0, 2**20))
def test_whole_episodes_agree_with_the_reference(section: Any, reward: Any, seed: int) -> None:
    if not is_deterministic(section["mechanism"]) and reward["credit"] == "marginal":
        reward = {"reward_function": "efficiency", "credit": "team"}
    config = EnvironmentConfig.model_validate(section | reward)
    play_both(config, 2 if is_deterministic(config.mechanism) else 1, seed)
