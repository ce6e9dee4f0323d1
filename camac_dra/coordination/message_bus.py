"""The message bus: reliable messages between agents, and newest values beside them."""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Literal

from camac_dra.coordination.bus.building import Built, BusSettings, attach, build, open_client
from camac_dra.coordination.bus.client import Client
from camac_dra.coordination.bus.dead_letters import DeadLetter
from camac_dra.coordination.bus.inbox import Envelope, Opened, plain_marks
from camac_dra.coordination.bus.payloads import Batch, encode, encode_many
from camac_dra.utils.arguments import (
    check_kind,
    check_mapping,
    check_number,
    check_rows,
    check_text,
    check_whole,
)
from camac_dra.utils.errors import BusArgumentError, BusClosedError
from camac_dra.utils.file_handler import StrPath

__all__ = ["DeadLetter", "Envelope", "MessageBus", "default_bus"]

_in_this_process: weakref.WeakValueDictionary[str, MessageBus] = weakref.WeakValueDictionary()
_lock = threading.Lock()
_default: list[MessageBus] = []


class MessageBus:
    """Carries messages (plain dicts, with arrays and tensors in them) between agents, whatever dies in
    between.

    ``send`` returning True means admitted: the message is in this process's log and within the recipient's
    ``max_queue_size`` (counted from admission to acknowledgement). Every admitted message ends in one of
    two ways: handed to the recipient's ``receive`` once, in the order in which its sender sent it; or in
    ``dead_letters`` of the sender's process with a reason. That survives the death of any actor of the bus.
    It survives the death of the recipient's process where that registers again with the ``marks`` that it
    kept with its state (``acknowledge="manual"``: nothing is acknowledged before that state is safe). It
    survives the death of the sender's process where the bus has a ``journal``: then True means written and
    synced.

    A message is a snapshot of the moment of ``send``. Arrays of 64 KiB and more arrive read-only; CPU
    tensors arrive detached. All methods may be called from any thread. A bus pickles to a handle on the
    same bus, for Ray tasks and actors; the process that created it ends it with ``close``.

    Raises:
        BusArgumentError: an argument is out of range.
        BusNameError: another bus has this name.
        BusPlacementError: the cluster has no room for the bus's actors.
        JournalError: the journal cannot be written.
    """

    def __init__(
        self,
        timeout: float = 5.0,
        *,
        backend: Literal["ray", "local"] = "ray",
        max_queue_size: int = 1000,
        num_shards: int | None = None,
        name: str | None = None,
        detached: bool = False,
        journal: StrPath | None = None,
        max_message_bytes: int = 16 * 2**20,
        ttl: float | None = None,
        shard_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Start a bus, or share the detached one of that name.

        ``timeout`` (seconds) is how long calls wait unless told otherwise; ``ttl`` (seconds) after which
        messages expire that were not handed over; ``shard_options`` go to Ray for the actors (``num_cpus``
        0 unless given).
        """
        settings = BusSettings(
            timeout, backend, max_queue_size, num_shards, name, detached, max_message_bytes, ttl
        )
        self._begin(build(settings, journal, shard_options))

    def _begin(self, built: Built) -> None:
        self._built = built
        self._settings = built.settings
        self._limit = built.settings.max_message_bytes
        self._journal = built.journal
        self._client: Client = open_client(built)
        _in_this_process[built.identity] = self

    # -- agents ----

    def register(
        self,
        agent_id: str,
        *,
        acknowledge: Literal["auto", "manual"] = "auto",
        marks: Mapping[str, Any] | None = None,
    ) -> None:
        """Make this process the place where an agent sends and receives.

        ``auto``: a message is acknowledged when it is handed over; ``manual``: when ``acknowledge`` says
        so. What was not acknowledged by an earlier life of the agent is handed over again, except what
        ``marks`` cover. Where another process serves the agent, it is asked for a sign of life first (2 s).

        Raises:
            DuplicateAgentError: the agent is registered and its process lives.
        """
        _check_name("agent_id", agent_id)
        if acknowledge not in ("auto", "manual"):
            raise BusArgumentError(f"acknowledge: must be 'auto' or 'manual', got {acknowledge!r}")
        self._client.register(agent_id, acknowledge == "auto", plain_marks(marks or {}))

    def unregister(self, agent_id: str) -> None:
        """End an agent's life: what it was not handed becomes its senders' dead letters."""
        self._client.unregister(agent_id)

    # -- reliable messages ----

    def send(
        self,
        sender_id: str,
        recipient_id: str,
        message: dict[str, Any],
        *,
        timeout: float | None = None,
        ttl: float | None = None,
    ) -> bool:
        """Admit a message; return False for an unknown recipient, and after ``timeout`` for a full queue.

        Raises:
            MessageError: the message is no dict, cannot be encoded, or is too large.
            UnknownAgentError: the sender is not registered here.
        """
        seconds = self._seconds(timeout)
        if type(recipient_id) is not str:
            _check_name("recipient_id", recipient_id)
        payload = encode(message, self._limit, self._expiry(ttl))
        admitted = self._client.send(sender_id, recipient_id, payload, seconds) > 0
        if self._journal is not None and admitted:
            self._journal.sync()
        return admitted

    def send_many(
        self,
        sender_id: str,
        items: Sequence[tuple[str, dict[str, Any]]],
        *,
        timeout: float | None = None,
        ttl: float | None = None,
    ) -> list[bool]:
        """Send (recipient, message) pairs in order; return for each what ``send`` would. One timeout for
        all.
        """
        seconds = self._seconds(timeout)
        expiry = self._expiry(ttl)
        client = self._client
        items = check_rows("items:", items, ("recipient", "message"), BusArgumentError)
        batches = encode_many(items, self._limit, expiry)
        for batch in batches:
            if type(batch.recipient) is not str:
                _check_name("recipient_id", batch.recipient)
        client.hint_credit(batches)
        admitted = client.send_many(sender_id, batches, seconds)
        if self._journal is not None and any(admitted):
            self._journal.sync()
        return admitted

    def broadcast(self, sender_id: str, message: dict[str, Any]) -> list[str]:
        """Send to all registered agents but the sender; return those for whom the message was admitted."""
        payload = encode(message, self._limit, self._expiry(None))
        client = self._client
        client.inbox(sender_id)
        names = [
            name for name in sorted(client.carrier.recipients(self._settings.timeout)) if name != sender_id
        ]
        client.hint_credit([Batch(name, [payload], None) for name in names])
        deadline = time.monotonic() + self._settings.timeout
        admitted = [
            name
            for name in names
            if client.send(sender_id, name, payload, max(deadline - time.monotonic(), 0.0))
        ]
        if self._journal is not None and admitted:
            self._journal.sync()
        return admitted

    def receive(self, agent_id: str, timeout: float | None = None) -> dict[str, Any] | None:
        """Return the next message for an agent, or None after ``timeout`` (None: the bus's own; 0: do not
        wait).
        """
        found = self._receive(agent_id, 1, timeout)
        return found[0].messages[0] if found else None

    def receive_many(
        self, agent_id: str, max_messages: int | None = None, timeout: float | None = None
    ) -> list[dict[str, Any]]:
        """Wait for a message; return it with whatever else is there, at most ``max_messages``."""
        found = self._receive(agent_id, max_messages, timeout)
        return list(chain.from_iterable(opened.messages for opened in found))

    def receive_envelopes(
        self, agent_id: str, max_messages: int | None = None, timeout: float | None = None
    ) -> list[Envelope]:
        """Do what ``receive_many`` does, and tell who sent each message and as which number."""
        found = self._receive(agent_id, max_messages, timeout)
        return [envelope for opened in found for envelope in opened.envelopes(agent_id)]

    def _receive(self, agent_id: str, most: int | None, timeout: float | None) -> list[Opened]:
        if most is None:
            most = self._settings.max_queue_size
        else:
            check_whole("max_messages:", most, 1, BusArgumentError, optional="for all")
        seconds = self._seconds(timeout)
        return self._client.receive(agent_id, most, seconds)

    def acknowledge(self, agent_id: str, marks: Mapping[str, Any] | None = None) -> None:
        """Confirm (``manual``) everything handed over so far, or what earlier ``marks`` cover of it."""
        if marks is not None:
            check_mapping("marks:", marks, BusArgumentError)
        self._client.acknowledge(agent_id, None if marks is None else plain_marks(marks))

    def reject(self, envelope: Envelope, reason: str) -> None:
        """Return a message that could not be handled to its sender's dead letters.

        Where it is still to be acknowledged (``manual``) it goes back with the acknowledgement. In ``auto``
        mode that was given already, and the dead letter is lost where this process dies at once.
        """
        check_kind("envelope:", envelope, Envelope, BusArgumentError)
        self._client.reject(envelope, str(reason))

    def marks(self, agent_id: str) -> dict[str, Any]:
        """Return what was handed over so far, to be kept with the state that it led to (plain dicts)."""
        inbox = self._client.inbox(agent_id)
        with inbox.lock:
            return inbox.marks()

    def get_message_queue(self, agent_id: str) -> list[dict[str, Any]]:
        """Return the messages that wait for an agent, without handing them over."""
        return self._client.peek(agent_id)

    # -- the newest values ----

    def publish(
        self, sender_id: str, topic: str, message: dict[str, Any], *, version: int | None = None
    ) -> None:
        """Make a value the newest of (sender, topic); never waits. Without a version: one more than the
        last.
        """
        self.publish_many([(sender_id, topic, message, version)])

    def publish_many(self, items: Sequence[tuple[str, str, dict[str, Any], int | None]]) -> None:
        """Publish (sender, topic, message, version) for each item."""
        keys = self._client.core.keys
        rows = ("sender", "topic", "message", "version")
        items = check_rows("items:", items, rows, BusArgumentError)
        for sender, topic, _, version in items:
            if type(sender) is not str or sender not in keys:
                self._client.inbox(sender)
            _check_name("topic", topic)
            check_whole("version:", version, 0, BusArgumentError, optional="for the next")
        self._client.publish(
            [
                (sender, topic, encode(message, self._limit), version)
                for sender, topic, message, version in items
            ]
        )

    def latest(self, sender_id: str, topic: str) -> tuple[int, dict[str, Any]] | None:
        """Return version and value of (sender, topic), or None where nothing was published."""
        return self.latest_many([(sender_id, topic)])[0]

    def latest_many(
        self, keys: Sequence[tuple[str, str]], *, at_least: int | None = None, timeout: float = 0.0
    ) -> list[tuple[int, dict[str, Any]] | None]:
        """Return version and value of each (sender, topic), as they are once all have a version of at least
        ``at_least``, or after ``timeout`` seconds.
        """
        slots = [
            (_check_name("sender_id", sender), _check_name("topic", topic))
            for sender, topic in check_rows("keys:", keys, ("sender", "topic"), BusArgumentError)
        ]
        check_whole("at_least:", at_least, 0, BusArgumentError, optional="for any")
        return self._client.latest(slots, at_least, _check_seconds("timeout", timeout))

    # -- watching and ending ----

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything that was admitted here is acknowledged or dead.

        Raises:
            MessageDeliveryTimeout: some of it is not in time.
        """
        self._client.check_open()
        self._client.flush(self._seconds(timeout))

    def stats(self, *, shards: bool = True) -> dict[str, Any]:
        """Return figures of this process; with ``shards``, those too, for which it may have to wait."""
        self._client.check_open()
        self._client.housekeeping()
        figures: dict[str, Any] = dict(self._client.stats())
        if shards:
            figures["shards"] = self._client.carrier.shard_stats(self._settings.timeout)
        return figures

    @property
    def num_shards(self) -> int:
        """Number of actors (or, with backend ``local``, of their state machines) that recipients are spread
        over.
        """
        return self._client.core.num_shards

    def kill_shard(self, number: int) -> None:
        """Kill an actor of the bus as a crash would, to see that nothing is lost; Ray starts it again.

        Raises:
            BusArgumentError: the bus has no actor of that number.
        """
        self._built.kill(number)

    def dead_letters(self, sender_id: str | None = None) -> list[DeadLetter]:
        """Return messages sent from this process that were admitted and not handled (the newest 10,000)."""
        self._client.housekeeping()
        letters = self._client.core.dead.newest()
        return [letter for letter in letters if sender_id in (None, letter.sender)]

    def close(self) -> None:
        """Stop: the process that created the bus ends it for all, unless it is detached; others let it go.

        What is not acknowledged by then is lost, unless there is a journal: ``flush`` first.
        """
        if self._client.closed:
            return
        self._client.close("it was closed")
        self._built.close()
        _in_this_process.pop(self._built.identity, None)
        if _default and _default[0] is self:
            _default.clear()

    def destroy(self) -> None:
        """Close, and end a detached bus for everybody."""
        self.close()
        self._built.destroy()

    def __enter__(self) -> MessageBus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._client.closed:
            raise BusClosedError("a message bus that was closed cannot be passed on")
        return _handle, (self._built.handle(),)

    def _seconds(self, timeout: float | None) -> float:
        return self._settings.timeout if timeout is None else _check_seconds("timeout", timeout)

    def _expiry(self, ttl: float | None) -> float | None:
        if ttl is None:
            ttl = self._settings.ttl
        elif not (isinstance(ttl, int | float) and ttl > 0):
            raise BusArgumentError(f"ttl: must be None or seconds above 0, got {ttl!r}")
        return None if ttl is None else time.time() + ttl


def default_bus() -> MessageBus:
    """Return this process's own bus for agents that were made without one; it is local."""
    with _lock:
        if not _default:
            _default.append(MessageBus(backend="local"))
        return _default[0]


def _handle(passed: tuple[Any, ...]) -> MessageBus:
    """Return this process's handle on a bus that was pickled."""
    with _lock:
        found = _in_this_process.get(passed[0])
        if found is None:
            found = MessageBus.__new__(MessageBus)
            found._begin(attach(passed))
        return found


def _check_seconds(name: str, value: float) -> float:
    return check_number(f"{name}:", value, BusArgumentError, least=0.0, of="seconds")


def _check_name(name: str, value: Any) -> str:
    return check_text(f"{name}:", value, BusArgumentError)


@atexit.register
def _close_all() -> None:
    for bus in list(_in_this_process.values()):
        with contextlib.suppress(Exception):
            bus.close()
