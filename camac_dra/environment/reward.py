"""What agents are rewarded for, and to whom it is credited.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.measures import jain_index, service_ratios
from camac_dra.environment.totals import Totals
from camac_dra.utils.errors import ConfigurationError

RewardFn = Callable[[str, np.ndarray, np.ndarray], Any]


def load_reward_fn(reward_fn: str | RewardFn | None) -> RewardFn | None:
    """Return the user's reward function, imported where it is given as a dotted path.

    Raises:
        ConfigurationError: the path does not lead to a callable.
    """
    if not isinstance(reward_fn, str):
        return reward_fn
    module, _, name = reward_fn.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"environment.reward_fn: must be the dotted path of a function that can be imported, got {reward_fn!r} ({error})"
        ) from error
    if not callable(found):
        raise ConfigurationError(
            f"environment.reward_fn: {reward_fn!r} must be callable, got {type(found).__name__}"
        )
    return found


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
            rewards[b, i] = np.mean(reward_fn(agent_id, copy[i], capacity))
    if not np.isfinite(rewards).all():
        b, i = np.argwhere(~np.isfinite(rewards))[0]
        raise ConfigurationError(
            f"environment.reward_fn: must return finite numbers, got {rewards[b, i]} for {agent_ids[i]!r} with the "
            f"allocation {grants[b, i].tolist()}"
        )
    return rewards


def fairness_of(totals: Totals, constraints: Constraints) -> np.ndarray:
    """Return Jain's index (B,) of the agents' service ratios so far in the episode."""
    totals.settle()
    return jain_index(*service_ratios(totals.served, totals.demanded, constraints.fair_share))


def share_among_team(rewards: np.ndarray, present: np.ndarray | None) -> np.ndarray:
    """Return the mean over the present agents (B, N), the same for each; 0 for absent ones."""
    if present is None:
        return np.repeat(rewards.mean(axis=1, keepdims=True), rewards.shape[1], axis=1)
    mean = (rewards * present).sum(axis=1, keepdims=True) / np.maximum(present.sum(axis=1, keepdims=True), 1)
    return mean * present
