"""What a step was worth to each agent, and the marginal credit: what its request was worth to everybody.

``D_i = v_i - sum over j != i of (v_j with request_i = 0, minus v_j)``, a difference reward (Wolpert and Tumer
2001) with the same draws, contention and allocation computed anew, where the agent's own holding and loss
terms are kept.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from camac_dra.environment.groups import Groups
from camac_dra.environment.physics import Flows, overload_of, usable_share

_TINY = 1e-150
# Up to this many agents in one group every pair is computed; above, kinks are sorted.
_DENSE_AGENTS = 32
# Copies of the problem solved at once by the general method, in cells of (B, N, R).
_CHUNK_CELLS = 1 << 20


@dataclass(frozen=True, slots=True)
class ValueTerms:
    """The coefficients of the efficiency objective in one step, over nominal fair share times R."""

    worth: np.ndarray  # (B, N, R) value of a served unit
    price: np.ndarray  # (B or 1, N, R) price of a granted unit
    holding: float  # cost of a waiting unit, times its worth
    loss: float  # cost of a lost unit, times its worth

    def values(self, flows: Flows) -> tuple[np.ndarray, np.ndarray]:
        """Return each agent's value (B, N), and what it paid (B, N, R), both per fair share and resource."""
        gain = flows.served - self.holding * flows.backlog
        gain -= self.loss * flows.lost
        gain *= self.worth
        paid = self.price * flows.grants
        gain -= paid
        return gain.sum(axis=2), paid


@dataclass(frozen=True, slots=True)
class Contest:
    """What decides the shares granted in one step of proportional sharing over disjoint groups."""

    groups: Groups
    inverse: np.ndarray  # (B or 1, K, R) one over the capacity
    contention: float
    floor: float
    service_yield: np.ndarray | None  # (B, N, R)
    limit: np.ndarray | None  # (N, R) of the backlog
    leaving: np.ndarray | None  # (B, N) bool

    def share(self, relative_load: np.ndarray) -> np.ndarray:
        """Return the share of each request that is granted under a load given as a share of the capacity."""
        usable = usable_share(overload_of(relative_load), self.contention, self.floor)
        return usable / np.maximum(relative_load, 1.0)

    def of_agents(self, values: np.ndarray) -> np.ndarray:
        """Return the value (B, N or 1, R) of each agent's own group; 0 for an agent in no group."""
        own = self.groups.least_over_groups(values)
        return own if self.groups.covered else np.where(np.isfinite(own), own, 0.0)


def proportional_externality(
    requests: np.ndarray, pending: np.ndarray, flows: Flows, terms: ValueTerms, contest: Contest
) -> np.ndarray:
    """Return what the others would gain (B, N) if one agent at a time asked for nothing.

    Closed form for proportional sharing over disjoint groups: without agent i every other member of its group
    is granted the share ``s_i`` of its request instead of ``s``, and values are piecewise linear in that
    share. Costs O(N log N) per copy and resource.
    """
    load = contest.of_agents(flows.relative_load)  # (B, N or 1, R)
    share = contest.share(load)
    share_without = contest.share(load - requests * contest.of_agents(contest.inverse))  # (B, N, R)

    useful = requests if contest.service_yield is None else requests * contest.service_yield  # (B, N, R)
    kept: float | np.ndarray = 1.0 + terms.holding
    if contest.leaving is not None:
        kept = np.where(contest.leaving, 1.0 + terms.loss, kept)[..., None]  # (B, N, 1)
    slope = terms.worth * useful * kept - terms.price * requests  # (B, N, R) value per unit of share
    gain = contest.of_agents(contest.groups.load(slope)) - slope
    gain *= share_without - share
    if contest.limit is not None and terms.loss != terms.holding:
        excess = pending - contest.limit  # (B, N, R) what overflows unless it is served
        if (excess > 0.0).any():
            gain -= _overflow_change(useful, excess, share, share_without, terms, contest)
    return gain.sum(axis=2)


def _overflow_change(
    useful: np.ndarray,
    excess: np.ndarray,
    share: np.ndarray,
    share_without: np.ndarray,
    terms: ValueTerms,
    contest: Contest,
) -> np.ndarray:
    """Return the change (B, N, R) of what overflowing costs the others, ``sum of c_j max(e_j - d_j s, 0)``.

    ``e_j`` is what agent j has above its queue's limit before service, ``d_j`` what a full grant would serve.
    Who leaves loses everything unserved, which is in the slope already.
    """
    cost = terms.worth * (terms.loss - terms.holding)  # (B, N, R)
    if contest.leaving is not None:
        cost = cost * ~contest.leaving[..., None]
    lost = np.maximum(excess - useful * share, 0.0)
    before = contest.of_agents(contest.groups.load(cost * lost))
    if contest.groups.single and useful.shape[1] <= _DENSE_AGENTS:
        others = useful[:, None] * share_without[:, :, None]  # (B, N, N, R) served of j without i
        np.subtract(excess[:, None], others, out=others)
        np.maximum(others, 0.0, out=others)
        others *= cost[:, None]
        after = others.sum(axis=2)
    else:
        after = _overflow_sum(useful, excess, cost, share_without, contest.groups)
    own = cost * (np.maximum(excess - useful * share_without, 0.0) - lost)
    return after - before - own


def _overflow_sum(
    useful: np.ndarray, excess: np.ndarray, cost: np.ndarray, shares: np.ndarray, groups: Groups
) -> np.ndarray:
    """Return ``sum over j of the same group of c_j max(e_j - d_j s, 0)`` for every s of ``shares`` (B, N, R).

    Only agents with ``e_j > 0`` matter: their kinks are sorted once, and binary search then
    answers all sums.
    """
    rows = _rows_of(groups, useful.shape)  # (B, N, R)
    count = useful.shape[0] * groups.num_groups * useful.shape[2]
    matters = (excess > 0.0) & (cost != 0.0) & (rows < count)
    d, e = useful[matters], excess[matters]  # (J,)
    c, row = cost[matters], rows[matters]  # (J,)
    kink = np.minimum(e / np.maximum(d, _TINY), 1.0)  # (J,) shares never exceed 1
    # One key orders rows first and kinks within a row second; queries find their place in their own row.
    key = row * 2.0 + kink
    order = np.argsort(key)
    key = key[order]
    constant = np.concatenate([[0.0], np.cumsum((c * e)[order])])  # (J + 1,)
    linear = np.concatenate([[0.0], np.cumsum((c * d)[order])])  # (J + 1,)
    stop = np.searchsorted(key, np.arange(count + 1) * 2.0 + 1.5)[rows]  # (B, N, R) end of the row
    start = np.searchsorted(key, rows * 2.0 + shares)
    return (constant[stop] - constant[start]) - (linear[stop] - linear[start]) * shares


def _rows_of(groups: Groups, shape: tuple[int, ...]) -> np.ndarray:
    """Return the number (B, N, R) of each agent's (copy, group, resource); past the last without a group."""
    copies, agents, resources = shape
    group = np.full((agents, 1), -1, np.int64)  # (N, 1)
    group[groups.pair_agents, 0] = groups.pair_groups
    copy = np.arange(copies)[:, None, None]
    rows = (copy * groups.num_groups + group) * resources + np.arange(resources)
    return np.where(group >= 0, rows, copies * groups.num_groups * resources)


def general_externality(
    requests: np.ndarray,
    base_values: np.ndarray,
    step: Callable[[np.ndarray, int], np.ndarray],
) -> np.ndarray:
    """Return the same as `proportional_externality` for any mechanism, by solving anew for every agent.

    Args:
        requests: (B, N, R).
        base_values: (B, N) values with all requests.
        step: takes requests (C * B, N, R), C copies of the batch one after the other, and C; returns values
            (C * B, N).
    """
    copies, agents, resources = requests.shape
    chunk = max(1, _CHUNK_CELLS // (copies * agents * resources))
    gain = np.empty((copies, agents))
    for first in range(0, agents, chunk):
        without = np.arange(first, min(first + chunk, agents))  # (C,)
        trial = np.repeat(requests[None], len(without), axis=0)  # (C, B, N, R)
        trial[np.arange(len(without)), :, without] = 0.0
        values = step(trial.reshape(-1, agents, resources), len(without)).reshape(
            len(without), copies, agents
        )
        change = values - base_values  # (C, B, N)
        change[np.arange(len(without)), :, without] = 0.0
        gain[:, without] = change.sum(axis=2).T
    return gain
