"""A world of processes and shards without I/O or clocks, in which anything may die at any moment.

Its network carries what clients and shards say one piece at a time, in whatever order a test chooses, and
loses what is under way when either end dies. Recipients keep a snapshot (what they have handled, with the
bus's marks); senders keep a journal. Both survive them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from camac_dra.coordination.bus.client_core import ClientCore
from camac_dra.coordination.bus.outlet import Stream
from camac_dra.coordination.bus.payloads import (
    decode,
    encode,
    encode_many,
    pack_block,
    unpack_block,
)
from camac_dra.coordination.bus.shard import Shard
from camac_dra.coordination.bus.upkeep import look_after
from camac_dra.coordination.bus.wire import Run, Upload
from camac_dra.coordination.checker import History

GRACE = 1.0
LIMIT = 2**20


class Journal:
    """What one process would have on its disk."""

    def __init__(self) -> None:
        self.messages: dict[Any, dict[int, Any]] = defaultdict(dict)

    def add(self, recipient: str, key: Any, first: int, count: int, payloads: Any) -> None:
        fresh = unpack_block(payloads)
        assert len(fresh) == count
        self.messages[recipient, key].update(enumerate(fresh, first))

    def settle(self, recipient: str, key: Any, mark: int) -> None:
        log = self.messages[recipient, key]
        for sequence in [number for number in log if number <= mark]:
            del log[sequence]

    def streams(self) -> list[tuple[str, Stream]]:
        found = []
        for (recipient, key), log in self.messages.items():
            if log:
                first, last = min(log), max(log)
                run = Run(first, len(log), pack_block([log[number] for number in sorted(log)]))
                stream = Stream(key, settled=first - 1, last=last)
                stream.to_send.append(run)
                found.append((recipient, stream))
        return found


class Process:
    """One process: a client, and the agents that it hosts."""

    def __init__(self, world: World, name: str, journal: Journal) -> None:
        self.world = world
        self.journal = journal
        self.core = ClientCore(
            name, len(world.shards), world.max_queue_size, lambda shard: None, journal.add, journal.settle
        )
        self.under_way: list[list[Upload]] = [[] for _ in world.shards]


class World:
    """Agents, one process each; ``processes`` is keyed by the agent's name."""

    def __init__(self, agents: str, num_shards: int, max_queue_size: int) -> None:
        self.max_queue_size = max_queue_size
        self.now = 0.0
        self.names = 0
        self.shards = [self._new_shard(0.0) for _ in range(num_shards)]
        self.history = History()
        self.processes: dict[str, Process] = {}
        self.handled: dict[str, list[tuple[str, int]]] = {agent: [] for agent in agents}  # (sender, value)
        self.snapshots: dict[str, tuple[int, dict[str, Any]]] = {}  # (how many were handled, marks)
        self.values: dict[tuple[str, str], int] = defaultdict(int)
        for agent in agents:
            self._start(agent, Journal())

    def _name(self) -> str:
        self.names += 1
        return f"{self.names:06d}"

    def _new_shard(self, grace: float) -> Shard:
        return Shard(self._name(), self.max_queue_size, now=self.now, grace=grace, new_life=self._name)

    def _start(self, agent: str, journal: Journal) -> None:
        process = self.processes[agent] = Process(self, self._name(), journal)
        for recipient, stream in journal.streams():
            process.core.adopt(recipient, stream)
        for number in range(len(self.shards)):
            self.greet(agent, number)
        self.register(agent)

    def register(self, agent: str) -> None:
        core = self.processes[agent].core
        count, marks = self.snapshots.get(agent, (0, {}))
        self.handled[agent] = self.handled[agent][:count]
        inbox = core.open_inbox(agent, False, marks)
        assert inbox is not None
        link, shard = core.links[inbox.shard], self.shards[inbox.shard]
        status = "wait"
        while status != "ok":
            status, life = shard.register(self.now, core.client, link.session, inbox.claim())
            assert status in ("ok", "wait"), status
            self.now += 0.5
        assert core.registered(inbox, link.session, life)

    # -- what may happen ----

    def greet(self, agent: str, number: int) -> None:
        """Begin a session; nothing of an older one arrives after it."""
        process = self.processes[agent]
        process.under_way[number].clear()
        hello = process.core.begin_session(number)
        process.core.welcome(number, self.shards[number].hello(self.now, hello))

    def kill_shard(self, number: int) -> None:
        self.shards[number] = self._new_shard(GRACE)
        for process in self.processes.values():
            process.under_way[number].clear()
            process.core.suspend(number)

    def kill_agent(self, agent: str) -> None:
        """Kill a process; another one takes over its agent, its snapshot and its journal."""
        process = self.processes.pop(agent)
        self.note_dead_letters(process)
        self._start(agent, process.journal)

    def send(self, sender: str, recipient: str, ttl: float | None = None) -> bool:
        value = self.values[sender, recipient]
        expiry = None if ttl is None else self.now + ttl
        sequence = self.processes[sender].core.try_send(
            sender, recipient, encode({"from": sender, "value": value}, LIMIT, expiry)
        )
        if not sequence:
            return False
        self.values[sender, recipient] += 1
        self.history.sent(sender, recipient, value)
        return True

    def send_many(self, sender: str, recipient: str, count: int) -> int:
        """Send messages as one batch; return how many there was credit for."""
        first = self.values[sender, recipient]
        messages = [{"from": sender, "value": first + index} for index in range(count)]
        (batch,) = encode_many([(recipient, message) for message in messages], LIMIT)
        admitted = self.processes[sender].core.try_send_many(sender, batch)
        for message in messages[:admitted]:
            self.history.sent(sender, recipient, message["value"])
        self.values[sender, recipient] += admitted
        return admitted

    def handle(self, agent: str, most: int, reject: bool = False) -> None:
        """Receive, and change the state of the agent; reject the last message where told to."""
        core = self.processes[agent].core
        inbox = core.inboxes[agent]
        items = [
            (key, sequence, payload)
            for key, first, payloads in inbox.take(most, lambda: self.now)
            for sequence, payload in enumerate(payloads, first)
        ]
        for item in items:
            key, sequence, payload = item
            message = decode(payload)
            if reject and item is items[-1]:
                inbox.bounce(key, sequence, "no", payload)
            else:
                self.handled[agent].append((message["from"], message["value"]))

    def snapshot(self, agent: str) -> None:
        """Keep the agent's state with its marks, then acknowledge."""
        core = self.processes[agent].core
        inbox = core.inboxes[agent]
        self.snapshots[agent] = len(self.handled[agent]), inbox.marks()
        inbox.confirm(None)
        core.queue_inbox(inbox)

    def push(self, agent: str, number: int) -> None:
        """Send what there is to be said."""
        process = self.processes[agent]
        upload = process.core.collect(number, self.now)
        if upload is not None:
            process.under_way[number].append(upload)

    def carry_up(self, agent: str, number: int, index: int = 0) -> None:
        """Let an upload arrive; others may have overtaken it."""
        process = self.processes[agent]
        if process.under_way[number]:
            upload = process.under_way[number].pop(index % len(process.under_way[number]))
            if not self.shards[number].push(self.now, upload):
                process.core.suspend(number)

    def carry_down(self, agent: str, number: int) -> None:
        process = self.processes[agent]
        if process.core.links[number].ready:
            download = self.shards[number].collect(process.core.client)
            if download is not None and not process.core.deliver(number, download):
                process.core.suspend(number)

    def pass_time(self, seconds: float) -> None:
        """Let time pass: shards answer what waited, processes look after what has expired."""
        self.now += seconds
        for shard in self.shards:
            for process in self.processes.values():
                session = process.core.links[self.shards.index(shard)].session
                shard.alive(self.now, process.core.client, session)
            shard.tick(self.now)
        for process in self.processes.values():
            look_after(process.core, self.now, self.now)

    # -- the end ----

    def unsettled(self) -> int:
        return sum(process.core.unsettled() for process in self.processes.values())

    def outstanding(self, recipient: str) -> int:
        """Return how many messages the recipient has not acknowledged, whether senders know it or not."""
        outlets = [process.core.outlet(recipient) for process in self.processes.values()]
        mailbox = self.shards[outlets[0].shard]._mailboxes.get(recipient)
        return sum(
            stream.last - max(stream.settled, 0 if mailbox is None else mailbox.acked(stream.key))
            for outlet in outlets
            for stream in outlet.streams.values()
        )

    def note_dead_letters(self, process: Process) -> None:
        for letter in process.core.dead.newest():
            assert letter.message is not None
            self.history.dead(letter.sender, letter.recipient, letter.message["value"])

    def heal(self) -> None:
        """Let everything be carried, handled and acknowledged."""
        for _ in range(60):
            for agent, process in self.processes.items():
                for number, link in enumerate(process.core.links):
                    if not link.ready:
                        self.greet(agent, number)
                    self.push(agent, number)
                    while process.under_way[number]:
                        self.carry_up(agent, number)
                    self.carry_down(agent, number)
                self.handle(agent, 1000)
                self.snapshot(agent)
            if not self.unsettled() and not any(
                p.core.has_upload(n) for p in self.processes.values() for n in (0, 1)
            ):
                return
            self.pass_time(0.5)

    def check(self) -> None:
        """Hold what was handled against the promise."""
        for process in self.processes.values():
            self.note_dead_letters(process)
        for agent, handled in self.handled.items():
            for sender, value in handled:
                self.history.received(sender, agent, value)
        report = self.history.check()
        assert report.ok, str(report)
