"""A pool of resources from which amounts are taken and to which they are given back."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from camac_dra.utils.errors import ResourceError, did_you_mean

# Ten times 0.1 of a capacity of 1 must fit, although ten times the float 0.1 is a little more than 1.
_ROUNDING = Fraction(1, 10**12)


class ResourcePool:
    """What there is of each resource, and how much of it is taken.

    Thread-safe: `allocate`, `deallocate` and `set_allocated` are atomic, so threads never take the same unit
    twice. Books are kept in exact fractions: they never drift, however often amounts come and go, and the
    amount taken is never below zero or above the capacity. Pickles, and copies are independent.
    """

    def __init__(self, resources: Mapping[str, float]) -> None:
        """Start with everything available; `resources` maps names to capacities, finite and zero or more.

        Raises:
            ResourceError: no resources, or a capacity that is negative or not finite.
        """
        if not resources:
            raise ResourceError("resources must hold at least one resource with its capacity, got none")
        self._capacity = {
            name: Fraction(_amount(f"capacity of {name!r}", amount)) for name, amount in resources.items()
        }
        self._taken = dict.fromkeys(self._capacity, Fraction(0))
        self._lock = threading.Lock()

    def allocate(self, resource_id: str, amount: float) -> bool:
        """Take all of `amount`, or nothing; return whether it was taken.

        What exceeds the available amount by no more than rounding (1e-12 of the capacity) is taken as far as
        it is there.

        Raises:
            ResourceError: an unknown resource, or an amount that is negative or not finite.
        """
        self._refuse_unknown(resource_id)
        wanted = Fraction(_amount(f"amount of {resource_id!r}", amount))
        with self._lock:
            capacity, taken = self._capacity[resource_id], self._taken[resource_id]
            if taken + wanted > capacity * (1 + _ROUNDING):
                return False
            self._taken[resource_id] = min(taken + wanted, capacity)
            return True

    def deallocate(self, resource_id: str, amount: float) -> float:
        """Give `amount` back, at most what is taken; return how much really came back.

        Raises:
            ResourceError: an unknown resource, or an amount that is negative or not finite.
        """
        self._refuse_unknown(resource_id)
        offered = Fraction(_amount(f"amount of {resource_id!r}", amount))
        with self._lock:
            returned = min(offered, self._taken[resource_id])
            self._taken[resource_id] -= returned
            return float(returned)

    def set_allocated(self, amounts: Mapping[str, float] | Sequence[float] | NDArray[Any]) -> None:
        """Replace all that is taken, at once: by resource, or as an array (R,) in
        the order of `resource_ids`.

        Resources that a mapping leaves out become free. Up to 1e-9 of the capacity above
        it counts as rounding.

        Raises:
            ResourceError: unknown resources, an array of another length, or an amount that is negative, not
                finite or above the capacity; then nothing changes.
        """
        if not isinstance(amounts, Mapping):
            if len(amounts) != len(self._capacity):
                raise ResourceError(
                    f"amounts must have one entry per resource ({', '.join(self._capacity)}),"
                    f" got {len(amounts)} entries"
                )
            amounts = dict(zip(self._capacity, amounts, strict=True))
        taken = dict.fromkeys(self._capacity, Fraction(0))
        for name, amount in amounts.items():
            self._refuse_unknown(name)
            capacity = self._capacity[name]
            value = Fraction(_amount(f"amount of {name!r}", amount))
            if value > capacity * (1 + Fraction(1, 10**9)):
                raise ResourceError(
                    f"amount of {name!r} must be at most its capacity {float(capacity):g}, got {amount!r}"
                )
            taken[name] = min(value, capacity)
        with self._lock:
            self._taken = taken

    def get_available(self, resource_id: str) -> float:
        """Return how much can be taken now; `ResourceError` for an unknown resource."""
        self._refuse_unknown(resource_id)
        with self._lock:
            return float(self._capacity[resource_id] - self._taken[resource_id])

    def get_utilization(self) -> dict[str, float]:
        """Return the share of each capacity that is taken, from 0 to 1; 0 for a capacity of zero."""
        with self._lock:
            return {
                name: float(self._taken[name] / capacity) if capacity else 0.0
                for name, capacity in self._capacity.items()
            }

    @property
    def resource_ids(self) -> list[str]:
        """Names of the R resources, in the order they were given in."""
        return list(self._capacity)

    @property
    def capacities(self) -> dict[str, float]:
        """How much there is of each resource, taken or not."""
        return {name: float(capacity) for name, capacity in self._capacity.items()}

    @property
    def allocated(self) -> dict[str, float]:
        """How much is taken of each resource."""
        with self._lock:
            return {name: float(taken) for name, taken in self._taken.items()}

    def as_array(
        self, what: Literal["available", "allocated", "capacity"] = "available"
    ) -> NDArray[np.float64]:
        """Return one of the three amounts as an array (R,) in the order of `resource_ids`."""
        with self._lock:
            amounts = {
                "available": [self._capacity[name] - taken for name, taken in self._taken.items()],
                "allocated": list(self._taken.values()),
                "capacity": list(self._capacity.values()),
            }
        if what not in amounts:
            raise ResourceError(f"what must be one of {', '.join(amounts)}, got {what!r}")
        return np.array(amounts[what], dtype=np.float64)

    def __repr__(self) -> str:
        books = ", ".join(
            f"{name}: {self.allocated[name]:g}/{size:g}" for name, size in self.capacities.items()
        )
        return f"ResourcePool({books})"

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {"capacity": self._capacity, "taken": dict(self._taken)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._capacity, self._taken = dict(state["capacity"]), dict(state["taken"])
        self._lock = threading.Lock()

    def _refuse_unknown(self, resource_id: str) -> None:
        if not isinstance(resource_id, str) or resource_id not in self._capacity:
            raise ResourceError(
                f"resource must be one of {', '.join(self._capacity)}, got {resource_id!r}."
                f"{did_you_mean(str(resource_id), self._capacity)}"
            )


def _amount(what: str, given: Any) -> float:
    """Return `given` as a float that is finite and not negative, or say what is wrong with it."""
    try:
        amount = float(given)
    except (TypeError, ValueError):
        amount = math.nan
    if not 0.0 <= amount < math.inf:
        raise ResourceError(f"{what} must be a finite number, zero or more, got {given!r}")
    return amount
