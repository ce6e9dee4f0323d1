"""The oracle: nobody earns more, its grants earn what it says, and small problems agree with enumeration."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from camac_dra.environment import planning, queue_program
from camac_dra.environment.constraints import Constraints
from camac_dra.environment.oracle import Exogenous, OracleSolution, record_episodes, solve_oracle
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.errors import OracleError
from camac_dra.utils.schema.environment import EnvironmentConfig
from tests.environment.problems import CONSTANT, EVENTFUL, problem, sections

SEED = 3
OVERLAPPING = {
    "groups": [
        {"name": "left", "agents": [0, 1, 2], "limits": {"cpu": 12.0}},
        {"name": "right", "agents": [2, 3], "limits": {"cpu": 9.0, "memory": 2.0}},
    ],
    "agent_limits": {"memory": 1.5},
    "access": {"cpu": [0, 1, 2]},
}
# What is asked of each: the largest gap between the bound and what its grants earn.
PROBLEMS: dict[str, tuple[EnvironmentConfig, float]] = {
    "one pool": (problem(max_episode_length=40), 3e-4),
    "racks": (problem(num_agents=6, constraints={"num_groups": 3}, max_episode_length=40), 1e-3),
    "overlapping groups, limits, access": (problem(constraints=OVERLAPPING, max_episode_length=40), 3e-3),
    "leaving, outages, yields": (problem(EVENTFUL, max_episode_length=20), 1.5e-3),
    "no backlog limit": (problem(EVENTFUL, backlog_limit=None, max_episode_length=20), 1e-6),
    "tight backlog limit": (problem({"load": 1.2}, backlog_limit=1.0, max_episode_length=40), 1e-3),
    "bundles": (problem(EVENTFUL, coupling="leontief", backlog_limit=None, max_episode_length=20), 1e-6),
}


def played(config: EnvironmentConfig, grants: np.ndarray, seed: int = SEED) -> np.ndarray:
    """Return the efficiency (B,) of asking for ``grants`` (T, B, N, R) in the environment."""
    env = VectorEnvironment(config, grants.shape[1], autoreset=False)
    env.reset(seed)
    for requests in grants:
        result = env.step_requests(requests)
    return np.array([episode["efficiency"] for episode in result.episodes])


@pytest.fixture(scope="module", params=PROBLEMS)
def solved(request: pytest.FixtureRequest) -> tuple[EnvironmentConfig, Exogenous, OracleSolution, float]:
    config, gap = PROBLEMS[request.param]
    exogenous = record_episodes(config, 3, SEED)
    return config, exogenous, solve_oracle(config, exogenous), gap


Solved = tuple[EnvironmentConfig, Exogenous, OracleSolution, float]


def test_its_grants_asked_for_earn_what_it_says(solved: Solved) -> None:
    config, _, solution, _ = solved
    np.testing.assert_allclose(played(config, solution.grants), solution.attained, rtol=1e-6, atol=1e-6)


def test_its_bound_is_nearly_attained(solved: Solved) -> None:
    _, _, solution, gap = solved
    assert (solution.attained <= solution.efficiency + 1e-6).all()
    shortfall = (solution.efficiency - solution.attained).sum()
    assert shortfall <= gap * np.abs(solution.efficiency).sum()
    assert solution.gap == pytest.approx(shortfall / np.abs(solution.efficiency).sum())


def test_its_grants_respect_every_bound_at_every_step(solved: Solved) -> None:
    config, exogenous, solution, _ = solved
    constraints = Constraints.from_config(config)
    load = constraints.membership @ solution.grants  # (T, B, K, R)
    assert (load <= exogenous.capacity * (1.0 + 1e-6) + 1e-9).all()
    assert (solution.grants <= constraints.agent_limit * (1.0 + 1e-6)).all()
    assert (solution.grants >= 0.0).all()
    if constraints.access is not None:
        assert (solution.grants[:, :, constraints.access == 0.0] == 0.0).all()


def test_chosen_copies_are_solved_alone(solved: Solved) -> None:
    config, exogenous, solution, _ = solved
    some = solve_oracle(config, exogenous, copies=[2, 0])
    np.testing.assert_allclose(some.efficiency, solution.efficiency[[2, 0]], rtol=1e-9)
    np.testing.assert_allclose(some.attained, solution.attained[[2, 0]], rtol=1e-6, atol=1e-6)
    assert some.grants.shape == solution.grants[:, [2, 0]].shape


def test_parts_solved_apart_or_together_give_the_same(
    solved: Solved, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, exogenous, solution, _ = solved
    monkeypatch.setattr(planning, "CALL_CELLS", 1)
    apart = solve_oracle(config, exogenous)
    np.testing.assert_allclose(apart.efficiency, solution.efficiency, rtol=1e-6, atol=1e-6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(section=sections(), seed=st.integers(0, 2**20))
def test_no_requests_earn_more(section: dict[str, Any], seed: int) -> None:
    section = section | {"credit": "individual"}
    if section["coupling"] == "leontief":
        section["backlog_limit"] = None
    config = EnvironmentConfig.model_validate(section)
    bound = solve_oracle(config, record_episodes(config, 1, seed)).efficiency
    rng = np.random.default_rng(seed)
    for boldness in (0.0, 0.3, 1.0):
        env = VectorEnvironment(config, 1, autoreset=False)
        env.reset(seed)
        while True:
            part = np.minimum(rng.uniform(0.0, 1.0, env.state.pending.shape) + boldness, 1.0) * (
                boldness > 0.0
            )
            result = env.step_requests(np.minimum(env.state.pending * part, env.askable()))
            if result.episodes:
                break
        assert result.episodes[0]["efficiency"] <= bound[0] + 1e-6


# Against other ways to the optimum ----------------------------------------------------------------


def test_one_job_waits_for_the_cheap_step() -> None:
    config = problem(
        CONSTANT,
        num_agents=1,
        num_resources=1,
        resource_limits={"cpu": 10.0},
        holding_cost=0.1,
        max_episode_length=2,
    )
    exogenous = Exogenous(
        arrivals=np.array([5.0, 0.0]).reshape(2, 1, 1, 1),  # half a fair share
        capacity=np.full((2, 1, 1, 1), 10.0),
        price=np.array([2.0, 0.5]).reshape(2, 1, 1),
        weights=np.ones((1, 1)),
    )
    solution = solve_oracle(config, exogenous)
    np.testing.assert_allclose(solution.grants.ravel(), [0.0, 5.0], atol=1e-9)
    assert solution.efficiency[0] == pytest.approx(0.5 * (1.0 - 0.1 - 0.5))
    assert solution.attained[0] == pytest.approx(solution.efficiency[0])


def test_without_demand_there_is_nothing_to_earn() -> None:
    config = problem({"load": 0.0})
    solution = solve_oracle(config, record_episodes(config, 2, SEED))
    np.testing.assert_array_equal(solution.efficiency, 0.0)
    np.testing.assert_array_equal(solution.grants, 0.0)
    assert solution.gap == 0.0


def enumerated(
    exogenous: Exogenous, membership: np.ndarray, limit: float, holding: float, loss: float
) -> float:
    """Return the best that whole grants can earn, all tried; one copy, one resource, fair share 1."""
    steps, _, agents, _ = exogenous.arrivals.shape
    weights = exogenous.weights[0]

    def best(t: int, backlog: np.ndarray) -> float:
        if t == steps:
            return 0.0
        pending = backlog + exogenous.arrivals[t, 0, :, 0]
        price, capacity = exogenous.price[t, 0, 0], exogenous.capacity[t, 0, :, 0]
        found = -np.inf
        for grant in itertools.product(*(range(int(p) + 1) for p in pending)):
            granted = np.array(grant, float)
            if (membership @ granted > capacity).any():
                continue
            rest = pending - granted
            waits = np.minimum(rest, limit)
            value = weights @ (granted - holding * waits - loss * (rest - waits)) - price * granted.sum()
            found = max(found, value + best(t + 1, waits))
        return found

    return best(0, np.zeros(agents))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_small_problems_agree_with_trying_everything(data: st.DataObject) -> None:
    steps, agents = 3, 2
    own_pools = data.draw(st.booleans())
    membership = np.array([[1.0, 1.0], [0.0, 1.0]]) if own_pools else np.ones((1, 2))
    amounts = st.integers(0, 3).map(float)
    arrivals = np.array(data.draw(st.lists(amounts, min_size=6, max_size=6))).reshape(steps, 1, agents, 1)
    least = data.draw(st.sampled_from([1.0, 2.0]))
    capacity = np.full((steps, 1, len(membership), 1), 2.0)
    capacity[:, :, 1:] = least
    price = np.array(data.draw(st.lists(st.sampled_from([0.1, 0.9, 1.5, 2.5]), min_size=3, max_size=3)))
    weights = np.array([data.draw(st.sampled_from([[1.0, 1.0], [1.0, 2.0], [4.0, 1.0]]))])
    limit = data.draw(st.sampled_from([1.0, 2.0, None]))
    groups = [{"name": "second", "agents": [1], "limits": {"cpu": least}}] if own_pools else None
    config = EnvironmentConfig.model_validate(
        {
            "num_agents": agents,
            "num_resources": 1,
            "resource_limits": {"cpu": 2.0},
            "constraints": {"groups": groups},
            "backlog_limit": limit,
            "max_episode_length": steps,
        }
    )
    exogenous = Exogenous(arrivals, capacity, price.reshape(steps, 1, 1), weights)
    solution = solve_oracle(config, exogenous)
    best = enumerated(
        exogenous, membership, np.inf if limit is None else limit, config.holding_cost, config.loss_cost
    )
    assert solution.attained[0] <= best + 1e-6
    assert best <= solution.efficiency[0] + 1e-6
    # What may be lost early saves its holding cost, and nothing else.
    slack = 0.0 if limit is None else steps * config.holding_cost * weights.max() * arrivals.sum()
    assert solution.efficiency[0] <= best + slack + 1e-6


def test_the_bound_lies_between_its_plan_and_the_programme_with_free_losses() -> None:
    """Written down the usual way, with variables for grants, queues and losses, and demand lost at will."""
    config = problem({"load": 1.1}, num_resources=1, resource_limits={"cpu": 40.0}, max_episode_length=30)
    exogenous = record_episodes(config, 1, SEED)
    solution = solve_oracle(config, exogenous)
    steps, _, agents, _ = exogenous.arrivals.shape
    fair_share, cells = 10.0, steps * agents
    weights = np.tile(exogenous.weights[0], steps)
    price = np.repeat(exogenous.price[:, 0, 0], agents)
    one, before = np.eye(cells), np.eye(cells, k=-agents)
    grant_cost, wait_cost, loss_cost = (
        price - weights,
        config.holding_cost * weights,
        config.loss_cost * weights,
    )
    found = linprog(
        np.concatenate([grant_cost, wait_cost, loss_cost]),
        A_ub=np.hstack([np.kron(np.eye(steps), np.ones((1, agents))), np.zeros((steps, 2 * cells))]),
        b_ub=np.full(steps, 4.0),
        A_eq=np.hstack([one, one - before, one]),
        b_eq=exogenous.arrivals.ravel() / fair_share,
        bounds=[(0, None)] * cells + [(0, config.backlog_limit)] * cells + [(0, None)] * cells,
    )
    assert solution.attained[0] <= solution.efficiency[0] <= -found.fun + 1e-6
    assert solution.efficiency[0] == pytest.approx(-found.fun, rel=1e-2)


# What is recorded ---------------------------------------------------------------------------------


def test_recorded_is_what_every_policy_meets() -> None:
    config = problem(EVENTFUL)
    exogenous = record_episodes(config, 2, SEED)
    env = VectorEnvironment(config, 2, autoreset=False)
    env.reset(SEED)
    np.testing.assert_array_equal(exogenous.weights, env.state.weights)
    for t in range(config.max_episode_length):
        draw = env.state.draw
        for name in ("arrivals", "capacity", "price", "present", "leaving", "service_yield"):
            recorded = getattr(exogenous, name)[t]
            np.testing.assert_array_equal(recorded, np.broadcast_to(getattr(draw, name), recorded.shape))
        env.step_requests(env.askable())


# What it refuses ----------------------------------------------------------------------------------


def test_bundles_with_a_backlog_limit_are_refused() -> None:
    config = problem(coupling="leontief")
    with pytest.raises(OracleError, match=r"environment\.backlog_limit: must be null .* got 8"):
        solve_oracle(config, record_episodes(config, 1, SEED))


def test_bundles_of_changing_proportions_are_refused() -> None:
    config = problem(coupling="leontief", backlog_limit=None)
    exogenous = record_episodes(config, 1, SEED)
    exogenous.arrivals[4, 0, 2, 1] *= 2.0
    with pytest.raises(OracleError, match=r"environment\.coupling: .*fixed proportions.* agent 2"):
        solve_oracle(config, exogenous)


@pytest.mark.parametrize("flaw", ["no solution", "not optimal"])
def test_what_is_not_certified_is_refused(flaw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def flawed(cost: np.ndarray, **arguments: Any) -> Any:
        if flaw == "no solution":
            return SimpleNamespace(x=None, message="out of time")
        found = linprog(cost, **arguments)
        return SimpleNamespace(x=found.x, fun=found.fun * 0.99, ineqlin=found.ineqlin)

    monkeypatch.setattr(queue_program, "linprog", flawed)
    config = problem()
    with pytest.raises(OracleError, match="out of time" if flaw == "no solution" else "must be certified"):
        solve_oracle(config, record_episodes(config, 1, SEED))
