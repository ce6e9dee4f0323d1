"""Carries the state machines of protocols over a message bus: events in, instructions out, with a deadline.

All machines of one process are carried together. What goes to others is published, or sent, on the bus;
agents of one process may hear each other directly.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from camac_dra.coordination.message_bus import Envelope, MessageBus
from camac_dra.coordination.protocols.averaging import AveragingMachine
from camac_dra.coordination.protocols.central import COORDINATOR
from camac_dra.coordination.protocols.events import (
    Content,
    Done,
    Event,
    Gather,
    Instruction,
    Machine,
    Publish,
    Received,
    Send,
    SetTimer,
    Start,
    Tick,
)

_ADMISSION = 0.2  # seconds that sending may wait for room at the recipient; machines send again
_ASIDE = 10_000  # messages kept aside; the oldest give way
_RESEND = 0.2  # seconds by which each loss makes a message of the reliable channel late, as in TCP
_MOST_AGAIN = 60.0  # seconds
_POLL = 0.05  # seconds that one wait takes at most, so that other mailboxes are looked at


COORDINATOR_HOME = "coordinator"
"""The mailbox of the coordinator on the bus."""

PARTS = "parts"
"""Key of messages of protocols between processes."""


def packed(parts: Sequence[tuple[str, Content]]) -> Content:
    """Return messages between the same two processes as one: (agent, content) each."""
    return {PARTS: list(parts)}


@dataclass(frozen=True, slots=True)
class MessageFaults:
    """Faults on purpose in what passes between agents, drawn from ``seed``.

    What is sent to a coordinator and back goes by the reliable channel: dropped, it is sent again.
    """

    drop: float = 0.0  # share of the messages that are lost; of the reliable channel, that come 0.2 s late
    delay: float = 0.0  # mean seconds by which they come late, exponential
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Toll:
    """What the agreement of some agents took, answers of a coordinator included."""

    rounds: int = 0
    messages: int = 0
    message_bytes: int = 0
    residual: float = 0.0

    @classmethod
    def of(cls, done: Iterable[Done], *, centralized: bool) -> Toll:
        """Return the toll of these agents' parts; with a coordinator, each that is answered is so once."""
        parts = list(done)
        reports = [part.report for part in parts]
        answers = [part.agreed.nbytes for part in parts if centralized and not part.report.missing]
        return cls(
            rounds=max((report.rounds for report in reports), default=0),
            messages=sum(report.messages for report in reports) + len(answers),
            message_bytes=sum(report.bytes for report in reports) + sum(answers),
            residual=max((report.residual for report in reports), default=0.0),
        )


class Fates:
    """Decides what becomes of each message: lost, late, or nothing of the kind."""

    def __init__(self, faults: MessageFaults | None, salt: int) -> None:
        """Draw from the seed of ``faults`` and ``salt``; None: no faults."""
        self._faults = faults
        self._rng = np.random.default_rng([faults.seed, salt]) if faults else None

    def lateness(self, reliable: bool) -> float | None:
        """Draw the seconds by which a message comes late; None where it is lost."""
        if self._faults is None or self._rng is None:
            return 0.0
        again = 0.0
        while self._faults.drop and self._rng.random() < self._faults.drop:
            if not reliable:
                return None
            again += _RESEND
            if again > _MOST_AGAIN:
                return None  # whoever waits has given up
        return again + (float(self._rng.exponential(self._faults.delay)) if self._faults.delay else 0.0)


class ProtocolCarrier:
    """The machines of the agents of one process, decision by decision.

    A process has one mailbox, whatever it hosts, and what it sends at once to another process is one message.
    Each round of an agent has a slot of its own on the newest-value channel, so that who is fast overwrites
    nothing that a slow neighbour has yet to read. Used from one thread.

    Attributes:
        aside: messages that came meanwhile and are not a protocol's.
    """

    def __init__(
        self,
        machines: Mapping[str, Machine],
        bus: MessageBus,
        home: str,
        homes: Mapping[str, str],
        faults: MessageFaults | None = None,
        *,
        direct: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Carry ``machines`` by name.

        Args:
            machines: of agents, and of the coordinator where it is here too.
            bus: carries what goes to others.
            home: the mailbox of this process, which is registered.
            homes: of every agent, the mailbox of its process.
            faults: faults on purpose; None: none.
            direct: hand over what goes to a machine of this process without the bus.
            clock: the time, in seconds.
        """
        self._machines, self._bus, self._clock = dict(machines), bus, clock
        self._direct = frozenset(machines) if direct else frozenset()
        self._home, self._homes = home, {**homes, COORDINATOR: homes.get(COORDINATOR, COORDINATOR_HOME)}
        self._fates = Fates(faults, zlib.crc32(home.encode()))
        self._by_mail = any(not isinstance(machine, AveragingMachine) for machine in machines.values())
        self.aside: deque[Envelope] = deque(maxlen=_ASIDE)

    def run(
        self,
        starts: Mapping[str, Start | Gather],
        deadline: float,
        *,
        gone: frozenset[str] = frozenset(),
        cut: frozenset[str] = frozenset(),
    ) -> dict[str, Done]:
        """Carry one decision of the agents in ``starts``; return what each came to by ``deadline``.

        Agents that came to nothing in time are left out; their machines give the decision up when the next
        one starts. Nobody waits for those in ``gone``, who are known to be dead. Nothing passes between the
        agents in ``cut`` and the others.
        """
        decision = _Decision(self, starts, gone, cut)
        while decision.goes_on() and (now := self._clock()) < deadline:
            decision.wait(min(_POLL, deadline - now, max(0.0, decision.next_event() - now)))
        return decision.done


class _Decision:
    """One decision under way."""

    def __init__(
        self,
        carrier: ProtocolCarrier,
        starts: Mapping[str, Start | Gather],
        gone: frozenset[str],
        cut: frozenset[str],
    ) -> None:
        self._machines, self._bus, self._clock = carrier._machines, carrier._bus, carrier._clock
        self._direct, self._fates = carrier._direct, carrier._fates
        self._gone, self._cut = gone, cut
        self._home, self._homes, self._by_mail = carrier._home, carrier._homes, carrier._by_mail
        self._aside = carrier.aside
        self.done: dict[str, Done] = {}
        self._running = dict.fromkeys(starts)
        # The coordinator goes on as long as there are agents to answer.
        self._agents = {name for name, start in starts.items() if isinstance(start, Start)}
        self._timers: dict[str, float] = {}
        self._queue: deque[tuple[str, Event]] = deque((name, start) for name, start in starts.items())
        self._late: list[tuple[float, int, str, Received]] = []  # heap: when, number, to whom, what
        self._numbers = itertools.count()
        self._published: list[tuple[str, str, Content, int | None]] = []
        self._sent: dict[str, list[tuple[str, Content]]] = {}  # by mailbox: (whose, content)
        self._read: dict[str, set[tuple[str, int]]] = {name: set() for name in starts}  # (sender, version)
        self._work()

    def goes_on(self) -> bool:
        """Return whether anybody is still at it."""
        return bool(self._agents)

    def next_event(self) -> float:
        """Return when the next timer ends or the next late message is due."""
        timers = min((self._timers.get(name, math.inf) for name in self._running), default=math.inf)
        return min(timers, self._late[0][0] if self._late else math.inf)

    def wait(self, seconds: float) -> None:
        """Wait for messages up to so long, and handle what there is and what is due."""
        if self._by_mail:
            self._read_mail(seconds)
        elif not self._skip_the_gone():
            self._read_rounds(seconds)
        now = self._clock()
        while self._late and self._late[0][0] <= now:
            _, _, name, event = heapq.heappop(self._late)
            self._queue.append((name, event))
        for name in list(self._running):
            if self._timers.get(name, math.inf) <= now:
                self._queue.append((name, Tick(now)))
        self._work()

    def _work(self) -> None:
        """Handle events until none is left, then let out what they led to."""
        while self._queue:
            name, event = self._queue.popleft()
            if name in self._running:
                for instruction in self._machines[name].handle(event):
                    self._carry_out(name, instruction)
        if self._published:
            self._bus.publish_many(self._published)
            self._published = []
        if self._sent:
            items = [(home, packed(parts)) for home, parts in self._sent.items()]
            self._bus.send_many(self._home, items, timeout=_ADMISSION)
            self._sent = {}

    def _carry_out(self, name: str, instruction: Instruction) -> None:
        if isinstance(instruction, Done):
            self.done[name] = instruction
            del self._running[name]
            self._agents.discard(name)
        elif isinstance(instruction, SetTimer):
            self._timers[name] = instruction.at
        elif isinstance(instruction, Publish):
            self._publish(name, instruction)
        elif isinstance(instruction, Send):
            self._send(name, instruction)

    def _publish(self, name: str, instruction: Publish) -> None:
        content = instruction.content
        away = False
        for recipient in instruction.recipients:
            if recipient in self._direct:
                self._deliver(name, recipient, content)
            else:
                away = True
        if away:
            slot = f"{name}/{instruction.topic}/{content['round']}"
            self._published.append((self._home, slot, content, instruction.version))

    def _send(self, name: str, instruction: Send) -> None:
        if instruction.recipient in self._direct:
            self._deliver(name, instruction.recipient, instruction.content)
        elif name not in self._cut:  # its fate is drawn where it arrives
            home = self._homes[instruction.recipient]
            part = (instruction.recipient if name == COORDINATOR else name, instruction.content)
            self._sent.setdefault(home, []).append(part)

    def _deliver(self, sender: str, recipient: str, content: Content) -> None:
        """Hand a message over, unless its fate is another."""
        if (sender in self._cut) != (recipient in self._cut):
            return
        lateness = self._fates.lateness(COORDINATOR in (sender, recipient))
        if lateness is None:
            return
        now = self._clock()
        event = Received(sender, content, now + lateness)
        if lateness > 0.0:
            heapq.heappush(self._late, (now + lateness, next(self._numbers), recipient, event))
        else:
            self._queue.append((recipient, event))

    def _skip_the_gone(self) -> bool:
        """End the rounds of agents that wait for nobody but the dead; return whether there were any."""
        for name in self._running:
            machine = self._machines[name]
            assert isinstance(machine, AveragingMachine)
            senders = machine.awaited().senders
            if senders and self._gone.issuperset(senders) and name in self._timers:
                self._queue.append((name, Tick(self._timers[name])))
        return bool(self._queue)

    def _read_mail(self, seconds: float) -> None:
        """Take what came for machines that are sent messages; wait for the first of it.

        What the coordinator sends names the agent that it is for, what agents send the agent that it is of.
        """
        for envelope in self._bus.receive_envelopes(self._home, timeout=seconds):
            if PARTS not in envelope.message:
                self._aside.append(envelope)
            for name, content in envelope.message.get(PARTS, ()):
                if "agreed" in content:
                    self._deliver(COORDINATOR, name, content)
                else:
                    self._deliver(name, COORDINATOR, content)

    def _read_rounds(self, seconds: float) -> None:
        """Read what the machines wait for that others publish; wait for those that are furthest behind."""
        wanted: dict[int, list[tuple[str, str, str]]] = {}  # by version: (reader, sender, slot)
        for name in self._running:
            machine = self._machines[name]
            assert isinstance(machine, AveragingMachine)
            awaited = machine.awaited()
            for sender in awaited.senders:
                known = sender in self._direct or sender in self._gone
                slot = f"{sender}/{awaited.topic}/{awaited.round}"
                if not known and (sender, awaited.version) not in self._read[name]:
                    wanted.setdefault(awaited.version, []).append((name, sender, slot))
        if not wanted:
            time.sleep(min(seconds, max(0.0, self.next_event() - self._clock())))
            return
        version = min(wanted)
        rows = wanted[version]
        keys = list(dict.fromkeys((self._homes[sender], slot) for _, sender, slot in rows))
        values = dict(zip(keys, self._bus.latest_many(keys, at_least=version, timeout=seconds), strict=True))
        for reader, sender, slot in rows:
            found = values[self._homes[sender], slot]
            if found is not None and found[0] == version:
                self._read[reader].add((sender, version))
                self._deliver(sender, reader, found[1])
