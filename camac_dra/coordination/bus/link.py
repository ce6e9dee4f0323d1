"""What waits to be told to one shard."""

from __future__ import annotations

import threading
import zlib
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from camac_dra.coordination.bus.inbox import Inbox
from camac_dra.coordination.bus.outlet import Outlet
from camac_dra.coordination.bus.payloads import size_of
from camac_dra.coordination.bus.wire import Key, Publication, Upload

UPLOAD_BYTES = 4 * 2**20


@dataclass(slots=True)
class Link:
    """What waits to be told to one shard, and the session with it."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    session: int = 0
    ready: bool = False
    incarnation: str = ""
    outlets: deque[Outlet] = field(default_factory=deque)
    inboxes: deque[Inbox] = field(default_factory=deque)
    returns: list[tuple[str, int]] = field(default_factory=list)
    publications: dict[tuple[str, str], Publication] = field(default_factory=dict)
    confirmed: list[tuple[str, Key, int]] = field(default_factory=list)
    restarts: int = 0

    def collect_outlets(self, upload: Upload, now: float) -> None:
        """Add what outlets have to say, up to about UPLOAD_BYTES."""
        room = UPLOAD_BYTES
        for _ in range(len(self.outlets)):
            outlet = self.outlets.popleft()
            with outlet.lock:
                outlet.queued = False
                outlet.last_used = now
                if outlet.life:
                    segments = outlet.take_segments()
                    upload.segments += segments
                    room -= sum(_block_bytes(segment.run.block) for segment in segments)
                amount = outlet.want(1 if outlet.waiting or not outlet.life else 0)
            if amount:
                upload.wants.append((outlet.recipient, amount))
            if room < 0:
                return

    def collect_inboxes(self, upload: Upload, now: float) -> None:
        """Add what inboxes have to say."""
        while self.inboxes:
            inbox = self.inboxes.popleft()
            with inbox.lock:
                inbox.queued = False
                upload.acks += inbox.take_acks()
                if inbox.unsent_bounces:
                    upload.bounces += inbox.take_bounces(now)


def shard_of(name: str, num_shards: int) -> int:
    """Return the shard that serves an agent: the same in every process."""
    return zlib.crc32(name.encode()) % num_shards


def _block_bytes(block: Any) -> int:
    return len(block) if isinstance(block, bytes) else sum(size_of(payload) for payload in block)
