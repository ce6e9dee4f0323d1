"""Transitions of one agent: n-step sums, and a bounded memory of them in arrays."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Transitions:
    """Rows to learn from; the target is ``rewards + discounts * value of next_states``."""

    states: np.ndarray  # (rows, F) float32
    actions: np.ndarray  # (rows,) int64
    rewards: np.ndarray  # (rows,) float32, discounted sums over up to n steps
    next_states: np.ndarray  # (rows, F) float32
    discounts: np.ndarray  # (rows,) float32: gamma to the number of steps, 0 where the episode terminated
    next_masks: np.ndarray | None = None  # (rows, A) bool: actions that are possible in next_states


@dataclass(slots=True)
class _Pending:
    state: np.ndarray
    action: int
    reward: float = 0.0
    steps: int = 0


class NStepSums:
    """Turns single steps into transitions over up to ``n`` steps (Sutton 1988).

    A step's transition is complete after n steps, or where the episode ends: with discount 0 where it
    terminated, with the value of the last state where it was cut off.
    """

    def __init__(self, n: int, gamma: float) -> None:
        self.n, self.gamma = n, gamma
        self._pending: deque[_Pending] = deque()

    def add(
        self, state: np.ndarray, action: int, reward: float, *, terminated: bool, truncated: bool
    ) -> list[tuple[np.ndarray, int, float, float]]:
        """Return what this step completes: state, action, sum of rewards, discount of the next state."""
        self._pending.append(_Pending(state, action))
        for entry in self._pending:
            entry.reward += self.gamma**entry.steps * reward
            entry.steps += 1
        complete = []
        while self._pending and (terminated or truncated or self._pending[0].steps == self.n):
            entry = self._pending.popleft()
            discount = 0.0 if terminated else self.gamma**entry.steps
            complete.append((entry.state, entry.action, entry.reward, discount))
        return complete


class TransitionMemory:
    """The latest ``capacity`` transitions, in arrays: 8 F + A + 16 bytes for each."""

    def __init__(self, capacity: int, state_size: int, action_size: int) -> None:
        self.capacity = capacity
        self._states = np.zeros((capacity, state_size), np.float32)
        self._actions = np.zeros(capacity, np.int64)
        self._rewards = np.zeros(capacity, np.float32)
        self._next_states = np.zeros((capacity, state_size), np.float32)
        self._discounts = np.zeros(capacity, np.float32)
        self._next_masks = np.ones((capacity, action_size), bool)
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, self.capacity)

    def add(
        self,
        step: tuple[np.ndarray, int, float, float],
        next_state: np.ndarray,
        next_mask: np.ndarray | None,
    ) -> None:
        """Keep a transition, the oldest one giving way."""
        at = self._added % self.capacity
        self._states[at], self._actions[at], self._rewards[at], self._discounts[at] = step
        self._next_states[at] = next_state
        self._next_masks[at] = True if next_mask is None else next_mask
        self._added += 1

    def latest_and_random(self, latest: int, rows: int, rng: np.random.Generator) -> Transitions:
        """Return the ``latest`` newest transitions and others drawn with replacement, ``rows`` together."""
        newest = (self._added - 1 - np.arange(min(latest, rows, len(self)))) % self.capacity
        others = rng.integers(len(self), size=max(0, min(rows, len(self)) - len(newest)))
        at = np.concatenate([newest, others])
        return Transitions(
            self._states[at],
            self._actions[at],
            self._rewards[at],
            self._next_states[at],
            self._discounts[at],
            self._next_masks[at],
        )
