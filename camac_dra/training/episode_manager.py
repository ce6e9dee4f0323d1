"""The life of episodes in all copies of an environment: begin, step, cut off, count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from camac_dra.environment.vector_api import StepResult, VectorMultiAgentEnvironment
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.errors import ActionError, CapabilityError, ConfigurationError


@dataclass(frozen=True, slots=True)
class FinishedEpisode:
    """One episode of one copy that is over."""

    reward: float  # summed over agents and steps
    length: int  # steps


class EpisodeManager:
    """Steps an environment's copies and keeps the returns and lengths of their running episodes.

    With ``max_steps`` episodes that would go on are cut off after so many steps, as the environment itself
    does it at its own length: truncated, with their last observations and measures, and new ones begun.

    Attributes:
        env: the environment; stepped past the manager, it would lose count.
        observations: (B, N, *shape) float32, upon which is decided next.
        rewards: (B,) summed over agents since each running episode began.
        lengths: (B,) steps since then.
    """

    def __init__(self, env: VectorMultiAgentEnvironment, max_steps: int | None = None) -> None:
        """Manage the episodes of ``env``; they begin with `begin`.

        Raises:
            ConfigurationError: ``max_steps`` is below 1.
            CapabilityError: the copies of such an environment cannot be cut off.
        """
        if max_steps is not None and max_steps < 1:
            raise ConfigurationError(f"max_steps must be at least 1, got {max_steps}")
        if max_steps is not None and not isinstance(env, VectorEnvironment):
            raise CapabilityError(
                f"max_steps needs a VectorEnvironment, whose copies are in step, got {type(env).__name__}"
            )
        self.env = env
        self.max_steps = max_steps
        self.observations: np.ndarray
        self._begun = False
        self.rewards = np.zeros(env.num_envs)
        self.lengths = np.zeros(env.num_envs, np.int64)
        self._finished: list[FinishedEpisode] = []

    def begin(self, seed: int | None = None) -> np.ndarray:
        """Begin new episodes in all copies and return their observations (B, N, *shape)."""
        self.observations = self.env.reset(seed=seed)
        self.rewards[:], self.lengths[:] = 0.0, 0
        self._begun = True
        return self.observations

    def step(self, actions: np.ndarray) -> StepResult:
        """Advance all copies by one step; see `VectorMultiAgentEnvironment.step`.

        Raises:
            ActionError: `begin` was not called, or the actions do not fit.
        """
        if not self._begun:
            raise ActionError("step: no episode is running; call begin() first")
        result = self.env.step(actions)
        self.rewards += result.rewards.sum(axis=1)
        self.lengths += 1
        if self.max_steps is not None and self.lengths[0] >= self.max_steps and not result.done.any():
            self._cut(result)
        self.observations = result.observations
        if result.done.any():
            self._finish(np.flatnonzero(result.done))
        return result

    def _cut(self, result: StepResult) -> None:
        """End the episodes of all copies, which are in step, here, and begin new ones."""
        assert isinstance(self.env, VectorEnvironment)
        result.final_observations, result.episodes = result.observations, self.env.measures()
        result.truncated = result.done = np.ones(self.env.num_envs, bool)
        result.observations = self.env.reset()
        result.present = self.env.present

    def _finish(self, ended: np.ndarray) -> None:
        pairs = zip(self.rewards[ended].tolist(), self.lengths[ended].tolist(), strict=True)
        self._finished += [FinishedEpisode(reward, length) for reward, length in pairs]
        self.rewards[ended], self.lengths[ended] = 0.0, 0

    def take_finished(self) -> list[FinishedEpisode]:
        """Return the episodes that ended since the last call, in order of time and copy."""
        finished, self._finished = self._finished, []
        return finished

    def get_state(self) -> dict[str, Any]:
        """Return observations, returns and lengths of the running episodes as tensors; not the environment's
        own state.
        """
        return {
            "observations": torch.tensor(self.observations),
            "episode_returns": torch.tensor(self.rewards),
            "episode_lengths": torch.tensor(self.lengths),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` returned, in an environment that goes on from its own state."""
        self.observations = state["observations"].numpy().copy()
        self.rewards = state["episode_returns"].numpy().copy()
        self.lengths = state["episode_lengths"].numpy().copy()
        self._finished, self._begun = [], True
