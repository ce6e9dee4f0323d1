"""What agents are rewarded for, and to whom it is credited.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.measures import jain_index, service_ratios
from camac_dra.environment.totals import Totals
from camac_dra.utils.dotted import import_callable
from camac_dra.utils.errors import ConfigurationError

RewardFn = Callable[[str, np.ndarray, np.ndarray], Any]


def load_reward_fn(reward_fn: str | RewardFn | None) -> RewardFn | None:
    """Return the user's reward function, imported where it is given as a dotted path.

    Raises:
        ConfigurationError: the path does not lead to a callable.
    """
    if not isinstance(reward_fn, str):
        return reward_fn
    return import_callable(reward_fn, "environment.reward_fn")


def user_rewards(
    reward_fn: RewardFn, agent_ids: list[str], grants: np.ndarray, capacity: np.ndarray
) -> np.ndarray:
    """Return the user's reward (B, N) for grants (B, N, R) out of the pool's nominal capacities (R,).

    The function is called once per agent and copy; an array it returns is averaged.

    Raises:
        ConfigurationError: it returned something that is not a finite number or an array of them.
    """
    rewards = np.empty(grants.shape[:2])  # (B, N)
    for b, copy in enumerate(grants):
        for i, agent_id in enumerate(agent_ids):
            # Copies, so that whatever the function does to its arguments stays with it.
            returned = reward_fn(agent_id, copy[i].copy(), capacity.copy())
            rewards[b, i] = _mean(returned)
            if not math.isfinite(rewards[b, i]):
                raise ConfigurationError(
                    f"environment.reward_fn: must return a finite number or an array of them,"
                    f" got {returned!r} for {agent_id!r} with the allocation {copy[i].tolist()}"
                )
    return rewards


def _mean(returned: Any) -> float:
    """Return the mean of a number or an array; NaN for what is neither or empty."""
    try:
        numbers = np.asarray(returned, np.float64)
    except (TypeError, ValueError):
        return math.nan
    return float(numbers.mean()) if numbers.size else math.nan


def fairness_of(totals: Totals, constraints: Constraints) -> np.ndarray:
    """Return Jain's index (B,) of the agents' service ratios so far in the episode."""
    totals.settle()
    return jain_index(*service_ratios(totals.served, totals.demanded, constraints.fair_share))


def share_among_team(rewards: np.ndarray, present: np.ndarray | None) -> np.ndarray:
    """Return the mean over the present agents (B, N), the same for everybody."""
    if present is None:
        mean = rewards.mean(axis=1, keepdims=True)  # (B, 1)
    else:
        count = np.maximum(present.sum(axis=1, keepdims=True), 1)  # (B, 1)
        mean = (rewards * present).sum(axis=1, keepdims=True) / count
    return np.repeat(mean, rewards.shape[1], axis=1)
