"""Proportional fairness (Kelly, Maulloo and Tan, Rate control for communication networks, 1998).

The grants maximise the sum of weight * log(grant), per resource. Where no agent is in two groups this is
weighted max-min fairness. Where groups overlap it is a convex programme, solved here by a primal-dual
interior-point method (Boyd and Vandenberghe, Convex Optimization, 2004, section 11.7) for many copies and
resources at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from camac_dra.environment.allocation.filling import weighted_max_min
from camac_dra.environment.allocation.shares import proportional
from camac_dra.environment.groups import FloatArray, Groups

TOLERANCE = 1e-9
"""Largest residual of the optimality conditions at the end, as a share of the largest weight."""

_GAP = 1e-12  # largest mean product of a slack and its price, as a share of the largest weight, at the end
_MAX_STEPS = 200  # a solution takes 15 to 30
_CENTRING = 0.1  # share of that product aimed for in the next step
_TO_THE_BOUNDARY = 0.99  # share of the way to the nearest bound that a step may go
_RIDGE = 1e-14  # relative; without it, groups of the same million members make a system singular
_TINY = 1e-290
_CELLS_AT_ONCE = 4_000_000  # cells of all K * K systems in memory together


def proportional_fair(
    requests: FloatArray,
    capacity: FloatArray,
    groups: Groups,
    weights: FloatArray | None = None,
    order: FloatArray | None = None,
    bids: FloatArray | None = None,
    rng: np.random.Generator | None = None,
) -> FloatArray:
    """Maximise the sum of weight * log(grant) per resource; who draws on a capacity of zero gets nothing.

    Exact to rounding where groups are disjoint. Where they overlap, the optimality conditions hold to
    `TOLERANCE`, which for weights within 1 : 1000 leaves grants within about 1e-5 of the requests; they are
    clipped to what is feasible. Each of 15 to 30 steps solves a dense K * K system per copy and resource:
    keep K under a thousand.
    """
    if groups.disjoint:
        return weighted_max_min(requests, capacity, groups, weights)
    copies, num_agents, num_resources = requests.shape
    each = np.ones((copies, num_agents)) if weights is None else weights  # (B, N)
    grants = np.minimum(requests, groups.least_over_groups(capacity))  # (B, N, R), no group could give more
    limits = np.broadcast_to(capacity, (copies, groups.num_groups, num_resources))  # (B, K, R)
    # Other groups than these never bind, and who is in none of these gets what it asks for.
    binding = groups.load(grants) > limits  # (B, K, R)
    bound = groups.least_over_groups(np.where(binding, 0.0, 1.0)) == 0.0  # (B, N, R)
    live = bound & (grants > 0.0)  # (B, N, R)
    problems = np.argwhere(live.any(axis=1))  # (P, 2), copy and resource
    at_once = max(1, _CELLS_AT_ONCE // groups.num_groups**2)
    for start in range(0, len(problems), at_once):
        copy, resource = problems[start : start + at_once].T  # (P,), (P,)
        programme = _Programme.of(
            np.where(live, grants, 0.0)[copy, :, resource],
            np.where(binding, limits, np.inf)[copy, :, resource],
            each[copy],
            groups,
        )
        share = programme.solved()  # (P, N)
        grants[copy, :, resource] *= np.where(live[copy, :, resource], share, 1.0)
    return proportional(grants, capacity, groups)


@dataclass(frozen=True, eq=False, slots=True)
class _Programme:
    """Maximise the sum of weights * log(share), subject to share <= 1 and sum of pull * share <= 1 per group.

    Shares are of each agent's request, P problems at a time. Every group that binds has live members, so that
    a strictly feasible start exists.
    """

    groups: Groups
    requests: FloatArray  # (P, N), zero for agents that take no part
    live: NDArray[np.bool_]  # (P, N)
    weights: FloatArray  # (P, N), the largest is 1
    per_capacity: FloatArray  # (P, K), 1 / capacity; zero where a group does not bind
    overlaps: sparse.csr_array  # (K * K, N)

    @classmethod
    def of(cls, requests: FloatArray, limits: FloatArray, weights: FloatArray, groups: Groups) -> _Programme:
        """Scale the problem: capacities (P, K), requests and weights (P, N)."""
        live = requests > 0.0
        heaviest = np.where(live, weights, 0.0).max(axis=1, keepdims=True)  # (P, 1)
        return cls(
            groups, requests, live, np.where(live, weights / heaviest, 0.0), 1.0 / limits, _overlaps(groups)
        )

    def loads(self, shares: FloatArray) -> FloatArray:
        """Return each group's load as a share of its capacity: (P, N) gives (P, K)."""
        return self.groups.load((self.requests * shares)[:, :, None])[:, :, 0] * self.per_capacity

    def costs(self, prices: FloatArray) -> FloatArray:
        """Return what each agent's whole request costs: (P, K) gives (P, N)."""
        return self.requests * self.groups.sum_over_groups((prices * self.per_capacity)[:, :, None])[:, :, 0]

    def solved(self) -> FloatArray:
        """Return the shares (P, N) that solve all problems; meaningless where an agent is not live."""
        point = self._start()
        for _ in range(_MAX_STEPS):
            gradient, room_error, gap = self._residuals(point)
            done = (np.abs(gradient * point.share).max(axis=1) < TOLERANCE) & (gap < _GAP)  # (P,)
            done &= np.abs(room_error).max(axis=1) < TOLERANCE
            if done.all():
                break
            point = self._step(point, gradient, room_error, gap, done)
        return point.share

    def _start(self) -> _Point:
        """Begin at half of what proportional sharing would grant."""
        fit = 1.0 / np.maximum(self.loads(np.ones_like(self.requests)), 1.0)  # (P, K)
        share = 0.5 * np.minimum(self.groups.least_over_groups(fit[:, :, None])[:, :, 0], 1.0)  # (P, N)
        room = 1.0 - self.loads(share)  # (P, K)
        price = self.weights.sum(axis=1, keepdims=True) / self.groups.num_groups / room  # (P, K)
        return _Point(share, 1.0 - share, np.where(self.live, self.weights, 1.0), room, price)

    def _residuals(self, point: _Point) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the Lagrangian's gradient (P, N), the rooms' error (P, K) and the mean product (P,)."""
        gradient = np.where(
            self.live, self.costs(point.price) + point.premium - self.weights / point.share, 0.0
        )
        room_error = 1.0 - self.loads(point.share) - point.room
        products = np.where(self.live, point.premium * point.rest, 0.0).sum(axis=1) + (
            point.price * point.room
        ).sum(axis=1)
        return gradient, room_error, products / (self.live.sum(axis=1) + self.groups.num_groups)

    def _step(
        self,
        point: _Point,
        gradient: FloatArray,
        room_error: FloatArray,
        gap: FloatArray,
        done: NDArray[np.bool_],
    ) -> _Point:
        """Go one Newton step towards a tenth of the gap, for all problems that are not done."""
        share, rest, premium, room, price = point.share, point.rest, point.premium, point.room, point.price
        num_groups = self.groups.num_groups
        aim = _CENTRING * gap[:, None]  # (P, 1)
        give = np.where(
            self.live, 1.0 / (self.weights / share**2 + premium / rest), 0.0
        )  # (P, N), inverse curvature
        toward = aim / rest - premium  # (P, N)
        pull = np.where(self.live, -gradient - toward, 0.0)  # (P, N)
        system = (self.overlaps @ (give * self.requests**2).T).T.reshape(-1, num_groups, num_groups)
        system = system * self.per_capacity[:, :, None] * self.per_capacity[:, None, :]  # (P, K, K)
        diagonal = np.einsum("pkk->pk", system)
        diagonal += room / price + _RIDGE * diagonal
        wanted = aim / price - room - room_error + self.loads(give * pull)  # (P, K)
        d_price = np.linalg.solve(system, wanted[:, :, None])[:, :, 0]  # (P, K)
        d_share = give * (pull - self.costs(d_price))  # (P, N)
        d_room = room_error - self.loads(d_share)  # (P, K)
        d_premium = np.where(self.live, toward + premium / rest * d_share, 0.0)  # (P, N)
        moves = _Point(d_share, -d_share, d_premium, d_room, d_price)
        return point.moved(moves, np.where(done, 0.0, point.longest(moves)))


@dataclass(frozen=True, eq=False, slots=True)
class _Point:
    """An interior point, or a move of one: shares and slacks, and their multipliers, all positive."""

    share: FloatArray  # (P, N)
    rest: FloatArray  # (P, N), 1 - share, kept apart because it may be far below the precision of share
    premium: FloatArray  # (P, N), multiplier of share <= 1
    room: FloatArray  # (P, K), 1 - load
    price: FloatArray  # (P, K), multiplier of load <= 1

    def longest(self, moves: _Point) -> FloatArray:
        """Return the longest step (P,), at most 1, that keeps everything positive."""
        reach = np.ones(len(self.share))
        for name in _Point.__slots__:
            way = getattr(self, name) / np.maximum(-getattr(moves, name), _TINY)  # (P, N or K)
            reach = np.minimum(reach, _TO_THE_BOUNDARY * way.min(axis=1))
        return reach

    def moved(self, moves: _Point, length: FloatArray) -> _Point:
        """Return the point after a step of `length` (P,)."""
        return _Point(
            *(getattr(self, name) + length[:, None] * getattr(moves, name) for name in _Point.__slots__)
        )


@lru_cache(maxsize=8)
def _overlaps(groups: Groups) -> sparse.csr_array:
    """Return a 0/1 matrix (K * K, N): in row k * K + l the agents that are both in group k and in group l."""
    membership = sparse.csc_array(groups.members)  # (K, N)
    sizes = np.diff(membership.indptr)  # (N,), groups per agent
    rows, columns = [], []
    for count in np.unique(sizes[sizes > 0]):
        agents = np.flatnonzero(sizes == count)
        mine = membership.indices[membership.indptr[agents][:, None] + np.arange(count)].astype(
            np.int64
        )  # (n, count)
        rows.append((mine[:, :, None] * groups.num_groups + mine[:, None, :]).ravel())
        columns.append(np.repeat(agents, count * count))
    shape = (groups.num_groups**2, groups.num_agents)
    if not rows:
        return sparse.csr_array(shape)
    index = (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_array((np.ones(len(index[0])), index), shape=shape)
