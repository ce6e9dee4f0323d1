"""The contract between vectorised multi-agent environments and everything that samples from them.

``VectorEnvironment`` (the allocation problem) and ``ForeignVectorEnvironment`` (any PettingZoo
``ParallelEnv``) implement it; the array env runner relies on nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces


@dataclass(slots=True)
class StepResult:
    """What one step of B copies returned.

    Autoreset is of the *same step* kind: a copy whose episode ended in this step has been reset already, its
    row of ``observations`` is the first of the new episode, and the last one of the old episode is in
    ``final_observations``. ``truncated`` asks for bootstrapping from there; ``terminated`` forbids it.
    """

    observations: np.ndarray  # (B, N, *observation_shape) float32, of the next decision
    rewards: np.ndarray  # (B, N) float64, zero where not active
    terminated: np.ndarray  # (B, N) bool, the agent's own task ended for good in this step
    truncated: np.ndarray  # (B,) bool, the episode of this copy was cut off in this step
    active: np.ndarray  # (B, N) bool, the agent took part in this step (its row belongs into a batch)
    present: np.ndarray  # (B, N) bool, the agent takes part in the next decision
    done: np.ndarray  # (B,) bool, the copy was reset (truncated, or all its agents terminated)
    # Of the D copies with done, in order: (D, N, *observation_shape), and their finished episodes' measures.
    final_observations: np.ndarray | None = None
    episodes: list[dict[str, float]] = field(default_factory=list)
    rewards_by_resource: np.ndarray | None = None  # (B, N, R) float64, sums to rewards; where asked for
    info: dict[str, np.ndarray] = field(default_factory=dict)  # arrays of the step, e.g. grants (B, N, R)


@dataclass(frozen=True, slots=True)
class Flags:
    """What most step results hold, made once; not to be written to."""

    everybody: np.ndarray  # (B, N) bool, all True
    nobody: np.ndarray  # (B, N) bool, all False
    all_copies: np.ndarray  # (B,) bool, all True
    no_copies: np.ndarray  # (B,) bool, all False

    @classmethod
    def of(cls, num_envs: int, num_agents: int) -> Flags:
        """Make them for B copies of N agents."""
        cells = (num_envs, num_agents)
        flags = [np.full(shape, value) for shape in (cells, num_envs) for value in (True, False)]
        for array in flags:
            array.flags.writeable = False
        return cls(*flags)


class VectorMultiAgentEnvironment(Protocol):
    """B copies of an N-agent environment, stepped at once; all agents share one pair of spaces.

    An environment in which actions can be impossible has an attribute ``action_masks`` besides, (B, N, A)
    bool, or (B, N, D * W) for MultiDiscrete spaces of D components padded to W choices: false where an action
    is impossible in the next decision. None, as for environments without it, says that all are possible.
    """

    num_envs: int
    agent_ids: list[str]  # length N

    @property
    def single_observation_space(self) -> spaces.Box:
        """What one agent observes."""
        ...

    @property
    def single_action_space(self) -> spaces.Space[Any]:
        """What one agent may do: Discrete, MultiDiscrete or Box."""
        ...

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Start new episodes in all copies and return observations (B, N, *observation_shape)."""
        ...

    @property
    def present(self) -> np.ndarray:
        """(B, N) bool: which agents take part in the next decision."""
        ...

    def step(self, actions: np.ndarray) -> StepResult:
        """Advance all copies by one step; actions of absent agents are ignored.

        ``actions`` is (B, N) int for Discrete, (B, N, D) int for MultiDiscrete and (B, N, D) float for Box.
        """
        ...

    def get_state(self) -> dict[str, Any]:
        """Return everything that the future depends on, random state included, as plain values and arrays."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue exactly from what ``get_state`` returned."""
        ...

    def close(self) -> None:
        """Release what the environment holds."""
        ...
