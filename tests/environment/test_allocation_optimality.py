"""Fair mechanisms against the optima that define them, ranked ones against serving one rank at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import linprog, minimize

from camac_dra.environment.allocation import allocate

AMOUNTS = st.integers(0, 8).map(float) | st.floats(1e-2, 8.0)


def levels_by_linear_programmes(top: np.ndarray, coefficients: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return the max-min fair levels (n,) with level <= top and coefficients @ level <= limits.

    One LP finds the highest level that all open agents can have, then one LP for each whether it could have
    more: who could not is closed.
    """
    size = len(top)
    low, open_agents = np.zeros(size), np.ones(size, dtype=bool)
    bounded = np.isfinite(limits)
    rows, ceilings = coefficients[bounded], limits[bounded]

    def highest(objective: np.ndarray, common: bool) -> float:
        """Maximise over levels and, last, the common level of all open agents."""
        floors = np.where(open_agents & common, 0.0, low)
        ceiling = np.where(open_agents, top, low)
        above_common = np.hstack([-np.eye(size)[open_agents], np.ones((open_agents.sum(), 1))])
        result = linprog(
            -objective,
            A_ub=np.vstack(
                [np.hstack([rows, np.zeros((len(rows), 1))]), above_common if common else above_common * 0]
            ),
            b_ub=np.concatenate([ceilings + 1e-12, np.zeros(open_agents.sum())]),
            bounds=[*zip(np.minimum(floors, ceiling), ceiling, strict=True), (0, None if common else 0)],
            method="highs",
        )
        assert result.status == 0, result.message
        return -result.fun

    while open_agents.any():
        level = highest(np.append(np.zeros(size), 1.0), common=True)
        low[open_agents] = level
        could = [
            highest(np.append(np.eye(size)[agent], 0.0), common=False) if open_agents[agent] else low[agent]
            for agent in range(size)
        ]
        closing = open_agents & (np.array(could) <= level + 1e-7)
        assert closing.any()
        open_agents &= ~closing
    return low


@st.composite
def instances(
    draw: st.DrawFn, max_resources: int = 2
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw requests (N, R), capacity (K, R), membership (K, N) and weights (N,)."""
    num_agents, num_resources, num_groups = draw(st.integers(1, 5)), draw(st.integers(1, max_resources)), 3
    return (
        draw(arrays.arrays(float, (num_agents, num_resources), elements=AMOUNTS)),
        draw(arrays.arrays(float, (num_groups, num_resources), elements=AMOUNTS | st.just(np.inf))),
        draw(arrays.arrays(float, (num_groups, num_agents), elements=st.sampled_from([0.0, 1.0, 1.0]))),
        draw(arrays.arrays(float, (num_agents,), elements=st.sampled_from([1.0, 2.0, 4.0]))),
    )


@pytest.mark.parametrize("strategy", ["max_min", "weighted_max_min"])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(instance=instances())
def test_max_min_is_what_sequential_linear_programmes_give(
    strategy: str, instance: tuple[np.ndarray, ...]
) -> None:
    requests, capacity, membership, weights = instance
    weights = weights if strategy == "weighted_max_min" else np.ones_like(weights)
    grants = allocate(requests, capacity, strategy, weights, membership)  # (N, R)
    for resource in range(requests.shape[1]):
        asked, limits = requests[:, resource], capacity[:, resource]
        levels = levels_by_linear_programmes(asked / weights, membership * weights, limits)  # (N,)
        np.testing.assert_allclose(grants[:, resource], levels * weights, atol=1e-5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(instance=instances(max_resources=3))
def test_drf_is_what_sequential_linear_programmes_give(instance: tuple[np.ndarray, ...]) -> None:
    requests, capacity, membership, _ = instance
    grants = allocate(requests, capacity, "drf", membership=membership)  # (N, R)
    drawn = (
        membership.T[:, :, None] * requests[:, None, :]
    )  # (N, K, R), what each bundle takes of each capacity
    shares = np.where(drawn > 0, drawn / np.where(capacity > 0, capacity, 1e-300), 0.0)  # (N, K, R)
    dominant = shares.max(axis=(1, 2))  # (N,)
    starved, free = dominant > 1e100, dominant == 0.0
    np.testing.assert_array_equal(grants[starved], 0.0)
    np.testing.assert_array_equal(grants[free], requests[free])
    rest = ~starved & ~free
    if rest.any():
        coefficients = (drawn[rest] / dominant[rest, None, None]).reshape(rest.sum(), -1).T  # (K * R, n)
        levels = levels_by_linear_programmes(dominant[rest], coefficients, capacity.ravel())  # (n,)
        np.testing.assert_allclose(
            grants[rest], requests[rest] * (levels / dominant[rest])[:, None], atol=1e-5
        )


def dual_bound(asked: np.ndarray, limits: np.ndarray, membership: np.ndarray, weights: np.ndarray) -> float:
    """Return an upper bound of the sum of weights * log(grants) over all that is feasible.

    Whatever the groups' prices, what the best grants are worth without limits, plus the limits' price, is one
    (weak duality); general solvers look for the lowest.
    """

    def bound(values: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the bound, and its gradient, where all of each group's capacity is worth so much."""
        unit = (values / limits) @ membership  # (n,), what an agent pays per unit
        best = np.minimum(
            asked, np.divide(weights, unit, out=asked.copy(), where=unit > weights / asked)
        )  # (n,)
        total = (weights * np.log(best)).sum() - unit @ best + values.sum()
        return total, 1.0 - membership @ best / limits

    # Its kinks can stop either solver early: every bound is one, so the lower of two will do.
    box = [(0.0, None)] * len(limits)
    start = np.ones(len(limits))
    options = {"L-BFGS-B": {"ftol": 1e-15, "gtol": 1e-9}, "SLSQP": {"ftol": 1e-14}}
    found = [
        minimize(bound, start, jac=True, bounds=box, method=name, options=own | {"maxiter": 5000})
        for name, own in options.items()
    ]
    return min(float(result.fun) for result in found)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(instance=instances(max_resources=1))
def test_proportional_fair_reaches_the_bound_of_its_dual(instance: tuple[np.ndarray, ...]) -> None:
    requests, capacity, membership, weights = instance
    grants = allocate(requests, capacity, "proportional_fair", weights, membership)[:, 0]  # (N,)
    asked, limits = requests[:, 0], capacity[:, 0]
    tightest = np.where(membership == 1, limits[:, None], np.inf).min(axis=0)  # (N,)
    live, binding = (asked > 0) & (tightest > 0), np.isfinite(limits) & (limits > 0)
    np.testing.assert_array_equal(grants[~live], 0.0)
    if not binding.any():
        np.testing.assert_array_equal(grants[live], asked[live])
        return
    ours = (weights[live] * np.log(grants[live])).sum()
    most = dual_bound(asked[live], limits[binding], membership[binding][:, live], weights[live])
    assert most - 1e-5 <= ours <= most + 1e-8


def hierarchy(num_agents: int, num_groups: int, memberships: int, seed: int) -> np.ndarray:
    """Return a random membership (K, N) with each agent in so many groups."""
    rng = np.random.default_rng(seed)
    membership = np.zeros((num_groups, num_agents))
    for agent in range(num_agents):
        membership[rng.choice(num_groups, memberships, replace=False), agent] = 1
    return membership


LARGE = [hierarchy(700, 30, 3, 0), hierarchy(700, 30, 1, 1), np.ones((1, 700))]


@pytest.mark.parametrize("membership", LARGE, ids=["overlapping", "disjoint", "one"])
@pytest.mark.parametrize("strategy", ["max_min", "weighted_max_min"])
def test_large_max_min_has_a_bottleneck_for_everybody(strategy: str, membership: np.ndarray) -> None:
    # Bertsekas and Gallager: fair iff everybody unmet has a full group where nobody's level is higher.
    rng = np.random.default_rng(2)
    requests = rng.lognormal(0, 1, (700, 2))  # (N, R)
    capacity = membership @ requests * rng.uniform(0.2, 1.1, (len(membership), 2))  # (K, R)
    weights = rng.choice([1.0, 2.0, 4.0], 700) if strategy == "weighted_max_min" else np.ones(700)
    grants = allocate(requests, capacity, strategy, weights, membership)  # (N, R)
    load = membership @ grants  # (K, R)
    assert (load <= capacity * (1 + 1e-9)).all()
    assert_stopped_by_bottlenecks(
        grants / weights[:, None], grants < requests * (1 - 1e-9), load, capacity, membership
    )


@pytest.mark.parametrize("membership", LARGE, ids=["overlapping", "disjoint", "one"])
def test_large_drf_has_a_bottleneck_for_everybody(membership: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    requests = rng.lognormal(0, 1, (700, 3)) * (rng.random((700, 3)) < 0.6)  # (N, R)
    capacity = membership @ requests * rng.uniform(0.2, 1.1, (len(membership), 3))  # (K, R)
    grants = allocate(requests, capacity, "drf", membership=membership)  # (N, R)
    load = membership @ grants  # (K, R)
    assert (load <= capacity * (1 + 1e-9)).all()
    shares = np.where(membership[:, :, None] == 1, grants / capacity[:, None], 0.0).max(axis=(0, 2))  # (N,)
    asked = requests.sum(axis=1)
    fraction = np.divide(grants.sum(axis=1), asked, out=np.ones(700), where=asked > 0)  # (N,)
    drawn = requests > 0  # (N, R)
    unmet = (fraction < 1 - 1e-9)[:, None] & drawn  # (N, R)
    levels = np.where(drawn, shares[:, None], -1.0)  # (N, R)
    stopped = bottlenecks(levels, load, capacity, membership)  # (N, R)
    assert (stopped & drawn).any(axis=1)[unmet.any(axis=1)].all()


def bottlenecks(
    levels: np.ndarray, load: np.ndarray, capacity: np.ndarray, membership: np.ndarray
) -> np.ndarray:
    """Return (N, R), whether one of the agent's groups is full and has no member of a higher level."""
    full = load >= capacity * (1 - 1e-9)  # (K, R)
    is_member = membership[:, :, None] == 1  # (K, N, 1)
    highest = np.where(is_member, levels, -1.0).max(axis=1)  # (K, R)
    topmost = levels >= highest[:, None] * (1 - 1e-9)  # (K, N, R)
    return (is_member & full[:, None] & topmost).any(axis=0)


def assert_stopped_by_bottlenecks(
    levels: np.ndarray, unmet: np.ndarray, load: np.ndarray, capacity: np.ndarray, membership: np.ndarray
) -> None:
    assert unmet.any()
    assert bottlenecks(levels, load, capacity, membership)[unmet].all()


def served_one_rank_at_a_time(
    requests: np.ndarray, capacity: np.ndarray, membership: np.ndarray, order: np.ndarray
) -> np.ndarray:
    """Return grants (N, R) as the definition of `first_come` has them."""
    grants = np.zeros_like(requests)
    for rank in np.unique(order):
        agents = np.flatnonzero(order == rank)
        left = np.maximum(capacity - membership @ grants, 0.0)  # (K, R)
        asked = membership[:, agents] @ requests[agents]  # (K, R)
        part = np.minimum(np.divide(left, asked, out=np.ones_like(left), where=asked > 0), 1.0)  # (K, R)
        for agent in agents:
            mine = part[membership[:, agent] == 1]  # (its groups, R)
            grants[agent] = requests[agent] * mine.min(axis=0, initial=1.0)
    return grants


@settings(max_examples=100, deadline=None, derandomize=True)
@given(instance=instances(max_resources=3), data=st.data())
def test_first_come_is_serving_one_rank_at_a_time(
    instance: tuple[np.ndarray, ...], data: st.DataObject
) -> None:
    requests, capacity, membership, _ = instance
    order = data.draw(arrays.arrays(float, len(requests), elements=st.integers(0, 3).map(float)))  # (N,)
    grants = allocate(requests, capacity, "first_come", membership=membership, order=order)
    expected = served_one_rank_at_a_time(requests, capacity, membership, order)
    np.testing.assert_allclose(grants, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("membership", LARGE, ids=["overlapping", "disjoint", "one"])
@pytest.mark.parametrize("ranks", [700, 20])
def test_large_queues_are_served_one_rank_at_a_time(membership: np.ndarray, ranks: int) -> None:
    rng = np.random.default_rng(3)
    requests = rng.lognormal(0, 1, (700, 2))  # (N, R)
    capacity = membership @ requests * rng.uniform(0.2, 1.1, (len(membership), 2))  # (K, R)
    order = rng.permutation(700) % ranks  # (N,)
    grants = allocate(requests, capacity, "first_come", membership=membership, order=order)
    expected = served_one_rank_at_a_time(requests, capacity, membership, order)
    np.testing.assert_allclose(grants, expected, rtol=1e-9, atol=1e-8)


def test_large_proportional_fair_meets_the_optimality_conditions() -> None:
    rng = np.random.default_rng(4)
    membership = hierarchy(400, 20, 3, 5)  # (K, N)
    requests = rng.lognormal(0, 1, 400)  # (N,)
    capacity = membership @ requests * rng.uniform(0.2, 1.1, 20)  # (K,)
    weights = rng.choice([1.0, 2.0, 4.0], 400)  # (N,)
    grants = allocate(requests[:, None], capacity[:, None], "proportional_fair", weights, membership)[
        :, 0
    ]  # (N,)
    # An interior agent pays weight / grant, the sum of its groups' prices; full groups alone have one.
    full = membership @ grants >= capacity * (1 - 1e-7)  # (K,)
    interior = grants < requests * (1 - 1e-5)
    prices = np.linalg.lstsq(membership[full][:, interior].T, (weights / grants)[interior])[
        0
    ]  # (full groups,)
    np.testing.assert_allclose(
        prices @ membership[full][:, interior], (weights / grants)[interior], rtol=1e-5
    )
    assert (prices > -1e-6).all()
    assert (prices @ membership[full][:, ~interior] <= (weights / requests)[~interior] * (1 + 1e-4)).all()
