"""Mechanisms on instances worked by hand, shapes and defaults of `allocate`, and what bad input gets."""

from __future__ import annotations

import numpy as np
import pytest

from camac_dra.environment.allocation import (
    PROPERTIES,
    READS,
    STRATEGIES,
    allocate,
    clearing_prices,
    get_mechanism,
    is_deterministic,
)
from camac_dra.environment.groups import Groups
from camac_dra.utils.errors import AllocationError

# Two groups, and the middle one of three agents is in both.
CHAIN = np.array([[1, 1, 0], [0, 1, 1]])  # (K, N)


def column(*values: float) -> np.ndarray:
    """Return one resource's amounts, (N, 1)."""
    return np.array(values, dtype=float)[:, None]


def granted(strategy: str, requests: list[float], capacity: object, **rest: object) -> list[float]:
    """Return the grants of one resource as a list."""
    return allocate(column(*requests), capacity, strategy, **rest)[:, 0].tolist()


class TestByHand:
    def test_proportional(self) -> None:
        assert granted("proportional", [1, 2, 5], [4]) == pytest.approx([0.5, 1, 2.5])
        # Group 0 can give 1 / 4 of what is asked there, group 1 3 / 4: the tighter one binds agent 1.
        assert granted("proportional", [2, 2, 2], [[1], [3]], membership=CHAIN) == pytest.approx(
            [0.5, 0.5, 1.5]
        )

    def test_equal(self) -> None:
        assert granted("equal", [1, 2, 5], [6]) == pytest.approx([1, 2, 2])
        assert granted("equal", [9, 9, 9], [[2], [6]], membership=CHAIN) == pytest.approx([1, 1, 3])
        # Who has no access to a resource has no part in it.
        assert granted("equal", [9, 9, 9], [6], access=[[1], [0], [1]]) == pytest.approx([3, 0, 3])

    def test_max_min(self) -> None:
        assert granted("max_min", [1, 2, 5], [6]) == pytest.approx([1, 2, 3])
        assert granted("max_min", [2, 4, 8], [9]) == pytest.approx([2, 3.5, 3.5])
        assert granted("max_min", [9, 9, 9], [[1], [4]], membership=CHAIN) == pytest.approx([0.5, 0.5, 3.5])

    def test_weighted_max_min(self) -> None:
        assert granted("weighted_max_min", [9, 9], [8], weights=[1, 3]) == pytest.approx([2, 6])
        assert granted("weighted_max_min", [9, 3], [8], weights=[1, 3]) == pytest.approx([5, 3])
        chain = granted("weighted_max_min", [9, 9, 9], [[3], [9]], weights=[1, 2, 3], membership=CHAIN)
        assert chain == pytest.approx([1, 2, 7])

    def test_proportional_fair(self) -> None:
        assert granted("proportional_fair", [9, 9], [8], weights=[1, 3]) == pytest.approx([2, 6])
        # The textbook line of two links: the long route gets a third, the short ones two thirds.
        assert granted("proportional_fair", [9, 9, 9], [[1], [1]], membership=CHAIN) == pytest.approx(
            [2 / 3, 1 / 3, 2 / 3]
        )
        assert granted("proportional_fair", [0.5, 9, 9], [[1], [1]], membership=CHAIN) == pytest.approx(
            [0.5, 0.5, 0.5]
        )

    def test_drf_on_the_example_of_its_paper(self) -> None:
        # 9 CPUs and 18 GB, tasks of (1 CPU, 4 GB) and (3 CPUs, 1 GB): three and two of them, shares of 2 / 3.
        requests = np.array([[10.0, 40.0], [30.0, 10.0]])  # (N, R)
        np.testing.assert_allclose(allocate(requests, [9, 18], "drf"), [[3, 12], [6, 2]])

    def test_drf_goes_on_for_those_who_draw_on_nothing_full(self) -> None:
        requests = np.array([[4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])  # (N, R)
        # Levels rise to 1 / 2, where resource 0 is full; agent 2 draws on resource 1 alone and goes on.
        np.testing.assert_allclose(allocate(requests, [4, 8], "drf"), [[2, 0], [2, 2], [0, 4]], rtol=1e-12)

    def test_drf_measures_by_the_scarcest_group(self) -> None:
        # Agent 1's dominant share is of the small group: both reach 1 / 2 there, agent 2 takes the rest.
        grants = granted("drf", [9, 9, 9], [[2], [10]], membership=CHAIN)
        assert grants == pytest.approx([1, 1, 9])

    def test_priority(self) -> None:
        assert granted("priority", [3, 3, 3], [5], weights=[1, 4, 2]) == pytest.approx([0, 3, 2])
        assert granted("priority", [3, 6, 3], [6], weights=[1, 1, 4]) == pytest.approx([1, 2, 3])
        assert granted("priority", [3, 3], [4]) == pytest.approx([2, 2])

    def test_first_come(self) -> None:
        assert granted("first_come", [3, 3, 3], [5]) == pytest.approx([3, 2, 0])
        assert granted("first_come", [3, 3, 3], [5], order=[2, 1, 0]) == pytest.approx([0, 2, 3])
        assert granted("first_come", [3, 3, 3], [5], order=[1, 1, 0]) == pytest.approx([1, 1, 3])

    def test_first_come_over_groups(self) -> None:
        # Agent 1 finds 1 left in group 0, so that agent 2 finds 3 - 1 left in group 1.
        assert granted("first_come", [2, 2, 9], [[3], [3]], membership=CHAIN) == pytest.approx([2, 1, 2])

    def test_auction(self) -> None:
        assert granted("auction", [3, 3, 3], [5], bids=[0.5, 0.9, 0.5]) == pytest.approx([1, 3, 1])
        assert granted("auction", [3, 3, 3], [8], bids=[0, 2, 1]) == pytest.approx([2, 3, 3])
        assert granted("auction", [3, 3], [3], weights=[1, 2]) == pytest.approx([0, 3])

    def test_lottery_serves_one_after_another(self) -> None:
        grants = granted("weighted_random", [3, 3, 3], [5], rng=np.random.default_rng(0))
        assert sorted(grants) == pytest.approx([0, 2, 3])

    def test_lottery_draws_with_odds_as_the_weights(self) -> None:
        draws = 4000
        requests = np.ones((draws, 3, 1))  # (B, N, R)
        weights = [1.0, 2.0, 5.0]
        grants = allocate(requests, [2.0], "weighted_random", weights=weights, rng=np.random.default_rng(7))
        first = allocate(requests, [1.0], "weighted_random", weights=weights, rng=np.random.default_rng(7))
        np.testing.assert_allclose(first.mean(axis=0)[:, 0], [1 / 8, 2 / 8, 5 / 8], atol=0.03)
        # The loser of two places: agent 0 last is 2/8 * 5/6 + 5/8 * 2/3.
        assert 1 - grants.mean(axis=0)[0, 0] == pytest.approx(2 / 8 * 5 / 6 + 5 / 8 * 2 / 3, abs=0.03)

    def test_lottery_without_weights_is_even(self) -> None:
        grants = allocate(np.ones((4000, 4, 1)), [1.0], "weighted_random", rng=np.random.default_rng(1))
        np.testing.assert_allclose(grants.mean(axis=0)[:, 0], 0.25, atol=0.03)


class TestClearingPrices:
    def priced(
        self, requests: list[float], capacity: list[list[float]], bids: list[float], groups: Groups
    ) -> list[float]:
        asked, limits, offers = (
            column(*requests)[None],
            np.array(capacity)[None],
            np.array([bids], dtype=float),
        )
        grants = get_mechanism("auction")(asked, limits, groups, None, None, offers)  # (B, N, R)
        return clearing_prices(asked, grants, limits, groups, offers)[0, :, 0].tolist()

    def test_winners_pay_the_highest_losing_bid(self) -> None:
        assert self.priced([2, 2, 2], [[4]], [5, 3, 1], Groups.one(3)) == [1]
        assert self.priced([2, 2, 2], [[3]], [5, 3, 1], Groups.one(3)) == [3]

    def test_room_left_costs_nothing(self) -> None:
        assert self.priced([2, 2, 2], [[6.5]], [5, 3, 1], Groups.one(3)) == [0]
        assert self.priced([2, 2, 2], [[6]], [5, 3, 1], Groups.one(3)) == [0]

    def test_no_winner_pays_more_than_its_bid(self) -> None:
        # Agent 1 bids most and loses in group 0, which is shut; in group 1 agent 2 wins with a lower bid.
        assert self.priced([2, 2, 2], [[0], [2]], [1, 9, 4], Groups.from_membership(CHAIN)) == [9, 4]


class TestShapes:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_copies_are_independent(self, strategy: str) -> None:
        rng = np.random.default_rng(5)
        requests, capacity = rng.random((3, 6, 2)), rng.random((3, 4, 2)) * 2  # (B, N, R), (B, K, R)
        membership = rng.integers(0, 2, (4, 6))  # (K, N)
        weights, order, bids = rng.integers(1, 4, (3, 6)), rng.integers(0, 4, (3, 6)), rng.random((3, 6))
        together = allocate(
            requests, capacity, strategy, weights, membership, None, order, bids, np.random.default_rng(9)
        )
        one_rng = np.random.default_rng(9)
        apart = [
            allocate(
                requests[b], capacity[b], strategy, weights[b], membership, None, order[b], bids[b], one_rng
            )
            for b in range(3)
        ]
        np.testing.assert_allclose(together, apart, rtol=1e-12, atol=1e-12)
        assert together.dtype == np.float64

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_one_row_serves_all_copies(self, strategy: str) -> None:
        rng = np.random.default_rng(6)
        requests, weights = rng.random((2, 5, 3)), rng.integers(1, 4, 5)  # (B, N, R), (N,)
        short = allocate(requests, [1, 2, 0.5], strategy, weights, rng=np.random.default_rng(0))
        long = allocate(
            requests,
            np.tile([1, 2, 0.5], (2, 1, 1)),
            strategy,
            np.tile(weights, (2, 1)),
            np.ones((1, 5)),
            rng=np.random.default_rng(0),
        )
        np.testing.assert_array_equal(short, long)

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_arguments_are_left_alone_and_not_returned(self, strategy: str) -> None:
        requests, capacity = np.full((4, 2), 0.5), np.full((1, 2), 10.0)  # (N, R), (K, R)
        given = [requests, capacity, np.ones(4), np.ones((1, 4)), np.ones((4, 2)), np.arange(4.0), np.ones(4)]
        copies = [array.copy() for array in given]
        requests, capacity, weights, membership, access, order, bids = given
        grants = allocate(
            requests, capacity, strategy, weights, membership, access, order, bids, np.random.default_rng(0)
        )
        grants += 1.0
        for array, copy in zip(given, copies, strict=True):
            np.testing.assert_array_equal(array, copy)

    def test_lists_and_integers_do(self) -> None:
        np.testing.assert_allclose(allocate([[1, 1], [3, 1]], [2, 9], "proportional"), [[0.5, 1], [1.5, 1]])

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_mechanisms_read_what_the_table_says(self, strategy: str) -> None:
        requests = np.array([[1.0], [2.0], [3.0]])[None]  # (B, N, R)
        limits, groups = np.array([[[3.0]]]), Groups.one(3)
        given = {
            "weights": (np.array([[1.0, 2.0, 3.0]]), np.array([[3.0, 2.0, 1.0]])),
            "order": (np.array([[0.0, 1.0, 2.0]]), np.array([[2.0, 1.0, 0.0]])),
            "bids": (np.array([[1.0, 2.0, 3.0]]), np.array([[3.0, 2.0, 1.0]])),
        }

        def grants(**rest: np.ndarray | None) -> np.ndarray:
            return get_mechanism(strategy)(requests, limits, groups, **rest, rng=np.random.default_rng(4))

        for name, (one, other) in given.items():
            differ = not np.array_equal(grants(**{name: one}), grants(**{name: other}))
            assert differ == (name in READS[strategy]), name

    def test_tables_cover_every_strategy(self) -> None:
        assert set(READS) == set(PROPERTIES) == set(STRATEGIES)
        assert [name for name in STRATEGIES if not is_deterministic(name)] == ["weighted_random"]


@pytest.mark.parametrize("strategy", STRATEGIES)
class TestEdges:
    def allocated(self, strategy: str, requests: object, capacity: object, **rest: object) -> np.ndarray:
        size = np.shape(requests)[-2]
        rest = {"weights": np.arange(1.0, size + 1), "rng": np.random.default_rng(0)} | rest
        return allocate(requests, capacity, strategy, **rest)

    def test_no_capacity_grants_nothing(self, strategy: str) -> None:
        np.testing.assert_array_equal(self.allocated(strategy, np.ones((3, 2)), [0, 0]), np.zeros((3, 2)))
        several = self.allocated(strategy, np.ones((3, 2)), np.zeros((2, 2)), membership=CHAIN)
        np.testing.assert_array_equal(several, np.zeros((3, 2)))

    def test_no_request_is_granted_nothing(self, strategy: str) -> None:
        np.testing.assert_array_equal(self.allocated(strategy, np.zeros((3, 2)), [1, 0]), np.zeros((3, 2)))
        several = self.allocated(strategy, np.zeros((3, 2)), [[1, 0], [np.inf, 2]], membership=CHAIN)
        np.testing.assert_array_equal(several, np.zeros((3, 2)))

    def test_what_binds_nobody_grants_all(self, strategy: str) -> None:
        requests = np.arange(6.0).reshape(3, 2)  # (N, R)
        np.testing.assert_array_equal(self.allocated(strategy, requests, [np.inf, np.inf]), requests)
        loose = self.allocated(strategy, requests, np.full((2, 2), np.inf), membership=CHAIN)
        np.testing.assert_array_equal(loose, requests)

    def test_enough_for_all_grants_all(self, strategy: str) -> None:
        requests = np.array([[1.0, 2.0], [2.0, 2.0], [2.0, 0.0]])  # (N, R)
        np.testing.assert_allclose(self.allocated(strategy, requests, [6, 6]), requests, rtol=1e-12)
        several = self.allocated(strategy, requests, [[4, 4], [4, 5]], membership=CHAIN)
        np.testing.assert_allclose(several, requests, rtol=1e-12)

    def test_one_agent_and_one_resource(self, strategy: str) -> None:
        np.testing.assert_allclose(self.allocated(strategy, [[5.0]], [2]), [[2.0]], rtol=1e-12)
        np.testing.assert_allclose(self.allocated(strategy, [[1.0]], [2]), [[1.0]], rtol=1e-12)

    def test_agents_in_no_group_are_bound_by_nothing(self, strategy: str) -> None:
        membership = [[1, 1, 0], [1, 0, 0]]
        grants = self.allocated(strategy, np.full((3, 1), 4.0), [[2], [1]], membership=membership)
        assert grants[2, 0] == 4.0
        assert grants[:2].sum() <= 2.0 * (1 + 1e-9)
        nobody = self.allocated(strategy, np.full((3, 1), 4.0), [[2], [1]], membership=np.zeros((2, 3)))
        np.testing.assert_array_equal(nobody, np.full((3, 1), 4.0))

    def test_empty_groups_bind_nobody(self, strategy: str) -> None:
        membership = [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
        grants = self.allocated(strategy, np.full((3, 1), 4.0), [[0], [6], [0]], membership=membership)
        assert grants.sum() == pytest.approx(6.0)

    def test_no_access_is_granted_nothing(self, strategy: str) -> None:
        access = [[1, 0], [0, 1], [1, 1]]
        grants = self.allocated(strategy, np.full((3, 2), 4.0), [6, 6], access=access)
        assert grants[0, 1] == grants[1, 0] == 0.0
        assert (grants.sum(axis=0) > 5.9).all() or strategy == "drf"

    def test_two_groups_of_the_same_members(self, strategy: str) -> None:
        grants = self.allocated(strategy, np.full((2, 1), 4.0), [[3], [3]], membership=np.ones((2, 2)))
        assert grants.sum() == pytest.approx(3.0)

    @pytest.mark.parametrize("membership", [np.ones((1, 3)), CHAIN], ids=["one", "chain"])
    def test_amounts_below_the_least_count_as_zero(self, strategy: str, membership: np.ndarray) -> None:
        limits = np.full((len(membership), 2), [1e-310, 1.0])  # (K, R)
        requests = np.array([[5e-324, 5e-324], [1e-308, 0.25], [1.0, 1e-160]])  # (N, R)
        grants = self.allocated(strategy, requests, limits, membership=membership)
        assert grants[1, 1] == 0.25
        np.testing.assert_array_equal(grants[:, 0], 0.0)
        assert grants[0, 1] == grants[2, 1] == 0.0


ONES = np.ones((3, 2))  # (N, R)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"requests": [[1, np.nan]] * 3},
            r"requests must be between 0 and 1e\+150, and finite, got nan at \[0, 1\]",
        ),
        ({"requests": -ONES}, r"requests must be between 0 .* got -1.0 at \[0, 0\]"),
        ({"requests": ONES * np.inf}, r"requests must be .* finite, got inf at \[0, 0\]"),
        ({"requests": [1, 2]}, r"requests must be \(N, R\) or \(B, N, R\) and not empty, got shape \(2,\)"),
        ({"requests": np.ones((0, 2))}, r"requests must be .* not empty, got shape \(0, 2\)"),
        ({"requests": [["a", "b"]]}, r"requests must be an array of numbers, got \[\['a', 'b'\]\]"),
        ({"requests": [[1, 2], [3]]}, r"requests must be an array of numbers"),
        ({"capacity": [1, np.nan]}, r"capacity must be between 0 .* or infinite where .* got nan at \[1\]"),
        ({"capacity": [1, -2]}, r"capacity must be between 0 .* got -2.0 at \[1\]"),
        (
            {"capacity": [1, 2, 3]},
            r"capacity must have R = 2 in its last axis, as requests have, got shape \(3,\)",
        ),
        ({"capacity": 3.0}, r"capacity must be \(R,\), \(K, R\) or \(B, K, R\), got shape \(\)"),
        (
            {"capacity": [[1, 2], [3, 4]]},
            r"capacity must be for K = 1 groups, got 2 \(shape \(2, 2\)\); give membership",
        ),
        (
            {"membership": CHAIN},
            r"capacity must be for K = 2 groups, got 1 .*; capacity and membership must have one row per",
        ),
        ({"capacity": np.ones((4, 1, 2))}, r"capacity must have B = 1 copies in its first axis, .* got 4"),
        ({"membership": np.ones((1, 4))}, r"membership must be \(K, N\) with N = 3 .* got 4 columns"),
        ({"membership": [[1, 0.5, 1]]}, r"membership must hold only 0 and 1, got 0.5 at \[0, 1\]"),
        ({"access": np.ones((3, 1))}, r"access must be \(N, R\) = \(3, 2\) .* got shape \(3, 1\)"),
        ({"access": np.full((3, 2), 2)}, r"access must hold only 0 and 1, got 2.0 at \[0, 0\]"),
        ({"weights": [1, 0, 1]}, r"weights must be greater than 0, .* got 0.0 at \[1\]"),
        ({"weights": [1, -1, 1]}, r"weights must be greater than 0, .* got -1.0 at \[1\]"),
        ({"weights": [1, np.nan, 1]}, r"weights must be greater than 0, .* got nan at \[1\]"),
        ({"weights": [1, 1]}, r"weights must be \(N,\) = \(3,\) or \(B, N\) = \(1, 3\), got shape \(2,\)"),
        ({"order": [1, np.inf, 1]}, r"order must be finite, got inf at \[1\]"),
        ({"bids": [1, -0.5, 1]}, r"bids must be between 0 and 1e\+150, got -0.5 at \[1\]"),
        (
            {"strategy": "max-min"},
            r"strategy must be one of proportional, .*, got 'max-min'. Did you mean 'max_min'\?",
        ),
        ({"strategy": None}, r"strategy must be one of .* got None"),
        (
            {"strategy": "weighted_random"},
            r"rng must be a numpy.random.Generator .* got None; pass np.random.default",
        ),
        ({"strategy": "weighted_random", "rng": 3}, r"rng must be a numpy.random.Generator .* got 3"),
        (
            {"strategy": "auction"},
            r"bids must be given for strategy 'auction', got None; pass what each agent offers",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    given = {"requests": ONES, "capacity": [1, 1], "strategy": "proportional"} | arguments
    with pytest.raises(AllocationError, match=message):
        allocate(**given)


def test_bare_lottery_needs_a_generator() -> None:
    with pytest.raises(AllocationError, match="rng must be given for weighted_random, got None"):
        get_mechanism("weighted_random")(np.ones((1, 2, 1)), np.ones((1, 1, 1)), Groups.one(2))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AllocationError, match="Did you mean 'priority'"):
        is_deterministic("priorities")
