"""Mechanisms in closed form: every agent gets a share that its groups' loads, or their sizes, fix at once.

Every mechanism of this package has the arguments of
`camac_dra.environment.allocation.Mechanism` and trusts them.
"""

from __future__ import annotations

import numpy as np

from camac_dra.environment.groups import FloatArray, Groups

# Amounts are 0 or at least this: then products and quotients of two of them neither overflow nor lose digits.
SMALLEST = 1e-150


def proportional(
    requests: FloatArray,
    capacity: FloatArray,
    groups: Groups,
    weights: FloatArray | None = None,
    order: FloatArray | None = None,
    bids: FloatArray | None = None,
    rng: np.random.Generator | None = None,
) -> FloatArray:
    """Scale every request by the least, over the agent's groups, of min(1, capacity / load)."""
    load = groups.load(requests)  # (B, K, R)
    scale = groups.least_over_groups(np.minimum(capacity / np.maximum(load, SMALLEST), 1.0))  # (B, N or 1, R)
    if not groups.covered:
        scale = np.minimum(scale, 1.0)
    return requests * scale


def equal(
    requests: FloatArray,
    capacity: FloatArray,
    groups: Groups,
    weights: FloatArray | None = None,
    order: FloatArray | None = None,
    bids: FloatArray | None = None,
    rng: np.random.Generator | None = None,
) -> FloatArray:
    """Give each agent up to its equal part of the capacity among members; what one leaves, nobody gets.

    Members without access to a resource have no part in it.
    """
    return np.minimum(requests, groups.equal_share(capacity))
