"""``ExperienceBuffer``: what was experienced, to learn from it again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike

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


@dataclass(slots=True)
class _Streams:
    """What one source's S streams go through."""

    sums: NStepSums
    numbers: np.ndarray  # (S,) of the observations that are decided upon next

    def get_state(self) -> dict[str, Any]:
        return {"sums": self.sums.get_state(), "numbers": torch.from_numpy(self.numbers.copy())}


class ExperienceBuffer:
    """Replay buffer: the latest ``max_size`` transitions over ``n_step`` steps, in arrays.

    Memory: ``4.25 F + 28`` bytes for a transition of F features, 16 more with priorities (rounded up to a
    power of two): 286 MiB for 1,000,000 transitions of 64 features, 302 MiB with priorities. An observation
    that ends a transition and begins the next is kept once; where transitions do not follow each other, each
    has two and takes up to 4 F bytes more; components of an action beyond the first take 4 bytes each. With
    ``directory`` the observations are in a memory map of an
    unnamed file there, and 28 (44) bytes per transition in memory. Room is taken when the first experience
    comes, by the system as it fills.

    Several streams (agents, copies of an environment) fill it side by side: `begin` and `add_steps`, also
    from several sources (sampling processes) that take turns; a single one by `add`.
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
        action_shape: tuple[int, ...] = (),
        action_dtype: DTypeLike = np.int64,
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
            action_shape: of one action; () for a choice among some.
            action_dtype: of whole numbers, or of others for continuous actions.
            seed: of what is drawn.

        Raises:
            ConfigurationError: a setting is out of range.
        """
        self.max_size = whole_number("max_size", max_size)
        self.n_step = whole_number("n_step", n_step)
        self.gamma = number("gamma", gamma, 0.0, 1.0)
        self.alpha, self.beta = number("alpha", alpha, 0.0), number("beta", beta, 0.0, 1.0)
        self._directory = directory
        self._actions: dict[str, Any] = {"action_shape": action_shape, "action_dtype": action_dtype}
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
        self._streams: dict[int, _Streams] = {}  # by source
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
            self._streams[0],
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

    def follows(self, observations: np.ndarray, source: int = 0) -> bool:
        """Return whether the steps of a source go on from these observations (S, *shape)."""
        streams = self._streams.get(source)
        if streams is None or self._memory is None or len(streams.numbers) != len(observations):
            return False
        rows = np.asarray(observations, np.float32).reshape(len(observations), -1)
        return bool(np.array_equal(self._memory.observations(streams.numbers), rows))

    def begin(self, observations: np.ndarray, source: int = 0, mask_size: int = 0) -> None:
        """Begin episodes in the S streams of a source with observations (S, *shape); steps of it that waited
        are forgotten. ``mask_size`` is that of the masks that `add_steps` is given, 0 without.

        Raises:
            ExperienceError: the observations have another shape than those before.
        """
        rows = np.asarray(observations, np.float32)
        if self._memory is None:
            self._shape = rows.shape[1:]
            self._memory = TransitionMemory(
                self.max_size,
                math.prod(self._shape),
                mask_size,
                margin=(self.n_step + 2) * len(rows),
                folder=self._directory,
                **self._actions,
            )
        if rows.shape[1:] != self._shape:
            raise ExperienceError(f"observations must have shape (S, *{self._shape}), got {rows.shape}")
        self._follows = None
        self._streams[source] = _Streams(
            NStepSums(self.n_step, self.gamma, len(rows), **self._actions),
            self._memory.store(rows.reshape(len(rows), math.prod(self._shape))),
        )

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
        next_masks: np.ndarray | None = None,
        source: int = 0,
    ) -> None:
        """Add one step of all S streams of a source.

        Args:
            actions: (S, *action_shape), what was done after the observations of the last call.
            rewards: (S,) what it earned.
            observations: (S, *shape), upon which is decided next; where an episode ended, the first of the
                next one.
            terminated: (S,) bool, the stream's task ended for good.
            ended: (S,) bool, the episode is over; unless it terminated, it was cut off.
            final_observations: (E, *shape), the last ones of the E streams with ``ended``, in order.
            active: (S,) bool, who took part; None: all.
            present: (S,) bool, who takes part next; None: all.
            next_masks: (S, A) bool, which actions are possible next; None: all.
            source: whose streams they are.

        Raises:
            ExperienceError: `begin` was not called, or there are not as many rows as streams.
        """
        sizes = {len(array) for array in (actions, rewards, observations, terminated, ended)}
        streams = self._streams.get(source)
        if streams is None or sizes != {len(streams.numbers)}:
            raise ExperienceError(
                "steps must be of the streams that begin was called with, "
                f"{0 if streams is None else len(streams.numbers)}, got {sorted(sizes)}"
            )
        features = math.prod(self._shape)
        rows = np.asarray(observations, np.float32).reshape(-1, features)
        finals = None
        if final_observations is not None:
            finals = np.asarray(final_observations, np.float32).reshape(-1, features)
        self._advance(
            streams,
            actions,
            rewards,
            rows,
            terminated=terminated,
            cut=ended & ~terminated,
            ended=ended,
            finals=finals,
            active=active,
            present=present,
            next_masks=next_masks,
        )

    def _advance(
        self,
        streams: _Streams,
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
        next_masks: np.ndarray | None = None,
    ) -> None:
        assert self._memory is not None
        begun, streams.numbers = streams.numbers, self._memory.store(rows)
        following = streams.numbers  # (S,)
        if finals is not None and ended is not None and len(finals):
            following = following.copy()
            following[ended] = self._memory.store(finals)
        complete = streams.sums.add(
            begun, actions, rewards, terminated=terminated, cut=cut, active=active, followed=present
        )
        masks = None if next_masks is None else next_masks[complete.streams]
        places = self._memory.add(complete, following[complete.streams], masks)
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

    # State

    def get_state(self) -> dict[str, Any]:
        """Return everything that is drawn later on, as plain values and tensors.

        The observations among them are copies: it takes as much memory again.
        """
        return {
            "generator": self._rng.bit_generator.state,
            "shape": list(self._shape),
            "highest": self._highest,
            "memory": None if self._memory is None else self._memory.get_state(),
            "priorities": None if self._tree is None else self._tree.get_state(),
            "streams": {
                source: {
                    "sums": streams.sums.get_state(),
                    "numbers": torch.from_numpy(streams.numbers.copy()),
                }
                for source, streams in self._streams.items()
            },
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` of a buffer with the same settings returned.

        Raises:
            ExperienceError: the state is of another buffer.
        """
        if (state["priorities"] is None) != (self._tree is None):
            raise ExperienceError("state must be of a buffer that has priorities where this one has")
        self.clear()
        self._rng.bit_generator.state = state["generator"]
        self._shape, self._highest = tuple(state["shape"]), float(state["highest"])
        if self._tree is not None:
            self._tree.set_state(state["priorities"])
        if state["memory"] is None:
            return
        masks = state["memory"]["next_masks"]
        self._memory = TransitionMemory(
            self.max_size,
            math.prod(self._shape),
            0 if masks is None else masks.shape[1],
            folder=self._directory,
            **self._actions,
        )
        self._memory.set_state(state["memory"])
        for source, kept in state["streams"].items():
            numbers = kept["numbers"].numpy().copy()
            streams = _Streams(NStepSums(self.n_step, self.gamma, len(numbers), **self._actions), numbers)
            streams.sums.set_state(kept["sums"])
            self._streams[source] = streams
