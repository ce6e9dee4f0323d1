"""The calls of a bus that wait: for room, for messages, for acknowledgements. Every wait has a deadline."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from camac_dra.coordination.bus.carrier import Carrier
from camac_dra.coordination.bus.client_core import ClientCore
from camac_dra.coordination.bus.inbox import Envelope, Handed, Inbox, Opened
from camac_dra.coordination.bus.link import shard_of
from camac_dra.coordination.bus.outlet import Outlet
from camac_dra.coordination.bus.payloads import Batch, Payload, decode, decode_many, pack_block
from camac_dra.coordination.bus.upkeep import look_after
from camac_dra.coordination.bus.wire import Key
from camac_dra.utils.errors import (
    BusClosedError,
    DuplicateAgentError,
    MessageDeliveryTimeout,
    UnknownAgentError,
    did_you_mean,
)

SLICE_SECONDS = 0.25  # of a wait, between looks at what has expired
RETRY_SECONDS = 0.05
UNREADABLE = "cannot be decoded"


class Client:
    """One process's calls on a bus."""

    def __init__(self, core: ClientCore, carrier: Carrier, timeout: float) -> None:
        self.core = core
        self.carrier = carrier
        self.timeout = timeout
        self.closed = ""

    # -- registration ----

    def register(self, agent_id: str, automatic: bool, marks: Mapping[str, Any]) -> None:
        """Make this process the host of an agent; waits while another's host may be dead."""
        self.check_open()
        inbox = self.core.open_inbox(agent_id, automatic, marks)
        if inbox is None:
            raise DuplicateAgentError(f"agent_id: must be new, got {agent_id!r}, which is registered here")
        try:
            self._ask_to_register(inbox)
        except BaseException:
            self.core.drop_inbox(inbox, "not registered")
            raise

    def _ask_to_register(self, inbox: Inbox) -> None:
        deadline = time.monotonic() + max(self.timeout, 5.0)
        doubted = False  # what a killed process had said last may arrive after the question whether it lives
        while True:
            status, life, session = self.carrier.register(inbox.shard, inbox.claim())
            if status == "ok" and self.core.registered(inbox, session, life):
                return
            if status == "taken" and not doubted:
                doubted = True
                continue
            if status == "taken":
                raise DuplicateAgentError(
                    f"agent_id: must be new, got {inbox.agent_id!r}, which another process has registered "
                    "and serves"
                )
            self.check_open()
            if time.monotonic() > deadline:
                raise MessageDeliveryTimeout(f"register({inbox.agent_id!r}): the bus did not answer in time")
            time.sleep(RETRY_SECONDS)

    def unregister(self, agent_id: str) -> None:
        """End an agent's life: what it was not handed goes back to the senders."""
        inbox = self.inbox(agent_id)
        gone = self.core.drop_inbox(inbox, "it was unregistered")
        self.core.bury(gone)
        self.carrier.unregister(inbox.shard, gone, self.timeout)

    def inbox(self, agent_id: str) -> Inbox:
        """Return the inbox of an agent that is registered here."""
        found = self.core.inboxes.get(agent_id) if isinstance(agent_id, str) else None
        if found is None:
            self.check_open()
            hint = did_you_mean(str(agent_id), self.core.inboxes)
            raise UnknownAgentError(
                f"agent_id: must be registered on this bus in this process, got {agent_id!r}.{hint}"
            )
        return found

    # -- sending ----

    def send(self, sender: str, recipient: str, payload: Payload, timeout: float) -> int:
        """Admit one message; return its sequence number, or 0 where there is no room or no such recipient."""
        if self.closed or type(sender) is not str or sender not in self.core.keys:
            self.inbox(sender)
            self.check_open()
        sequence = self.core.try_send(sender, recipient, payload)
        return sequence or self._send_slowly(sender, recipient, payload, timeout)

    def send_many(self, sender: str, batches: Sequence[Batch], timeout: float) -> list[bool]:
        """Admit batches in order; return which messages were admitted. One timeout for all."""
        deadline = time.monotonic() + timeout
        admitted: list[bool] = []
        self.inbox(sender)
        for batch in batches:
            count = self.core.try_send_many(sender, batch)
            admitted += [True] * count
            if count < len(batch.payloads):
                admitted += self._send_rest(sender, batch, count, deadline)
        return admitted

    def _send_rest(self, sender: str, batch: Batch, done: int, deadline: float) -> list[bool]:
        """Admit what there was no credit for at first: wait for room for one, and take what room there is."""
        recipient, payloads = batch.recipient, batch.snapshots(done)
        admitted: list[bool] = []
        while len(admitted) < len(payloads):
            left = max(deadline - time.monotonic(), 0.0)
            if not self.send(sender, recipient, payloads[len(admitted)], left):
                unknown = self.core.outlet(recipient).verdict == "unknown"
                admitted += [False] * (len(payloads) - len(admitted) if unknown else 1)
                continue
            admitted.append(True)
            if batch.block is not None and (more := payloads[len(admitted) :]):
                rest = Batch(recipient, more, pack_block(more))
                admitted += [True] * self.core.try_send_many(sender, rest)
        return admitted

    def _send_slowly(self, sender: str, recipient: str, payload: Payload, timeout: float) -> int:
        outlet = self.core.outlet(recipient)
        start = time.monotonic()
        with outlet.lock:
            outlet.waiting += 1
            outlet.verdict = ""
        try:
            while True:
                self.core.ask_for_credit(outlet)
                self.carrier.urge(outlet.shard)
                if not self._wait_for_room(outlet, start, timeout):
                    return 0
                sequence = self.core.try_send(sender, recipient, payload)
                if sequence:
                    return sequence
                self.check_open()
        finally:
            with outlet.lock:
                outlet.waiting -= 1

    def _wait_for_room(self, outlet: Outlet, start: float, timeout: float) -> bool:
        """Return whether there is credit. Without an answer of the bus, waits for one at least its own
        timeout.
        """
        with outlet.lock:
            while outlet.lease <= outlet.outstanding:
                full = outlet.at_limit or outlet.verdict == "full"
                left = start + (timeout if full else max(timeout, self.timeout)) - time.monotonic()
                if outlet.verdict == "unknown" or left <= 0 or self.closed:
                    return False
                if not outlet.changed.wait(min(left, SLICE_SECONDS)):
                    return True  # look again, and ask again
            return True

    def hint_credit(self, batches: Sequence[Batch]) -> None:
        """Ask at once for the credit that batches need, instead of one recipient after the other."""
        for batch in batches:
            outlet = self.core.outlets.get(batch.recipient) or self.core.outlet(batch.recipient)
            if outlet.lease - outlet.outstanding < len(batch.payloads):
                self.core.ask_for_credit(outlet)

    # -- receiving ----

    def receive(self, agent_id: str, most: int, timeout: float) -> list[Opened]:
        """Hand over what is there, decoded, at most so many messages; wait for the first."""
        inbox = self.inbox(agent_id)
        if not inbox.size:
            self.carrier.urge(inbox.shard)
        found = self._take(inbox, most)
        if not found and timeout > 0 and not inbox.closed:
            found = self._wait_and_take(inbox, most, time.monotonic() + timeout)
        if not found and inbox.closed:
            self.check_open()
            raise UnknownAgentError(f"{agent_id!r} does not receive any more: {inbox.closed}")
        return found

    def _take(self, inbox: Inbox, most: int) -> list[Opened]:
        while True:
            with inbox.lock:
                handed = inbox.take(most, time.time)
                fresh = not inbox.queued and bool((handed and inbox.automatic) or inbox.unsent_bounces)
                inbox.queued |= fresh
            if fresh:
                self.core.queue_inbox(inbox)
            found = self._open(inbox, handed)
            if found or not handed:
                return found

    def _wait_and_take(self, inbox: Inbox, most: int, deadline: float) -> list[Opened]:
        token = object()
        self.core.waiters.add(token)
        try:
            self.carrier.urge(inbox.shard)
            while True:
                with inbox.lock:
                    self._wait_for_message(inbox, deadline)
                found = self._take(inbox, most)
                if found or inbox.closed or time.monotonic() >= deadline:
                    return found
        finally:
            self.core.waiters.discard(token)

    @staticmethod
    def _wait_for_message(inbox: Inbox, deadline: float) -> None:
        inbox.waiting += 1
        try:
            while not inbox.size and not inbox.closed and (left := deadline - time.monotonic()) > 0:
                inbox.changed.wait(left)
        finally:
            inbox.waiting -= 1

    def _open(self, inbox: Inbox, handed: Sequence[Handed]) -> list[Opened]:
        found: list[Opened] = []
        for key, first, payloads in handed:
            try:
                found.append(Opened(key, first, payloads, decode_many(payloads)))
            except Exception:  # noqa: BLE001  whatever unpickling raises
                found += self._open_one_by_one(inbox, key, first, payloads)
        return found

    def _open_one_by_one(
        self, inbox: Inbox, key: Key, first: int, payloads: Sequence[Payload]
    ) -> Iterator[Opened]:
        for sequence, payload in enumerate(payloads, first):
            try:
                message = decode(payload)
            except Exception as error:  # noqa: BLE001  whatever unpickling raises
                self._send_back(inbox, key, sequence, f"{UNREADABLE}: {error}", payload)
            else:
                yield Opened(key, sequence, [payload], [message])

    def reject(self, envelope: Envelope, reason: str) -> None:
        """Send a message back to its sender as a dead letter."""
        inbox = self.inbox(envelope.recipient)
        self._send_back(inbox, (envelope.sender, envelope.epoch), envelope.sequence, reason, envelope.payload)

    def _send_back(self, inbox: Inbox, key: Key, sequence: int, reason: str, payload: Payload) -> None:
        with inbox.lock:
            inbox.bounce(key, sequence, reason, payload)
            fresh, inbox.queued = not inbox.queued, True
        if fresh:
            self.core.queue_inbox(inbox)

    def acknowledge(self, agent_id: str, marks: Mapping[str, Any] | None) -> None:
        """Confirm what was handed over so far, or what the marks cover of it."""
        inbox = self.inbox(agent_id)
        with inbox.lock:
            inbox.confirm(marks)
            fresh, inbox.queued = not inbox.queued, True
        if fresh:
            self.core.queue_inbox(inbox)

    def peek(self, agent_id: str) -> list[dict[str, Any]]:
        """Return what waits for an agent; what this process has sent it is there already."""
        inbox = self.inbox(agent_id)
        outlet = self.core.outlets.get(agent_id)
        deadline = time.monotonic() + self.timeout
        self.carrier.urge(inbox.shard)
        while outlet is not None and time.monotonic() < deadline:
            with outlet.lock:
                sent = [(key, stream.last) for key, stream in outlet.streams.items() if stream.outstanding]
            with inbox.lock:
                if all(inbox.accepted(key) >= last for key, last in sent):
                    break
                inbox.waiting += 1
                inbox.changed.wait(RETRY_SECONDS)
                inbox.waiting -= 1
        with inbox.lock:
            payloads = inbox.peek()
        return [decode(payload) for payload in payloads]

    # -- the newest values ----

    def publish(self, items: Sequence[tuple[str, str, Payload, int | None]]) -> None:
        """Make values the newest of their slots."""
        self.check_open()
        shards = {
            self.core.publish(sender, topic, payload, version) for sender, topic, payload, version in items
        }
        for shard in shards:
            self.carrier.wake(shard)

    def latest(
        self, slots: Sequence[tuple[str, str]], at_least: int | None, timeout: float
    ) -> list[tuple[int, dict[str, Any]] | None]:
        """Return slots, once all have versions of at least so much or time is up."""
        self.check_open()
        deadline = time.monotonic() + timeout
        own = self.core.published
        by_shard: dict[int, list[tuple[str, str]]] = {}
        for slot in slots:
            if slot not in own or (at_least is not None and own[slot].version < at_least):
                by_shard.setdefault(shard_of(slot[0], self.core.num_shards), []).append(slot)
        found: dict[tuple[str, str], tuple[int, Payload] | None] = {}
        token = object()
        self.core.waiters.add(token)
        try:
            for shard, asked in by_shard.items():
                left = max(deadline - time.monotonic(), 0.0)
                found.update(zip(asked, self.carrier.read_latest(shard, asked, at_least, left), strict=True))
        finally:
            self.core.waiters.discard(token)
        result: list[tuple[int, dict[str, Any]] | None] = []
        for slot in slots:
            held = found.get(slot)
            if slot in own and (held is None or held[0] < own[slot].version):
                held = own[slot].version, own[slot].payload
            result.append(None if held is None else (held[0], decode(held[1])))
        return result

    # -- the end ----

    def flush(self, timeout: float) -> None:
        """Wait until everything admitted here is settled."""
        deadline = time.monotonic() + timeout
        self.housekeeping()
        for outlet in list(self.core.outlets.values()):
            with outlet.lock:
                while outlet.outstanding and (left := deadline - time.monotonic()) > 0 and not self.closed:
                    if not outlet.changed.wait(min(left, SLICE_SECONDS)):
                        outlet.lock.release()
                        try:
                            self.housekeeping()
                        finally:
                            outlet.lock.acquire()
        left_over = {o.recipient: o.outstanding for o in list(self.core.outlets.values()) if o.outstanding}
        if left_over:
            worst = max(left_over, key=lambda name: left_over[name])
            raise MessageDeliveryTimeout(
                f"flush: all messages must be acknowledged within {timeout:g} s, got "
                f"{sum(left_over.values())} that are not, most of them for {worst!r} ({left_over[worst]}); "
                "see whether it receives, or raise timeout"
            )

    def housekeeping(self) -> None:
        """Look after what only time brings about."""
        look_after(self.core, time.monotonic(), time.time())
        for shard in range(self.core.num_shards):
            self.carrier.urge(shard)

    def stats(self) -> dict[str, int]:
        """Return figures of this process."""
        core = self.core
        inboxes = list(core.inboxes.values())
        outlets = list(core.outlets.values())
        outstanding = core.unsettled()
        admitted = sum(outlet.admitted for outlet in outlets)
        return {
            "admitted": admitted,
            "acknowledged": admitted - outstanding - core.dead.total,
            "dead_letters": core.dead.total,
            "outstanding": outstanding,
            "handed": sum(inbox.handed_total for inbox in inboxes),
            "waiting": sum(inbox.size for inbox in inboxes),
            "doubles": sum(inbox.doubles for inbox in inboxes),
            "shard_restarts": sum(link.restarts for link in core.links),
        }

    def check_open(self) -> None:
        """Raise where the bus is closed."""
        if self.closed:
            raise BusClosedError(f"the message bus cannot be used: {self.closed}")

    def close(self, why: str) -> None:
        """Wake everybody who waits, and stop."""
        if self.closed:
            return
        self.closed = why
        for inbox in list(self.core.inboxes.values()):
            self.core.drop_inbox(inbox, why)
        for outlet in list(self.core.outlets.values()):
            with outlet.lock:
                outlet.changed.notify_all()
        self.carrier.close()
