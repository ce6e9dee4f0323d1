"""The bus within one process: the same shards and the same client, carried by plain calls."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence

from camac_dra.coordination.bus.carrier import new_name
from camac_dra.coordination.bus.client_core import ClientCore
from camac_dra.coordination.bus.payloads import Payload
from camac_dra.coordination.bus.shard import Shard
from camac_dra.coordination.bus.wire import Gone, InboxClaim


class LocalCarrier:
    """Carries between a client and shards in the same process; whoever has something to say carries it."""

    def __init__(self, num_shards: int, max_queue_size: int) -> None:
        self.core: ClientCore
        self._shards = [
            Shard(uuid.uuid4().hex, max_queue_size, now=time.monotonic(), new_life=new_name)
            for _ in range(num_shards)
        ]
        self._lock = threading.RLock()
        self._busy = False
        self._published = threading.Condition()

    def start(self, core: ClientCore) -> None:
        """Begin to carry for a client."""
        self.core = core
        for number, shard in enumerate(self._shards):
            core.welcome(number, shard.hello(time.monotonic(), core.begin_session(number)))

    def wake(self, number: int) -> None:
        """Carry where somebody waits for it; else leave it to whoever needs it first (``urge``)."""
        if self.core.waiters or self._shards[number].woken:
            self.urge(number)

    def urge(self, number: int) -> None:
        """Carry everything there is, both ways."""
        core, shard = self.core, self._shards[number]
        published = shard.published
        while core.has_upload(number) or shard.woken:
            with self._lock:
                if self._busy:  # this very thread, which will look again
                    return
                self._busy = True
                upload = core.collect(number, time.monotonic())
                if upload is not None:
                    shard.push(time.monotonic(), upload)
                shard.woken.clear()
                download = shard.collect(core.client)
                if download is not None:
                    core.deliver(number, download)
                self._busy = False
        if shard.published != published:
            with self._published:
                self._published.notify_all()

    def register(self, number: int, claim: InboxClaim) -> tuple[str, str, int]:
        """Return a shard's status and life for a recipient, and the session in which it was asked."""
        session = self.core.links[number].session
        with self._lock:
            status, life = self._shards[number].register(time.monotonic(), self.core.client, session, claim)
        return status, life, session

    def unregister(self, number: int, gone: Gone, timeout: float) -> None:
        """Tell a shard of the end of a recipient's life."""
        with self._lock:
            self._shards[number].unregister(self.core.client, gone)
        self.urge(number)

    def recipients(self, timeout: float) -> list[str]:
        """Return the names of all recipients."""
        with self._lock:
            return [name for shard in self._shards for name in shard.recipients()]

    def read_latest(
        self, number: int, slots: Sequence[tuple[str, str]], at_least: int | None, timeout: float
    ) -> list[tuple[int, Payload] | None]:
        """Return slots, once all have versions of at least so much or time is up."""
        self.urge(number)
        shard = self._shards[number]
        with self._published:
            self._published.wait_for(lambda: shard.latest.have(slots, at_least), timeout)
        return shard.latest.get_many(slots)

    def shard_stats(self, timeout: float) -> list[dict[str, int]]:
        """Return the figures of all shards."""
        with self._lock:
            return [shard.stats() for shard in self._shards]

    def close(self) -> None:
        """There is nothing to end."""
