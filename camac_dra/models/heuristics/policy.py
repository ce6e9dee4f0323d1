"""What evaluation asks of every policy, trained or not: requests for all copies and agents at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np

from camac_dra.environment.agreement import Agreement
from camac_dra.environment.vector_environment import VectorEnvironment


class RequestPolicy(Protocol):
    """Decides what all agents of all copies ask for.

    It may look at ``env.state`` and ``env.observations``, never at what is still to come.
    """

    name: str
    agreement: Agreement | None  # what happens between its requests and contention; None: nothing

    def begin(self, env: VectorEnvironment) -> None:
        """Forget earlier episodes; called after every reset, before the first decision."""
        ...

    def requests(self, env: VectorEnvironment) -> np.ndarray:
        """Return requests (B, N, R) in the resources' units; what is not pending or allowed is cut off."""
        ...


class Heuristic(ABC):
    """A policy made by hand. It remembers nothing between episodes and may be used for any environment.

    Attributes:
        name: its key in `HEURISTICS`.
        description: what it does, in one line.
        central: one planner decides for all, with everybody's demand before it; else
            each agent decides alone.
        told: what it is told beyond everybody's queues, which agents are not; None: nothing.
        agreement: None, or what agents need to settle on together before they ask.
    """

    name: str
    description: str
    central: bool = False
    told: str | None = None
    agreement: Agreement | None = None

    def begin(self, env: VectorEnvironment) -> None:  # noqa: B027 - most have nothing to forget
        """Forget earlier episodes; called after every reset, before the first decision."""

    @abstractmethod
    def requests(self, env: VectorEnvironment) -> np.ndarray:
        """Return requests (B, N, R) in the resources' units; what is not pending or allowed is cut off."""
