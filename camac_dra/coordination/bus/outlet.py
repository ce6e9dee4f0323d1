"""The sender's side: a bounded log of what was admitted for one recipient, kept until it is settled.

Every message of the log is settled in one of two ways: acknowledged by the recipient, or handed back as a
dead letter. Until then it is sent again whenever a shard has forgotten it. Credit bounds the log: a shard
leases it, and admitted but unsettled messages never exceed the lease.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from camac_dra.coordination.bus.payloads import (
    RUN_BYTES,
    Payload,
    pack_block,
    size_of,
    unpack_block,
)
from camac_dra.coordination.bus.wire import Gone, Grant, Key, OutletClaim, Run, Segment

SMALL_BYTES = 4096  # nobody counts the bytes of what is smaller
FIRST_LEASE = 64


@dataclass(slots=True)
class Stream:
    """What one life of a sender has to say to one recipient."""

    key: Key
    settled: int = 0  # all up to this sequence number are acknowledged or dead
    last: int = 0  # sequence number of the newest admitted message
    runs: deque[Run] = field(default_factory=deque)  # sent, not settled
    unsent: list[Payload] = field(default_factory=list)
    unsent_bytes: int = 0
    to_send: deque[Run] = field(default_factory=deque)  # closed, not sent
    pack: Callable[[list[Payload]], Any] = pack_block

    @property
    def outstanding(self) -> int:
        """How many messages are not settled."""
        return self.last - self.settled

    def append(self, payload: Payload) -> None:
        """Admit a message."""
        if type(payload) is dict:
            self.append_plain(1, self.pack([payload]))
            return
        self.unsent.append(payload)
        self.last += 1
        if type(payload) is not bytes or len(payload) > SMALL_BYTES:
            self.unsent_bytes += size_of(payload)
            if self.unsent_bytes > RUN_BYTES:
                self.close_run()

    def append_plain(self, count: int, block: Any) -> None:
        """Admit plain messages that are packed already."""
        self.close_run()
        self.to_send.append(Run(self.last + 1, count, block, plain=True))
        self.last += count

    def close_run(self) -> None:
        """Make one run of what was admitted since the last."""
        if self.unsent:
            count = len(self.unsent)
            self.to_send.append(Run(self.last - count + 1, count, self.pack(self.unsent)))
            self.unsent, self.unsent_bytes = [], 0

    def take_runs(self) -> list[Run]:
        """Return what is to be sent, and count it as sent."""
        self.close_run()
        taken = list(self.to_send)
        self.to_send.clear()
        self.runs.extend(taken)
        return taken

    def rewind(self) -> None:
        """Send everything again that is not settled."""
        self.to_send.extendleft(reversed(self.runs))
        self.runs.clear()

    def settle(self, mark: int) -> int:
        """Drop what ``mark`` covers; return how many messages that settled."""
        if mark <= self.settled:
            return 0
        done = min(mark, self.last) - self.settled
        self.settled += done
        for runs in (self.runs, self.to_send):
            while runs and runs[0].last <= self.settled:
                runs.popleft()
        return done

    def abandon(self) -> list[tuple[int, Payload]]:
        """Drop everything that is not settled; return it with its sequence numbers."""
        self.close_run()
        left = [
            (run.first + index, payload)
            for run in (*self.runs, *self.to_send)
            for index, payload in enumerate(unpack_block(run.block))
            if run.first + index > self.settled
        ]
        self.runs.clear()
        self.to_send.clear()
        self.settled = self.last
        return left


class Outlet:
    """All streams of this process to one recipient, under one lease of credit.

    Whoever calls holds ``lock``; ``changed`` is notified when credit or a verdict arrives.
    """

    def __init__(
        self,
        recipient: str,
        shard: int,
        max_queue_size: int,
        pack: Callable[[list[Payload]], Any] = pack_block,
    ) -> None:
        self.recipient = recipient
        self.shard = shard
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.life = ""
        self.lease = 0
        self.outstanding = 0
        self.verdict = ""  # of the last want that was answered: granted, full or unknown
        self.streams: dict[Key, Stream] = {}
        self.queued = False  # whether it is in its shard's list of what has something to say
        self.waiting = 0  # threads
        self.last_used = 0.0
        self._max = max_queue_size
        self._pack = pack
        self.settled_before = 0  # by lives of senders whose logs were taken over
        self._wanted = 0  # credits asked for and not answered

    def stream(self, key: Key) -> Stream:
        """Return the stream of one life of a sender."""
        found = self.streams.get(key)
        if found is None:
            found = self.streams[key] = Stream(key, pack=self._pack)
        return found

    def admit_many(self, key: Key, payloads: Sequence[Payload], block: Any = None) -> int:
        """Put as many messages into the log as there is credit for; return how many.

        ``block`` is all of them packed, where they are packed already.
        """
        count = min(len(payloads), self.lease - self.outstanding)
        if count <= 0:
            return 0
        self.outstanding += count
        stream = self.streams.get(key) or self.stream(key)
        if block is not None:
            whole = count == len(payloads)
            stream.append_plain(count, block if whole else self._pack(unpack_block(block)[:count]))
            return count
        for payload in payloads[:count]:
            stream.append(payload)
        return count

    def admit(self, key: Key, payload: Payload) -> int:
        """Put one message into the log; return its sequence number, or 0 where credit is lacking."""
        if self.outstanding >= self.lease:
            return 0
        self.outstanding += 1
        stream = self.streams.get(key) or self.stream(key)
        stream.append(payload)
        return stream.last

    @property
    def at_limit(self) -> bool:
        """Whether this process alone fills the recipient's queue."""
        return self.outstanding >= self._max

    def want(self, least: int = 1) -> int:
        """Return how much credit to ask for now: for ``least`` more messages, doubling what is held."""
        free = self.lease - self.outstanding
        if self._wanted or self.lease >= self._max or (free >= least and self.outstanding * 2 < self.lease):
            return 0
        self._wanted = min(max(self.lease, FIRST_LEASE, least - free), self._max - self.lease)
        return self._wanted

    def apply_grant(self, grant: Grant) -> None:
        """Take credit, or lose it, and note the verdict."""
        self.lease += grant.delta
        if grant.verdict:
            self._wanted = 0
            self.verdict = grant.verdict
            if grant.verdict != "unknown":
                self.life = grant.life
        self.changed.notify_all()

    def give_back(self) -> int:
        """Return how much idle credit goes back to the shard."""
        idle = max(self.lease - self.outstanding, 0)
        self.lease -= idle
        return idle

    def settle(self, key: Key, mark: int) -> int:
        """Drop what the recipient acknowledged; return how many messages that settled."""
        stream = self.streams.get(key)
        if stream is None:
            return 0
        done = stream.settle(mark)
        self.outstanding -= done
        if done:
            self.changed.notify_all()
        return done

    def take_segments(self) -> list[Segment]:
        """Return what is to be sent."""
        return [
            Segment(self.recipient, self.life, stream.key, stream.settled + 1, run)
            for stream in self.streams.values()
            if stream.unsent or stream.to_send
            for run in stream.take_runs()
        ]

    def end_life(self, gone: Gone) -> list[tuple[Key, int, Payload]]:
        """Settle what the recipient's last marks cover; return the rest as dead letters."""
        if gone.life != self.life:
            return []
        for key, mark in gone.marks.items():
            self.settle(key, mark)
        dead = [
            (key, sequence, payload)
            for key, stream in self.streams.items()
            for sequence, payload in stream.abandon()
        ]
        self.outstanding = self.lease = self._wanted = 0
        self.life, self.verdict = "", "unknown"
        self.changed.notify_all()
        return dead

    def claim(self) -> OutletClaim | None:
        """Return what a shard that has forgotten everything must know; send everything again after it.

        A question that was not answered is asked again by whoever waits.
        """
        self._wanted = 0
        for stream in self.streams.values():
            stream.rewind()
        if not self.life and not self.outstanding:
            return None
        streams = tuple(
            (stream.key, stream.settled + 1) for stream in self.streams.values() if stream.outstanding
        )
        return OutletClaim(self.recipient, self.life, self.lease, streams)

    def adopt(self, stream: Stream) -> None:
        """Take over the log of a sender that died, and the credit that it held."""
        self.streams[stream.key] = stream
        self.outstanding += stream.outstanding
        self.lease += stream.outstanding
        self.settled_before += stream.settled

    @property
    def admitted(self) -> int:
        """How many messages were admitted, or taken over, here."""
        return sum(stream.last for stream in self.streams.values()) - self.settled_before
