"""How well an episode went: the same measures for every policy, trained or not.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

import numpy as np

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.totals import Totals

# What was served in parts may add up to a little less than what was demanded.
_ROUNDING = 1e-9


def service_ratios(
    served: np.ndarray, demanded: np.ndarray, fair_share: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each agent's served / demanded (B, N), 1 without demand, and whether it had demand (B, N) bool.

    Resources are added in nominal fair shares (N, R), so that a unit of each counts the same.
    """
    asked = (demanded / fair_share).sum(axis=2)  # (B, N)
    had = asked > 0.0
    got = (served / fair_share).sum(axis=2)
    return np.divide(got, asked, out=np.ones_like(asked), where=had), had


def jain_index(ratios: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Return Jain's index (B,) of the counted ``ratios`` (B, N): 1 when all are equal, 1/n when one has all.

    Jain, Chiu and Hawe 1984. Nobody counted, or all ratios zero: 1, since all have the same.
    """
    kept = ratios * counted
    number = counted.sum(axis=1)
    squares = (kept * kept).sum(axis=1)
    return np.divide(kept.sum(axis=1) ** 2, number * squares, out=np.ones(len(kept)), where=squares > 0.0)


def jain_without_one(ratios: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Return `jain_index` (B, N) of the counted ``ratios`` (B, N) without one agent at a time."""
    kept = ratios * counted
    total = kept.sum(axis=1, keepdims=True) - kept
    number = counted.sum(axis=1, keepdims=True) - counted
    # Not the sum of all squares less one: of what is nearly nothing, rounding would make anything.
    others = ~np.eye(ratios.shape[1], dtype=bool)  # (N, N)
    squares = (kept * kept) @ others
    return np.divide(total**2, number * squares, out=np.ones_like(kept), where=squares > 0.0)


def episode_measures(
    totals: Totals, constraints: Constraints, steps: int, slo_target: float
) -> list[dict[str, float]]:
    """Return the measures of each copy's finished episode of ``steps`` steps.

    ``reward`` and ``efficiency`` are sums over steps and agents (efficiency is the undiscounted team
    objective in fair shares, mean over resources); ``success_rate`` is the share of agents whose served /
    demanded reached ``slo_target``; ``utilisation`` is granted over capacity and ``conflict_rate`` the share
    of group-steps over capacity, both of groups that bind; ``demanded``, ``served``, ``granted`` and ``lost``
    are in fair shares; ``lost_share`` is of the demand; ``cost`` is price times granted fair shares.
    ``objective_service``, ``objective_cost`` and ``objective_fairness`` are sums over steps and agents of
    the objectives of `weighted_rewards`, whatever is rewarded: the first two add up to ``efficiency``, and
    the last is ``jain - 1`` times the number of agents, as if all were present throughout.
    """
    totals.settle()
    ratios, had = service_ratios(totals.served, totals.demanded, constraints.fair_share)
    inverse = 1.0 / constraints.fair_share
    sums = {
        name: (getattr(totals, name) * inverse).sum(axis=(1, 2))
        for name in ("demanded", "served", "granted", "lost", "paid")
    }
    cost = sums.pop("paid")
    lost_share = np.divide(
        sums["lost"], sums["demanded"], out=np.zeros(len(ratios)), where=sums["demanded"] > 0.0
    )
    efficiency, jain = totals.efficiency.sum(axis=1), jain_index(ratios, had)
    objective_cost = -cost / totals.served.shape[2]
    columns = {
        "reward": totals.reward,
        "efficiency": efficiency,
        "success_rate": (ratios >= slo_target - _ROUNDING).mean(axis=1),
        "jain": jain,
        "utilisation": _utilisation(totals, constraints.groups.load(totals.granted)),
        "conflict_rate": _conflict_rate(totals, steps),
        "lost_share": lost_share,
        "cost": cost,
        "objective_service": efficiency - objective_cost,
        "objective_cost": objective_cost,
        "objective_fairness": (jain - 1.0) * ratios.shape[1],
        **sums,
    }
    return [{name: float(column[b]) for name, column in columns.items()} for b in range(len(ratios))]


def _utilisation(totals: Totals, granted: np.ndarray) -> np.ndarray:
    """Return granted (B, K, R) over capacity (B,), mean over the groups and resources that bind."""
    used = granted / np.maximum(totals.capacity, 1e-12)  # (B, K, R)
    binds = np.isfinite(totals.capacity)
    return np.where(binds, used, 0.0).sum(axis=(1, 2)) / np.maximum(binds.sum(axis=(1, 2)), 1)


def _conflict_rate(totals: Totals, steps: int) -> np.ndarray:
    """Return the share (B,) of group-steps that bind in which the load exceeded the capacity."""
    binding = np.isfinite(totals.capacity).sum(axis=(1, 2))  # (B,)
    return totals.conflicts.sum(axis=(1, 2)) / np.maximum(binding * steps, 1)
