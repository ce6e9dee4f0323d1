"""Mechanisms that serve agents one rank after another, each rank from what those before it left.

Agents of one rank share what is left for them in proportion to their requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from camac_dra.environment.allocation.shares import SMALLEST
from camac_dra.environment.groups import FloatArray, Groups, IndexArray
from camac_dra.utils.errors import AllocationError

# A group counts as full when less than this share of its capacity is left: sums over its members round.
_FULL = 1e-12

# Up to this many agents in one group, N * N comparisons are quicker than sorting.
_FEW = 64


def priority(
    requests: FloatArray,
    capacity: FloatArray,
    groups: Groups,
    weights: FloatArray | None = None,
    order: FloatArray | None = None,
    bids: FloatArray | None = None,
    rng: np.random.Generator | None = None,
) -> FloatArray:
    """Serve the highest weight first; equal weights share in proportion to their requests."""
    ranks = np.zeros(requests.shape[:2]) if weights is None else -weights  # (B, N)
    return _serve(requests, capacity, groups, ranks)


def first_come(
    requests: FloatArray,
    capacity: FloatArray,
    groups: Groups,
    weights: FloatArray | None = None,
    order: FloatArray | None = None,
    bids: FloatArray | None = None,
    rng: np.random.Generator | None = None,
) -> FloatArray:
    """Serve the lowest arrival rank first, equal ranks in proportion; without `order`, by agent index."""
    ranks = np.broadcast_to(np.arange(requests.shape[1], dtype=np.float64), requests.shape[:2])  # (B, N)
    return _serve(requests, capacity, groups, ranks if order is None else order)


def weighted_random(
    requests: FloatArray,
    capacity: FloatArray,
    groups: Groups,
    weights: FloatArray | None = None,
    order: FloatArray | None = None,
    bids: FloatArray | None = None,
    rng: np.random.Generator | None = None,
) -> FloatArray:
    """Serve in the order of a lottery: the next one is drawn among those waiting, with odds as their weights.

    One draw for all resources of a copy. It takes B * N exponential variates, divided by the weights and
    sorted (Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006).
    """
    if rng is None:
        raise AllocationError(
            "rng must be given for weighted_random, got None: pass np.random.default_rng(seed)"
        )
    tickets = rng.exponential(size=requests.shape[:2])  # (B, N)
    return _serve(requests, capacity, groups, tickets if weights is None else tickets / weights)


def auction(
    requests: FloatArray,
    capacity: FloatArray,
    groups: Groups,
    weights: FloatArray | None = None,
    order: FloatArray | None = None,
    bids: FloatArray | None = None,
    rng: np.random.Generator | None = None,
) -> FloatArray:
    """Sell each resource by a sealed-bid uniform-price auction of divisible units.

    An agent's bid is what it offers for each unit of its request. Units go to the highest bids; equal bids
    share in proportion to their requests. There is no reserve price, so that a bid of zero still gets what
    nobody else wants. Without bids, weights are the bids. What winners pay per unit is `clearing_prices`.
    """
    return priority(requests, capacity, groups, weights if bids is None else bids)


def clearing_prices(
    requests: FloatArray, grants: FloatArray, capacity: FloatArray, groups: Groups, bids: FloatArray
) -> FloatArray:
    """Return the uniform price per unit in each group (B, K, R) after an `auction`.

    It is the highest bid among members that still want more, and never above the lowest bid that won there
    (with overlapping groups a high bidder may have lost elsewhere); zero where the group has room left.

    Args:
        requests, grants: (B, N, R).
        capacity: (B, K, R).
        bids: (B, N), at least 0.
    """
    offers = bids[:, :, None]  # (B, N, 1)
    losing = -groups.least_over_members(
        np.where(grants < requests * (1.0 - 1e-9), -offers, np.inf)
    )  # (B, K, R)
    winning = groups.least_over_members(np.where(grants > 0.0, offers, np.inf))  # (B, K, R)
    full = groups.load(grants) >= capacity * (1.0 - 1e-9)  # (B, K, R)
    return np.where(full, np.maximum(np.minimum(losing, winning), 0.0), 0.0)


def _serve(requests: FloatArray, capacity: FloatArray, groups: Groups, ranks: FloatArray) -> FloatArray:
    """Serve ascending `ranks` (B, N).

    Where agents are in several groups, what those in front take depends on who is in front of them elsewhere.
    Grants worked out from too much taken in front are too low, and from too little, too high: the two bounds
    close in on each other, at least by one rank per turn, most often by all that hangs on one full group.
    """
    if groups.single and groups.num_agents <= _FEW:
        return _serve_few(requests, capacity, ranks)
    queue = _Queue.of(ranks, groups)
    room = _Room(queue, requests, capacity)
    low = room.grants(requests)
    if groups.disjoint:
        return low
    while True:
        high = room.grants(low)
        if np.array_equal(low, high):
            return low
        low = room.grants(high)


def _serve_few(requests: FloatArray, capacity: FloatArray, ranks: FloatArray) -> FloatArray:
    """Serve one group by comparing everybody with everybody, which for few agents costs less than sorting."""
    mine, others = ranks[:, :, None], ranks[:, None, :]  # (B, N, 1), (B, 1, N)
    taken = (others < mine).astype(np.float64) @ requests  # (B, N, R)
    wanted = (others == mine).astype(np.float64) @ requests  # (B, N, R)
    left = np.where(taken >= capacity * (1.0 - _FULL), 0.0, capacity - taken)  # (B, N, R)
    return requests * np.minimum(left / np.maximum(wanted, SMALLEST), 1.0)


@dataclass(frozen=True, eq=False, slots=True)
class _Queue:
    """The pairs (group, member) of all copies in a line: copy by copy, group by group, by ascending rank.

    Attributes:
        agent: (B * P,) row of each place's agent in amounts of shape (B * N, R).
        ahead: (B * P,) place of the last one of the rank before in the same group; 0 where there is none.
        leads: (B * P,) whether there is no rank before.
        rank: (B * P,) consecutive number of each place's rank.
        begins: where each of these ranks begins.
        place: (B * P,) the places in the order of their agents.
        served: rows of the agents that have a place, and where their places begin in `place`.
    """

    groups: Groups
    agent: IndexArray
    ahead: IndexArray
    leads: NDArray[np.bool_]
    rank: IndexArray
    begins: IndexArray
    place: IndexArray
    served: tuple[IndexArray, IndexArray]

    @classmethod
    def of(cls, ranks: FloatArray, groups: Groups) -> _Queue:
        """Line up the members of every group."""
        copies, num_agents = ranks.shape
        keys = ranks if groups.single else ranks.take(groups.pair_agents, axis=1)  # (B, P)
        pairs = keys.shape[1]
        if groups.single:
            order = np.argsort(keys, axis=1, kind="stable")  # (B, P)
        else:
            order = np.lexsort((keys, np.broadcast_to(groups.pair_groups, keys.shape)), axis=-1)  # (B, P)
        keys = np.take_along_axis(keys, order, axis=1)
        starts = np.zeros((copies, pairs), dtype=bool)  # (B, P), first of its group
        starts[:, groups.starts[:-1][np.diff(groups.starts) > 0]] = True
        new = starts.copy()  # (B, P), first of its rank
        new[:, 1:] |= keys[:, 1:] != keys[:, :-1]
        begins = np.flatnonzero(new)
        rank = np.cumsum(new.ravel()) - 1  # (B * P,)
        first = begins[rank]  # (B * P,), place where the rank begins
        agent = (groups.pair_agents[order] + np.arange(copies)[:, None] * num_agents).ravel()  # (B * P,)
        place = np.argsort(agent, kind="stable")  # (B * P,)
        owners = agent[place]  # (B * P,)
        changes = np.flatnonzero(np.diff(owners, prepend=-1))
        leads = starts.ravel()[first]
        return cls(
            groups, agent, np.maximum(first - 1, 0), leads, rank, begins, place, (owners[changes], changes)
        )


class _Room:
    """What the groups' capacities leave for each rank, and the grants that follow."""

    def __init__(self, queue: _Queue, requests: FloatArray, capacity: FloatArray) -> None:
        self._queue = queue
        self._requests = requests
        copies, _, resources = requests.shape
        groups = queue.groups
        shape = (copies, groups.num_groups, resources)
        limits = np.broadcast_to(capacity, shape).take(groups.pair_groups, axis=1)  # (B, P, R)
        self._limits = limits.reshape(-1, resources)  # (B * P, R)
        wanted = requests.reshape(-1, resources).take(queue.agent, axis=0)  # (B * P, R)
        of_rank = np.add.reduceat(wanted, queue.begins, axis=0) if len(wanted) else wanted
        self._wanted = np.maximum(
            of_rank.take(queue.rank, axis=0), SMALLEST
        )  # (B * P, R), what the rank asks for

    def grants(self, amounts: FloatArray) -> FloatArray:
        """Return the grants (B, N, R) where everybody in front takes `amounts` (B, N, R)."""
        queue = self._queue
        copies, num_agents, resources = amounts.shape
        line = (
            amounts.reshape(-1, resources).take(queue.agent, axis=0).reshape(copies, -1, resources)
        )  # (B, P, R)
        starts = queue.groups.starts
        for start, end in pairwise(starts):
            np.cumsum(line[:, start:end], axis=1, out=line[:, start:end])
        taken = line.reshape(-1, resources).take(queue.ahead, axis=0)  # (B * P, R)
        taken[queue.leads] = 0.0
        left = np.where(taken >= self._limits * (1.0 - _FULL), 0.0, self._limits - taken)  # (B * P, R)
        scale = np.minimum(left / self._wanted, 1.0)
        scales = np.ones((copies * num_agents, resources))  # (B * N, R)
        agents, begins = queue.served
        if len(agents):
            scales[agents] = np.minimum.reduceat(scale.take(queue.place, axis=0), begins, axis=0)
        return self._requests * scales.reshape(self._requests.shape)
