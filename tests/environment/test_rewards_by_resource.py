"""Rewards by resource: they add up to the rewards, and each is that of its own resource's requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camac_dra.environment.agreement import PerfectAgreement
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema.environment import EnvironmentConfig
from tests.environment.problems import EVENTFUL, problem, random_actions

COPIES = 2

problems = st.fixed_dictionaries(
    {
        "credit": st.sampled_from(["individual", "team", "marginal"]),
        "deferral_price": st.sampled_from([None, 0.9]),
        "agreed": st.booleans(),
        "mechanism": st.sampled_from(["proportional", "max_min"]),
        "num_groups": st.sampled_from([1, 3]),
        "num_agents": st.sampled_from([1, 7, 40]),
        "backlog_limit": st.sampled_from([None, 0.5]),
        "eventful": st.booleans(),
        "seed": st.integers(0, 2**20),
    }
)


def make(given: dict[str, Any], wanted: bool) -> VectorEnvironment:
    """Return a problem, with or without rewards by resource."""
    num_agents = max(given["num_agents"], given["num_groups"])
    config = problem(
        EVENTFUL if given["eventful"] else {"load": 1.5},
        num_agents=num_agents,
        constraints={"num_groups": given["num_groups"]},
        credit=given["credit"],
        mechanism=given["mechanism"],
        backlog_limit=given["backlog_limit"],
        action_type="multi_discrete",
        max_episode_length=4,
    )
    agreement = PerfectAgreement() if given["agreed"] else None
    env = VectorEnvironment(config, COPIES, given["seed"], agreement)
    env.set_deferral_price(given["deferral_price"])
    env.set_rewards_by_resource(wanted)
    env.reset()
    return env


@settings(max_examples=60, deadline=None)
@given(given=problems)
def test_they_add_up_to_the_rewards(given: dict[str, Any]) -> None:
    plain, split = make(given, False), make(given, True)
    rng = np.random.default_rng(given["seed"])
    for _ in range(plain.episode_length):
        actions = random_actions(plain.config, COPIES, rng)
        expected, found = plain.step(actions), split.step(actions)
        assert expected.rewards_by_resource is None
        assert found.rewards_by_resource is not None
        assert found.rewards_by_resource.shape == (*found.rewards.shape, plain.num_resources)
        np.testing.assert_allclose(found.rewards_by_resource.sum(axis=2), found.rewards, atol=1e-12)
        np.testing.assert_allclose(found.rewards, expected.rewards, rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(found.observations, expected.observations)
        assert not found.rewards_by_resource[~found.active].any()
    for one, other in zip(expected.episodes, found.episodes, strict=True):
        assert {**one, "reward": 0.0} == {**other, "reward": 0.0}
        assert one["reward"] == pytest.approx(other["reward"], rel=1e-9, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(given=problems)
def test_what_is_asked_of_one_resource_changes_nothing_of_another(given: dict[str, Any]) -> None:
    one, other = make(given, True), make(given, True)
    actions = random_actions(one.config, COPIES, np.random.default_rng(given["seed"]))
    changed = actions.copy()
    changed[..., 1] = one.config.action_size - 1 - actions[..., 1]
    first, second = one.step(actions).rewards_by_resource, other.step(changed).rewards_by_resource
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(second[..., 0], first[..., 0], rtol=1e-9, atol=1e-9)


def test_they_begin_and_end_when_asked_for() -> None:
    env = VectorEnvironment(problem(), COPIES, 0)
    env.reset()
    for wanted in (True, False):
        env.set_rewards_by_resource(wanted)
        assert (env.step_requests(env.askable()).rewards_by_resource is not None) is wanted


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"reward_function": "hybrid"}, r"environment\.reward_function must be 'efficiency' .* got 'hybrid'"),
        ({"coupling": "leontief"}, r"environment\.coupling must be 'additive' .* got 'leontief'"),
        ({"reward_fn": "numpy.mean"}, r"environment\.reward_fn must be null .* got 'numpy\.mean'"),
    ],
)
def test_rewards_that_are_no_sums_over_resources_are_refused(section: dict[str, Any], message: str) -> None:
    config: EnvironmentConfig = problem(**section)
    env = VectorEnvironment(config, COPIES, 0)
    with pytest.raises(ConfigurationError, match=message):
        env.set_rewards_by_resource(True)
