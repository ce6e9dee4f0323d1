"""Progressive filling: everybody's level rises together, and stops at the request or when a group is full.

Bertsekas and Gallager, Data Networks (1992), section 6.5.2; for bundles Ghodsi et al., Dominant
Resource Fairness (NSDI 2011). Instead of one event after another, each round settles at once every
agent whose end is certain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camac_dra.environment.groups import FloatArray, Groups

# From this many agents on it pays to carry on with only those that still grow.
_SHRINK_ABOVE = 256

_MANY_CELLS = 512


def max_min(
    requests: FloatArray,
    capacity: FloatArray,
    groups: Groups,
    weights: FloatArray | None = None,
    order: FloatArray | None = None,
    bids: FloatArray | None = None,
    rng: np.random.Generator | None = None,
) -> FloatArray:
    """Max-min fairness per resource: no grant can grow without cutting one that is no larger.

    Exact to rounding. One group: sorting, O(N log N). Several: rounds of O(P) for P pairs
    of group and member.
    """
    if groups.single:
        return np.minimum(requests, _one_level(requests, capacity))
    reached = _filled(requests, np.ones_like(requests), requests, capacity, groups)  # (B, N, R)
    return np.minimum(requests, reached)


def weighted_max_min(
    requests: FloatArray,
    capacity: FloatArray,
    groups: Groups,
    weights: FloatArray | None = None,
    order: FloatArray | None = None,
    bids: FloatArray | None = None,
    rng: np.random.Generator | None = None,
) -> FloatArray:
    """Max-min fairness of grants divided by weights, per resource; without weights, `max_min`."""
    if weights is None:
        return max_min(requests, capacity, groups)
    rate = weights[:, :, None]  # (B, N, 1)
    if groups.single:
        return np.minimum(requests, rate * _one_weighted_level(requests, capacity, rate))
    rate = np.broadcast_to(rate, requests.shape)  # (B, N, R)
    return np.minimum(requests, rate * _filled(requests / rate, rate, requests, capacity, groups))


def drf(
    requests: FloatArray,
    capacity: FloatArray,
    groups: Groups,
    weights: FloatArray | None = None,
    order: FloatArray | None = None,
    bids: FloatArray | None = None,
    rng: np.random.Generator | None = None,
) -> FloatArray:
    """Dominant resource fairness: bundles are granted in one piece, and dominant shares are max-min fair.

    An agent's dominant share is its largest share of any capacity it draws on, over resources and its groups;
    it stops growing when one of those is full. Agents weigh the same. An agent that needs some of a capacity
    of zero gets nothing of anything.
    """
    least = groups.least_over_groups(capacity)  # (B, N or 1, R), the tightest capacity each agent draws on
    bounded = (requests > 0.0) & (least < np.inf)  # (B, N, R)
    starved = _over_resources(np.logical_or, bounded & (least == 0.0))  # (B, N, 1)
    share = np.divide(
        requests, least, out=np.zeros_like(requests), where=bounded & (least > 0.0)
    )  # (B, N, R)
    top = _over_resources(np.maximum, share)  # (B, N, 1), the dominant share of the whole bundle
    growing = bounded & ~starved  # (B, N, R)
    rate = np.divide(requests, top, out=np.zeros_like(requests), where=growing)  # (B, N, R)
    level = _filled(top, rate, np.where(growing, requests, 0.0), capacity, groups, bundled=True)  # (B, N, 1)
    fraction = np.divide(level, top, out=np.ones_like(top), where=level < top)  # (B, N, 1)
    return np.where(starved, 0.0, requests * fraction)


def _one_level(requests: FloatArray, capacity: FloatArray) -> FloatArray:
    """Return the level (B, 1, R) where min(request, level) sum to the one group's capacity.

    That sum is the least, over j, of (the j smallest requests) + (N - j) * level, so the level is a maximum
    over j.
    """
    ordered = np.array(requests.transpose(0, 2, 1), order="C")  # (B, R, N), along memory
    ordered.sort(axis=2)
    return _highest(capacity, ordered, np.arange(requests.shape[1], 0.0, -1.0))


def _one_weighted_level(requests: FloatArray, capacity: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the level (B, 1, R) where min(request, weight * level) sum to the one group's capacity."""
    asked = np.array(requests.transpose(0, 2, 1), order="C")  # (B, R, N), along memory
    heavy = np.broadcast_to(weights.transpose(0, 2, 1), asked.shape)  # (B, R, N)
    by_level = np.argsort(asked / heavy, axis=2)  # (B, R, N)
    heavier = np.take_along_axis(heavy, by_level, axis=2)  # (B, R, N)
    remaining = np.cumsum(heavier[:, :, ::-1], axis=2)[
        :, :, ::-1
    ]  # (B, R, N), weight of these and all later ones
    return _highest(capacity, np.take_along_axis(asked, by_level, axis=2), remaining)


def _highest(capacity: FloatArray, ordered: FloatArray, remaining: FloatArray) -> FloatArray:
    """Return the largest (capacity - sum of the requests before) / remaining over `ordered` (B, R, N)."""
    room = np.zeros_like(ordered)  # (B, R, N)
    np.cumsum(ordered[:, :, :-1], axis=2, out=room[:, :, 1:])
    np.subtract(capacity.transpose(0, 2, 1), room, out=room)
    room /= remaining
    return room.max(axis=2)[:, None]


def _over_resources(ufunc: np.ufunc, values: NDArray[Any]) -> NDArray[Any]:
    """Return `ufunc` over the resources, (B, N, R) to (B, N, 1).

    NumPy reduces a short last axis ten times slower than it combines its columns.
    """
    if values.size < _MANY_CELLS:
        return ufunc.reduce(values, axis=2, keepdims=True)
    result = values[:, :, 0].copy()  # (B, N)
    for resource in range(1, values.shape[2]):
        ufunc(result, values[:, :, resource], out=result)
    return result[:, :, None]


def _filled(
    top: FloatArray,
    rate: FloatArray,
    requests: FloatArray,
    capacity: FloatArray,
    groups: Groups,
    bundled: bool = False,
) -> FloatArray:
    """Raise all levels together and return where each agent's stops, infinity where it reaches `top`.

    Args:
        top: level at which the request is met, (B, N, R), or (B, N, 1) with `bundled`.
        rate: (B, N, R), amount drawn per unit of level; 0 where nothing is drawn.
        requests: (B, N, R), amount drawn at `top`.
        bundled: one level for all resources of an agent, stopped by the first of them that runs out.
    """
    levels = np.full(top.shape, np.inf)  # (B, N, R or 1)
    agents = np.arange(groups.num_agents)  # (N,), those still in `state`
    state = _Filling.begin(top, rate, requests, capacity, groups, bundled)
    growing = last = np.count_nonzero(state.growing)
    while growing:
        held, level = state.advance()  # (B, N, R or 1)
        copy, agent, resource = np.nonzero(held)
        levels[copy, agents[agent], resource] = np.broadcast_to(level, held.shape)[copy, agent, resource]
        growing = np.count_nonzero(state.growing)
        if 2 * growing < last and len(agents) > _SHRINK_ABOVE:
            last = growing
            kept = np.flatnonzero(state.growing.any(axis=(0, 2)))
            if len(kept) and len(kept) < 0.75 * len(agents):
                state, agents = state.among(kept), agents[kept]
    return levels


@dataclass(frozen=True, eq=False, slots=True)
class _Filling:
    """The state of one progressive filling: whose levels still rise, and what the others have taken.

    A group's level is where it would be full if all its growing members grew on. Settling somebody at or
    below that never lowers it, so it bounds its members' ends from below, and two kinds of agents are certain
    in each round: those whose top is within the least level of their groups, and the members of a group which
    all of them meet before any other. The group of the lowest level always has one or the other: no round is
    in vain.
    """

    top: FloatArray  # (B, N, R), or (B, N, 1) where bundled
    rate: FloatArray  # (B, N, R)
    requests: FloatArray  # (B, N, R)
    capacity: FloatArray  # (B, K, R)
    groups: Groups
    bundled: bool
    drawn: NDArray[np.bool_]  # (B, N, R)
    growing: NDArray[np.bool_]  # (B, N, R), or (B, N, 1) where bundled
    used: FloatArray  # (B, N, R), what the settled ones have

    @classmethod
    def begin(
        cls,
        top: FloatArray,
        rate: FloatArray,
        requests: FloatArray,
        capacity: FloatArray,
        groups: Groups,
        bundled: bool,
    ) -> _Filling:
        """Start with everybody at level zero."""
        drawn = rate > 0.0  # (B, N, R)
        growing = np.array(_over_resources(np.logical_or, drawn) if bundled else drawn)  # (B, N, R or 1)
        return cls(top, rate, requests, capacity, groups, bundled, drawn, growing, np.zeros(requests.shape))

    def advance(self) -> tuple[NDArray[np.bool_], FloatArray]:
        """Settle in place all that is certain; return who a full group holds (B, N, R or 1), and where."""
        groups = self.groups
        pull = groups.load(self.rate * self.growing)  # (B, K, R)
        room = np.maximum(self.capacity - groups.load(self.used), 0.0)  # (B, K, R)
        with np.errstate(over="ignore"):  # what is full beyond all numbers is never full: infinity is right
            full_at = np.divide(room, pull, out=np.full(pull.shape, np.inf), where=pull > 0.0)  # (B, K, R)
        stop = groups.least_over_groups(full_at)  # (B, N or 1, R)
        if self.bundled:
            stop = _over_resources(np.minimum, np.where(self.drawn, stop, np.inf))  # (B, N, 1)
        met = self.growing & (self.top <= stop)  # (B, N, R or 1)
        pulling = self.growing & self.drawn if self.bundled else self.growing  # (B, N, R)
        first = np.where(pulling, np.where(met, -1.0, stop), np.inf)  # (B, N, R)
        closing = (groups.least_over_members(first) >= full_at) & (pull > 0.0)  # (B, K, R)
        held = groups.least_over_groups(np.where(closing, 0.0, 1.0)) == 0.0  # (B, N or 1, R)
        if self.bundled:
            held = _over_resources(np.logical_or, held & self.drawn)  # (B, N, 1)
        held = held & self.growing  # (B, N, R or 1)
        np.copyto(self.used, self.requests, where=met)
        np.multiply(self.rate, stop, out=self.used, where=held)
        np.logical_and(self.growing, ~(met | held), out=self.growing)
        return held, stop

    def among(self, kept: NDArray[np.intp]) -> _Filling:
        """Return the same filling with these agents only; what the others have leaves the capacities."""
        gone = self.used.copy()  # (B, N, R)
        gone[:, kept] = 0.0
        return _Filling(
            top=self.top[:, kept],
            rate=self.rate[:, kept],
            requests=self.requests[:, kept],
            capacity=self.capacity - self.groups.load(gone),
            groups=self.groups.among(kept),
            bundled=self.bundled,
            drawn=self.drawn[:, kept],
            growing=self.growing[:, kept],
            used=self.used[:, kept],
        )
