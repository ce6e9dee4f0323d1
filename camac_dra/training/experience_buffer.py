"""``ExperienceBuffer``: what was experienced, to learn from it again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from camac_dra.models.checks import number, whole_number
from camac_dra.models.transitions import NStepSums, TransitionMemory, Transitions
from camac_dra.training.sum_tree import SumTree
from camac_dra.utils.errors import ExperienceError
from camac_dra.utils.file_handler import StrPath

LEAST_PRIORITY = 1e-6  # so that nothing is never drawn again


@dataclass(frozen=True, slots=True)
class Batch:
    """Transitions that were drawn."""

    transitions: Transitions
    places: np.ndarray  # (rows,) where they are in the buffer, for `ExperienceBuffer.update_priorities`
    weights: np.ndarray | None  # (rows,) float32 importance weights, at most 1; None: all drawn alike


class ExperienceBuffer:
    """Replay buffer: the latest ``max_size`` transitions over ``n_step`` steps, in arrays.

    Memory: ``4.25 F + 28`` bytes for a transition of F features, 16 more with priorities (rounded up to a
    power of two): 286 MiB for 1,000,000 transitions of 64 features, 302 MiB with priorities. An observation
    that ends a transition and begins the next is kept once; where transitions do not follow each other, each
    has two and takes up to 4 F bytes more. With ``directory`` the observations are in a memory map of an
    unnamed file there, and 28 (44) bytes per transition in memory. Room is taken when the first experience
    comes, by the system as it fills.

    Several streams (agents, copies of an environment) fill it side by side: `begin` and `add_steps`; a single
    one by `add`.
    """

    def __init__(
        self,
        max_size: int = 100_000,
        *,
        n_step: int = 1,
        gamma: float = 0.99,
        prioritized: bool = False,
        alpha: float = 0.6,
        beta: float = 0.4,
        directory: StrPath | None = None,
        seed: int | None = None,
    ) -> None:
        """Make an empty buffer.

        Args:
            max_size: transitions kept.
            n_step: steps over which rewards are summed.
            gamma: discount per step within those sums.
            prioritized: draw in proportion to ``priority ** alpha`` (Schaul et al. 2016); else all alike.
            alpha: 0 is uniform.
            beta: importance weights are ``(len P) ** -beta`` over the largest of the batch.
            directory: folder for the observations; None: in memory.
            seed: of what is drawn.

        Raises:
            ConfigurationError: a setting is out of range.
        """
        self.max_size = whole_number("max_size", max_size)
        self.n_step = whole_number("n_step", n_step)
        self.gamma = number("gamma", gamma, 0.0, 1.0)
        self.alpha, self.beta = number("alpha", alpha, 0.0), number("beta", beta, 0.0, 1.0)
        self._directory = directory
        self._rng = np.random.default_rng(seed)
        self._tree = SumTree(max_size) if prioritized else None
        self.clear()

    def clear(self) -> None:
        """Forget everything; what comes next may have another shape."""
        self._memory: TransitionMemory | None = None
        self._shape: tuple[int, ...] = ()  # of one observation
        self._end_streams()
        self._highest = 1.0  # priority of what was never learned from
        if self._tree is not None:
            self._tree = SumTree(self.max_size)

    def _end_streams(self) -> None:
        self._sums: NStepSums | None = None
        self._numbers = np.zeros(0, np.int64)  # (S,) of the observations that are decided upon next
        self._follows: np.ndarray | None = None  # what the last experience of `add` ended with

    def __len__(self) -> int:
        return 0 if self._memory is None else len(self._memory)

    @property
    def prioritized(self) -> bool:
        """Whether there are priorities."""
        return self._tree is not None

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, those on a disk too."""
        tree = 0 if self._tree is None else self._tree.nbytes
        return tree + (0 if self._memory is None else self._memory.nbytes)

    def is_ready(self, batch_size: int) -> bool:
        """Return whether there are ``batch_size`` transitions."""
        return len(self) >= batch_size

    # Filling

    def add(self, experience: tuple[Any, ...]) -> None:
        """Add ``(state, action, reward, next_state, done)``, or those and ``truncated``.

        A transition is there once it is over ``n_step`` steps long or its episode ends: with ``done`` for
        good, with ``truncated`` cut off, so that what comes after ``next_state`` has value. An experience
        whose state is not the last one's next state begins a new episode, and the steps that waited are
        forgotten.

        Raises:
            ExperienceError: it has another form or shape, or is not finite; then nothing has changed.
        """
        if not 5 <= len(experience) <= 6:
            raise ExperienceError(
                "experience must be (state, action, reward, next_state, done) or these and truncated, "
                f"got {len(experience)} entries"
            )
        state, following = (np.asarray(experience[i], np.float32) for i in (0, 3))
        action, reward, done = int(experience[1]), float(experience[2]), bool(experience[4])
        self._check(state, following, reward)
        if self._follows is None or not np.array_equal(self._follows, state):
            self.begin(state[None])
        truncated = len(experience) == 6 and bool(experience[5]) and not done
        self._advance(
            np.array([action]),
            np.array([reward]),
            following.reshape(1, -1),
            terminated=np.array([done]),
            cut=np.array([truncated]),
        )
        self._follows = None if done or truncated else following.copy()

    def _check(self, state: np.ndarray, following: np.ndarray, reward: float) -> None:
        shape = state.shape if self._memory is None else self._shape
        if state.shape != shape or following.shape != shape:
            raise ExperienceError(
                f"state and next_state must have shape {shape}, got {state.shape} and {following.shape}"
            )
        if not (math.isfinite(reward) and np.isfinite(state).all() and np.isfinite(following).all()):
            raise ExperienceError(f"state, reward and next_state must be finite, got reward {reward}")

    def begin(self, observations: np.ndarray) -> None:
        """Begin episodes in S streams with observations (S, *shape); steps that waited are forgotten.

        Raises:
            ExperienceError: the observations have another shape than those before.
        """
        rows = np.asarray(observations, np.float32)
        if self._memory is None:
            self._shape = rows.shape[1:]
            self._memory = TransitionMemory(
                self.max_size,
                math.prod(self._shape),
                margin=(self.n_step + 2) * len(rows),
                folder=self._directory,
            )
        if rows.shape[1:] != self._shape:
            raise ExperienceError(f"observations must have shape (S, *{self._shape}), got {rows.shape}")
        self._end_streams()
        self._sums = NStepSums(self.n_step, self.gamma, len(rows))
        self._numbers = self._memory.store(rows.reshape(len(rows), math.prod(self._shape)))

    def add_steps(
        self,
        actions: np.ndarray,
        rewards: np.ndarray,
        observations: np.ndarray,
        *,
        terminated: np.ndarray,
        ended: np.ndarray,
        final_observations: np.ndarray | None = None,
        active: np.ndarray | None = None,
        present: np.ndarray | None = None,
    ) -> None:
        """Add one step of all S streams.

        Args:
            actions: (S,) int, what was done after the observations of the last call.
            rewards: (S,) what it earned.
            observations: (S, *shape), upon which is decided next; where an episode ended, the first of the
                next one.
            terminated: (S,) bool, the stream's task ended for good.
            ended: (S,) bool, the episode is over; unless it terminated, it was cut off.
            final_observations: (E, *shape), the last ones of the E streams with ``ended``, in order.
            active: (S,) bool, who took part; None: all.
            present: (S,) bool, who takes part next; None: all.

        Raises:
            ExperienceError: `begin` was not called, or there are not as many rows as streams.
        """
        sizes = {len(array) for array in (actions, rewards, observations, terminated, ended)}
        if self._sums is None or sizes != {self._sums.streams}:
            raise ExperienceError(
                f"steps must be of the streams that begin was called with, {len(self._numbers)}, "
                f"got {sorted(sizes)}"
            )
        features = math.prod(self._shape)
        rows = np.asarray(observations, np.float32).reshape(-1, features)
        finals = None
        if final_observations is not None:
            finals = np.asarray(final_observations, np.float32).reshape(-1, features)
        self._advance(
            actions,
            rewards,
            rows,
            terminated=terminated,
            cut=ended & ~terminated,
            ended=ended,
            finals=finals,
            active=active,
            present=present,
        )

    def _advance(
        self,
        actions: np.ndarray,
        rewards: np.ndarray,
        rows: np.ndarray,
        *,
        terminated: np.ndarray,
        cut: np.ndarray,
        ended: np.ndarray | None = None,
        finals: np.ndarray | None = None,
        active: np.ndarray | None = None,
        present: np.ndarray | None = None,
    ) -> None:
        assert self._memory is not None
        assert self._sums is not None
        begun, self._numbers = self._numbers, self._memory.store(rows)
        following = self._numbers  # (S,)
        if finals is not None and ended is not None and len(finals):
            following = following.copy()
            following[ended] = self._memory.store(finals)
        complete = self._sums.add(
            begun, actions, rewards, terminated=terminated, cut=cut, active=active, followed=present
        )
        places = self._memory.add(complete, following[complete.streams])
        if self._tree is not None and len(places):
            self._tree.set(places, np.full(len(places), self._highest**self.alpha))

    # Drawing

    def sample(self, batch_size: int) -> list[tuple[np.ndarray, int, float, np.ndarray, bool]]:
        """Return ``batch_size`` transitions ``(state, action, reward, next_state, done)``.

        With ``n_step`` above 1 the reward is the discounted sum and the next state that after the last step.

        Raises:
            ExperienceError: there are fewer.
        """
        t = self.sample_batch(batch_size).transitions
        shape = (-1, *self._shape)
        columns = (
            t.states.reshape(shape),
            t.actions.tolist(),
            t.rewards.tolist(),
            t.next_states.reshape(shape),
            (t.discounts == 0.0).tolist(),
        )
        return list(zip(*columns, strict=True))

    def sample_batch(self, batch_size: int) -> Batch:
        """Return ``batch_size`` transitions, drawn with replacement, as arrays of flat observations.

        Raises:
            ExperienceError: there are fewer.
        """
        if batch_size < 1 or not self.is_ready(batch_size) or self._memory is None:
            raise ExperienceError(
                f"batch_size must be from 1 to the {len(self)} transitions that there are, got {batch_size}"
            )
        if self._tree is None:
            places = self._rng.integers(len(self), size=batch_size)
            return Batch(self._memory.take(places), places, None)
        # One draw from each of equal parts of the sum: fewer repetitions (Schaul et al. 2016).
        masses = (np.arange(batch_size) + self._rng.random(batch_size)) * (self._tree.total / batch_size)
        places = self._tree.find(masses)
        chances = self._tree.get(places) / self._tree.total
        weights = (len(self) * chances) ** -self.beta
        return Batch(self._memory.take(places), places, (weights / weights.max()).astype(np.float32))

    def update_priorities(self, places: np.ndarray, errors: np.ndarray) -> None:
        """Give the transitions at ``places`` (k,) of a `Batch` the size of their ``errors`` (k,) as priority.

        Raises:
            ExperienceError: there are no priorities, or an error is not finite.
        """
        if self._tree is None:
            raise ExperienceError("prioritized must be True for priorities, got False")
        if not np.isfinite(errors).all():
            raise ExperienceError(f"errors must be finite, got {errors}")
        priorities = np.abs(errors).astype(np.float64) + LEAST_PRIORITY
        self._highest = max(self._highest, float(priorities.max(initial=0.0)))
        self._tree.set(places, priorities**self.alpha)
