"""One step: the core against the slow reference, a toy instance by hand, and what must always hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from camac_dra.environment.allocation import is_deterministic
from camac_dra.environment.vector_api import StepResult
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.schema.environment import EnvironmentConfig
from tests.environment.comparison import play_both
from tests.environment.problems import CONSTANT, EVENTFUL, problem, random_actions, sections

ANY_REWARD = [
    {"reward_function": reward_function, "credit": credit}
    for reward_function in ("efficiency", "fairness", "hybrid")
    for credit in ("individual", "team", "marginal")
    if credit != "marginal" or reward_function == "efficiency"
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(section=sections(), reward=st.sampled_from(ANY_REWARD), seed=st.integers(0, 2**20))
def test_whole_episodes_agree_with_the_reference(section: Any, reward: Any, seed: int) -> None:
    deterministic = is_deterministic(section["mechanism"])
    if not deterministic and reward["credit"] == "marginal":
        reward = {"reward_function": "efficiency", "credit": "team"}
    config = EnvironmentConfig.model_validate(section | reward)
    play_both(config, 2 if deterministic else 1, seed)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(section=sections(), agreement=st.sampled_from(["proportional", "max_min"]), seed=st.integers(0, 2**20))
def test_episodes_under_an_agreement_agree_with_the_reference(
    section: Any, agreement: str, seed: int
) -> None:
    mechanism = section["mechanism"] if is_deterministic(section["mechanism"]) else "proportional"
    config = EnvironmentConfig.model_validate(section | {"mechanism": mechanism, "credit": "marginal"})
    play_both(config, 2, seed, agreement)


def toy(**settings: Any) -> VectorEnvironment:
    """Return two agents, worth 1 and 2 a unit, who each meet a demand of 5 of a pool of 10 at every step."""
    config = problem(
        CONSTANT | {"load": 1.0},
        num_agents=2,
        num_resources=1,
        resource_limits={"cpu": 10.0},
        max_episode_length=3,
        weights=[1.0, 2.0],
        action_size=4,  # 0, 1, 2 or 3 fair shares of 5
        backlog_limit=1.0,
        holding_cost=0.1,
        loss_cost=0.5,
        **settings,
    )
    env = VectorEnvironment(config)
    env.reset()
    return env


def assert_step(env: VectorEnvironment, actions: list[int], **expected: list[float]) -> StepResult:
    result = env.step(np.array([actions]))
    for name, values in expected.items():
        got = result.rewards if name == "rewards" else result.info[name]
        np.testing.assert_allclose(got.ravel(), values, rtol=1e-12, atol=1e-15, err_msg=name)
    return result


@pytest.mark.parametrize("credit", ["individual", "team", "marginal"])
def test_a_toy_instance_worked_by_hand(credit: str) -> None:
    env = toy(credit=credit)
    # What both ask for is there. Agent 0 gains 5 * 1 and pays 5, agent 1 gains 5 * 2 and pays 5; over 5.
    rewards = {"individual": [0, 1], "team": [0.5, 0.5], "marginal": [0, 1]}
    first = {
        "requests": [5, 5],
        "load": [1],
        "overload": [0],
        "grants": [5, 5],
        "backlog": [0, 0],
        "lost": [0, 0],
    }
    assert_step(env, [1, 1], **first, rewards=rewards[credit])
    # Agent 0 waits: 5 units at 0.1, over 5.
    rewards = {"individual": [-0.1, 1], "team": [0.45, 0.45], "marginal": [-0.1, 1]}
    second = {"requests": [0, 5], "load": [0.5], "grants": [0, 5], "backlog": [5, 0], "lost": [0, 0]}
    assert_step(env, [0, 1], **second, rewards=rewards[credit])
    # 15 of 10 asked for: half too much, so half of the 10 is usable, a third of each request. Of the 20/3
    # that agent 0 has left, 5 may wait.
    # Values: (10/3 - 10/3 - 0.1 * 5 - 0.5 * 5/3) / 5 = -4/15 and (2 * 5/3 - 5/3 - 0.1 * 2 * 10/3) / 5 = 1/5.
    # Without agent 0, agent 1 would have 5 and the value 1: it lost 4/5. Without agent 1, agent 0 would have
    # 10 and the value 0: it lost 4/15.
    rewards = {
        "individual": [-4 / 15, 1 / 5],
        "team": [-1 / 30, -1 / 30],
        "marginal": [-4 / 15 - 4 / 5, 1 / 5 - 4 / 15],
    }
    third = {"requests": [10, 5], "load": [1.5], "overload": [0.5], "grants": [10 / 3, 5 / 3]}
    left = {"backlog": [5, 10 / 3], "lost": [5 / 3, 0]}
    result = assert_step(env, [2, 1], **third, **left, rewards=rewards[credit])
    measures = result.episodes[0]
    assert measures["demanded"] == pytest.approx(6)  # in fair shares, as all that follow
    assert measures["served"] == pytest.approx(4)
    assert measures["lost"] == pytest.approx(1 / 3)
    assert measures["efficiency"] == pytest.approx(1 + 0.9 - 1 / 15)
    assert measures["utilisation"] == pytest.approx((10 + 5 + 5) / 30)
    assert measures["conflict_rate"] == pytest.approx(1 / 3)


def test_a_bundle_is_served_by_its_scarcest_part_worked_by_hand() -> None:
    config = problem(
        CONSTANT | {"load": 1.0},
        num_agents=2,
        resource_limits={"cpu": 10.0, "memory": 4.0},
        constraints={"agent_limits": {"memory": 1.0}},
        weights=[1.0, 1.0],
        coupling="leontief",
        action_size=2,
        max_multiple=1.0,
        holding_cost=0.0,
    )
    env = VectorEnvironment(config)
    env.reset()
    # Both need 5 cpu and 2 memory and get 5 and 1: half of each is served, but all that was granted is paid.
    value = ((2.5 - 5) / 5 + (1 - 1) / 2) / 2
    grants, served = [5, 1, 5, 1], [2.5, 1, 2.5, 1]
    assert_step(env, [1, 1], grants=grants, served=served, backlog=served, rewards=[value, value])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(section=sections(), seed=st.integers(0, 2**20))
def test_what_arrived_was_served_or_lost_or_waits(section: Any, seed: int) -> None:
    config = EnvironmentConfig.model_validate(section | {"credit": "individual"})
    env = VectorEnvironment(config, 3, seed)
    env.reset()
    rng = np.random.default_rng(seed)
    arrived, served, lost = (np.zeros(env.state.pending.shape) for _ in range(3))
    for _ in range(config.max_episode_length):
        arrived += env.state.draw.arrivals
        info = env.step(random_actions(config, 3, rng)).info
        served += info["served"]
        lost += info["lost"]
        for part in ("served", "lost", "backlog"):
            assert (info[part] >= 0.0).all(), part
    scale = env.constraints.fair_share
    np.testing.assert_allclose(arrived / scale, (served + lost + info["backlog"]) / scale, rtol=0, atol=1e-11)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(section=sections(), seed=st.integers(0, 2**20))
def test_grants_fit_whatever_is_asked_for(section: Any, seed: int) -> None:
    config = EnvironmentConfig.model_validate(section | {"credit": "individual"})
    env = VectorEnvironment(config, 3, seed)
    env.reset()
    rng = np.random.default_rng(seed)
    for _ in range(config.max_episode_length):
        pending = env.state.pending
        # Far more than there is, far more than is pending.
        wanted = env.constraints.fair_share * rng.exponential(5.0, pending.shape)
        result = env.step_requests(wanted)
        grants, capacity = result.info["grants"], result.info["capacity"]
        assert (grants >= 0.0).all()
        assert (grants <= np.minimum(np.minimum(pending, wanted), env.constraints.agent_limit)).all()
        load = np.einsum("kn,bnr->bkr", env.constraints.membership, grants)
        assert (load <= capacity * (1.0 + 1e-9)).all()
        assert env.constraints.is_feasible(grants)
        assert (result.info["served"] <= pending * (1.0 + 1e-12)).all()
        if not result.active.all():
            assert not grants[~result.active].any()


@pytest.mark.parametrize("credit", ["individual", "team", "marginal"])
def test_absent_agents_demand_nothing_get_nothing_and_are_not_rewarded(credit: str) -> None:
    config = problem(EVENTFUL, credit=credit, max_episode_length=60)
    env = VectorEnvironment(config, 3)
    env.reset()
    seen = 0
    for _ in range(60):
        absent, leaving, pending = ~env.present, env.state.draw.leaving, env.state.pending
        seen += int(absent.sum())
        result = env.step(np.full((3, 4), 9))
        assert not pending[absent].any()
        for name in ("requests", "grants", "served", "backlog", "lost"):
            assert not result.info[name][absent].any(), name
        assert not result.rewards[absent].any()
        np.testing.assert_array_equal(result.active, ~absent)
        if not result.done.any():
            assert not result.present[leaving].any()
            assert not env.state.pending[leaving].any()
            np.testing.assert_array_equal(result.present, env.present)
    assert seen > 20


def test_the_future_does_not_depend_on_what_absent_agents_do() -> None:
    def play(extreme: bool) -> list[np.ndarray]:
        env = VectorEnvironment(problem(EVENTFUL, action_type="continuous"), 2, seed=4)
        env.reset()
        played = []
        for _ in range(12):
            actions = np.full((2, 4, 2), 0.5)
            if extreme:
                actions[~env.present] = np.nan
            result = env.step(actions)
            played += [result.observations, result.rewards]
        return played

    for quiet, extreme in zip(play(False), play(True), strict=True):
        np.testing.assert_array_equal(quiet, extreme)


def test_rewards_may_be_changed_in_place() -> None:
    def efficiency(scale: float) -> float:
        env = VectorEnvironment(problem())
        env.reset()
        for _ in range(12):
            result = env.step(np.full((1, 4), 3))
            result.rewards *= scale
        return result.episodes[0]["efficiency"]

    assert efficiency(0.0) == efficiency(1.0) != 0.0
