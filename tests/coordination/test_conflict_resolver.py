"""Sharing of contested resources, with and without a known capacity, and the record of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camac_dra.coordination.conflict_resolver import ConflictResolver, Resolution
from camac_dra.environment.allocation import STRATEGIES
from camac_dra.environment.resource_pool import ResourcePool
from camac_dra.utils.errors import AllocationError, ResourceError

CLAIMS = [("a", "cpu", 6.0, 1.0), ("b", "cpu", 3.0, 2.0), ("c", "cpu", 3.0, 4.0)]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("proportional", {"a": 3.0, "b": 1.5, "c": 1.5}),
        ("equal", {"a": 2.0, "b": 2.0, "c": 2.0}),
        ("max_min", {"a": 2.0, "b": 2.0, "c": 2.0}),
        ("priority", {"a": 0.0, "b": 3.0, "c": 3.0}),
        ("first_come", {"a": 6.0, "b": 0.0, "c": 0.0}),
        ("auction", {"a": 0.0, "b": 3.0, "c": 3.0}),
        ("weighted_max_min", {"a": 1.0, "b": 2.0, "c": 3.0}),
    ],
)
def test_claims_are_shared_as_the_mechanism_says(strategy, expected):
    assert ConflictResolver(strategy, 6.0).resolve(CLAIMS) == pytest.approx(expected)
    assert ConflictResolver(strategy, 6.0).resolve(claim for claim in CLAIMS) == pytest.approx(expected)


def test_without_a_capacity_weighted_random_is_a_lottery_for_the_largest_claim():
    resolver = ConflictResolver(seed=3)
    claims = [("a", "slot", 1.0, 1.0), ("b", "slot", 1.0, 3.0)]
    wins = [resolver.resolve(claims) for _ in range(2000)]
    assert all(sorted(win.values()) == [0.0, 1.0] for win in wins)
    share = np.mean([win["b"] for win in wins])
    assert share == pytest.approx(0.75, abs=0.04)  # four standard deviations


def test_equal_seeds_draw_alike():
    def draws(seed):
        resolver = ConflictResolver("weighted_random", 7.0, seed=seed)
        return [resolver.resolve(CLAIMS) for _ in range(20)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


def test_capacity_comes_from_a_dict_or_a_pool():
    claims = [("a", "cpu", 8.0, 1.0), ("b", "cpu", 8.0, 1.0), ("a", "memory", 1.0, 1.0)]
    expected = {("a", "cpu"): 5.0, ("b", "cpu"): 5.0, ("a", "memory"): 1.0}
    assert ConflictResolver("proportional", {"cpu": 10, "memory": 4}).resolve_all(claims) == expected
    pool = ResourcePool({"cpu": 12.0, "memory": 4.0})
    resolver = ConflictResolver("proportional", pool)
    pool.allocate("cpu", 2.0)
    assert resolver.resolve_all(claims) == expected
    pool.allocate("cpu", 10.0)
    assert resolver.resolve(claims[:2]) == {"a": 0.0, "b": 0.0}


def test_nobody_claims_nothing():
    assert ConflictResolver().resolve([]) == {}
    assert ConflictResolver().resolve_all([]) == {}


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0.01, 100)), min_size=1, max_size=8),
    st.floats(0, 1e6),
    st.sampled_from(STRATEGIES),
)
def test_nobody_gets_more_than_asked_and_all_together_no_more_than_there_is(amounts, capacity, strategy):
    claims = [(f"a{i}", "r", amount, weight) for i, (amount, weight) in enumerate(amounts)]
    grants = ConflictResolver(strategy, capacity, seed=0).resolve(claims)
    assert list(grants) == [claim[0] for claim in claims]
    assert all(0.0 <= grants[agent] <= amount * (1 + 1e-9) for agent, _, amount, _ in claims)
    assert sum(grants.values()) <= capacity * (1 + 1e-9)


def test_users_rules_are_called_and_checked():
    def halves(requests, capacity, weights, rng):
        return np.minimum(requests, capacity / 2)

    resolver = ConflictResolver("halves", 6.0, strategies={"halves": halves})
    assert resolver.get_available_strategies() == [*STRATEGIES, "halves"]
    assert resolver.resolve(CLAIMS[:2]) == {"a": 3.0, "b": 3.0}
    with pytest.raises(AllocationError, match="'halves' must grant 6 in all at most, got 9"):
        resolver.resolve(CLAIMS)
    assert "halves" not in ConflictResolver().get_available_strategies()


@pytest.mark.parametrize(
    ("granted", "message"),
    [
        ([1.0], r"must grant \(2,\), got shape \(1,\)"),
        ([np.nan, 0.0], "from 0 to the request 6, got nan for claim 0"),
        ([0.0, 4.0], "from 0 to the request 3, got 4.0 for claim 1"),
        ([-1.0, 0.0], "from 0 to the request 6, got -1.0 for claim 0"),
    ],
)
def test_users_rules_that_go_wrong_are_named(granted, message):
    resolver = ConflictResolver("odd", 100.0, strategies={"odd": lambda *_: np.array(granted)})
    with pytest.raises(AllocationError, match=message):
        resolver.resolve(CLAIMS[:2])


def test_every_resolution_is_logged_with_reasons():
    seen: list[Resolution] = []
    resolver = ConflictResolver("proportional", {"cpu": 6, "disk": 9}, log_size=2, on_resolution=seen.append)
    resolver.resolve_all([*CLAIMS, ("a", "disk", 1.0, 1.0)])
    cpu, disk = seen
    assert (cpu.resource_id, cpu.strategy, cpu.capacity, cpu.contested) == ("cpu", "proportional", 6.0, True)
    assert cpu.claims[0].agent_id == "a"
    assert (cpu.claims[0].requested, cpu.claims[0].granted) == (6.0, 3.0)
    assert cpu.claims[0].reason == "cut to 50%: 12 asked for, 6 there, shared by proportional"
    assert not disk.contested
    assert disk.claims[0].reason == "granted in full"
    resolver.resolve(CLAIMS)
    assert [resolution.resource_id for resolution in resolver.resolutions] == ["disk", "cpu"]
    assert not ConflictResolver("equal").resolutions


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ([("a", "cpu", 1.0, 1.0), ("b", "disk", 1.0, 1.0)], "about one resource, got 'cpu', 'disk'"),
        ([("a", "cpu", 1.0, 1.0), ("a", "cpu", 2.0, 1.0)], "'a' twice for 'cpu'"),
        (
            [("a", "cpu", np.nan, 1.0)],
            "requested of 'a' for 'cpu' must be a finite number, .*got nan",
        ),
        ([("a", "cpu", -1.0, 1.0)], "zero or more, got -1.0"),
        ([("a", "cpu", 1.0, 0.0)], "weight of 'a' for 'cpu' must be a finite number above zero, got 0.0"),
        ([("a", "cpu", 1.0)], "must be .agent_id, resource_id, requested, weight., got"),
        ([("a", "cpu", "much", 1.0)], "must be .agent_id, resource_id, requested, weight., got"),
        ([(1, "cpu", 1.0, 1.0)], "must be .agent_id, resource_id, requested, weight., got"),
    ],
)
def test_malformed_conflicts_are_named_and_nothing_is_logged(claims, message):
    resolver = ConflictResolver("proportional", 1.0, log_size=9)
    with pytest.raises(AllocationError, match=message):
        resolver.resolve(claims)
    assert not resolver.resolutions


def test_wrong_settings_are_named():
    with pytest.raises(AllocationError, match=r"got 'weighted_randon'\. Did you mean 'weighted_random'"):
        ConflictResolver("weighted_randon")
    with pytest.raises(ResourceError, match="capacity must be a number, zero or more, got -1"):
        ConflictResolver(capacity=-1)
    with pytest.raises(ResourceError, match="capacity of 'cpu' must be a number, zero or more, got nan"):
        ConflictResolver(capacity={"cpu": float("nan")})
    with pytest.raises(AllocationError, match="log_size must be 0 or more, got -1"):
        ConflictResolver(log_size=-1)
    with pytest.raises(AllocationError, match="new and not empty, got 'equal'"):
        ConflictResolver(strategies={"equal": lambda *_: None})
    with pytest.raises(AllocationError, match="'mine' must be callable, got 3"):
        ConflictResolver(strategies={"mine": 3})
    with pytest.raises(ResourceError, match=r"got 'cpi'\. Did you mean 'cpu'"):
        ConflictResolver(capacity={"cpu": 1}).resolve([("a", "cpi", 1.0, 1.0)])
