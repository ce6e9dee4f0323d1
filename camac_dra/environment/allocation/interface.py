"""The ways in: `allocate` checks its arguments, `get_mechanism` is for the environment's every step."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from camac_dra.environment.allocation.filling import drf, max_min, weighted_max_min
from camac_dra.environment.allocation.proportional_fairness import proportional_fair
from camac_dra.environment.allocation.serving import auction, first_come, priority, weighted_random
from camac_dra.environment.allocation.shares import equal, proportional
from camac_dra.environment.allocation.validation import checked
from camac_dra.environment.groups import FloatArray, Groups
from camac_dra.utils.errors import AllocationError, did_you_mean


class Mechanism(Protocol):
    """A rule from requests to grants, on arrays that are known to fit.

    Every mechanism is pure (`weighted_random` draws from `rng`), leaves its arguments alone, and returns
    grants of the shape of `requests` which are within [0, request] and within every capacity to a relative
    1e-9. It validates nothing: amounts must be 0 or from 1e-150 to 1e150 (capacity may be infinite) and 0
    where `groups.access` is 0, weights positive, bids not negative. What a mechanism does not read (`READS`)
    may be None.

    Args:
        requests: (B, N, R).
        capacity: (B, K, R) or (1, K, R).
        groups: K groups of N agents.
        weights, order, bids: (B, N); None means all alike, by agent index, and the weights.
        rng: for `weighted_random`.
    """

    def __call__(
        self,
        requests: FloatArray,
        capacity: FloatArray,
        groups: Groups,
        weights: FloatArray | None = None,
        order: FloatArray | None = None,
        bids: FloatArray | None = None,
        rng: np.random.Generator | None = None,
    ) -> FloatArray:
        """Return the grants (B, N, R)."""
        ...


_MECHANISMS: Mapping[str, Mechanism] = MappingProxyType(
    {
        "proportional": proportional,
        "equal": equal,
        "max_min": max_min,
        "weighted_max_min": weighted_max_min,
        "proportional_fair": proportional_fair,
        "drf": drf,
        "priority": priority,
        "first_come": first_come,
        "weighted_random": weighted_random,
        "auction": auction,
    }
)

STRATEGIES: tuple[str, ...] = tuple(_MECHANISMS)
"""The names of all mechanisms."""

READS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "proportional": frozenset(),
        "equal": frozenset(),
        "max_min": frozenset(),
        "weighted_max_min": frozenset({"weights"}),
        "proportional_fair": frozenset({"weights"}),
        "drf": frozenset(),
        "priority": frozenset({"weights"}),
        "first_come": frozenset({"order"}),
        "weighted_random": frozenset({"weights", "rng"}),
        "auction": frozenset({"bids", "weights"}),
    }
)
"""What each mechanism reads besides requests, capacities and groups; the rest makes no difference to it."""


def get_mechanism(strategy: str) -> Mechanism:
    """Return the mechanism of that name, which validates nothing; `AllocationError` for an unknown one."""
    mechanism = _MECHANISMS.get(strategy) if isinstance(strategy, str) else None
    if mechanism is None:
        raise AllocationError(
            f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}."
            + did_you_mean(str(strategy), STRATEGIES)
        )
    return mechanism


def is_deterministic(strategy: str) -> bool:
    """Return whether equal arguments give equal grants; raise `AllocationError` for an unknown name."""
    get_mechanism(strategy)
    return "rng" not in READS[strategy]


def allocate(
    requests: ArrayLike,
    capacity: ArrayLike,
    strategy: str,
    weights: ArrayLike | None = None,
    membership: ArrayLike | None = None,
    access: ArrayLike | None = None,
    order: ArrayLike | None = None,
    bids: ArrayLike | None = None,
    rng: np.random.Generator | None = None,
) -> FloatArray:
    """Return what each agent gets of what it asks for.

    The result is within [0, request], and within every group's capacity to a relative 1e-9; no argument is
    changed. Amounts below 1e-150 count as zero.

    Args:
        requests: (N, R) or (B, N, R), finite and not negative.
        capacity: (R,), (K, R) or (B, K, R), not negative; infinite where a group does not bind.
        strategy: one of `STRATEGIES`; `PROPERTIES` says what each is good for, `READS` what it
        takes from the rest.
        weights: (N,) or (B, N), positive; all 1 by default.
        membership: (K, N), 0 or 1; by default one group of all. An agent in no group is bound by no capacity.
        access: (N, R), 0 or 1: without access an agent is granted nothing; by default everybody has access.
        order: (N,) or (B, N), arrival ranks, lowest first; equal ranks share. By default the agent's index.
        bids: (N,) or (B, N), not negative: what the agent offers per unit; by default the weights.
        rng: generator for `weighted_random`, which cannot do without.

    Raises:
        AllocationError: an argument is out of range or does not fit the others, or the strategy is unknown.
    """
    mechanism = get_mechanism(strategy)
    given = checked(requests, capacity, weights, membership, access, order, bids)
    if strategy == "weighted_random" and not isinstance(rng, np.random.Generator):
        raise AllocationError(
            f"rng must be a numpy.random.Generator for strategy 'weighted_random', got {rng!r};"
            " pass np.random.default_rng(seed)"
        )
    if strategy == "auction" and bids is None and weights is None:
        raise AllocationError(
            "bids must be given for strategy 'auction', got None;"
            " pass what each agent offers per unit, (N,) or (B, N), or weights to stand for it"
        )
    grants = mechanism(
        given.requests, given.capacity, given.groups, given.weights, given.order, given.bids, rng
    )  # (B, N, R)
    return grants.reshape(given.shape)
