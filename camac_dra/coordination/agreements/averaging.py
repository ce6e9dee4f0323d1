"""`distributed_consensus` and `gossip` on arrays: what the state machines do, for all agents and copies at
once.

Axes, always in this order: B parallel copies, N agents, P parts of an objective, K capacity groups, R
resources.
"""

from __future__ import annotations

import copy
from typing import Protocol

import numpy as np

from camac_dra.coordination.agreements.mixing import (
    ConstantMixing,
    LinkMixing,
    Links,
    Lots,
    Mixing,
    PushMixing,
)
from camac_dra.coordination.agreements.trace import Trace, traced
from camac_dra.coordination.protocols.plan import Plan
from camac_dra.coordination.protocols.resolution import sums_over_groups
from camac_dra.environment.agreement import AgreementContext
from camac_dra.environment.groups import FloatArray, Groups

_NUMBER = 8  # bytes
_PUSH_CELLS = 1 << 22  # of all rounds' matrices together, up to which push-sum is worked out by them


class Decision(Protocol):
    """One decision, whose lots have been drawn."""

    def __call__(self, requests: FloatArray, copies: int) -> FloatArray:
        """Return what is agreed on (C * B, N, R) from requests of ``copies`` C batches, in a row."""
        ...

    def after_every_round(self, requests: FloatArray) -> list[FloatArray]:
        """Return what would be agreed on (B, N, R) after each round."""
        ...


class AveragingAgreement:
    """Everybody estimates the sums of its groups by averaging, and cuts its own request.

    Attributes:
        rounds: exchanges per decision.
        messages: per decision and copy, one per recipient.
        bytes: of the arrays in them, per decision and copy.
    """

    def __init__(self, plan: Plan, groups: Groups, num_resources: int) -> None:
        """Prepare for a plan from `plan_protocol`, and the groups of the problem."""
        self._plan, self._objective = plan, plan.objective
        self._links = Links.of(plan)
        lossless = plan.message_loss == 0.0 and plan.message_delay == 0
        self._constant = ConstantMixing(plan) if lossless and plan.protocol != "gossip" else None
        size = plan.weights.shape[0]
        # Where everybody hears everybody, all know the very sums after every round.
        self._pools = self._constant is not None and len(self._links.out) == size * (size - 1)
        self.rounds = plan.rounds
        everybody = plan.protocol != "gossip"
        per_round = len(self._links.out) if everybody else int(np.count_nonzero(self._links.degree))
        self.messages = plan.rounds * per_round
        masses = self._objective.parts * groups.num_groups * num_resources + 1
        self.bytes = self.messages * masses * _NUMBER

    def __call__(self, requests: FloatArray, context: AgreementContext) -> FloatArray:
        """Return what is agreed on (B, N, R), never above ``requests`` (B, N, R)."""
        return self.prepare(context)(requests, 1)

    def prepare(self, context: AgreementContext) -> Decision:
        """Draw the lots of one decision; see `Negotiation`."""
        return self.under(self.draw_lots(context.rng, len(context.present)), context)

    def draw_lots(self, rng: np.random.Generator, copies: int) -> Lots:
        """Draw who gossips with whom, and what is lost."""
        plan, links = self._plan, self._links
        chosen = delivered = None
        if plan.protocol == "gossip":
            most = np.maximum(links.degree, 1)
            chosen = rng.integers(most, size=(copies, plan.rounds, len(most)))
        if plan.message_loss > 0.0:
            delivered = rng.random((copies, plan.rounds, len(links.senders))) >= plan.message_loss
        return Lots(delivered, chosen)

    def under(self, lots: Lots, context: AgreementContext) -> Decision:
        """Return a decision under these lots."""
        if self._pools:
            return PooledDecision(self._plan, context)
        copies = len(context.present)
        mixing: Mixing
        if self._constant is not None:
            mixing = copy.copy(self._constant)  # which holds masses
        elif (
            lots.chosen is not None
            and lots.delivered is None
            and self._plan.message_delay == 0
            and lots.chosen.size * lots.chosen.shape[2] <= _PUSH_CELLS
        ):
            mixing = PushMixing(self._links, lots.chosen)
        else:
            mixing = LinkMixing(self._links, lots, copies, self._plan.message_delay)
        return AveragingDecision(self._plan, mixing, context)

    def trace(self, requests: FloatArray, context: AgreementContext) -> Trace:
        """Return what would be agreed on after every round."""
        agreed = self.prepare(context).after_every_round(requests)
        return traced(requests, agreed, context)


class PooledDecision:
    """A decision among agents that all hear each other, always: they all know the true sums."""

    def __init__(self, plan: Plan, context: AgreementContext) -> None:
        """Decide in ``context`` by the plan's rounds."""
        self._plan, self._objective, self._context = plan, plan.objective, context

    def __call__(self, requests: FloatArray, copies: int) -> FloatArray:
        """Return what is agreed on (C * B, N, R); see `AveragingDecision`."""
        return self.after_every_round(requests, copies)[-1]

    def after_every_round(self, requests: FloatArray, copies: int = 1) -> list[FloatArray]:
        """Return what would be agreed on (C * B, N, R) after each round."""
        context = self._context if copies == 1 else self._context.repeated(copies)
        groups = context.groups
        worth = self._objective.worth(context.weights, context.queues)  # (B, N, 1 or R)
        unknown = np.full((len(requests), groups.num_groups, requests.shape[2]), np.inf)  # (B, K, R)
        sums = sums_over_groups(self._objective, requests, worth, unknown, groups)  # (B, P, K, R)
        price = self._objective.price(sums, context.capacity)
        agreed = []
        for number in range(1, self._plan.rounds + 1):
            highest = -groups.least_or(-price, 0.0)  # (B, N or 1, R)
            agreed.append(requests * self._objective.scale(highest, worth))
            if self._plan.learns(number):
                sums = sums_over_groups(self._objective, requests, worth, price, groups)
                price = self._objective.price(sums, context.capacity)
        return agreed


class AveragingDecision:
    """One decision, whose lots have been drawn."""

    def __init__(self, plan: Plan, mixing: Mixing, context: AgreementContext) -> None:
        """Decide in ``context`` by mixing masses for the plan's rounds."""
        self._plan, self._objective, self._mixing, self._context = plan, plan.objective, mixing, context
        self._transfers: list[list[FloatArray]] | None = None  # by pass, and by pass in which to look
        self._is_known = False

    def __call__(self, requests: FloatArray, copies: int) -> FloatArray:
        """Return what is agreed on (C * B, N, R) from requests of ``copies`` C batches, in a row."""
        if not self._is_known:
            self._transfers, self._is_known = self._known_transfers(), True
        if self._transfers is not None:
            return (
                self._at_once(requests, copies)
                if self._objective.linear
                else self._by_passes(requests, copies)
            )
        dialogue = _Dialogue(self._plan, self._mixing, self._context, requests, copies)
        for _ in range(self._plan.rounds):
            dialogue.round()
        return dialogue.agreed()

    def after_every_round(self, requests: FloatArray) -> list[FloatArray]:
        """Return what would be agreed on (B, N, R) after each round."""
        dialogue = _Dialogue(self._plan, self._mixing, self._context, requests, 1)
        agreed = []
        for _ in range(self._plan.rounds):
            dialogue.round()
            agreed.append(dialogue.agreed())
        return agreed

    def _known_transfers(self) -> list[list[FloatArray]] | None:
        """Return what becomes of what agents contribute at first, or anew after a pass."""
        stops = self._plan.stops
        found = []
        for number, first in enumerate([0, *stops[:-1]]):
            transfers = self._mixing.transfers(first, stops[number:])
            if transfers is None:
                return None
            found.append(transfers)
        return found

    def _by_passes(self, requests: FloatArray, copies: int) -> FloatArray:
        """Agree where what agents hold after each pass is a sum of products with what they contributed."""
        transfers = self._transfers
        assert transfers is not None
        dialogue = _Dialogue(self._plan, None, self._context, requests, copies)
        added = [dialogue.contributed]  # by pass, (C * B, N, P K R)
        for number in range(len(transfers)):
            held = sum(
                transfers[k][number - k] @ more.reshape(copies, -1, *more.shape[1:])
                for k, more in enumerate(added)
            )  # (C, B, N, P K R)
            weight = transfers[0][number].sum(axis=2, keepdims=True)  # (B or 1, N, 1)
            added.append(dialogue.learn((held / weight).reshape(added[0].shape), number + 1 < len(transfers)))
        return dialogue.agreed()

    def _at_once(self, requests: FloatArray, copies: int) -> FloatArray:
        """Agree where the sums that agents end up with are one product per group away."""
        assert self._transfers is not None
        groups, transfer = self._context.groups, self._transfers[0][0]
        shape = (copies, -1, *requests.shape[1:])
        asked = requests.reshape(shape)  # (C, B, N, R)
        capacity = self._context.capacity  # (B or 1, K, R)
        mean = transfer.sum(axis=2, keepdims=True) / groups.num_agents  # (B or 1, N, 1)
        if groups.single:
            price = self._objective.price((transfer @ asked / mean)[..., None, None, :], capacity[:, None])
            return requests * self._scale(price)[..., 0, :].reshape(requests.shape)
        scale = np.ones(asked.shape)
        for k in range(groups.num_groups):
            members = groups.pair_agents[groups.starts[k] : groups.starts[k + 1]]
            among = transfer[:, members[:, None], members] / mean[:, members]  # (B or 1, n, n)
            sums = (among @ asked[:, :, members])[..., None, None, :]  # (C, B, n, 1, 1, R)
            price = self._objective.price(sums, capacity[:, None, k, None])
            scale[:, :, members] = np.minimum(scale[:, :, members], self._scale(price)[..., 0, :])
        return requests * scale.reshape(requests.shape)

    def _scale(self, price: FloatArray) -> FloatArray:
        return self._objective.scale(price, np.ones(1))


class _Dialogue:
    """Agreeing round by round: agents learn the sums, and contribute according to what they know."""

    def __init__(
        self,
        plan: Plan,
        mixing: Mixing | None,
        context: AgreementContext,
        requests: FloatArray,
        copies: int,
    ) -> None:
        """Begin with requests (C * B, N, R); without ``mixing`` it has to be told what the means are."""
        self._plan, self._objective, self._mixing = plan, plan.objective, mixing
        self._requests, self._round = requests, 0
        context = context if copies == 1 else context.repeated(copies)
        groups, resources = context.groups, requests.shape[2]
        member = groups.members.T[:, None, :, None] > 0.0  # (N, 1, K, 1)
        if groups.access is not None:
            member = member & (groups.access[:, None, None, :] > 0.0)
        self._member = np.broadcast_to(member, (groups.num_agents, 1, groups.num_groups, resources))
        self._capacity = context.capacity[:, None]  # (B or 1, 1, K, R)
        worth = self._objective.worth(context.weights, context.queues)  # (B, N, 1 or R)
        self._worth = worth[:, :, None]  # (B, N, 1, 1 or R)
        self._shape = (*requests.shape[:2], self._objective.parts, groups.num_groups, resources)
        self._price = np.full((*requests.shape[:2], groups.num_groups, resources), np.inf)  # (B, N, K, R)
        self.contributed = self._contribution()  # (B, N, P K R)
        if mixing is not None:
            weight = np.ones((*self.contributed.shape[:2], 1))
            mixing.begin(np.concatenate([self.contributed, weight], axis=2))

    def _contribution(self) -> FloatArray:
        """Return what agents contribute (B, N, P K R) at the prices that they know."""
        parts = self._objective.contribution(self._requests[:, :, None], self._worth, self._price)
        return np.where(self._member, parts, 0.0).reshape(*self._requests.shape[:2], -1)

    def round(self) -> None:
        """Run a round."""
        assert self._mixing is not None
        self._round += 1
        held = self._mixing.step()  # (B, N, P K R + 1)
        anew = self._plan.learns(self._round)
        more = self.learn(held[..., :-1] / held[..., -1:], anew)
        if anew:
            held[..., :-1] += more

    def learn(self, means: FloatArray, anew: bool) -> FloatArray:
        """Take the means (B, N, P K R) for true; return by how much contributions change where they do."""
        self._price = self._objective.price(self._shape[1] * means.reshape(self._shape), self._capacity)
        before = self.contributed
        if anew:
            self.contributed = self._contribution()
        return self.contributed - before

    def agreed(self) -> FloatArray:
        """Return what would now be agreed on (B, N, R)."""
        scale = self._objective.scale(self._price, self._worth)  # (B, N, K, R)
        own = np.where(self._member[:, 0], scale, 1.0)
        return self._requests * own.min(axis=2, initial=1.0)
