"""The place between request and contention where agents may agree: a callable on arrays.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from camac_dra.environment.allocation import get_mechanism
from camac_dra.environment.groups import Groups


@dataclass(slots=True)
class AgreementContext:
    """What a protocol may use besides the intended requests."""

    capacity: np.ndarray  # (B, K, R) or (1, K, R) of this step, before contention
    groups: Groups
    weights: np.ndarray  # (B, N)
    present: np.ndarray  # (B, N) bool
    time: int  # step within the episode
    rng: np.random.Generator


class Agreement(Protocol):
    """Turns the requests that agents intend into those that they make."""

    rounds: int  # exchanges per decision
    messages: int  # messages per decision and copy

    def __call__(self, requests: np.ndarray, context: AgreementContext) -> np.ndarray:
        """Return the agreed requests (B, N, R), never above ``requests`` (B, N, R)."""
        ...


class PerfectAgreement:
    """Everybody knows everybody's intention at once: requests are cut by a mechanism until they fit.

    This is no protocol but the bound that protocols are measured against: it costs one round and no messages.
    """

    rounds = 1
    messages = 0

    def __init__(self, mechanism: str = "proportional") -> None:
        """Cut with ``mechanism``, any name of ``allocation.STRATEGIES`` that is deterministic."""
        self._allocate = get_mechanism(mechanism)

    def __call__(self, requests: np.ndarray, context: AgreementContext) -> np.ndarray:
        """Return requests (B, N, R) that fit the capacity of every group."""
        return self._allocate(requests, context.capacity, context.groups, context.weights)
