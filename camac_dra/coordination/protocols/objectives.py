"""What agents agree on: how far each cuts its request, from sums over its groups that a protocol estimates.

An objective says which amounts an agent puts into the sums (its contribution, in parts), and what the sums
mean for it. All functions work on one agent as on arrays of many.

Axes: ... any, P parts, K capacity groups, R resources.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from camac_dra.environment.groups import FloatArray

_TINY = 1e-150
_ROUNDING = 1e-9  # of sums, in whatever order they are added up
_LEAST_QUEUE = 0.01  # fair shares; whoever asks for something is worth something


class Objective(Protocol):
    """How requests are cut where they exceed a capacity.

    Attributes:
        parts: P, the sums over members that have to be known per group and resource.
        linear: whether contributions are the same whatever the sums are.
        passes: how often the sums have to be found anew until they no longer change.
        by_queue: whether what a request is worth depends on what waits.
    """

    parts: int
    linear: bool
    passes: int
    by_queue: bool

    def worth(self, weights: FloatArray, queues: FloatArray) -> FloatArray:
        """Return what a unit of the agents' requests counts for, (..., N, 1 or R).

        Args:
            weights: (..., N) value of a served unit.
            queues: (..., N, R) what each could ask for, in nominal fair shares.
        """
        ...

    def contribution(self, request: FloatArray, weight: FloatArray, price: FloatArray) -> FloatArray:
        """Return what agents put into the sums (..., P, K, R).

        Args:
            request: (..., 1, R) or (..., K, R).
            weight: (..., 1, 1 or R) what a unit counts for, see `worth`.
            price: (..., K, R) as in `price`; infinite where nothing is known yet.
        """
        ...

    def price(self, sums: FloatArray, capacity: FloatArray) -> FloatArray:
        """Return each group's price (..., K, R) from its sums (..., P, K, R) and capacity (..., K, R)."""
        ...

    def scale(self, price: FloatArray, weight: FloatArray) -> FloatArray:
        """Return the share of its request that an agent may keep in each group (..., K, R)."""
        ...


class Proportional:
    """Everybody keeps the same share of its request, so that they just fit.

    The price of a group is what is asked for as a share of its capacity.
    """

    parts = 1
    linear = True
    passes = 1
    by_queue = False

    def worth(self, weights: FloatArray, queues: FloatArray) -> FloatArray:
        """Return the weights (..., N, 1), which count for nothing."""
        return weights[..., None]

    def contribution(self, request: FloatArray, weight: FloatArray, price: FloatArray) -> FloatArray:
        """Return the requests (..., 1, K, R)."""
        return (request + np.zeros_like(price))[..., None, :, :]

    def price(self, sums: FloatArray, capacity: FloatArray) -> FloatArray:
        """Return the load as a share of the capacity (..., K, R)."""
        return sums[..., 0, :, :] / np.maximum(capacity, _TINY)

    def scale(self, price: FloatArray, weight: FloatArray) -> FloatArray:
        """Return one over the price, 1 at most."""
        return 1.0 / np.maximum(price, 1.0)


class Weighted:
    """What is worth more keeps more: everybody keeps its weight over a price, its whole request at most.

    This is the fair allocation of Kelly, Maulloo and Tan (1998) where agents pay what their requests are
    worth, the maximum of ``sum of weight * request * log(grant)``. The price is where what is kept fits. It
    is found by Newton's method: as long as the same agents keep everything, the price follows from three
    sums, ``(value of all requests - value of those kept whole) / (capacity - requests kept whole)``. What is
    kept is concave in one over the price, so that from the first step on prices only fall, until nobody's
    part changes: after as many steps as there are different weights at most.
    """

    parts = 3
    linear = False
    passes = 4
    by_queue = False

    def __init__(self, slack: float = 1e-3) -> None:
        """Give way to errors of the sums up to ``slack``, a share of the capacity.

        The price is found for a capacity larger by that much, and all is cut by as much where there is a
        price: else, where requests fill a capacity exactly, errors alone would decide who is cut.
        """
        self._room = 1.0 + slack

    def worth(self, weights: FloatArray, queues: FloatArray) -> FloatArray:
        """Return the weights (..., N, 1)."""
        return weights[..., None]

    def contribution(self, request: FloatArray, weight: FloatArray, price: FloatArray) -> FloatArray:
        """Return the value of the request, and its size and value where it is kept whole (..., 3, K, R)."""
        spread = request + np.zeros_like(price)  # (..., K, R)
        whole = np.where(weight >= price, spread, 0.0)
        return np.stack([weight * spread, whole, weight * whole], axis=-3)

    def price(self, sums: FloatArray, capacity: FloatArray) -> FloatArray:
        """Return the next price (..., K, R), never above that at which nobody keeps its request whole."""
        value, whole, value_whole = sums[..., 0, :, :], sums[..., 1, :, :], sums[..., 2, :, :]
        cut = value - value_whole
        cut = np.where(cut > _ROUNDING * value, cut, 0.0)  # else nobody is cut
        larger = self._room * capacity
        return np.minimum(value / np.maximum(larger, _TINY), cut / np.maximum(larger - whole, _TINY))

    def scale(self, price: FloatArray, weight: FloatArray) -> FloatArray:
        """Return the weight over the price, 1 at most, less the slack."""
        return np.where(price > 0.0, weight / (self._room * np.maximum(price, weight)), 1.0)


class MaxWeight(Weighted):
    """As `Weighted`, but what counts is the weight times what waits, so that full queues come first.

    That is what decides in the scheduling of Tassiulas and Ephremides (1992), under which queues stay bounded
    whenever they can be. Everybody's worth is another here, and the price takes more passes.
    """

    passes = 6
    by_queue = True

    def worth(self, weights: FloatArray, queues: FloatArray) -> FloatArray:
        """Return weights times queues (..., N, R)."""
        return weights[..., None] * np.maximum(queues, _LEAST_QUEUE)


OBJECTIVES: dict[str, Objective] = {
    "proportional": Proportional(),
    "weighted": Weighted(),
    "max_weight": MaxWeight(),
}
"""The objectives by name."""
