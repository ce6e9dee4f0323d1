"""Generalised advantage estimation on time-major arrays (Schulman et al. 2016)."""

from __future__ import annotations

import numpy as np


def generalized_advantages(
    rewards: np.ndarray,
    values: np.ndarray,
    final_values: np.ndarray,
    terminated: np.ndarray,
    done: np.ndarray,
    active: np.ndarray,
    *,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Return advantages (T, B, N) float32; value targets are ``advantages + values[:-1]``.

    ``rewards`` and values may have an axis of C action components besides, as advantages then have: of each
    by itself, from its own rewards.

    ``rewards``, ``terminated`` and ``active`` are (T, B, N); ``done`` is (T, B); ``values`` is (T + 1, B, N),
    the last row being those of the next decision. ``final_values`` is (D, N): values of the last observations
    of the D episodes with ``done``, in order of (t, copy). An agent that terminated is not bootstrapped; one
    whose episode was only cut off is, from the episode's last observation, and nothing flows across the cut.
    Steps in which an agent took no part are passed over: the successor of its row is its next active row, as
    if no time had gone by. Where the fragment or the episode ends while it is away, the bootstrap is the
    value of what it would have seen. Entries of inactive rows have no meaning.
    """
    if rewards.ndim == 4:  # components are to each other as agents are
        components = rewards.shape[3]
        found = generalized_advantages(
            _flat(rewards),
            _flat(values),
            _flat(final_values),
            np.repeat(terminated, components, axis=2),
            done,
            np.repeat(active, components, axis=2),
            gamma=gamma,
            gae_lambda=gae_lambda,
        )  # (T, B, N * C)
        return found.reshape(rewards.shape)
    bootstrap = values[1:].copy()  # (T, B, N) values of the successors
    bootstrap[done] = final_values  # boolean indexing runs in order of (t, copy)
    if active.all():
        return _dense(rewards, values, bootstrap, terminated, done, gamma, gae_lambda)
    return _masked(rewards, values, bootstrap, terminated, done, active, gamma, gae_lambda)


def _flat(array: np.ndarray) -> np.ndarray:
    """Return (..., N, C) as (..., N * C)."""
    return array.reshape(*array.shape[:-2], array.shape[-2] * array.shape[-1])


def _dense(
    rewards: np.ndarray,
    values: np.ndarray,
    bootstrap: np.ndarray,
    terminated: np.ndarray,
    done: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Everybody takes part all the time: residuals at once, then one multiply-add per step."""
    bootstrap[terminated] = 0.0
    advantages = rewards + gamma * bootstrap - values[:-1]  # (T, B, N) residuals, accumulated in place
    ends = terminated | done[..., None]  # (T, B, N)
    carry = np.where(ends, np.float32(0.0), np.float32(gamma * gae_lambda))  # (T, B, N)
    for t in range(len(rewards) - 2, -1, -1):
        advantages[t] += carry[t] * advantages[t + 1]
    return advantages.astype(np.float32, copy=False)


def _masked(
    rewards: np.ndarray,
    values: np.ndarray,
    bootstrap: np.ndarray,
    terminated: np.ndarray,
    done: np.ndarray,
    active: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Somebody is away at times: carry the next active row's value and advantage over the gap."""
    advantages = np.zeros(rewards.shape, np.float32)
    next_value = values[-1]  # (B, N)
    next_advantage = np.zeros_like(next_value)  # (B, N)
    for t in range(len(rewards) - 1, -1, -1):
        cut = done[t][:, None]  # (B, 1)
        value = np.where(cut, bootstrap[t], next_value)
        value = np.where(terminated[t], 0.0, value)
        advantage = np.where(cut | terminated[t], 0.0, next_advantage)
        own = rewards[t] + gamma * value - values[t] + gamma * gae_lambda * advantage
        advantages[t] = own
        next_value = np.where(active[t], values[t], value)
        next_advantage = np.where(active[t], own, advantage)
    return advantages
