"""Transitions to learn from: n-step sums of many streams at once, and a bounded memory of them in arrays.

A stream is what one agent of one copy goes through; S streams run side by side. Observations are named by
the numbers that `ObservationRows` gives them, so that one which ends a transition and begins the next is kept
once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike

from camac_dra.models.observation_rows import ObservationRows
from camac_dra.utils.errors import ExperienceError
from camac_dra.utils.file_handler import StrPath

SPARE = 16  # one observation more for so many transitions, at the start, for the last ones of episodes


@dataclass(frozen=True, slots=True)
class Transitions:
    """Rows to learn from; the target is ``rewards + discounts * value of next_states``."""

    states: np.ndarray  # (rows, F) float32
    actions: np.ndarray  # (rows, *action_shape) int64, or float32 where they are continuous
    rewards: np.ndarray  # (rows,) float32, discounted sums over up to n steps
    next_states: np.ndarray  # (rows, F) float32
    discounts: np.ndarray  # (rows,) float32: gamma to the number of steps, 0 where the episode terminated
    next_masks: np.ndarray | None = None  # (rows, A) bool: actions that are possible in next_states


@dataclass(frozen=True, slots=True)
class Completed:
    """Transitions that a step has completed, the oldest steps first; what follows them is known to others."""

    streams: np.ndarray  # (k,) which stream each belongs to
    states: np.ndarray  # (k,) numbers of the observations they begin with
    actions: np.ndarray  # (k, *action_shape)
    rewards: np.ndarray  # (k,) float64, discounted sums
    discounts: np.ndarray  # (k,) float64, of the value of what follows; 0 where the episode terminated


_WAITING = ("states", "actions", "sums", "count")  # arrays of the sums
_KEPT = ("states", "next_states", "actions", "rewards", "discounts")  # arrays of the memory


class NStepSums:
    """Turns single steps of S streams into transitions over up to ``n`` steps (Sutton 1988).

    A step's transition is complete after n steps, or where the episode ends: with discount 0 where it
    terminated, with the value of the last observation where it was cut off. Steps in which a stream takes no
    part are passed over, as if no time had gone by.
    """

    def __init__(
        self,
        n: int,
        gamma: float,
        streams: int = 1,
        *,
        action_shape: tuple[int, ...] = (),
        action_dtype: DTypeLike = np.int64,
    ) -> None:
        self.n, self.gamma, self.streams = n, gamma, streams
        self._powers = gamma ** np.arange(n + 1)  # (n + 1,)
        self._places = np.arange(n)[:, None]  # (n, 1)
        self._states = np.zeros((n, streams), np.int64)  # the oldest step first
        self._actions = np.zeros((n, streams, *action_shape), action_dtype)
        self._sums = np.zeros((n, streams))
        self._count = np.zeros(streams, np.int64)  # steps that wait

    def add(
        self,
        states: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        *,
        terminated: np.ndarray,
        cut: np.ndarray,
        active: np.ndarray | None = None,
        followed: np.ndarray | None = None,
    ) -> Completed:
        """Return what one step of every stream completes.

        Args:
            states: (S,) numbers of the observations that were decided upon.
            actions: (S, *action_shape) what was done.
            rewards: (S,) what it earned.
            terminated: (S,) bool, the stream's episode ended for good.
            cut: (S,) bool, its episode was cut off: what comes after the last observation has value.
            active: (S,) bool, it took part; None: all did.
            followed: (S,) bool, it takes part in the next decision; None: all do.
        """
        who = np.arange(self.streams) if active is None else np.flatnonzero(active)
        place = self._count[who]
        self._states[place, who], self._actions[place, who] = states[who], actions[who]
        self._sums[place, who] = 0.0
        self._count[who] += 1
        age = self._count[who] - 1 - self._places  # (n, who), negative where nothing waits
        self._sums[:, who] += np.where(age >= 0, self._powers[age], 0.0) * rewards[who]
        return self._complete(terminated, terminated | cut, followed)

    def get_state(self) -> dict[str, torch.Tensor]:
        """Return copies of the steps that wait."""
        return {name: torch.from_numpy(getattr(self, f"_{name}").copy()) for name in _WAITING}

    def set_state(self, state: dict[str, torch.Tensor]) -> None:
        """Have the steps wait that `get_state` returned."""
        for name in _WAITING:
            getattr(self, f"_{name}")[:] = state[name].numpy()

    def _complete(self, terminated: np.ndarray, ended: np.ndarray, followed: np.ndarray | None) -> Completed:
        full = (self._count == self.n) & ~ended
        if followed is not None:
            full &= followed
        ready = np.where(ended, self._places < self._count, (self._places == 0) & full)  # (n, S)
        place, stream = np.nonzero(ready)
        discounts = np.where(terminated[stream], 0.0, self._powers[self._count[stream] - place])
        complete = Completed(stream, self._states[ready], self._actions[ready], self._sums[ready], discounts)
        for waiting in (self._states, self._actions, self._sums):
            waiting[:-1, full] = waiting[1:, full]
        self._count -= full
        self._count[ended] = 0
        return complete


class TransitionMemory:
    """The latest ``capacity`` transitions, in arrays, and their observations, each of them once.

    A transition takes 28 bytes, 4 more per further component of an action, 1 more per action with masks, and
    4 bytes per feature for the observation it begins with; one more observation is kept per episode, and one
    per transition where transitions do not follow each other. Room for that grows when it is needed.
    """

    def __init__(
        self,
        capacity: int,
        state_size: int,
        mask_size: int = 0,
        *,
        margin: int = 2,
        folder: StrPath | None = None,
        action_shape: tuple[int, ...] = (),
        action_dtype: DTypeLike = np.int64,
    ) -> None:
        """``margin`` is how many observations wait for their transitions; ``mask_size`` 0 keeps no masks."""
        whole = np.issubdtype(action_dtype, np.integer)
        self.capacity = capacity
        self._room = (capacity + capacity // SPARE + margin, state_size, folder)
        self._states = np.zeros(capacity, np.int64)  # numbers of observations
        self._next_states = np.zeros(capacity, np.int64)
        self._actions = np.zeros((capacity, *action_shape), np.int32 if whole else np.float32)
        self._action_dtype = np.int64 if whole else np.float32
        self._rewards = np.zeros(capacity, np.float32)
        self._discounts = np.zeros(capacity, np.float32)
        self._next_masks = np.ones((capacity, mask_size), bool) if mask_size else None
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._rows = ObservationRows(*self._room)
        self._added = 0
        # For each added batch, the least observation of it and all later ones: what must not be overwritten.
        self._least: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        return min(self._added, self.capacity)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, those on a disk too."""
        arrays = (self._states, self._next_states, self._actions, self._rewards, self._discounts)
        masks = 0 if self._next_masks is None else self._next_masks.nbytes
        return self._rows.nbytes + sum(array.nbytes for array in arrays) + masks

    def observations(self, numbers: np.ndarray) -> np.ndarray:
        """Return copies of the observations (k, F) with these numbers, of which all must be there."""
        return self._rows.take(numbers)

    def get_state(self) -> dict[str, Any]:
        """Return copies of everything, as plain values and tensors."""
        kept = {name: torch.from_numpy(getattr(self, f"_{name}")[: len(self)].copy()) for name in _KEPT}
        masks = None if self._next_masks is None else torch.from_numpy(self._next_masks[: len(self)].copy())
        return {
            **kept,
            "next_masks": masks,
            "added": self._added,
            "least": [list(pair) for pair in self._least],
            "rows": self._rows.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Have what `get_state` of a memory with the same capacity returned.

        Raises:
            ExperienceError: there is more in it than fits.
        """
        count = len(state["states"])
        if count > self.capacity or count != min(state["added"], self.capacity):
            raise ExperienceError(
                f"transitions must be of a memory of {self.capacity}, got {count} of {state['added']}"
            )
        for name in _KEPT:
            getattr(self, f"_{name}")[:count] = state[name].numpy()
        if self._next_masks is not None:
            self._next_masks[:count] = state["next_masks"].numpy()
        self._added = int(state["added"])
        self._least = deque((int(added), int(number)) for added, number in state["least"])
        self._rows.set_state(state["rows"])

    def store(self, observations: np.ndarray) -> np.ndarray:
        """Keep observations (k, F) for transitions to come, and return their numbers (k,)."""
        oldest = self._least[0][1] if self._least else np.iinfo(np.int64).max
        return self._rows.append(observations, oldest)

    def add(
        self, steps: Completed, next_states: np.ndarray, next_masks: np.ndarray | None = None
    ) -> np.ndarray:
        """Keep transitions, the oldest ones giving way; return the places (k,) where they are.

        Those whose first observation is gone, because too much happened meanwhile, are left out.

        Args:
            steps: k transitions.
            next_states: (k,) numbers of the observations that they end with.
            next_masks: (k, A) bool, what is possible there; None: everything.
        """
        kept = np.flatnonzero(self._rows.have(steps.states))[-self.capacity :]
        if not len(kept):
            return kept
        at = (self._added + np.arange(len(kept))) % self.capacity
        self._states[at], self._next_states[at] = steps.states[kept], next_states[kept]
        self._actions[at], self._rewards[at] = steps.actions[kept], steps.rewards[kept]
        self._discounts[at] = steps.discounts[kept]
        if self._next_masks is not None:
            self._next_masks[at] = True if next_masks is None else next_masks[kept]
        self._added += len(kept)
        self._remember_least(int(min(steps.states[kept].min(), next_states[kept].min())))
        return at

    def _remember_least(self, number: int) -> None:
        """Keep the running minimum over what is in the memory, as a queue of ascending minima."""
        while self._least and self._least[-1][1] >= number:
            self._least.pop()
        self._least.append((self._added, number))
        while self._least[0][0] <= self._added - self.capacity:
            self._least.popleft()

    def take(self, places: np.ndarray) -> Transitions:
        """Return the transitions at these places (rows,), which are below ``len(self)``."""
        return Transitions(
            self._rows.take(self._states[places]),
            self._actions[places].astype(self._action_dtype),
            self._rewards[places],
            self._rows.take(self._next_states[places]),
            self._discounts[places],
            None if self._next_masks is None else self._next_masks[places],
        )

    def latest_and_random(self, latest: int, rows: int, rng: np.random.Generator) -> Transitions:
        """Return the ``latest`` newest transitions and others drawn with replacement, ``rows`` together."""
        newest = (self._added - 1 - np.arange(min(latest, rows, len(self)))) % self.capacity
        others = rng.integers(len(self), size=max(0, min(rows, len(self)) - len(newest)))
        return self.take(np.concatenate([newest, others]))
