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
from camac_dra.environment.objective import Objective
from camac_dra.environment.physics import Flows, granted_share

_TINY = 1e-150
# Up to this many agents in one group every pair is computed; above, kinks are sorted.
_DENSE_AGENTS = 32
# Copies of the problem solved at once by the general method, in cells of (B, N, R).
_CHUNK_CELLS = 1 << 20


@dataclass(slots=True)
class Contest:
    """What decides the shares granted by proportional sharing over disjoint groups."""

    groups: Groups
    contention: float
    floor: float

    def more_without(self, requests: np.ndarray, flows: Flows, inverse: np.ndarray) -> np.ndarray:
        """Return by how much the share granted to its group grows (B, N, R) without an agent's request.

        ``flows`` are of all ``requests`` (B, N, R); ``inverse`` (B or 1, K, R) is one over the capacity.
        """
        groups = self.groups
        without = requests * groups.least_or(inverse, 0.0)  # (B, N, R)
        np.subtract(groups.least_or(flows.relative_load, 0.0), without, out=without)
        more = granted_share(without, self.contention, self.floor)
        more -= groups.least_or(flows.share, 1.0)
        return more


def proportional_externality(
    requests: np.ndarray,
    useful: np.ndarray,
    flows: Flows,
    inverse: np.ndarray,
    price: np.ndarray,
    objective: Objective,
    contest: Contest,
    *,
    by_resource: bool = False,
) -> np.ndarray:
    """Return what the others would gain (B, N) if one agent at a time asked for nothing.

    Closed form for proportional sharing over disjoint groups: without agent i every other member of its group
    is granted a larger share of its request, and values are linear in that share up to where nothing is lost
    any more (of who leaves, that is a share of 1 and never reached). Costs O(N log N) per copy and resource.

    Args:
        requests: (B, N, R).
        useful: (B, N, R) what they would serve if they were granted.
        flows: what became of them.
        inverse: (B or 1, K, R) one over the capacity.
        price: (B or 1, N, R) of a granted unit.
        objective: what the agents want.
        contest: how shares come about.
        by_resource: return (B, N, R) instead, which add up to it.
    """
    if not np.count_nonzero(flows.overload):
        return np.zeros(requests.shape if by_resource else requests.shape[:2])  # all are granted already
    more = contest.more_without(requests, flows, inverse)  # (B, N, R)
    slope = objective.gain(price, requests, useful)  # (B, N, R) value per unit of share
    gain = contest.groups.least_or(contest.groups.load(slope), 0.0) - slope  # (B, N, R)
    gain *= more
    if not np.count_nonzero(flows.lost):
        return gain if by_resource else gain @ objective.ones
    saved = objective.lost * useful  # (B, N, R) value per unit of share while something is lost
    kink = flows.lost / np.maximum(useful, _TINY)  # (B, N, R) growth of the share from which nothing is
    gain -= saved * np.minimum(more, kink)
    if contest.groups.single and requests.shape[1] <= _DENSE_AGENTS and not by_resource:
        return gain @ objective.ones + _saved_by_pairs(saved, kink, more)
    gain += _saved_by_sorting(saved, kink, more, contest.groups)
    return gain if by_resource else gain @ objective.ones


def _saved_by_pairs(saved: np.ndarray, kink: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Return ``sum over j and r of saved_jr min(more_ir, kink_jr)`` (B, N) for every agent i.

    All arguments are (B, N, R).
    """
    copies, agents, _ = saved.shape
    others = np.ascontiguousarray(kink.transpose(0, 2, 1))  # (B, R, N)
    grown = np.minimum(more[..., None], others[:, None])  # (B, N, R, N)
    worth = saved.transpose(0, 2, 1).reshape(copies, -1, 1)  # (B, R N, 1)
    return (grown.reshape(copies, agents, -1) @ worth)[..., 0]


def _saved_by_sorting(saved: np.ndarray, kink: np.ndarray, more: np.ndarray, groups: Groups) -> np.ndarray:
    """Return ``sum over j of the same group of saved_j min(more_i, kink_j)`` (B, N, R) for every agent i.

    All arguments are (B, N, R). Only agents that lose something matter: their kinks are sorted once, and
    binary search then answers all sums.
    """
    copies, agents, resources = saved.shape
    count = copies * groups.num_groups * resources  # rows, one per (copy, group, resource)
    group = np.full(agents, -1)  # (N,)
    group[groups.pair_agents] = groups.pair_groups
    loses = kink > 0.0 if groups.covered else (kink > 0.0) & (group >= 0)[:, None]  # (B, N, R)
    copy, agent, resource = np.nonzero(loses)  # (J,) each
    # Every row begins with a mark that saves nothing, so that whoever grows by nothing finds it.
    row = np.concatenate(
        [np.arange(count), (copy * groups.num_groups + group[agent]) * resources + resource]
    )  # (count + J,)
    rate = np.concatenate([np.zeros(count), saved[loses]])
    until = np.concatenate([np.full(count, -0.5), np.minimum(kink[loses], 1.0)])  # shares grow by 1 at most
    # One key orders rows first and kinks within a row second; queries find their place in their own row.
    key = row * 2.0 + until
    order = np.argsort(key)
    row, rate, until = row[order], rate[order], until[order]
    mark = np.flatnonzero(order < count)  # (count,) where rows begin
    whole, growing = np.cumsum(rate * until), np.cumsum(rate)
    whole -= whole[mark][row]
    growing = growing[np.append(mark[1:], len(row)) - 1][row] - growing
    first = np.arange(0.0, 2.0 * count, 2.0).reshape(copies, groups.num_groups, resources)
    first = groups.least_or(first, 0.0)  # (B, N or 1, R) nothing grows for an agent in no group
    place = np.searchsorted(key[order], first + more) - 1  # (B, N, R)
    return whole[place] + growing[place] * more


def general_externality(
    requests: np.ndarray,
    base_values: np.ndarray,
    step: Callable[[np.ndarray, int], np.ndarray],
) -> np.ndarray:
    """Return the same as `proportional_externality` for any mechanism, by solving anew for every agent.

    Args:
        requests: (B, N, R).
        base_values: (B, N) values with all requests, or (B, N, O) of several objectives.
        step: takes requests (C * B, N, R), C copies of the batch one after the other, and C; returns values
            (C, B, N) or (C, B, N, O).
    """
    copies, agents, resources = requests.shape
    chunk = max(1, _CHUNK_CELLS // (copies * agents * resources))
    gain = np.empty_like(base_values)
    for first in range(0, agents, chunk):
        without = np.arange(first, min(first + chunk, agents))  # (C,)
        trial = np.repeat(requests[None], len(without), axis=0)  # (C, B, N, R)
        trial[np.arange(len(without)), :, without] = 0.0
        change = step(trial.reshape(-1, agents, resources), len(without)) - base_values  # (C, B, N)
        change[np.arange(len(without)), :, without] = 0.0
        gain[:, without] = change.sum(axis=2).swapaxes(0, 1)
    return gain
