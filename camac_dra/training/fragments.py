"""What an env runner returns: one time-major fragment of experience of all its copies and agents."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from camac_dra.models.normalization import RunningMoments


@dataclass(slots=True)
class Fragment:
    """T steps of B copies and N agents, and what is needed to bootstrap at every cut.

    Arrays of a local env runner are views of buffers that its next ``sample`` overwrites.
    """

    observations: np.ndarray  # (T + 1, B, N, *shape) float32; the last ones are of the next decision
    actions: (
        np.ndarray
    )  # (T, B, N, *action_shape) int64 or float32, before scaling to the environment's bounds
    log_probs: np.ndarray  # (T, B, N) float32, or (T, B, N, C) where action components are credited each
    rewards: np.ndarray  # the same
    terminated: np.ndarray  # (T, B, N) bool
    active: np.ndarray  # (T, B, N) bool, whether the row belongs into a batch
    done: np.ndarray  # (T, B) bool, whether the copy was reset after the step
    final_observations: (
        np.ndarray
    )  # (D, N, *shape) float32, last ones of the D ended episodes, in order of (t, copy)
    moments: RunningMoments | None  # of the observations of active rows, where observations are normalised
    episodes: list[dict[str, float]] = field(default_factory=list)  # measures of the D ended episodes
    worker_index: int = 0
    masks: np.ndarray | None = None  # (T, B, N, O) bool, which actions were possible; None: all
    memory: np.ndarray | None = None  # (B, N, M) what was remembered before the first step, where networks do
    present: np.ndarray | None = None  # (B, N) bool, who takes part in the next decision; None: all
    next_masks: np.ndarray | None = None  # (B, N, O) bool, which actions are possible in it; None: all
    weights_number: int = 0  # updates that the weights had seen which acted

    @property
    def env_steps(self) -> int:
        """T * B."""
        return int(self.done.size)

    @property
    def agent_steps(self) -> int:
        """Rows that belong into a batch."""
        return int(np.count_nonzero(self.active))
