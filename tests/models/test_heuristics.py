"""Heuristics: what each asks for, and that the planners' requests are the best there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from camac_dra.environment.oracle import record_episodes, solve_oracle
from camac_dra.environment.planning import Outlook, Planner
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.heuristics import HEURISTICS, Heuristic
from camac_dra.models.heuristics.aimd import AIMD, TunedAIMD
from camac_dra.models.heuristics.forecasts import SmoothedDemand, tariff_or_persistence
from camac_dra.models.heuristics.myopic import CentralMyopic
from camac_dra.models.heuristics.plain import FairShare, Greedy, GreedyAgreed, RandomRequests
from camac_dra.models.heuristics.price import CongestionPrice
from camac_dra.models.heuristics.receding_horizon import RecedingHorizon
from camac_dra.utils.schema.environment import EnvironmentConfig
from tests.environment.problems import CONSTANT, EVENTFUL, problem, sections

SEED = 5


def begun(
    policy: Heuristic, config: EnvironmentConfig, num_envs: int = 2, seed: int = SEED
) -> VectorEnvironment:
    """Return an environment at its first decision, which ``policy`` is ready for."""
    env = VectorEnvironment(config, num_envs, agreement=policy.agreement, autoreset=False)
    env.reset(seed)
    policy.begin(env)
    return env


def play(
    policy: Heuristic, config: EnvironmentConfig, num_envs: int = 2, seed: int = SEED
) -> dict[str, np.ndarray]:
    """Return the measures (B,) of whole episodes."""
    env = begun(policy, config, num_envs, seed)
    while True:
        result = env.step_requests(policy.requests(env))
        if result.episodes:
            return {name: np.array([e[name] for e in result.episodes]) for name in result.episodes[0]}


# All of them --------------------------------------------------------------------------------------


def test_they_are_registered_by_name_and_described() -> None:
    assert set(HEURISTICS) >= {
        "random",
        "greedy",
        "fair_share",
        "aimd",
        "price",
        "myopic",
        "receding_horizon",
    }
    for name, make in HEURISTICS.items():
        policy = make()
        assert policy.name == name
        assert policy.description
    assert {name for name, make in HEURISTICS.items() if make().central} == {"myopic", "receding_horizon"}
    assert [name for name, make in HEURISTICS.items() if make().told is not None] == ["myopic"]
    assert [name for name, make in HEURISTICS.items() if make().agreement is not None] == ["greedy_agreed"]


PROBLEMS = {
    "one pool": problem(),
    "racks": problem(num_agents=5, constraints={"num_groups": 2}),
    "overlapping": problem(
        constraints={
            "groups": [{"name": "two", "agents": [0, 1], "limits": {"cpu": 5.0}}],
            "agent_limits": {"memory": 1.5},
            "access": {"cpu": [0, 1, 2]},
        }
    ),
    "eventful": problem(EVENTFUL),
    "bundles": problem(EVENTFUL, coupling="leontief"),
}


@pytest.mark.parametrize("case", PROBLEMS)
@pytest.mark.parametrize("name", HEURISTICS)
def test_requests_are_amounts_and_episodes_repeat_themselves(name: str, case: str) -> None:
    policy, config = HEURISTICS[name](), PROBLEMS[case]
    env = begun(policy, config)
    efficiency = None
    while efficiency is None:
        requests = policy.requests(env)
        assert requests.shape == env.state.pending.shape
        assert np.isfinite(requests).all()
        assert (requests >= 0.0).all()
        if policy.central or name == "fair_share":  # nobody else sees to it that what they ask for fits
            load = env.constraints.groups.load(np.minimum(requests, env.askable()))
            assert (load <= env.state.draw.capacity * (1.0 + 1e-6) + 1e-9).all()
        result = env.step_requests(requests)
        if result.episodes:
            efficiency = np.array([episode["efficiency"] for episode in result.episodes])
    np.testing.assert_array_equal(
        play(policy, config)["efficiency"], efficiency
    )  # the same object, once more


@pytest.mark.parametrize("case", [case for case in PROBLEMS if case != "bundles"])
def test_none_earns_more_than_the_oracle(case: str) -> None:
    config = PROBLEMS[case]
    best = solve_oracle(config, record_episodes(config, 2, SEED)).efficiency
    for make in HEURISTICS.values():
        assert (play(make(), config)["efficiency"] <= best + 1e-6).all()


# Without memory -----------------------------------------------------------------------------------


def test_plain_policies_ask_for_what_their_names_say() -> None:
    config = problem({"load": 2.0}, constraints={"agent_limits": {"cpu": 15.0}})
    for policy in (Greedy(), GreedyAgreed(), FairShare(), RandomRequests()):
        env = begun(policy, config)
        asked, most = policy.requests(env), env.askable()
        if isinstance(policy, Greedy):
            np.testing.assert_array_equal(asked, most)
        elif isinstance(policy, FairShare):
            np.testing.assert_array_equal(asked, np.minimum(most, [10.0, 2.0]))
        else:
            share = asked / most
            assert ((share > 0.0) & (share < 1.0)).all()
            assert len(np.unique(share)) == share.size


def test_random_requests_are_uniform() -> None:
    policy = RandomRequests(seed=1)
    env = begun(policy, problem(CONSTANT), num_envs=500)
    shares = np.concatenate([(policy.requests(env) / env.askable()).ravel() for _ in range(5)])
    np.testing.assert_allclose(np.histogram(shares, 4, (0.0, 1.0))[0] / shares.size, 0.25, atol=0.015)


def test_an_agreement_takes_contention_out_of_greed() -> None:
    crowded = problem(CONSTANT | {"load": 2.0})
    assert (play(Greedy(), crowded)["conflict_rate"] > 0.9).all()
    assert (play(GreedyAgreed(), crowded)["conflict_rate"] == 0.0).all()


# AIMD ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AIMD, TunedAIMD])
def test_windows_grow_by_a_constant_and_shrink_by_a_factor(kind: type[AIMD]) -> None:
    policy = kind(increase=0.25, decrease=0.5, most=1.5)
    # Two racks: the first is over its capacity at first, the second never.
    config = problem(CONSTANT | {"load": 4.0}, constraints={"num_groups": 2}, backlog_limit=None)
    env = begun(policy, config, num_envs=1)
    unit = env.askable if kind is AIMD else (lambda: env.state.fair_share)
    asked = policy.requests(env)
    np.testing.assert_allclose(asked, 1.0 * unit())
    overloaded = np.tile([4.0, 0.0], (2, 1)).T[None]  # (1, K, R)
    for over, first, second in ((overloaded, 0.5, 1.25), (overloaded, 0.25, 1.5), (0 * overloaded, 0.5, 1.5)):
        env.step_requests(asked)
        env.state.last_overload = over
        asked = policy.requests(env)
        expected = np.repeat([first, second], 2)[None, :, None] * np.broadcast_to(unit(), asked.shape)
        asked = np.minimum(asked, env.askable())
        np.testing.assert_allclose(asked, np.minimum(expected, env.askable()))


# Price --------------------------------------------------------------------------------------------


def test_prices_follow_the_load_and_agents_respond_by_worth() -> None:
    config = problem(
        CONSTANT | {"load": 4.0}, weights=[1.5, 2.0, 2.5, 4.0], holding_cost=0.0, backlog_limit=None
    )
    policy = CongestionPrice(step=0.1, slope=0.5)
    env = begun(policy, config, num_envs=1)
    mean = 2.5
    free = policy.requests(env)[0, :, 0] / 10.0  # in fair shares
    np.testing.assert_allclose(free, (np.array([1.5, 2.0, 2.5, 4.0]) - 1.0) / (0.5 * mean))
    env.step_requests(np.zeros_like(env.state.pending))
    env.state.last_load = np.array([[[3.0, 0.5]]])  # cpu far over its capacity, memory under it
    asked = policy.requests(env)[0] / [10.0, 2.0]
    charged = 0.1 * mean * (3.0 - 1.0)
    np.testing.assert_allclose(asked[:, 0], np.maximum(free - charged / (0.5 * mean), 0.0))
    np.testing.assert_allclose(asked[:, 1], free)  # prices never fall below nothing
    policy.begin(env)
    env.state.time = 0
    np.testing.assert_allclose(policy.requests(env)[0, :, 0] / 10.0, free)


# Myopic -------------------------------------------------------------------------------------------


def step_value(env: VectorEnvironment, requests: np.ndarray) -> np.ndarray:
    """Return the team's efficiency (B,) in this step with these requests; the environment stays as it is."""
    before = env.get_state()
    value = env.step_requests(requests).info["values"].sum(axis=1)
    env.set_state(before)
    return value


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(section=sections(), seed=st.integers(0, 2**20), lead=st.integers(0, 3))
def test_no_feasible_requests_are_worth_more_in_this_step(
    section: dict[str, Any], seed: int, lead: int
) -> None:
    costs = {"holding_cost": 0.1, "loss_cost": 1.0, "mechanism": "proportional", "credit": "individual"}
    config = EnvironmentConfig.model_validate(section | costs)
    policy, rng = CentralMyopic(), np.random.default_rng(seed)
    env = begun(policy, config, seed=seed)
    for _ in range(lead):  # let queues fill
        env.step_requests(env.askable() * rng.uniform(0.0, 0.4))
    best = policy.requests(env)
    value = step_value(env, best)
    constraints, capacity = env.constraints, env.state.draw.capacity
    for trial in range(12):
        # From the planner's own requests a little way, or from anywhere.
        other = env.askable() * rng.random(best.shape)
        if trial % 2:
            other = np.clip(best + 0.2 * (other - best), 0.0, env.askable())
        fits = capacity / np.maximum(constraints.groups.load(other), 1e-12)
        other = other * np.minimum(np.nan_to_num(constraints.groups.least_over_groups(fits), posinf=1.0), 1.0)
        assert (step_value(env, other) <= value + 1e-6 * (1.0 + np.abs(value))).all()


def test_the_most_valuable_and_the_most_urgent_go_first() -> None:
    config = problem(
        CONSTANT, num_agents=3, num_resources=1, resource_limits={"cpu": 30.0}, weights=[1.0, 2.0, 4.0]
    )
    env = begun(CentralMyopic(), config, num_envs=1)
    env.state.pending = np.array([100.0, 15.0, 12.0]).reshape(1, 3, 1)
    env.state.draw.price = np.array([[1.5]])
    # At 1.5 the first agent's demand is not worth serving, but for the 20 units above its queue of 80, whose
    # loss costs 1 more; there is room for 3 of them once the others are served.
    np.testing.assert_allclose(CentralMyopic().requests(env).ravel(), [3.0, 15.0, 12.0])
    np.testing.assert_allclose(CentralMyopic(mind_losses=False).requests(env).ravel(), [0.0, 15.0, 12.0])
    # At half a unit served per unit used 40 have to be used for those 20; the rest is not worth it.
    env.state.draw.service_yield = np.array([0.5, 1.0, 1.0]).reshape(1, 3, 1)
    env.state.draw.price = np.array([[0.9]])
    env.state.draw.capacity = np.full((1, 1, 1), 100.0)
    np.testing.assert_allclose(CentralMyopic().requests(env).ravel(), [40.0, 15.0, 12.0])


# Receding horizon ---------------------------------------------------------------------------------


def test_who_knows_tariff_and_demand_is_optimal() -> None:
    steady = CONSTANT | {"load": 0.7, "price_amplitude": 0.9, "day_length": 24.0}
    config = problem(steady, max_episode_length=30)
    best = solve_oracle(config, record_episodes(config, 2, SEED)).efficiency
    every_step = play(RecedingHorizon((1,) * 30), config)["efficiency"] / best
    np.testing.assert_allclose(every_step, 1.0, rtol=1e-6)
    longer_periods = play(RecedingHorizon(), config)["efficiency"] / best
    at_once = play(CentralMyopic(), config)["efficiency"] / best
    assert (longer_periods > 0.97).all()
    assert (at_once < 0.95).all()


def test_who_is_about_to_leave_is_served_in_time() -> None:
    config = problem(
        CONSTANT | {"load": 0.5}, num_resources=1, resource_limits={"cpu": 40.0}, weights=[1.5] * 4
    )
    policy = RecedingHorizon(
        (1, 1, 2), price_forecast=lambda env, steps: np.array([2.0, 0.1, 0.1, 0.1])[:, None, None]
    )
    env = begun(policy, config, num_envs=1)
    env.state.draw.price = np.array([[2.0]])
    waiting = policy.requests(env)
    np.testing.assert_allclose(waiting, 0.0, atol=1e-9)  # dear now, cheap in the next step
    policy.begin(env)
    env.state.draw.announced = np.array([[1.0, 2.0, 0.0, np.inf]])  # now, after the next step, overdue, never
    np.testing.assert_allclose(policy.requests(env).ravel(), [5.0, 0.0, 5.0, 0.0], atol=1e-9)


CHURN = {"load": 1.5, "leave_probability": 0.3, "join_probability": 0.5}


@pytest.mark.parametrize("name", HEURISTICS)
def test_only_who_is_told_decides_by_who_leaves_with_this_step(name: str) -> None:
    env = begun(Greedy(), problem(CHURN, num_agents=8), num_envs=4)
    while env.state.time < 5:
        env.step_requests(env.askable())
    assert env.state.draw.leaving is not None
    assert env.state.draw.leaving.any()
    asked = []
    for leaving in (env.state.draw.leaving, np.zeros_like(env.state.draw.leaving)):
        env.state.draw.leaving = leaving
        policy = HEURISTICS[name]()
        policy.begin(env)
        asked.append(policy.requests(env))
    assert np.array_equal(asked[0], asked[1]) == (HEURISTICS[name]().told is None)


def test_copies_planned_side_by_side_get_the_plans_they_get_alone() -> None:
    config = problem(constraints={"num_groups": 2})
    env = begun(Greedy(), config, num_envs=3)
    agents, resources = np.arange(4), np.array([1])
    rng = np.random.default_rng(0)
    arrivals, capacity = rng.uniform(0.0, 4.0, (3, 3, 4, 1)), rng.uniform(2.0, 6.0, (3, 3, 2, 1))
    price, weights = rng.uniform(0.5, 2.0, (3, 3, 4, 1)), rng.choice([1.0, 2.0, 4.0], (3, 4))

    def outlook(copies: list[int]) -> Outlook:
        rows = [array[:, copies].reshape(3, -1, 1) for array in (arrivals, capacity, price)]
        return Outlook(np.array([1, 2, 3]), *rows, weights=weights[copies].ravel())

    constraints = env.constraints
    together = Planner(config, constraints, agents, resources, 3, copies=3).solve(outlook([0, 1, 2]))
    alone = [Planner(config, constraints, agents, resources, 3).solve(outlook([b])) for b in range(3)]
    assert together.bound == pytest.approx(sum(plan.bound for plan in alone))
    np.testing.assert_allclose(
        together.grants, np.concatenate([plan.grants for plan in alone], axis=1), atol=1e-6
    )


# Forecasts ----------------------------------------------------------------------------------------


def test_the_published_tariff_is_what_comes() -> None:
    env = begun(Greedy(), problem({"price_base": 0.5, "day_length": 7.0}), num_envs=2)
    forecasts, prices = [], []
    for _ in range(9):
        forecasts.append(np.broadcast_to(tariff_or_persistence(env, 3), (3, 2, 2)))
        prices.append(np.broadcast_to(env.state.draw.price, (2, 2)))
        env.step_requests(env.askable())
    for t in range(7):
        np.testing.assert_allclose(forecasts[t], prices[t : t + 3])


def test_smoothed_demand_is_unbiased_from_the_first_step_and_forgets() -> None:
    forecast = SmoothedDemand(memory=4.0)
    forecast.begin()
    for _ in range(5):
        np.testing.assert_allclose(forecast.update(np.full((1, 2, 1), 3.0)), 3.0)
    assert (forecast.update(np.full((1, 2, 1), 7.0)) > 3.0).all()
    for _ in range(60):
        last = forecast.update(np.full((1, 2, 1), 7.0))
    np.testing.assert_allclose(last, 7.0, rtol=1e-4)
    forecast.begin()
    np.testing.assert_allclose(forecast.update(np.full((1, 2, 1), 1.0)), 1.0)
