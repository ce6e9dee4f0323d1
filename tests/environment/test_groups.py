"""Capacity groups against sums and minima written out."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from camac_dra.environment.groups import Groups
from camac_dra.utils.errors import AllocationError

# Two racks under one feeder; agent 4 is under the feeder alone, agent 5 nowhere, and the last group is empty.
TREE = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]])  # (K, N)


def random_membership(shape: tuple[int, int], density: float) -> np.ndarray:
    return (np.random.default_rng(3).random(shape) < density).astype(int)  # (K, N)


MEMBERSHIPS = {
    "one": np.ones((1, 5), dtype=int),
    "one, not all in it": np.array([[1, 0, 1]]),
    "disjoint": np.array([[1, 0, 1, 0], [0, 1, 0, 1]]),
    "disjoint, not all covered": np.array([[1, 0, 0, 0], [0, 1, 0, 1]]),
    "tree": TREE,
    "nobody anywhere": np.zeros((2, 3), dtype=int),
    "large and sparse": random_membership((150, 200), 0.02),
    "large and disjoint": np.eye(150, dtype=int)[:, np.arange(300) % 150],
}


@pytest.fixture(params=MEMBERSHIPS, ids=str)
def membership(request: pytest.FixtureRequest) -> np.ndarray:
    return MEMBERSHIPS[request.param]


def test_sums_and_minima_are_those_of_the_membership_matrix(membership: np.ndarray) -> None:
    groups = Groups.from_membership(membership)
    num_groups, num_agents = membership.shape
    rng = np.random.default_rng(0)
    amounts = rng.random((2, num_agents, 3))  # (B, N, R)
    values = rng.random((2, num_groups, 3))  # (B, K, R)
    is_member = membership[None, :, :, None] == 1  # (1, K, N, 1)

    np.testing.assert_allclose(groups.load(amounts), np.einsum("kn,bnr->bkr", membership, amounts))
    np.testing.assert_allclose(groups.sum_over_groups(values), np.einsum("kn,bkr->bnr", membership, values))
    least = np.where(is_member, values[:, :, None], np.inf).min(axis=1)  # (B, N, R)
    np.testing.assert_array_equal(np.broadcast_to(groups.least_over_groups(values), least.shape), least)
    lowest = np.where(is_member, amounts[:, None], np.inf).min(axis=2)  # (B, K, R)
    np.testing.assert_array_equal(groups.least_over_members(amounts), lowest)
    np.testing.assert_array_equal(groups.members, membership)


def test_structure_is_recognised() -> None:
    flags = {name: (g.single, g.disjoint, g.covered) for name, g in built().items()}
    assert flags["one"] == (True, True, True)
    assert flags["one, not all in it"] == (False, True, False)
    assert flags["disjoint"] == (False, True, True)
    assert flags["disjoint, not all covered"] == (False, True, False)
    assert flags["tree"] == (False, False, False)
    assert flags["large and disjoint"] == (False, True, True)


def built() -> dict[str, Groups]:
    return {name: Groups.from_membership(matrix) for name, matrix in MEMBERSHIPS.items()}


def test_fair_share_is_the_least_capacity_per_member() -> None:
    groups = Groups.from_membership(TREE)
    capacity = np.array([[[4.0], [10.0], [15.0], [1.0]]])  # (B, K, R)
    share = groups.equal_share(capacity)  # (B, N, R)
    np.testing.assert_allclose(share[0, :, 0], [2, 2, 3, 3, 3, np.inf])


def test_fair_share_counts_who_is_present_and_has_access() -> None:
    access = np.array([[1, 1], [1, 0], [0, 1]])  # (N, R)
    groups = Groups.one(3, access)
    np.testing.assert_array_equal(groups.sizes, [[2, 2]])
    capacity = np.full((1, 1, 2), 6.0)  # (B, K, R)
    np.testing.assert_allclose(groups.equal_share(capacity), [[[3, 3]]])
    present = np.array([[1.0, 1.0, 0.0]])  # (B, N)
    np.testing.assert_allclose(groups.equal_share(capacity, present), [[[3, 6]]])
    np.testing.assert_allclose(groups.equal_share(capacity, np.zeros((1, 3))), [[[6, 6]]])


def test_narrowed_groups_are_those_of_the_columns_left(membership: np.ndarray) -> None:
    kept = np.arange(0, membership.shape[1], 2)
    narrowed = Groups.from_membership(membership).among(kept)
    anew = Groups.from_membership(membership[:, kept])
    np.testing.assert_array_equal(narrowed.members, anew.members)
    assert (narrowed.single, narrowed.disjoint, narrowed.covered) == (
        anew.single,
        anew.disjoint,
        anew.covered,
    )
    amounts = np.random.default_rng(1).random((2, len(kept), 2))  # (B, N, R)
    np.testing.assert_array_equal(narrowed.load(amounts), anew.load(amounts))


def test_narrowed_groups_keep_access() -> None:
    access = np.array([[1, 1], [1, 0], [0, 1]])  # (N, R)
    narrowed = Groups.one(3, access).among(np.array([1, 2]))
    np.testing.assert_array_equal(narrowed.access, access[1:])
    np.testing.assert_array_equal(narrowed.sizes, [[1, 1]])


def test_groups_cross_process_borders() -> None:
    groups = pickle.loads(pickle.dumps(Groups.from_membership(TREE)))
    amounts = np.ones((1, 6, 1))  # (B, N, R)
    np.testing.assert_array_equal(groups.load(amounts)[0, :, 0], [2, 2, 5, 0])


@pytest.mark.parametrize(
    ("membership", "access", "message"),
    [
        ([1, 1], None, r"membership must be a non-empty matrix \(K, N\).*got shape \(2,\)"),
        (np.ones((0, 3)), None, r"membership must be a non-empty matrix.*got shape \(0, 3\)"),
        ([[1, 2]], None, r"membership must hold only 0 and 1, got 2.0 at \[0, 1\]; give shares .* weights"),
        ([[1, np.nan]], None, r"membership must hold only 0 and 1, got nan at \[0, 1\]"),
        ([["a"]], None, r"membership must be a matrix .* 0 or 1 each, got \[\['a'\]\]"),
        ([[1, 1]], [[1], [0.5]], r"access must hold only 0 and 1, got 0.5 at \[1, 0\]"),
        (
            [[1, 1]],
            [[1]],
            r"access must have one row per agent: membership has 2 columns.*got shape \(1, 1\)",
        ),
    ],
)
def test_bad_groups_are_refused(membership: object, access: object, message: str) -> None:
    with pytest.raises(AllocationError, match=message):
        Groups.from_membership(membership, access)
