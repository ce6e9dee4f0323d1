"""Capacity groups, limits and access as configured, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from camac_dra.environment.constraints import Constraints
from camac_dra.utils.errors import ConfigurationError
from tests.environment.problems import problem

INF = np.inf


def built(**section: Any) -> Constraints:
    """Return the constraints of 4 agents that share 40 cpu and 8 memory."""
    return Constraints.from_config(problem(constraints=section))


def test_one_pool_is_the_default() -> None:
    constraints = built()
    np.testing.assert_array_equal(constraints.membership, np.ones((1, 4)))
    np.testing.assert_array_equal(constraints.capacity, [[40.0, 8.0]])
    np.testing.assert_array_equal(constraints.fair_share, [[10.0, 2.0]] * 4)
    assert constraints.group_names == ("pool",)
    assert constraints.access is None
    assert np.isinf(constraints.agent_limit).all()


def test_racks_are_consecutive_and_have_an_even_part_of_the_pool() -> None:
    constraints = Constraints.from_config(problem(num_agents=5, constraints={"num_groups": 2}))
    np.testing.assert_array_equal(constraints.membership, [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]])
    np.testing.assert_allclose(constraints.capacity, [[24.0, 4.8], [16.0, 3.2]])
    np.testing.assert_allclose(constraints.fair_share, [[8.0, 1.6]] * 5)
    assert constraints.group_names == ("rack_0", "rack_1")


def test_explicit_groups_come_on_top_of_the_pool() -> None:
    groups = [
        {"name": "cell", "agents": [0, "agent_1"], "limits": {"cpu": 6.0}},
        {"name": "feeder", "agents": [1], "limits": {"cpu": 50.0, "memory": 1.0}},
    ]
    constraints = built(groups=groups)
    assert constraints.num_groups == 3
    assert constraints.group_names == ("pool", "cell", "feeder")
    np.testing.assert_array_equal(constraints.membership, [[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 0]])
    np.testing.assert_array_equal(constraints.capacity, [[40.0, 8.0], [6.0, INF], [50.0, 1.0]])
    np.testing.assert_allclose(constraints.fair_share, [[3.0, 2.0], [3.0, 1.0], [10.0, 2.0], [10.0, 2.0]])
    # What these are parts of: the cell's 6, the pool's 8, the feeder's 1, and so on.
    np.testing.assert_allclose(constraints.shared_capacity(), [[6, 8], [6, 1], [40, 8], [40, 8]])


def test_limits_and_access() -> None:
    constraints = built(agent_limits={"memory": 1.5}, access={"cpu": [0, "agent_3"]})
    np.testing.assert_array_equal(constraints.agent_limit, [[INF, 1.5]] * 4)
    np.testing.assert_array_equal(constraints.access, [[1, 1], [0, 1], [0, 1], [1, 1]])
    np.testing.assert_array_equal(constraints.fair_share, [[20.0, 2.0]] * 4)  # of who has access
    np.testing.assert_array_equal(constraints.shared_capacity(), [[40.0, 8.0]] * 4)


def test_a_group_without_capacity_shuts_its_members_out() -> None:
    constraints = built(groups=[{"name": "cell", "agents": [0, 1], "limits": {"cpu": 0.0}}])
    np.testing.assert_array_equal(constraints.access, [[0, 1], [0, 1], [1, 1], [1, 1]])
    np.testing.assert_array_equal(constraints.fair_share[2:], [[20.0, 2.0]] * 2)
    assert (constraints.fair_share > 0.0).all()


def test_where_no_group_binds_the_fair_share_is_the_limit() -> None:
    membership = np.array([[1.0, 0.0]])  # (K, N)
    constraints = Constraints.build(membership, np.array([[4.0, INF]]), np.array([[9.0, 3.0], [5.0, 6.0]]))
    np.testing.assert_array_equal(constraints.fair_share, [[4.0, 3.0], [5.0, 6.0]])
    np.testing.assert_array_equal(constraints.shared_capacity(), [[4.0, 3.0], [5.0, 6.0]])
    assert constraints.group_names == ("group_0",)


def test_every_use_must_be_bounded() -> None:
    message = r"agent 1 may use resource 0 without any bound: put it into a group .* or give .* agent_limits"
    with pytest.raises(ConfigurationError, match=message):
        Constraints.build(np.array([[1.0, 0.0]]), np.array([[4.0]]))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"groups": [{"name": "a", "agents": [4], "limits": {}}]},
            r"groups\[0\] \(a\): .* 0 to 3 or ids like .* 4",
        ),
        ({"groups": [{"name": "a", "agents": [-1], "limits": {}}]}, r"indices from 0 to 3 .* got -1"),
        (
            {"groups": [{"name": "a", "agents": ["agent_x"], "limits": {}}]},
            r"ids like 'agent_0', got 'agent_x'\. Did you mean 'agent_",
        ),
        (
            {"groups": [{"name": "a", "agents": [0], "limits": {"cpus": 1.0}}]},
            r"groups\[0\] \(a\): resources are cpu, memory, got 'cpus'\. Did you mean 'cpu'",
        ),
        ({"agent_limits": {"disk": 1.0}}, r"agent_limits: resources are cpu, memory, got 'disk'\."),
        ({"access": {"disk": [0]}}, r"access: resources are cpu, memory, got 'disk'"),
        ({"access": {"cpu": ["nobody"]}}, r"access\.cpu: agents must be indices .* got 'nobody'"),
        (
            {"num_groups": 2, "groups": [{"name": "a", "agents": [0], "limits": {}}]},
            r"give num_groups \(equal racks\) or groups \(explicit\), not both, got num_groups 2 and 1 gr",
        ),
    ],
)
def test_wrong_sections_are_refused(section: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        built(**section)


FITS = np.array([[10.0, 1.5], [0.0, 1.5], [0.0, 1.5], [30.0, 1.5]])  # (N, R)


@pytest.mark.parametrize(
    ("change", "violation"),
    [
        ({}, 0.0),
        ({(0, 0): 14.0}, 0.1),  # 44 of 40 cpu
        ({(0, 1): 1.8}, 0.2),  # 1.8 of a limit of 1.5 memory
        ({(0, 0): -2.0}, 0.1),  # of a fair share of 20
        ({(0, 0): 5.0, (1, 0): 5.0}, 0.25),  # no access; of a fair share of 20
        ({(0, 0): np.nan}, np.nan),
    ],
)
def test_violation_is_the_largest_excess_as_a_share(change: Any, violation: float) -> None:
    constraints = built(agent_limits={"memory": 1.5}, access={"cpu": [0, 3]})
    allocation = FITS.copy()
    for cell, amount in change.items():
        allocation[cell] = amount
    assert constraints.violation(allocation) == pytest.approx(violation, nan_ok=True)
    assert constraints.is_feasible(allocation) == (violation == 0.0)
    assert constraints.is_feasible(allocation, tolerance=0.5) == (not np.isnan(violation))
    batch = np.stack([FITS, allocation])  # (B, N, R)
    assert constraints.violation(batch) == pytest.approx(violation, nan_ok=True)
