"""The bus over Ray: two threads per shard, one that pushes and one that polls. ``send`` itself touches no
Ray.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

from camac_dra.coordination.bus.client_core import ClientCore
from camac_dra.coordination.bus.payloads import Payload
from camac_dra.coordination.bus.shard_actor import SAY_HELLO
from camac_dra.coordination.bus.upkeep import look_after
from camac_dra.coordination.bus.wire import Gone, InboxClaim, pack, unpack

POLL_SECONDS = 1.0  # how long a shard keeps a poll that it has nothing for
LOST_SECONDS = (
    2.5  # after which a call of the threads is taken for lost: calls to a dying actor may never fail
)
ANSWER_SECONDS = 10.0  # for questions, and for an actor to come back
RETRY_SECONDS = 0.05
HOUSEKEEPING_SECONDS = 0.25
PUSHES_UNDER_WAY = 4
GATHER_SECONDS = 0.005  # before a push, for more to join it, when there is much to say
MUCH = 32  # messages in the last push
_log = logging.getLogger(__name__)


class RayCarrier:
    """Carries between one process and the shards' actors."""

    def __init__(self, actors: Sequence[Any], gone: Callable[[str], None]) -> None:
        """``gone`` is called, with the reason, when an actor will not come back."""
        self.core: ClientCore
        self._actors = list(actors)
        self._gone = gone
        self._closing = threading.Event()
        self._events = [threading.Event() for _ in actors]
        self._threads: list[threading.Thread] = []
        self._worker = ray.get_runtime_context().get_worker_id()

    def start(self, core: ClientCore) -> None:
        """Begin to carry for a client."""
        self.core = core
        for number in range(len(self._actors)):
            for work in (self._poll, self._push):
                thread = threading.Thread(
                    target=work, args=(number,), name=f"camac-bus-{work.__name__}-{number}", daemon=True
                )
                thread.start()
                self._threads.append(thread)

    def wake(self, number: int) -> None:
        """Note that there is something to tell a shard."""
        event = self._events[number]
        if not event.is_set():
            event.set()

    def urge(self, number: int) -> None:
        """Leave it to the threads, which carry anyway."""

    # -- the two threads of a shard ----

    def _push(self, number: int) -> None:
        actor, event, core = self._actors[number], self._events[number], self.core
        under_way: deque[Any] = deque()
        tidy = time.monotonic()
        busy = False
        while not self._closing.is_set():
            event.wait(HOUSEKEEPING_SECONDS)
            event.clear()
            if self._left_alone():
                return
            if busy:
                time.sleep(GATHER_SECONDS)
            now = time.monotonic()
            if number == 0 and now - tidy > HOUSEKEEPING_SECONDS:
                look_after(core, now, time.time())
                tidy = now
            upload = core.collect(number, now)
            if upload is None:
                busy = False
                continue
            busy = sum(segment.run.length for segment in upload.segments) > MUCH
            try:
                under_way.append(actor.push.remote(*pack(upload)))
                if core.has_upload(number):
                    event.set()
                if len(under_way) >= PUSHES_UNDER_WAY:
                    self._await_push(number, upload.session, under_way)
            except (Exception, SystemExit) as error:  # what Ray raises while it shuts down is no RayError
                if not isinstance(error, RayError) and not self._left_alone():
                    raise
                core.suspend(number)  # the polling thread begins a new session
                under_way.clear()

    def _await_push(self, number: int, session: int, under_way: deque[Any]) -> None:
        """Wait for the oldest push, unless a new session makes all of them void."""
        link = self.core.links[number]
        while not self._closing.is_set():
            ready, _ = ray.wait([under_way[0]], timeout=RETRY_SECONDS)
            if ready:
                ray.get(under_way.popleft())
                return
            if link.session != session or not link.ready:
                under_way.clear()
                return

    def _poll(self, number: int) -> None:
        actor, core = self._actors[number], self.core
        link = core.links[number]
        while not self._closing.is_set() and not self._left_alone():
            try:
                if not link.ready:
                    answer = actor.hello.remote(*pack(core.begin_session(number)))
                    core.welcome(number, unpack(ray.get(answer, timeout=LOST_SECONDS)))
                session = link.session
                parts = ray.get(
                    actor.poll.remote(core.client, session, POLL_SECONDS),
                    timeout=POLL_SECONDS + LOST_SECONDS,
                )
                if parts == SAY_HELLO:
                    core.suspend(number)
                    continue
                download = unpack(parts)
                if download is not None and not core.deliver(number, download):
                    core.suspend(number)
            except (Exception, SystemExit) as error:
                if not isinstance(error, RayError) and not self._left_alone():
                    raise
                core.suspend(number)
                if isinstance(error, ActorDiedError) and not self._returns(actor):
                    self._lost(number)
                    return
                self._closing.wait(RETRY_SECONDS)

    def _returns(self, actor: Any) -> bool:
        """Return whether an actor that died is being restarted."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while not self._left_alone() and not self._closing.is_set() and time.monotonic() < deadline:
            try:
                ray.get(actor.describe.remote(), timeout=LOST_SECONDS)
                return True
            except ActorDiedError as error:
                if "ray.kill" in str(error) or "out of scope" in str(error) or "owner" in str(error):
                    return False
            except RayError:
                pass
            self._closing.wait(RETRY_SECONDS)
        return False

    def _lost(self, number: int) -> None:
        self._end(f"its actor for shard {number} is gone for good (was the bus closed elsewhere?)")

    def _left_alone(self) -> bool:
        """Return whether this process has left the cluster of the bus; then the bus is at its end.

        Whoever talks to Ray asks first: a call without a cluster would start a new one.
        """
        if ray.is_initialized() and ray.get_runtime_context().get_worker_id() == self._worker:
            return False
        self._end("ray.shutdown() was called under it: close the bus before")
        return True

    def _end(self, why: str) -> None:
        if not self._closing.is_set():
            self._closing.set()
            self._gone(why)

    # -- questions ----

    def _ask(self, call: Callable[[], Any], timeout: float) -> Any:
        """Return the answer to a question that may be asked twice; None where there was none in time, or
        where the bus is at its end.
        """
        deadline = time.monotonic() + timeout
        while not self._left_alone():
            left = max(deadline - time.monotonic(), RETRY_SECONDS)
            try:
                return ray.get(call(), timeout=left)
            except RayError as error:
                late = time.monotonic() > deadline
                if late or self._closing.is_set():
                    if not isinstance(error, GetTimeoutError):
                        _log.debug("A shard did not answer: %s", error)
                    return None
                time.sleep(RETRY_SECONDS)
        return None

    def register(self, number: int, claim: InboxClaim) -> tuple[str, str, int]:
        """Return a shard's status and life for a recipient, and the session in which it was asked."""
        session = self.core.links[number].session
        parts = pack(claim)
        answer = self._ask(
            lambda: self._actors[number].register.remote(self.core.client, session, *parts), ANSWER_SECONDS
        )
        return (*(answer or ("wait", "")), session)

    def unregister(self, number: int, gone: Gone, timeout: float) -> None:
        """Tell a shard of the end of a recipient's life; without an answer, the next session does it."""
        parts = pack(gone)
        self._ask(lambda: self._actors[number].unregister.remote(self.core.client, *parts), timeout)

    def recipients(self, timeout: float) -> list[str]:
        """Return the names of all recipients."""
        answers = self._ask(lambda: [actor.recipients.remote() for actor in self._actors], timeout)
        return [name for names in answers or () for name in names]

    def read_latest(
        self, number: int, slots: Sequence[tuple[str, str]], at_least: int | None, timeout: float
    ) -> list[tuple[int, Payload] | None]:
        """Return slots, once all have versions of at least so much or time is up."""
        asked = list(slots)
        parts = self._ask(
            lambda: self._actors[number].read_latest.remote(asked, at_least, timeout),
            timeout + ANSWER_SECONDS,
        )
        return [None] * len(asked) if parts is None else unpack(parts)

    def shard_stats(self, timeout: float) -> list[dict[str, int]]:
        """Return the figures of all shards."""
        return self._ask(lambda: [actor.stats.remote() for actor in self._actors], timeout) or []

    def close(self) -> None:
        """Say good-bye to the shards and end the threads."""
        alone = self._left_alone()
        self._closing.set()
        for event in self._events:
            event.set()
        if not alone:
            for actor in self._actors:
                actor.forget.remote(self.core.client)  # wakes the polls too
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(POLL_SECONDS + 1.0)
