"""What a shard holds for one recipient: queued runs per stream, and the credit that senders' processes lease.

All of it is soft: senders' logs and the recipient's marks can rebuild it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from camac_dra.coordination.bus.wire import Key, Run, Segment


@dataclass(slots=True)
class _Queue:
    """Runs of one stream that the recipient has not acknowledged."""

    client: str  # whose process holds the sender's log
    acked: int
    tail: int  # the last sequence number queued without a gap
    runs: deque[Run] = field(default_factory=deque)
    early: dict[int, Run] = field(
        default_factory=dict
    )  # by first sequence number; overtook others on their way


class Mailbox:
    """Queue and credit of one recipient."""

    def __init__(self, recipient: str, life: str, max_queue_size: int) -> None:
        self.recipient = recipient
        self.life = life
        self.aliases = {life}  # what senders may call this life; several after a restart of the shard
        self.host: str | None = None  # client that hosts the recipient
        self.challenged: float | None = None  # since when its host must show that it lives
        self.leases: dict[str, int] = {}  # client -> credits, those of admitted messages included
        self.waiters: dict[str, int] = {}  # client -> credits wanted, in order of arrival
        self.recalled: set[str] = set()  # clients asked for idle credit that have not answered
        self._max = max_queue_size
        self._queues: dict[Key, _Queue] = {}

    @property
    def free(self) -> int:
        """How many credits nobody holds."""
        return self._max - sum(self.leases.values())

    def rename(self, life: str) -> None:
        """Learn of a name of this life; the newest is the one to use."""
        self.aliases.add(life)
        self.life = max(self.life, life)

    def acked(self, key: Key) -> int:
        """Return up to which message a stream is acknowledged, as far as is known."""
        queue = self._queues.get(key)
        return 0 if queue is None else queue.acked

    def source(self, key: Key) -> str:
        """Return the client that holds a stream's log."""
        queue = self._queues.get(key)
        return key[1] if queue is None else queue.client

    def claim(self, client: str, lease: int, streams: tuple[tuple[Key, int], ...]) -> None:
        """Take in what a sender's process says it holds."""
        self.leases[client] = lease
        self.waiters.pop(client, None)
        self.recalled.discard(client)
        for key, base in streams:
            queue = self._queue(key, client, base)
            queue.client = client
            queue.acked = max(queue.acked, base - 1)

    def enqueue(self, segment: Segment, client: str) -> list[Segment]:
        """Queue a segment; return what can be delivered now, in order."""
        queue = self._queue(segment.key, client, segment.base)
        queue.client = client
        self._drop(queue, segment.base - 1)
        if segment.run.last <= queue.tail:
            return []
        if segment.run.first > queue.tail + 1:
            queue.early[segment.run.first] = segment.run
            return []
        ready = []
        run: Run | None = segment.run
        while run is not None:
            queue.runs.append(run)
            queue.tail = run.last
            ready.append(self._segment(segment.key, queue, run))
            run = queue.early.pop(queue.tail + 1, None)
        return ready

    def acknowledge(self, key: Key, mark: int) -> tuple[str, int]:
        """Drop what the recipient acknowledged; return whose it was and how many messages that is."""
        queue = self._queues.get(key)
        if queue is None:
            return "", 0
        before = queue.acked
        self._drop(queue, mark)
        return queue.client, queue.acked - before

    def deliver_again(self, acks: dict[Key, int]) -> Iterator[Segment]:
        """Yield everything that a recipient with these marks has not acknowledged."""
        for key, mark in acks.items():
            if key in self._queues:
                self._drop(self._queues[key], mark)
        for key, queue in self._queues.items():
            for run in queue.runs:
                yield self._segment(key, queue, run)

    def lend(self, client: str, amount: int) -> None:
        """Add to a client's lease; a negative amount takes away."""
        self.leases[client] = self.leases.get(client, 0) + amount

    def orphan(self, client: str) -> None:
        """Keep of a dead client's lease only what its queued messages use."""
        self.waiters.pop(client, None)
        self.recalled.discard(client)
        queued = sum(max(q.tail - q.acked, 0) for q in self._queues.values() if q.client == client)
        self.leases[client] = queued
        if not queued:
            del self.leases[client]

    def clients(self) -> set[str]:
        """Return clients that have anything to do with the recipient as senders."""
        return {queue.client for queue in self._queues.values()} | self.leases.keys() | self.waiters.keys()

    @property
    def queued(self) -> int:
        """How many messages are here without an acknowledgement."""
        return sum(max(queue.tail - queue.acked, 0) for queue in self._queues.values())

    def _queue(self, key: Key, client: str, base: int) -> _Queue:
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(client, base - 1, base - 1)
        return queue

    @staticmethod
    def _drop(queue: _Queue, mark: int) -> None:
        if mark <= queue.acked:
            return
        queue.acked = mark
        while queue.runs and queue.runs[0].last <= mark:
            queue.runs.popleft()
        if mark > queue.tail:  # the recipient had it from an earlier shard
            queue.tail = mark
            queue.early = {first: run for first, run in queue.early.items() if run.last > mark}

    def _segment(self, key: Key, queue: _Queue, run: Run) -> Segment:
        return Segment(self.recipient, self.life, key, queue.acked + 1, run)
