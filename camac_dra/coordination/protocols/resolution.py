"""What a coordinator decides, and what `Weighted` agents end at when they know everything.

Axes: B parallel copies, N agents, K capacity groups, R resources.
"""

from __future__ import annotations

import numpy as np

from camac_dra.coordination.protocols.objectives import Objective, Weighted
from camac_dra.environment.allocation import Mechanism, get_mechanism
from camac_dra.environment.groups import FloatArray, Groups

proportional = get_mechanism("proportional")
_WEIGHTED = Weighted(slack=1e-9)  # all is known exactly
_MOST_STEPS = (
    100  # Newton's method needs one per different weight; then the price is high enough, if not best
)


def resolve(
    requests: FloatArray,
    heard: np.ndarray,
    capacity: FloatArray,
    worth: FloatArray,
    groups: Groups,
    mechanism: Mechanism,
) -> FloatArray:
    """Return what agents may ask for (B, N, R), so that it fits with a fair share for each that was not
    heard.

    Args:
        requests: (B, N, R), whatever for those that were not heard.
        heard: (B, N) bool.
        capacity: (B or 1, K, R).
        worth: (B, N, 1 or R), see `Objective.worth`.
        groups: who shares what.
        mechanism: cuts what was heard.
    """
    if heard.all():
        return mechanism(requests, capacity, groups, worth)
    share = groups.equal_share(capacity)  # (B or 1, N or 1, R)
    reserve = np.where(heard[..., None], 0.0, share)  # (B, N, R)
    reserve = np.where(np.isfinite(reserve), reserve, 0.0)
    if groups.access is not None:
        reserve = reserve * groups.access
    left = np.maximum(capacity - groups.load(reserve), 0.0)  # (B, K, R)
    agreed = mechanism(np.where(heard[..., None], requests, 0.0), left, groups, worth)
    return np.where(heard[..., None], agreed, share)


def weighted_proportional(
    requests: FloatArray,
    capacity: FloatArray,
    groups: Groups,
    weights: FloatArray | None = None,
    order: FloatArray | None = None,
    bids: FloatArray | None = None,
    rng: np.random.Generator | None = None,
) -> FloatArray:
    """Cut every request to its weight over the highest price of the agent's groups; see `Weighted`.

    A mechanism in the sense of `Mechanism`: each group's price is where what its members keep fits by itself.
    ``weights`` may be by resource, (B, N, R), and (B, N, 1).
    """
    weight = np.ones(requests.shape[:2]) if weights is None else weights
    weight = weight if weight.ndim == 3 else weight[..., None]  # (B, N, 1 or R)
    price = np.full((len(requests), groups.num_groups, requests.shape[2]), np.inf)  # (B, K, R)
    for _ in range(_MOST_STEPS):
        before, price = (
            price,
            _WEIGHTED.price(sums_over_groups(_WEIGHTED, requests, weight, price, groups), capacity),
        )
        if np.array_equal(price, before):
            break
    highest = -groups.least_or(-price, 0.0)  # (B, N or 1, R)
    return proportional(requests * _WEIGHTED.scale(highest, weight), capacity, groups)


def sums_over_groups(
    objective: Objective, requests: FloatArray, weight: FloatArray, price: FloatArray, groups: Groups
) -> FloatArray:
    """Return the sums of an objective over each group's members (B, P, K, R).

    Args:
        objective: of P parts.
        requests: (B, N, R).
        weight: (B, N, 1 or R).
        price: (B, K, R) that all members know of.
        groups: who is a member of what.
    """
    if groups.single:
        parts = objective.contribution(requests[:, :, None], weight[:, :, None], price[:, None])
        return parts.sum(axis=1)  # of (B, N, P, 1, R)
    agents, own = groups.pair_agents, groups.pair_groups  # (P,) each
    of_pair = (requests[:, agents, None], weight[:, agents, None], price[:, own, None])
    parts = objective.contribution(*of_pair)[:, :, :, 0]  # (B, pairs, P, R)
    sums = np.zeros((len(requests), groups.num_groups, *parts.shape[2:]))  # (B, K, P, R)
    filled = np.flatnonzero(np.diff(groups.starts))  # groups with members: reduceat cannot take empty ones
    if len(filled):
        sums[:, filled] = np.add.reduceat(parts, groups.starts[filled], axis=1)
    return sums.transpose(0, 2, 1, 3)


def mechanism_of(objective: str) -> Mechanism:
    """Return the mechanism that gives exactly what agents with this objective try to agree on."""
    return proportional if objective == "proportional" else weighted_proportional
