"""Checks of the arguments of `allocate`, and the arrays that the mechanisms work on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from camac_dra.environment.allocation.shares import SMALLEST
from camac_dra.environment.groups import FloatArray, Groups
from camac_dra.utils.errors import AllocationError

# Beyond these, quotients of two amounts, or of an amount and a weight, would leave the range of floats.
LARGEST = 1e150
_WEIGHTS = (1e-100, 1e100, "greater than 0, and from 1e-100 to 1e+100")
_ORDER = (-np.finfo(np.float64).max, np.finfo(np.float64).max, "finite")
_BIDS = (0.0, LARGEST, f"between 0 and {LARGEST:g}")


@dataclass(frozen=True, eq=False)
class Checked:
    """Arguments that fit together: requests (B, N, R), capacity (B or 1, K, R), the others (B, N) or None."""

    shape: tuple[int, ...]  # of the requests as given
    requests: FloatArray
    capacity: FloatArray
    groups: Groups
    weights: FloatArray | None
    order: FloatArray | None
    bids: FloatArray | None


def checked(
    requests: ArrayLike,
    capacity: ArrayLike,
    weights: ArrayLike | None,
    membership: ArrayLike | None,
    access: ArrayLike | None,
    order: ArrayLike | None,
    bids: ArrayLike | None,
) -> Checked:
    """Return the arguments in the mechanisms' shapes, or raise `AllocationError` for what is wrong."""
    amounts = _numbers("requests", requests)
    if amounts.ndim not in (2, 3) or 0 in amounts.shape:
        raise AllocationError(
            f"requests must be (N, R) or (B, N, R) and not empty, got shape {amounts.shape}"
        )
    _refuse(
        "requests",
        amounts,
        ~((amounts >= 0.0) & (amounts <= LARGEST)),
        f"between 0 and {LARGEST:g}, and finite",
    )
    shape = amounts.shape
    amounts = np.where(amounts < SMALLEST, 0.0, amounts).reshape(-1, *shape[-2:])  # (B, N, R)
    copies, num_agents, num_resources = amounts.shape
    groups = (
        Groups.one(num_agents, access) if membership is None else Groups.from_membership(membership, access)
    )
    if groups.num_agents != num_agents:
        raise AllocationError(
            f"membership must be (K, N) with N = {num_agents} as in requests of shape {shape},"
            f" got {groups.num_agents} columns"
        )
    if groups.access is not None:
        if groups.access.shape != (num_agents, num_resources):
            raise AllocationError(
                f"access must be (N, R) = ({num_agents}, {num_resources}) as in requests of shape {shape},"
                f" got shape {groups.access.shape}"
            )
        amounts = amounts * groups.access
    return Checked(
        shape=shape,
        requests=amounts,
        capacity=_capacity(capacity, groups, (copies, num_resources), membership is not None),
        groups=groups,
        weights=_per_agent("weights", weights, (copies, num_agents), *_WEIGHTS),
        order=_per_agent("order", order, (copies, num_agents), *_ORDER),
        bids=_per_agent("bids", bids, (copies, num_agents), *_BIDS),
    )


def _capacity(given: ArrayLike, groups: Groups, sizes: tuple[int, int], has_membership: bool) -> FloatArray:
    """Return the capacity as (B, K, R), or (1, K, R) where all copies have the same."""
    copies, num_resources = sizes
    capacity = _numbers("capacity", given)
    shape = capacity.shape
    if capacity.ndim not in (1, 2, 3):
        raise AllocationError(f"capacity must be (R,), (K, R) or (B, K, R), got shape {shape}")
    if shape[-1] != num_resources:
        raise AllocationError(
            f"capacity must have R = {num_resources} in its last axis, as requests have, got shape {shape}"
        )
    num_groups = 1 if capacity.ndim == 1 else shape[-2]
    if num_groups != groups.num_groups:
        remedy = (
            "capacity and membership must have one row per group"
            if has_membership
            else "give membership (K, N) to have more groups than one"
        )
        raise AllocationError(
            f"capacity must be for K = {groups.num_groups} groups, got {num_groups} (shape {shape}); {remedy}"
        )
    if capacity.ndim == 3 and shape[0] != copies:
        raise AllocationError(
            f"capacity must have B = {copies} copies in its first axis, as requests, got {shape[0]}"
        )
    rule = f"between 0 and {LARGEST:g}, or infinite where a group does not bind"
    _refuse(
        "capacity", capacity, ~((capacity >= 0.0) & ((capacity <= LARGEST) | np.isposinf(capacity))), rule
    )
    return np.where(capacity < SMALLEST, 0.0, capacity).reshape(-1, num_groups, num_resources)


def _per_agent(
    name: str, given: ArrayLike | None, shape: tuple[int, int], low: float, high: float, rule: str
) -> FloatArray | None:
    """Return one number per copy and agent, (B, N), or None where nothing was given."""
    if given is None:
        return None
    values = _numbers(name, given)
    if values.shape not in (shape, shape[1:]):
        raise AllocationError(
            f"{name} must be (N,) = {shape[1:]} or (B, N) = {shape}, got shape {values.shape}"
        )
    _refuse(name, values, ~((values >= low) & (values <= high)), rule)
    return np.broadcast_to(values, shape)


def _numbers(name: str, given: ArrayLike) -> FloatArray:
    """Return `given` as an array of floats."""
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise AllocationError(f"{name} must be an array of numbers, got {given!r}") from error


def _refuse(name: str, values: FloatArray, wrong: np.ndarray, rule: str) -> None:
    """Raise for the first value that is `wrong`, with its place."""
    if wrong.any():
        place = tuple(int(index) for index in np.argwhere(wrong)[0])
        raise AllocationError(f"{name} must be {rule}, got {values[place]} at {list(place)}")
