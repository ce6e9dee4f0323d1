"""`centralized` on arrays: what coordinator and members do, for all agents and copies at once.

Axes, always in this order: B parallel copies, T trips, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from camac_dra.coordination.agreements.trace import Trace, traced
from camac_dra.coordination.protocols.central import deadline_trip
from camac_dra.coordination.protocols.plan import Plan
from camac_dra.coordination.protocols.resolution import mechanism_of, resolve
from camac_dra.environment.agreement import AgreementContext
from camac_dra.environment.groups import FloatArray

_NUMBER = 8  # bytes
_SAMPLES = 4096  # decisions from which the mean number of messages is taken


@dataclass(frozen=True, slots=True, eq=False)
class Trips:
    """What becomes of the messages of one decision, whatever they say."""

    heard: np.ndarray  # (B, N) bool: whose request the coordinator had when it decided
    answered: np.ndarray  # (B, N) bool: who had its answer in the end
    messages: np.ndarray  # (B,)


class CentralAgreement:
    """One coordinator cuts requests to fit; who is not heard, or not answered, makes do with its fair share.

    Attributes:
        rounds: exchanges per decision at most, two per trip.
        messages: per decision and copy, the mean where messages get lost.
        bytes: of the arrays in them, per decision and copy.
    """

    def __init__(self, plan: Plan, fair_share: FloatArray) -> None:
        """Prepare for a plan from `plan_protocol`; ``fair_share`` (N, R) is nominal."""
        self._plan, self._fair_share = plan, fair_share
        self._objective, self._mechanism = plan.objective, mechanism_of(plan.objective_name)
        self.rounds = plan.rounds
        lots = self.draw_lots(np.random.default_rng(0), 1 if plan.message_loss == 0.0 else _SAMPLES)
        self.messages = round(float(self._trips(lots).messages.mean()))
        # Half of the messages are requests, which also say what they are worth where that changes.
        said = self.messages * 3 // 2 if self._objective.by_queue else self.messages
        self.bytes = said * fair_share.shape[1] * _NUMBER

    def __call__(self, requests: FloatArray, context: AgreementContext) -> FloatArray:
        """Return what is agreed on (B, N, R), never above ``requests`` (B, N, R)."""
        return self.prepare(context)(requests, 1)

    def prepare(self, context: AgreementContext) -> partial[FloatArray]:
        """Draw the lots of one decision; see `Negotiation`."""
        return self.under(self.draw_lots(context.rng, len(context.present)), context)

    def draw_lots(self, rng: np.random.Generator, copies: int) -> np.ndarray | None:
        """Draw which requests and which answers arrive (B, T, 2, N) bool; None: all."""
        if self._plan.message_loss == 0.0:
            return None
        size = (copies, self._plan.trips, 2, len(self._fair_share))
        return rng.random(size) >= self._plan.message_loss

    def under(self, lots: np.ndarray | None, context: AgreementContext) -> partial[FloatArray]:
        """Return a decision under these lots; see `AveragingDecision`."""
        return partial(self._decide, self._trips(lots), context)

    def trace(self, requests: FloatArray, context: AgreementContext) -> Trace:
        """Return what is agreed on in the one round after which anything is."""
        return traced(requests, [self(requests, context)], context)

    def _trips(self, lots: np.ndarray | None) -> Trips:
        """Play who hears whom."""
        if lots is None:
            everybody = np.ones((1, len(self._fair_share)), bool)
            return Trips(everybody, everybody, np.full(1, 2 * len(self._fair_share)))
        copies, trips, _, agents = lots.shape
        heard, answered = np.zeros((copies, agents), bool), np.zeros((copies, agents), bool)
        decided, messages = np.zeros((copies, 1), bool), np.zeros(copies)
        for trip in range(trips):
            asking = ~answered
            arrived = asking & lots[:, trip, 0]
            heard |= arrived & ~decided
            decides = ~decided & (heard.all(axis=1, keepdims=True) | (trip + 1 >= deadline_trip(trips)))
            answers = decides | (decided & arrived)  # (B, N)
            decided |= decides
            answered |= answers & lots[:, trip, 1]
            messages += asking.sum(axis=1) + np.broadcast_to(answers, asking.shape).sum(axis=1)
        return Trips(heard, answered, messages)

    def _decide(
        self, trips: Trips, context: AgreementContext, requests: FloatArray, copies: int
    ) -> FloatArray:
        """Return what is agreed on (C * B, N, R) from requests of ``copies`` C batches."""
        context = context if copies == 1 else context.repeated(copies)
        heard = _for_all(trips.heard, len(requests))
        answered = _for_all(trips.answered, len(requests))[..., None]
        worth = self._objective.worth(context.weights, context.queues)  # (C * B, N, 1 or R)
        most = resolve(
            requests, heard, context.capacity, worth, context.groups, self._mechanism
        )  # (C * B, N, R)
        return np.minimum(requests, np.where(answered, most, self._fair_share))


def _for_all(array: np.ndarray, copies: int) -> np.ndarray:
    """Return an array (B or 1, N) as often as there are copies."""
    return np.tile(array, (copies // len(array), 1))
