"""A shard as a Ray actor. It imports neither torch nor RLlib, so that a killed one is back soon."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from typing import Any

import ray

from camac_dra.coordination.bus.carrier import new_name
from camac_dra.coordination.bus.shard import Shard
from camac_dra.coordination.bus.wire import pack, unpack

GRACE_SECONDS = 1.0  # after a restart, for clients to report
TICK_SECONDS = 0.1
SAY_HELLO: list[Any] = []  # the answer to a client whose session this shard does not know


class ShardActor:
    """Carries between the calls of clients and a shard's state machine."""

    def __init__(self, max_queue_size: int, description: dict[str, Any]) -> None:
        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        grace = GRACE_SECONDS if restarted else 0.0
        self._shard = Shard(
            uuid.uuid4().hex, max_queue_size, now=time.monotonic(), grace=grace, new_life=new_name
        )
        self._description = description
        self._events: dict[str, asyncio.Event] = {}
        self._published = asyncio.Event()
        self._ticker: asyncio.Task[None] | None = None

    async def describe(self) -> dict[str, Any]:
        """Return the settings of the bus that this shard belongs to."""
        return self._description

    async def hello(self, *parts: Any) -> list[Any]:
        """Begin a session."""
        if self._ticker is None:
            self._ticker = asyncio.create_task(self._tick())
        hello = unpack(list(parts))
        welcome = self._shard.hello(time.monotonic(), hello)
        self._wake()
        return pack(welcome)

    async def push(self, *parts: Any) -> bool:
        """Take in an upload; return False where the client must say hello first."""
        published = self._shard.published
        known = self._shard.push(time.monotonic(), unpack(list(parts)))
        self._wake()
        if self._shard.published != published:
            self._published.set()
            self._published = asyncio.Event()
        return known

    async def poll(self, client: str, session: int, seconds: float) -> list[Any]:
        """Return what there is for a client, once there is something; an empty list asks for a hello."""
        if not self._shard.alive(time.monotonic(), client, session):
            return SAY_HELLO
        download = self._shard.collect(client)
        if download is None:
            event = self._events.setdefault(client, asyncio.Event())
            event.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), seconds)
            if not self._shard.knows(client, session):  # that it was woken is no sign of its life
                return SAY_HELLO
            download = self._shard.collect(client)
        return pack(download)

    async def register(self, client: str, session: int, *parts: Any) -> tuple[str, str]:
        """Return the status of a registration, and the recipient's life."""
        answer = self._shard.register(time.monotonic(), client, session, unpack(list(parts)))
        self._wake()
        return answer

    async def unregister(self, client: str, *parts: Any) -> None:
        """End a recipient's life."""
        self._shard.unregister(client, unpack(list(parts)))
        self._wake()

    async def forget(self, client: str) -> None:
        """Let a client go that closes."""
        self._shard.forget(client)
        self._events.pop(client, None)
        self._wake()

    async def recipients(self) -> list[str]:
        """Return the names of all recipients of this shard."""
        return self._shard.recipients()

    async def read_latest(
        self, slots: list[tuple[str, str]], at_least: int | None, seconds: float
    ) -> list[Any]:
        """Return slots, once all have versions of at least so much or time is up."""
        deadline = time.monotonic() + seconds
        while not self._shard.latest.have(slots, at_least) and (left := deadline - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(self._published.wait(), left)
            except TimeoutError:
                break
        return pack(self._shard.latest.get_many(slots))

    async def stats(self) -> dict[str, int]:
        """Return the shard's figures."""
        return self._shard.stats()

    def _wake(self) -> None:
        for client in self._shard.woken:
            event = self._events.get(client)
            if event is not None:
                event.set()
        self._shard.woken.clear()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._shard.tick(time.monotonic())
            self._wake()
