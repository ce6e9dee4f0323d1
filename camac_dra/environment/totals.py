"""Running sums over an episode, from which its measures are made.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from camac_dra.environment.dynamics.base import Draw
from camac_dra.environment.physics import Flows

CONFLICT_TOLERANCE = 1e-9
# Steps are kept aside until they fill this many cells (B, N, R), then added up at once: small problems then
# pay no call overhead, and large ones no memory.
_PENDING_CELLS = 1 << 16
# Arrays of more cells are added one by one, without a copy of them all.
_FEW_CELLS = 1 << 9
_PER_AGENT = ("demanded", "served", "lost", "granted")


@dataclass(slots=True)
class Totals:
    """Sums over the steps so far; complete after `settle`."""

    demanded: np.ndarray  # (B, N, R)
    served: np.ndarray  # (B, N, R)
    lost: np.ndarray  # (B, N, R)
    granted: np.ndarray  # (B, N, R)
    paid: np.ndarray  # (B, N, R) price of a fair share times granted
    conflicts: np.ndarray  # (B, K, R) steps in which the load exceeded the capacity
    capacity: np.ndarray  # (B, K, R), infinite where a group does not bind
    efficiency: np.ndarray  # (B, N) objective of each agent
    reward: np.ndarray  # (B,) sum over agents of what they were rewarded
    _aside: list[tuple[np.ndarray, ...]] = field(default_factory=list)

    @classmethod
    def zeros(cls, cells: tuple[int, int, int], num_groups: int) -> Totals:
        """Return sums of nothing for ``cells`` (B, N, R) and K groups."""
        copies, _, resources = cells
        grouped = (copies, num_groups, resources)
        per_agent: dict[str, Any] = {name: np.zeros(cells) for name in (*_PER_AGENT, "paid")}
        return cls(
            **per_agent,
            conflicts=np.zeros(grouped),
            capacity=np.zeros(grouped),
            efficiency=np.zeros(cells[:2]),
            reward=np.zeros(copies),
        )

    def add(self, draw: Draw, flows: Flows, values: np.ndarray) -> None:
        """Add a step; its arrays must not be changed afterwards."""
        per_agent = (draw.arrivals, flows.served, flows.lost, flows.grants)
        self._aside.append((*per_agent, draw.price, flows.overload, draw.capacity, values))
        if len(self._aside) * flows.grants.size >= _PENDING_CELLS:
            self.settle()

    def settle(self) -> None:
        """Add up what was kept aside; sums do not depend on how often that was done."""
        if not self._aside:
            return
        columns = list(zip(*self._aside, strict=True))
        self._aside = []
        grants, prices, overloads, capacities, values = columns[len(_PER_AGENT) - 1 :]
        if self.paid.size <= _FEW_CELLS:
            stacked_prices, paid = _stacked(prices), np.empty((1 + len(prices), *self.paid.shape))
            paid[0] = self.paid
            np.multiply(_stacked(grants), stacked_prices[:, :, None], out=paid[1:])
            self.paid = _sum(paid)
        else:
            costs = (grant * price[:, None] for grant, price in zip(grants, prices, strict=True))
            self.paid = _added(self.paid, costs)
        for name, arrays in zip(_PER_AGENT, columns, strict=False):
            setattr(self, name, _added(getattr(self, name), arrays))
        self.conflicts += _sum((_stacked(overloads) > CONFLICT_TOLERANCE).astype(np.float64))
        if len(self.capacity) == 1:
            self.capacity = _added(self.capacity, capacities)
        else:  # (B, K, R) or (1, K, R) each
            for capacity in capacities:
                self.capacity += capacity
        self.efficiency = _added(self.efficiency, values)


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return what `np.array` does of arrays of one shape, in half the time."""
    return np.concatenate(arrays).reshape(len(arrays), *arrays[0].shape)


def _sum(stack: np.ndarray) -> np.ndarray:
    """Return the sum over the first axis, added one after the other."""
    # Single numbers would be added in pairs, and their sum depend on how many there are.
    return np.add.accumulate(stack)[-1] if stack[0].size == 1 else np.add.reduce(stack)


def _added(total: np.ndarray, arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Return ``total`` plus the arrays, in order; it may be changed."""
    if total.size <= _FEW_CELLS:
        return _sum(_stacked([total, *arrays]))
    for array in arrays:
        total += array
    return total
