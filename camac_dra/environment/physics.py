"""From requests to what is served, waits and is lost: one step of the plant as pure functions on arrays.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Loads are relative to at least this capacity.
LEAST_CAPACITY = 1e-150


@dataclass(slots=True)
class Flows:
    """What became of one step's requests, in the units of the resources where nothing else is said."""

    relative_load: np.ndarray  # (B, K, R) sum of the requests over the capacity; 0 where nothing binds
    overload: np.ndarray  # (B, K, R) share by which the load exceeds the capacity
    share: np.ndarray  # (B, K, R) what proportional sharing grants of each request under this load
    grants: np.ndarray  # (B, N, R)
    served: np.ndarray  # (B, N, R)
    backlog: np.ndarray  # (B, N, R) what waits for the next step
    lost: np.ndarray  # (B, N, R)

    @property
    def fates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(B, N, R) each: what was granted, served and lost."""
        return self.grants, self.served, self.lost


def inverse_of(capacity: np.ndarray) -> np.ndarray:
    """Return one over ``capacity``: 0 where it is infinite, very large where it is 0."""
    return 1.0 / np.maximum(capacity, LEAST_CAPACITY)


def usable_share(overload: np.ndarray, contention: float, floor: float) -> np.ndarray:
    """Return the usable share of a capacity under contention: ``max(floor, 1 - contention * overload)``."""
    return np.maximum(1.0 - contention * overload, floor)


def overload_and_share(
    relative_load: np.ndarray, contention: float, floor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return by what share a load, given as a share of the capacity, exceeds it, and `granted_share`."""
    filled = np.maximum(relative_load, 1.0)
    overload = filled - 1.0
    return overload, _granted(filled, overload * -contention, floor)


def granted_share(relative_load: np.ndarray, contention: float, floor: float) -> np.ndarray:
    """Return the share of each request that proportional sharing grants in a group under such a load."""
    filled = np.maximum(relative_load, 1.0)
    change = filled - 1.0
    change *= -contention
    return _granted(filled, change, floor)


def _granted(filled: np.ndarray, change: np.ndarray, floor: float) -> np.ndarray:
    """Return the share granted of a load of at least 1, usable up to 1 plus ``change``, in place."""
    change += 1.0
    np.maximum(change, floor, out=change)
    change /= filled
    return change


def serve(
    pending: np.ndarray, grants: np.ndarray, service_yield: np.ndarray | None, leontief: bool
) -> np.ndarray:
    """Return what the grants serve of what is pending, all (B, N, R); never more than is pending.

    With ``leontief`` every resource of an agent is served by the same share, that of its scarcest one.
    """
    if leontief:
        useful = grants if service_yield is None else grants * service_yield  # (B, N, R)
        share = np.divide(useful, pending, out=np.full_like(pending, np.inf), where=pending > 0.0)
        return np.minimum(share.min(axis=2, keepdims=True), 1.0) * pending
    # Grants never exceed requests, nor requests what is pending.
    return grants if service_yield is None else grants * service_yield


def queue(
    pending: np.ndarray, served: np.ndarray, limit: np.ndarray | None, leaving: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(backlog, lost)``, both (B, N, R): the rest waits, above the limit or on leaving it is lost.

    ``backlog + lost + served == pending`` to rounding. ``limit`` is (N, R), ``leaving`` (B, N) bool.
    """
    rest = pending - served  # (B, N, R)
    if limit is None:
        lost = np.zeros_like(rest)
        backlog = rest
    else:
        backlog = np.minimum(rest, limit)
        lost = rest - backlog
    if leaving is not None and leaving.any():
        lost = np.where(leaving[..., None], rest, lost)
        backlog = rest - lost
    return backlog, lost
