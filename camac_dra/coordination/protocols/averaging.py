"""The state machines of `distributed_consensus` and `gossip`: what every agent does for itself.

An agent puts its contribution to its groups' sums into masses that it shares with its neighbours for a number
of rounds (`RunningSums`), learns from them what the sums are, and cuts its own request accordingly. Nobody
coordinates. Where what it contributes depends on the sums (the price of `Weighted`), it adds the change to
its masses whenever it learns more, so that sums and price are found together.

Axes: M masses, P parts, K capacity groups, R resources.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from camac_dra.coordination.protocols.events import (
    Content,
    Done,
    Event,
    Instruction,
    Publish,
    Received,
    Report,
    SetTimer,
    Start,
    Tick,
)
from camac_dra.coordination.protocols.exchange import Exchange
from camac_dra.coordination.protocols.plan import Plan
from camac_dra.coordination.protocols.running_sums import RunningSums
from camac_dra.environment.groups import FloatArray
from camac_dra.utils.errors import ActionError

_TINY = 1e-150


@dataclass(frozen=True, slots=True, eq=False)
class Membership:
    """What an agent knows of its groups."""

    groups: np.ndarray  # (K,) bool: those it is a member of
    access: np.ndarray  # (R,) bool: the resources that it may use
    num_agents: int  # N, of all groups together, whether alive or not


@dataclass(frozen=True, slots=True)
class Awaited:
    """Publications that an agent waits for: those of ``senders`` under one topic, of one round."""

    round: int
    version: int
    senders: tuple[str, ...]
    topic: str


class AveragingMachine:
    """One agent's part; see `Exchange` for who hears whom, and how much of it.

    It ends a round as soon as everybody that it waits for was heard, and at the latest after
    ``round_timeout`` seconds. With a ``message_delay`` it does not wait for this round's messages but for
    those of so many rounds ago, so that many can be on their way. Messages of later rounds are kept until
    their round.

    Agents that are dead give nothing and get their share of nothing back: the means are then over those
    alive, and the sums, N times as large, above the true ones, so that no capacity is given twice.
    """

    def __init__(
        self,
        plan: Plan,
        exchange: Exchange,
        membership: Membership,
        round_timeout: float,
    ) -> None:
        """Prepare for decisions by ``plan`` with rounds of at most ``round_timeout`` seconds each."""
        self._plan, self._objective = plan, plan.objective
        self._exchange, self._membership = exchange, membership
        self._rounds, self._timeout, self._lag = plan.rounds, round_timeout, plan.message_delay
        self._round = 0  # of the decision under way, from 1; 0: none is
        self._decision = -1
        self._waiting: list[str] = []  # those that this round needs and that were not heard
        self._inbox: dict[str, dict[tuple[int, int], FloatArray]] = {}  # by sender; by decision and round

    def handle(self, event: Event) -> list[Instruction]:
        """Take an event and return what is to be done now; see `Machine`.

        Raises:
            ActionError: the request that a decision starts with is negative or not finite.
        """
        if isinstance(event, Start):
            self._start(event)
            return self._next_round(event.now)
        if isinstance(event, Received):
            self._keep(event.sender, event.content)
            return self._go_on(event.now) if self._round and not self._waits() else []
        if isinstance(event, Tick) and self._round and event.now >= self._deadline:
            return self._go_on(event.now)
        return []

    def _start(self, event: Start) -> None:
        request = np.array(event.request, np.float64)  # (R,)
        if not (np.isfinite(request) & (request >= 0.0)).all():
            raise ActionError(f"request must be finite numbers from 0 up, got {request}")
        self._decision, self._request = event.decision, request
        self._worth = event.worth[None]  # (1, 1 or R)
        self._capacity = np.asarray(event.capacity, np.float64)  # (K, R)
        self._price = np.full(self._capacity.shape, np.inf)  # (K, R)
        self._contribution = self._contributed()
        self._sums = RunningSums(np.append(self._contribution, 1.0))
        self._ratio = self._sums.ratio
        self._messages = self._bytes = self._missing = self._round = 0
        for sender in self._inbox:
            self._forget(sender, (self._decision, 0))

    def awaited(self) -> Awaited:
        """Return what this agent waits for now; nothing where no decision is under way."""
        due = self._round - self._lag
        senders = tuple(self._waiting) if self._round else ()
        return Awaited(due, self._version(due), senders, self._exchange.topic())

    def _version(self, round_number: int) -> int:
        return self._decision * (self._rounds + 1) + round_number

    def _contributed(self) -> FloatArray:
        """Return the masses (M - 1,) that this agent contributes at the price that it knows."""
        own = self._membership.groups[:, None] & self._membership.access  # (K, R)
        parts = self._objective.contribution(self._request, self._worth, self._price)  # (P, K, R)
        return np.where(own, parts, 0.0).ravel()

    def _keep(self, sender: str, content: Content) -> None:
        """Keep a message of a neighbour, unless it is of an earlier decision or makes no sense."""
        when, sums = (content["decision"], content["round"]), content["sums"]
        if self._exchange.hears(sender) and when > (self._decision, 0) and np.isfinite(sums).all():
            self._inbox.setdefault(sender, {})[when] = sums

    def _forget(self, sender: str, until: tuple[int, int]) -> None:
        kept = self._inbox[sender]
        self._inbox[sender] = {when: sums for when, sums in kept.items() if when > until}

    def _waits(self) -> bool:
        """Return whether somebody that this round needs was heard neither of it nor of a later one."""
        due = (self._decision, self._round - self._lag)
        self._waiting = [s for s in self._waiting if max(self._inbox.get(s, ()), default=due[:1]) < due]
        return bool(self._waiting)

    def _go_on(self, now: float) -> list[Instruction]:
        """End this round."""
        self._missing += len(self._waiting)
        self._take()
        self._learn()
        return self._next_round(now) if self._round < self._rounds else [self._finish()]

    def _next_round(self, now: float) -> list[Instruction]:
        """Begin rounds until there is something to wait for, or the last one is over."""
        instructions: list[Instruction] = []
        while self._round < self._rounds:
            self._round += 1
            instructions += self._give()
            needed = self._round - self._lag
            self._waiting = list(self._exchange.expects(self._decision, needed)) if needed > 0 else []
            if self._waits():
                self._deadline = now + self._timeout
                return [*instructions, SetTimer(self._deadline)]
            self._take()
            self._learn()
        return [*instructions, self._finish()]

    def _give(self) -> list[Instruction]:
        instructions: list[Instruction] = []
        for link in self._exchange.gives(self._decision, self._round):
            total = self._sums.give(link.topic, link.share, link.keep)
            content = {"decision": self._decision, "round": self._round, "sums": total}
            version = self._version(self._round)
            instructions.append(Publish(link.topic, content, version, link.recipients))
            self._messages += len(link.recipients)
            self._bytes += len(link.recipients) * total.nbytes
        return instructions

    def _take(self) -> None:
        """Take the newest running sums that are due."""
        due = (self._decision, self._round - self._lag)
        for sender in sorted(self._inbox):
            arrived = [when for when in self._inbox[sender] if when <= due]
            if arrived:
                self._sums.take(sender, self._inbox[sender][max(arrived)], self._exchange.share_of(sender))
                self._forget(sender, due)

    def _learn(self) -> None:
        """Find the price, and contribute accordingly."""
        before, self._ratio = self._ratio, self._sums.ratio  # (M - 1,)
        largest = max(float(np.abs(self._ratio).max(initial=0.0)), _TINY)
        self._residual = float(np.abs(self._ratio - before).max(initial=0.0)) / largest
        shape = (self._objective.parts, *self._capacity.shape)
        sums = self._membership.num_agents * self._ratio.reshape(shape)  # (P, K, R)
        self._price = self._objective.price(sums, self._capacity)
        if self._plan.learns(self._round):
            contribution = self._contributed()
            self._sums.put(contribution - self._contribution)
            self._contribution = contribution

    def _finish(self) -> Done:
        scale = self._objective.scale(self._price, self._worth)  # (K, R)
        own = np.where(self._membership.groups[:, None], scale, 1.0)
        agreed = self._request * own.min(axis=0, initial=1.0)
        report = Report(self._round, self._messages, self._bytes, self._missing, self._residual)
        self._round = 0
        return Done(self._decision, agreed, report)
