"""The marginal credit: what an agent's request was worth to everybody, in this step.

``D_i = v_i - sum over j != i of (v_j with request_i = 0, minus v_j)``, a difference reward (Wolpert and Tumer 2001)
with the same draws, contention and allocation computed anew, where the agent's own holding and loss terms are kept.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from camac_dra.environment.groups import Groups
from camac_dra.environment.physics import Flows, overload_of, usable_capacity

_TINY = 1e-12
# Copies of the problem solved at once by the general method, in cells of (B, N, R).
_CHUNK_CELLS = 1 << 20


@dataclass(frozen=True, slots=True)
class ValueTerms:
    """The coefficients of the efficiency objective in one step."""

    weights: np.ndarray  # (B, N, 1)
    price: np.ndarray  # (B, 1, R) or (1, 1, R)
    scale: np.ndarray  # (N, R) one over (nominal fair share times R)
    holding: float
    loss: float

    def values(self, flows: Flows) -> tuple[np.ndarray, np.ndarray]:
        """Return each agent's value (B, N) and what it paid (B, N, R).

        The value is what was served less price, waiting and lost, in fair shares, mean over resources.
        """
        gain = flows.served - self.holding * flows.backlog
        gain -= self.loss * flows.lost
        gain *= self.weights
        paid = self.price * flows.grants
        gain -= paid
        gain *= self.scale
        return gain.sum(axis=2), paid


def proportional_externality(
    requests: np.ndarray,
    pending: np.ndarray,
    flows: Flows,
    capacity: np.ndarray,
    groups: Groups,
    terms: ValueTerms,
    *,
    contention: float,
    floor: float,
    service_yield: np.ndarray | None,
    limit: np.ndarray | None,
    leaving: np.ndarray | None,
) -> np.ndarray:
    """Return what the others would gain (B, N) if one agent at a time asked for nothing.

    Closed form for proportional sharing over disjoint groups: without agent i every other member of its group is
    granted the share ``s_i`` of its request instead of ``s``, and values are piecewise linear in that share.
    Costs O(N log N) per copy and resource.
    """
    load = groups.least_over_groups(flows.load)  # (B, N, R) or (B, 1, R): the load of the agent's own group
    room = groups.least_over_groups(capacity)
    share = _granted_share(load, room, contention, floor)  # (B, N or 1, R)
    share_without = _granted_share(np.maximum(load - requests, 0.0), room, contention, floor)  # (B, N, R)
    change = share_without - share  # (B, N, R)

    useful = requests if service_yield is None else requests * service_yield  # (B, N, R)
    kept = 1.0 + terms.holding
    if leaving is not None:
        kept = np.where(leaving, 1.0 + terms.loss, kept)[..., None]  # (B, N, 1)
    slope = (terms.weights * kept * useful - terms.price * requests) * terms.scale  # (B, N, R) value per unit of share
    total = groups.least_over_groups(groups.load(slope))  # (B, N or 1, R)
    gain = (total - slope) * change
    if limit is not None and terms.loss != terms.holding:
        gain -= _overflow_change(useful, pending - limit, share, share_without, groups, terms, leaving)
    if not groups.covered:
        gain = np.where(np.isfinite(load), gain, 0.0)
    return gain.sum(axis=2)


def _granted_share(load: np.ndarray, capacity: np.ndarray, contention: float, floor: float) -> np.ndarray:
    """Return the share of each request that proportional sharing grants under this load."""
    usable = usable_capacity(capacity, overload_of(load, capacity), contention, floor)
    return np.minimum(1.0, usable / np.maximum(load, _TINY))


def _overflow_change(
    useful: np.ndarray,
    excess: np.ndarray,
    share: np.ndarray,
    share_without: np.ndarray,
    groups: Groups,
    terms: ValueTerms,
    leaving: np.ndarray | None,
) -> np.ndarray:
    """Return the change (B, N, R) of the others' cost of overflowing queues, ``sum of c_j max(e_j - d_j s, 0)``.

    ``e_j`` is what agent j has above its queue's limit before service, ``d_j`` what a full grant would serve. Only
    agents with ``e_j > 0`` matter: their kinks are sorted once, all queries are answered by binary search.
    """
    cost = (terms.loss - terms.holding) * terms.weights * terms.scale  # (B, N, R)
    overflowing = excess > 0.0
    if leaving is not None:
        overflowing &= ~leaving[..., None]  # who leaves loses everything unserved: that is in the slope already
    if not overflowing.any():
        return np.zeros_like(useful)
    full = np.broadcast_to(share, useful.shape)
    rows = _rows_of(groups, useful.shape)  # (B, N, R) id of the agent's (copy, group, resource)
    before = _overflow_sum(useful, excess, cost, overflowing, rows, full)
    after = _overflow_sum(useful, excess, cost, overflowing, rows, share_without)
    own = cost * (np.maximum(excess - useful * share_without, 0.0) - np.maximum(excess - useful * full, 0.0))
    return after - before - np.where(overflowing, own, 0.0)


def _overflow_sum(
    useful: np.ndarray,
    excess: np.ndarray,
    cost: np.ndarray,
    overflowing: np.ndarray,
    rows: np.ndarray,
    shares: np.ndarray,
) -> np.ndarray:
    """Return ``sum over j of the same row of c_j max(e_j - d_j s, 0)`` for every s of ``shares`` (B, N, R)."""
    d, e = useful[overflowing], excess[overflowing]  # (J,)
    c, row = cost[overflowing], rows[overflowing]  # (J,)
    kink = np.minimum(e / np.maximum(d, _TINY), 1.0)  # (J,) shares never exceed 1
    # One key orders rows first and kinks within a row second; queries find their place in their own row.
    key = row * 2.0 + kink
    order = np.argsort(key)
    key = key[order]
    constant = np.concatenate([[0.0], np.cumsum((c * e)[order])])  # (J + 1,)
    linear = np.concatenate([[0.0], np.cumsum((c * d)[order])])  # (J + 1,)
    start = np.searchsorted(key, rows * 2.0 + shares, side="left")
    stop = np.searchsorted(key, rows * 2.0 + 1.5, side="left")
    return (constant[stop] - constant[start]) - (linear[stop] - linear[start]) * shares


def _rows_of(groups: Groups, shape: tuple[int, ...]) -> np.ndarray:
    """Return an id (B, N, R) per copy, group and resource of each agent's own group."""
    copies, agents, resources = shape
    group = np.zeros((agents, 1))  # (N, 1)
    group[groups.pair_agents, 0] = groups.pair_groups
    copy = np.arange(copies)[:, None, None]
    return (copy * groups.num_groups + group) * resources + np.arange(resources)


def general_externality(
    requests: np.ndarray,
    base_values: np.ndarray,
    step: Callable[[np.ndarray, int], np.ndarray],
) -> np.ndarray:
    """Return what the others would gain (B, N) if one agent at a time asked for nothing, by solving anew N times.

    Args:
        requests: (B, N, R).
        base_values: (B, N) values with all requests.
        step: takes requests (C * B, N, R), C copies of the batch one after the other, and C; returns values (C * B, N).
    """
    copies, agents, resources = requests.shape
    chunk = max(1, _CHUNK_CELLS // (copies * agents * resources))
    gain = np.empty((copies, agents))
    for first in range(0, agents, chunk):
        without = np.arange(first, min(first + chunk, agents))  # (C,)
        trial = np.repeat(requests[None], len(without), axis=0)  # (C, B, N, R)
        trial[np.arange(len(without)), :, without] = 0.0
        values = step(trial.reshape(-1, agents, resources), len(without)).reshape(len(without), copies, agents)
        change = values - base_values  # (C, B, N)
        change[np.arange(len(without)), :, without] = 0.0
        gain[:, without] = change.sum(axis=2).T
    return gain
