"""The place between request and contention where agents may agree: a callable on arrays.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from camac_dra.environment.allocation import get_mechanism, is_deterministic
from camac_dra.environment.groups import Groups
from camac_dra.utils.errors import AllocationError


def in_fair_shares(amounts: np.ndarray, fair_share: np.ndarray) -> np.ndarray:
    """Return amounts (..., N, R) in nominal fair shares (N, R), 0 where there is nothing to share."""
    return amounts * np.divide(1.0, fair_share, out=np.zeros_like(fair_share), where=fair_share > 0.0)


@dataclass(slots=True)
class AgreementContext:
    """What a protocol may use besides the intended requests."""

    capacity: np.ndarray  # (B, K, R) or (1, K, R) of this step, before contention
    groups: Groups
    weights: np.ndarray  # (B, N)
    queues: np.ndarray  # (B, N, R) what each could ask for, in nominal fair shares
    present: np.ndarray  # (B, N) bool
    time: int  # step within the episode
    rng: np.random.Generator

    def repeated(self, copies: int) -> AgreementContext:
        """Return the context of ``copies`` batches, one after the other."""
        capacity = self.capacity if len(self.capacity) == 1 else np.tile(self.capacity, (copies, 1, 1))
        weights, present = np.tile(self.weights, (copies, 1)), np.tile(self.present, (copies, 1))
        queues = np.tile(self.queues, (copies, 1, 1))
        return replace(self, capacity=capacity, weights=weights, queues=queues, present=present)


class Agreement(Protocol):
    """Turns the requests that agents intend into those that they make."""

    rounds: int  # exchanges per decision
    messages: int  # messages per decision and copy

    def __call__(self, requests: np.ndarray, context: AgreementContext) -> np.ndarray:
        """Return the agreed requests (B, N, R), never above ``requests`` (B, N, R)."""
        ...


# Takes requests (C * B, N, R) of C batches, one after the other, and C; returns what is agreed on.
Decide = Callable[[np.ndarray, int], np.ndarray]


@runtime_checkable
class PreparedAgreement(Agreement, Protocol):
    """An agreement that draws all lots of a decision beforehand, and so can be reached again under them."""

    def prepare(self, context: AgreementContext) -> Decide:
        """Draw what chance decides in this decision; what is returned draws nothing, however often asked."""
        ...


class PerfectAgreement:
    """Everybody knows everybody's intention at once: requests are cut by a mechanism until they fit.

    This is no protocol but the bound that protocols are measured against: it costs one round and no messages.
    """

    rounds = 1
    messages = 0

    def __init__(self, mechanism: str = "proportional") -> None:
        """Cut with ``mechanism``, any name of ``allocation.STRATEGIES`` that is deterministic.

        Raises:
            AllocationError: the mechanism is unknown or draws lots.
        """
        if not is_deterministic(mechanism):
            raise AllocationError(
                f"the mechanism of an agreement must be deterministic, got {mechanism!r}: use 'proportional'"
            )
        self._allocate = get_mechanism(mechanism)

    def __call__(self, requests: np.ndarray, context: AgreementContext) -> np.ndarray:
        """Return requests (B, N, R) that fit the capacity of every group."""
        return self._allocate(requests, context.capacity, context.groups, context.weights)


class Negotiation:
    """One decision's agreement, which can be reached again from other requests under the same draws."""

    def __init__(self, agreement: Agreement, context: AgreementContext) -> None:
        """Prepare to agree once in ``context``; messages may get lost by draws from its generator."""
        self._agreement, self._context = agreement, context
        self._decide = agreement.prepare(context) if isinstance(agreement, PreparedAgreement) else None
        if self._decide is None:
            self._before = context.rng.bit_generator.state
        self._drew = False

    def agree(self, requests: np.ndarray) -> np.ndarray:
        """Return what is agreed on (B, N, R), never above ``requests`` (B, N, R)."""
        if self._decide is not None:
            return np.minimum(self._decide(requests, 1), requests)
        agreed = np.minimum(self._agreement(requests, self._context), requests)
        self._drew = self._context.rng.bit_generator.state != self._before
        return agreed

    def agree_again(self, requests: np.ndarray, copies: int) -> np.ndarray:
        """Return what would have been agreed on from other requests (copies * B, N, R), batch after batch.

        The context's generator is left alone.
        """
        if self._decide is not None:
            return np.minimum(self._decide(requests, copies), requests)
        if not self._drew:
            return self._replay(requests, self._context.repeated(copies))
        # Draws fall alike only in arrays of the shape they first fell in.
        return np.concatenate([self._replay(batch, self._context) for batch in np.split(requests, copies)])

    def _replay(self, requests: np.ndarray, context: AgreementContext) -> np.ndarray:
        """Return what is agreed on from ``requests`` when every draw falls as it did at first."""
        rng = np.random.Generator(type(context.rng.bit_generator)(0))
        rng.bit_generator.state = self._before
        return np.minimum(self._agreement(requests, replace(context, rng=rng)), requests)
