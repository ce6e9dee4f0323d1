"""What happens to the agents from outside: demand, capacity, price, presence.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from camac_dra.environment.constraints import Constraints


@dataclass(slots=True)
class Draw:
    """The exogenous events of one step, in the units of the resources."""

    arrivals: np.ndarray  # (B, N, R) new demand, zero for absent agents
    capacity: np.ndarray  # (B, K, R) or (1, K, R), infinite where a group does not bind
    price: np.ndarray  # (B, R) or (1, R) per nominal fair share granted
    present: np.ndarray | None = None  # (B, N) bool; None: everybody
    leaving: np.ndarray | None = None  # (B, N) bool, leaves at the end of this step; None: nobody
    service_yield: np.ndarray | None = None  # (B, N, R) served per granted unit, in (0, 1]; None: 1
    features: np.ndarray | None = None  # (B, N, X) further observations, of order one
    deadline: np.ndarray | None = None  # (B, N) steps left for what is pending, this one included; inf: none
    announced: np.ndarray | None = (
        None  # (B, N) the same as agents announced it, 0 or less when overdue; inf: not
    )


class Dynamics(ABC):
    """A generator of exogenous events for B copies in lockstep.

    Its draws never depend on what agents do, so that all policies meet the same episodes under the same seed.
    Every copy is at the same time step. ``draw`` must answer for ``time`` from 0 to ``episode_length``
    inclusive:
    the last one is only observed (for bootstrapping), never acted on.
    """

    num_features: int = 0  # X of Draw.features

    def __init__(self, num_envs: int, constraints: Constraints, episode_length: int) -> None:
        """Prepare for ``num_envs`` copies of episodes of ``episode_length`` steps under ``constraints``."""
        self.num_envs = num_envs
        self.constraints = constraints
        self.nominal_capacity = constraints.capacity[
            None
        ]  # (1, K, R), the very array in draws without outages
        self.episode_length = episode_length
        self.num_agents, self.num_resources = constraints.fair_share.shape

    @abstractmethod
    def begin(self, rng: np.random.Generator) -> None:
        """Start new episodes in all copies."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, time: int) -> Draw:
        """Return the events of step ``time``; called once per step, in order."""

    def restart(self) -> None:
        """Forget which episodes were played: the generator was seeded anew."""
        return

    def features(self, draw: Draw, pending: np.ndarray) -> np.ndarray | None:
        """Return further observations (B, N, X) of order one in a step whose pending demand is (B, N, R)."""
        return draw.features

    @abstractmethod
    def clock(self, time: int) -> tuple[float, float]:
        """Return sine and cosine of the time of day, or whatever cycle the dynamics have."""

    @abstractmethod
    def get_state(self) -> dict[str, Any]:
        """Return what the future of the running episodes depends on, besides the generator's state."""

    @abstractmethod
    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what ``get_state`` returned."""
