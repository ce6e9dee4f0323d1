"""The table of mechanisms and properties: every entry is proven by random instances, or refuted by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from camac_dra.environment.allocation import PROPERTIES, STRATEGIES, Holds, allocate

TOLERANCE = 1e-6  # of the largest amount; only proportional_fair over overlapping groups needs more than 1e-9
WEIGHTED = ("weighted_max_min", "proportional_fair")  # fair per unit of weight


@dataclass(frozen=True)
class Problem:
    """Arguments of `allocate` for one copy, and what changes in the properties about change."""

    requests: np.ndarray  # (N, R)
    capacity: np.ndarray  # (K, R)
    membership: np.ndarray  # (K, N)
    weights: np.ndarray  # (N,)
    order: np.ndarray  # (N,)
    bids: np.ndarray  # (N,)
    access: np.ndarray  # (N, R)
    seed: int = 0
    more: np.ndarray | float = 0.0  # (K, R), what capacities grow by
    raised: tuple[int, int, float] = (0, 0, 0.0)  # agent, resource, what its request grows by
    permutation: tuple[int, ...] = ()
    scale: float = 1.0

    def grants(self, strategy: str) -> np.ndarray:
        """Return the grants (N, R)."""
        return allocate(
            self.requests,
            self.capacity,
            strategy,
            weights=self.weights,
            membership=self.membership,
            access=self.access,
            order=self.order,
            bids=self.bids,
            rng=np.random.default_rng(self.seed),
        )

    @property
    def size(self) -> float:
        """Return the largest request."""
        return float(self.requests.max(initial=0.0))


# How far a mechanism is from a property, as an amount; zero where the property holds. ----------------------


def within_request(strategy: str, problem: Problem) -> float:
    grants = problem.grants(strategy)
    asked = problem.requests * problem.access  # (N, R)
    return float(np.maximum(grants - asked, -grants).max()) * 1e9  # exact: no rounding is forgiven


def feasible(strategy: str, problem: Problem) -> float:
    load = problem.membership @ problem.grants(strategy)  # (K, R)
    excess = np.where(np.isinf(problem.capacity), 0.0, load - problem.capacity * (1 + 1e-9))
    return float(excess.max()) * 1e6  # nothing beyond a relative 1e-9


def work_conserving(strategy: str, problem: Problem) -> float:
    grants = problem.grants(strategy)
    room = problem.capacity - problem.membership @ grants  # (K, R)
    is_member = problem.membership[:, :, None] == 1  # (K, N, 1)
    usable = np.where(is_member, room[:, None], np.inf).min(axis=0)  # (N, R)
    unmet = problem.requests * problem.access - grants  # (N, R)
    return float(np.minimum(usable, unmet).max())


def equivariant(strategy: str, problem: Problem) -> float:
    turn = list(problem.permutation)
    turned = replace(
        problem,
        requests=problem.requests[turn],
        membership=problem.membership[:, turn],
        weights=problem.weights[turn],
        order=problem.order[turn],
        bids=problem.bids[turn],
        access=problem.access[turn],
    )
    return float(np.abs(turned.grants(strategy) - problem.grants(strategy)[turn]).max())


def capacity_monotone(strategy: str, problem: Problem) -> float:
    larger = replace(problem, capacity=problem.capacity + problem.more)
    return float((problem.grants(strategy) - larger.grants(strategy)).max())


def request_monotone(strategy: str, problem: Problem) -> float:
    agent, resource, amount = problem.raised
    requests = problem.requests.copy()
    requests[agent, resource] += amount
    greedier = replace(problem, requests=requests)
    return float((problem.grants(strategy)[agent] - greedier.grants(strategy)[agent]).max())


def envy_free(strategy: str, problem: Problem) -> float:
    grants, asked = problem.grants(strategy), problem.requests * problem.access  # (N, R)
    weights = problem.weights if strategy in WEIGHTED else np.ones_like(problem.weights)
    worst = 0.0
    for mine in range(len(asked)):
        for other in range(len(asked)):
            if not np.array_equal(problem.membership[:, mine], problem.membership[:, other]):
                continue
            theirs = np.minimum(asked[mine], grants[other] * weights[mine] / weights[other])  # (R,)
            wanted = asked[mine] > 0  # (R,)
            if strategy != "drf":
                worst = max(worst, float((theirs - grants[mine]).max()))
            elif wanted.any():  # what part of its bundle an agent could make of the other's grants
                envied, own = ((part[wanted] / asked[mine, wanted]).min() for part in (theirs, grants[mine]))
                worst = max(worst, float(envied - own) * problem.size)
    return worst


def scale_invariant(strategy: str, problem: Problem) -> float:
    other = replace(
        problem, requests=problem.requests * problem.scale, capacity=problem.capacity * problem.scale
    )
    return float(np.abs(other.grants(strategy) / problem.scale - problem.grants(strategy)).max())


CHECKS: dict[str, Callable[[str, Problem], float]] = {
    check.__name__: check
    for check in (
        within_request,
        feasible,
        work_conserving,
        equivariant,
        capacity_monotone,
        request_monotone,
        envy_free,
        scale_invariant,
    )
}

# Random instances ------------------------------------------------------------------------------------------

# Round numbers make ties and groups that are exactly full; the others do not.
AMOUNTS = st.integers(0, 8).map(float) | st.floats(1e-6, 8.0)
CAPACITIES = st.one_of(AMOUNTS, AMOUNTS, AMOUNTS, st.just(np.inf))


@st.composite
def problems(draw: st.DrawFn, disjoint: bool) -> Problem:
    """Draw a problem of up to six agents, three resources and four groups."""
    num_agents, num_resources, num_groups = (
        draw(st.integers(1, 6)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 4)),
    )
    if disjoint:
        of_agent = draw(st.lists(st.integers(0, num_groups), min_size=num_agents, max_size=num_agents))
        membership = (np.arange(num_groups)[:, None] == np.array(of_agent)).astype(float)  # (K, N)
    else:
        membership = draw(
            arrays.arrays(float, (num_groups, num_agents), elements=st.sampled_from([0.0, 1.0, 1.0]))
        )
    per_agent = (num_agents,)
    return Problem(
        requests=draw(arrays.arrays(float, (num_agents, num_resources), elements=AMOUNTS)),
        capacity=draw(arrays.arrays(float, (num_groups, num_resources), elements=CAPACITIES)),
        membership=membership,
        weights=draw(arrays.arrays(float, per_agent, elements=st.sampled_from([1.0, 2.0, 4.0, 0.3]))),
        order=draw(arrays.arrays(float, per_agent, elements=st.integers(0, 4).map(float))),
        bids=draw(arrays.arrays(float, per_agent, elements=st.sampled_from([0.0, 1.0, 2.5]))),
        access=draw(
            arrays.arrays(float, (num_agents, num_resources), elements=st.sampled_from([1.0, 1.0, 1.0, 0.0]))
        ),
        seed=draw(st.integers(0, 99)),
        more=draw(arrays.arrays(float, (num_groups, num_resources), elements=AMOUNTS)),
        raised=(draw(st.integers(0, num_agents - 1)), draw(st.integers(0, num_resources - 1)), draw(AMOUNTS)),
        permutation=tuple(draw(st.permutations(range(num_agents)))),
        scale=draw(st.sampled_from([1e-9, 0.1, 3.0, 1e12])),
    )


def holding(name: str, *wanted: Holds) -> list[str]:
    """Return the strategies whose entry for a property is one of those wanted."""
    return [strategy for strategy in STRATEGIES if PROPERTIES[strategy][name] in wanted]


def assert_holds(name: str, problem: Problem, *wanted: Holds) -> None:
    for strategy in holding(name, *wanted):
        distance = CHECKS[name](strategy, problem)
        assert distance <= TOLERANCE * max(problem.size, 1e-9), f"{strategy} is not {name}"


@pytest.mark.parametrize("name", CHECKS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(problem=problems(disjoint=False))
def test_properties_hold_over_any_groups(name: str, problem: Problem) -> None:
    assert_holds(name, problem, Holds.ALWAYS)


@pytest.mark.parametrize("name", CHECKS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(problem=problems(disjoint=True))
def test_properties_hold_over_disjoint_groups(name: str, problem: Problem) -> None:
    assert_holds(name, problem, Holds.ALWAYS, Holds.DISJOINT)


# Counterexamples -------------------------------------------------------------------------------------------

CHAIN = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])  # (K, N), the middle agent is in both groups


def problem_of(requests: list[list[float]], capacity: list[list[float]], **rest: object) -> Problem:
    """Return a problem with one group, equal weights, ranks and bids, unless told otherwise."""
    asked = np.array(requests, dtype=float)  # (N, R)
    size = len(asked)
    defaults: dict[str, object] = {
        "membership": np.ones((1, size)),
        "weights": np.ones(size),
        "order": np.zeros(size),
        "bids": np.ones(size),
        "access": np.ones(asked.shape),
    }
    numbers = {name: np.array(value, dtype=float) for name, value in rest.items() if name in defaults}
    return Problem(asked, np.array(capacity, dtype=float), **(defaults | rest | numbers))


# Proportional cuts of group 0 leave room in group 1, which agent 2's own cut there does not know of.
WASTED = problem_of([[2], [2], [2]], [[1], [3]], membership=CHAIN)
# What the middle agent gains where group 0 grows, it takes from agent 2 in group 1.
MIDDLE_FIRST = {"weights": [1, 1e9, 1], "order": [1, 0, 1], "bids": [1, 2, 1]}
SQUEEZED = problem_of([[9], [9], [9]], [[1], [4]], membership=CHAIN, more=np.array([[1.0], [0.0]]))
SQUEEZED_BY_RANK = problem_of(
    [[9], [9], [9]], [[1], [4]], membership=CHAIN, more=np.array([[1.0], [0.0]]), **MIDDLE_FIRST
)
# One gets all, the other, who would like it as much, nothing.
ALL_TO_ONE = problem_of([[1], [1]], [[1]], weights=[1, 9], order=[1, 0], bids=[1, 2])

COUNTEREXAMPLES: dict[tuple[str, str], Problem] = {
    ("proportional", "work_conserving"): WASTED,
    ("proportional", "envy_free"): problem_of([[5], [10]], [[9]]),
    ("equal", "work_conserving"): problem_of([[1], [5]], [[4]]),
    ("max_min", "capacity_monotone"): SQUEEZED,
    ("weighted_max_min", "capacity_monotone"): SQUEEZED,
    ("proportional_fair", "capacity_monotone"): SQUEEZED,
    # A bundle stops at its scarcest part.
    ("drf", "work_conserving"): problem_of([[8, 8]], [[4, 8]]),
    # More of resource 0 makes agent 1's dominant share of it smaller: it may have more of resource 1 too.
    ("drf", "capacity_monotone"): problem_of([[0, 1], [2, 1]], [[1, 1]], more=np.array([[1.0, 0.0]])),
    # Asking for much of resource 1 makes that agent 0's dominant share: it gets less of resource 0.
    ("drf", "request_monotone"): problem_of([[2, 0], [2, 0]], [[2, 2]], raised=(0, 1, 4.0)),
    ("priority", "work_conserving"): WASTED,
    ("priority", "capacity_monotone"): SQUEEZED_BY_RANK,
    ("priority", "envy_free"): ALL_TO_ONE,
    ("first_come", "work_conserving"): WASTED,
    ("first_come", "capacity_monotone"): SQUEEZED_BY_RANK,
    ("first_come", "envy_free"): ALL_TO_ONE,
    # The lots are drawn by place, whoever stands there.
    ("weighted_random", "equivariant"): problem_of([[1], [1]], [[1]], permutation=(1, 0)),
    ("weighted_random", "capacity_monotone"): SQUEEZED_BY_RANK,
    ("weighted_random", "envy_free"): ALL_TO_ONE,
    ("auction", "work_conserving"): WASTED,
    ("auction", "capacity_monotone"): SQUEEZED_BY_RANK,
    ("auction", "envy_free"): ALL_TO_ONE,
}


@pytest.mark.parametrize(("strategy", "name"), COUNTEREXAMPLES)
def test_properties_fail(strategy: str, name: str) -> None:
    problem = COUNTEREXAMPLES[strategy, name]
    assert CHECKS[name](strategy, problem) > 0.02 * problem.size
    one_group = len(problem.membership) == 1
    assert one_group == (PROPERTIES[strategy][name] is Holds.NEVER)


def test_every_property_has_a_check_and_no_counterexample_is_idle() -> None:
    assert all(set(row) == set(CHECKS) for row in PROPERTIES.values())
    refuted = {(strategy, name) for name in CHECKS for strategy in holding(name, Holds.DISJOINT, Holds.NEVER)}
    assert set(COUNTEREXAMPLES) == refuted


# Beyond the table ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problem=problems(disjoint=False))
def test_drf_is_work_conserving_for_bundles(problem: Problem) -> None:
    grants = problem.grants("drf")
    asked = problem.requests * problem.access  # (N, R)
    room = problem.capacity - problem.membership @ grants  # (K, R)
    is_member = problem.membership[:, :, None] == 1  # (K, N, 1)
    usable = np.where(is_member, room[:, None], np.inf).min(axis=0)  # (N, R)
    for agent in range(len(asked)):
        drawn = asked[agent] > 0
        unmet = (asked[agent] - grants[agent])[drawn]
        if unmet.max(initial=0.0) > TOLERANCE:
            assert usable[agent, drawn].min() <= TOLERANCE


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problem=problems(disjoint=False))
def test_ranks_without_ties_waste_nothing(problem: Problem) -> None:
    ranks = np.arange(1.0, len(problem.order) + 1)[list(problem.permutation)]  # (N,)
    untied = replace(problem, weights=ranks, order=ranks, bids=ranks)
    for strategy in ("priority", "first_come", "auction"):
        assert work_conserving(strategy, untied) <= TOLERANCE * max(problem.size, 1e-9), strategy


EXTREMES = st.just(0.0) | st.floats(5e-324, 1e150) | st.floats(-300, 150).map(lambda power: 10.0**power)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(data=st.data())
def test_grants_fit_at_every_order_of_magnitude(data: st.DataObject) -> None:
    shape = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 2)))
    membership = data.draw(
        arrays.arrays(float, (2, shape[0]), elements=st.sampled_from([0.0, 1.0]))
    )  # (K, N)
    requests = data.draw(arrays.arrays(float, shape, elements=EXTREMES))  # (N, R)
    capacity = data.draw(arrays.arrays(float, (2, shape[1]), elements=EXTREMES | st.just(np.inf)))  # (K, R)
    weights = data.draw(arrays.arrays(float, shape[:1], elements=st.floats(1e-6, 1e6)))  # (N,)
    for strategy in STRATEGIES:
        grants = allocate(
            requests, capacity, strategy, weights, membership, bids=weights, rng=np.random.default_rng(0)
        )  # (N, R)
        assert (grants >= 0).all(), strategy
        assert (grants <= requests).all(), strategy
        assert (membership @ grants <= capacity * (1 + 1e-9)).all(), strategy
