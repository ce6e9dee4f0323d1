"""From requests to what is served, waits and is lost: one step of the plant as pure functions on arrays.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from camac_dra.environment.groups import Groups

_TINY = 1e-12


@dataclass(slots=True)
class Flows:
    """What became of one step's requests, in the units of the resources."""

    load: np.ndarray  # (B, K, R) sum of the requests
    overload: np.ndarray  # (B, K, R) share by which the load exceeds the capacity
    grants: np.ndarray  # (B, N, R)
    served: np.ndarray  # (B, N, R)
    backlog: np.ndarray  # (B, N, R) what waits for the next step
    lost: np.ndarray  # (B, N, R)


def overload_of(load: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Return the share (B, K, R) by which ``load`` exceeds ``capacity``; 0 where it fits or nothing binds."""
    return np.maximum(load - capacity, 0.0) / np.maximum(capacity, _TINY)


def usable_capacity(capacity: np.ndarray, overload: np.ndarray, contention: float, floor: float) -> np.ndarray:
    """Return what is left of ``capacity`` (B, K, R) under contention: ``max(floor, 1 - contention * overload)`` of it."""
    if contention == 0.0:
        return capacity
    return capacity * np.maximum(1.0 - contention * overload, floor)


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
    """Return ``(backlog, lost)``, both (B, N, R): what is not served waits, above the limit or on leaving it is lost.

    ``backlog + lost + served == pending`` to rounding. ``limit`` is (N, R), ``leaving`` (B, N) bool.
    """
    rest = pending - served  # (B, N, R)
    if limit is None:
        lost = np.zeros_like(rest)
    else:
        lost = np.maximum(rest - limit, 0.0)
    if leaving is not None and leaving.any():
        lost[leaving] = rest[leaving]
    return rest - lost, lost


def load_of(groups: Groups, requests: np.ndarray) -> np.ndarray:
    """Return the load (B, K, R) that ``requests`` (B, N, R) put on each group."""
    return groups.load(requests)
