"""The recipient's side: what has arrived for one agent, and the marks that weed out doubles.

Each stream (one life of a sender) has three marks: ``accepted`` (arrived, in order and without gaps),
``handed`` (given to the user), ``confirmed`` (acknowledged). A message that an inbox has accepted once is
never accepted again, however often a shard delivers it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from camac_dra.coordination.bus.payloads import Parcel, Payload, unpack_block
from camac_dra.coordination.bus.wire import Bounce, Gone, InboxClaim, Key, Run, Segment
from camac_dra.utils.errors import BusArgumentError

EPOCHS_KEPT = 8  # lives of one sender whose marks are remembered
BOUNCE_SECONDS = 1.0  # after which a message that was sent back is sent back again
HANDED, RETURNED = "handed", "returned"  # keys of marks
EXPIRED = "expired"


class Handed(NamedTuple):
    """Messages of one stream that are handed over, with consecutive sequence numbers, still encoded."""

    key: Key
    first: int
    payloads: list[Payload]


class Envelope(NamedTuple):
    """A message with what its carriage needs: who sent it, and its number among that sender's messages."""

    sender: str
    recipient: str
    sequence: int
    message: dict[str, Any]
    epoch: str  # one life of the sender
    payload: Payload  # the message as it was sent


class Opened(NamedTuple):
    """Messages of one stream that are handed over, with consecutive sequence numbers."""

    key: Key
    first: int
    payloads: list[Payload]
    messages: list[dict[str, Any]]

    def envelopes(self, recipient: str) -> Iterator[Envelope]:
        """Yield each message with what its carriage needs."""
        sender, epoch = self.key
        for index, (payload, message) in enumerate(zip(self.payloads, self.messages, strict=True)):
            yield Envelope(sender, recipient, self.first + index, message, epoch, payload)


@dataclass(slots=True)
class Marks:
    """How far one stream has come."""

    accepted: int
    handed: int
    confirmed: int
    reported: int = 0  # the acknowledgement that was last sent


@dataclass(slots=True)
class _Arrived:
    key: Key
    marks: Marks
    next: int  # sequence number
    run: Run
    index: int  # of the next one in the run
    opened: list[Payload] | None = None

    @property
    def payloads(self) -> list[Payload]:
        """The run's messages: as long as nobody needs them, one block is cheaper to keep."""
        if self.opened is None:
            self.opened = unpack_block(self.run.block)
        return self.opened


class Inbox:
    """What has arrived for one agent. Whoever calls holds ``lock``; ``changed`` is notified on arrivals."""

    def __init__(self, agent_id: str, shard: int, automatic: bool, marks: Mapping[str, Any]) -> None:
        self.agent_id = agent_id
        self.shard = shard
        self.automatic = automatic
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.life = ""
        self.closed = ""  # why nothing more will arrive
        self.waiting = 0  # threads
        self.queued = False  # whether it is in its shard's list of what has something to say
        self.size = 0
        self.handed_total = 0
        self.doubles = 0
        self.bounces: dict[tuple[Key, int], Bounce] = {}  # not confirmed by the sender's process
        self.unsent_bounces: list[Bounce] = []
        self.bounced_at = 0.0  # when they were last sent
        self._arrived: deque[_Arrived] = deque()
        self._streams: OrderedDict[Key, Marks] = OrderedDict()
        self._expiring = False
        self._to_return: dict[tuple[Key, int], str] = {}  # by an earlier life, which may not have done it
        for sender, epochs in marks.get(HANDED, {}).items():
            for epoch, mark in epochs.items():
                self._streams[(sender, epoch)] = Marks(mark, mark, mark)
        for sender, epoch, sequence, reason in marks.get(RETURNED, ()):
            self._to_return[(sender, epoch), sequence] = reason

    def accept(self, segment: Segment) -> bool:
        """Take in what is new of a segment; return whether it left no gap."""
        marks = self._streams.get(segment.key)
        if marks is None:
            marks = self._streams[segment.key] = Marks(segment.base - 1, segment.base - 1, segment.base - 1)
            self._forget_old_lives(segment.key[0])
        elif (
            segment.base - 1 > marks.accepted
        ):  # settled without us: a life of ours that kept no marks had it
            if marks.handed == marks.accepted:
                marks.handed = segment.base - 1
            marks.accepted = segment.base - 1
        run = segment.run
        if self._to_return:
            self._return_again(segment)
        fresh = run.last - marks.accepted
        if fresh <= 0:
            self.doubles += run.length
            marks.reported = min(marks.reported, marks.confirmed - 1)  # the sender missed it: tell it again
            return True
        if fresh > run.length:
            return False
        self.doubles += run.length - fresh
        arrived = _Arrived(segment.key, marks, marks.accepted + 1, run, run.length - fresh)
        self._arrived.append(arrived)
        if not (run.plain or self._expiring):
            self._expiring = Parcel in set(map(type, arrived.payloads))
        marks.accepted = run.last
        self.size += fresh
        if self.waiting:
            self.changed.notify_all()
        return True

    def _return_again(self, segment: Segment) -> None:
        """Send back what an earlier life rejected, unless its sender has it by now."""
        for key, sequence in [name for name in self._to_return if name[0] == segment.key]:
            if sequence < segment.base:
                del self._to_return[key, sequence]
            elif segment.run.first <= sequence <= segment.run.last:
                payload = unpack_block(segment.run.block)[sequence - segment.run.first]
                self.bounce(key, sequence, self._to_return.pop((key, sequence)), payload)

    def take(self, most: int, clock: Callable[[], float]) -> list[Handed]:
        """Hand over up to ``most`` messages in order of arrival; what has expired goes back instead.

        ``clock`` tells the time of day in seconds, as ``time.time`` does.
        """
        if self._expiring:
            self.expire(clock())
        taken: list[Handed] = []
        left = most
        while self._arrived and left:
            first = self._arrived[0]
            start = first.index
            count = 1 if self._expiring else min(first.run.length - start, left)
            taken.append(Handed(first.key, first.next, first.payloads[start : start + count]))
            self._advance(first, count)
            left -= count
            if self._expiring:
                self.expire(clock())
        self.handed_total += most - left
        return taken

    def _advance(self, first: _Arrived, count: int) -> None:
        first.index += count
        first.next += count
        first.marks.handed = first.next - 1
        if self.automatic:
            first.marks.confirmed = first.next - 1
        self.size -= count
        if first.index == first.run.length:
            self._arrived.popleft()

    def expire(self, now: float) -> bool:
        """Send back what is next to be handed over and has expired; return whether there was any."""
        any_expired = False
        while self._arrived:
            first = self._arrived[0]
            payload = first.payloads[first.index]
            if not isinstance(payload, Parcel) or payload.expiry is None or payload.expiry > now:
                return any_expired
            self.bounce(first.key, first.next, EXPIRED, payload)
            self._advance(first, 1)
            any_expired = True
        self._expiring = False
        return any_expired

    def bounce(self, key: Key, sequence: int, reason: str, payload: Payload) -> None:
        """Send one message back to its sender; its acknowledgement waits until it is there.

        What was rejected goes only when the recipient acknowledges it: until then it would be handed over
        again after a crash, and must not be a dead letter too. What has expired will expire again.
        """
        bounce = Bounce(self.agent_id, key, sequence, reason, payload)
        if (key, sequence) not in self.bounces:
            self.bounces[key, sequence] = bounce
            if self._may_go(bounce):
                self.unsent_bounces.append(bounce)

    def _may_go(self, bounce: Bounce) -> bool:
        stream = self._streams.get(bounce.key)
        known = stream is None or bounce.sequence <= stream.confirmed
        return known or bounce.reason == EXPIRED or bool(self.closed)

    def confirm_bounce(self, key: Key, sequence: int) -> None:
        """Note that a message which was sent back has arrived."""
        self.bounces.pop((key, sequence), None)

    def confirm(self, marks: Mapping[str, Any] | None) -> None:
        """Acknowledge everything handed over so far, or what ``marks`` cover of it."""
        covered = {} if marks is None else marks.get(HANDED, {})
        held = [bounce for bounce in self.bounces.values() if not self._may_go(bounce)]
        for (sender, epoch), stream in self._streams.items():
            limit = stream.handed if marks is None else covered.get(sender, {}).get(epoch, 0)
            stream.confirmed = max(stream.confirmed, min(limit, stream.handed))
        self.unsent_bounces += [bounce for bounce in held if self._may_go(bounce)]

    def marks(self) -> dict[str, Any]:
        """Return what was handed over, by sender and epoch, and what is on its way back: plain lists and
        dicts.
        """
        returned = [[*key, sequence, bounce.reason] for (key, sequence), bounce in self.bounces.items()]
        returned += [[*key, sequence, reason] for (key, sequence), reason in self._to_return.items()]
        found: dict[str, dict[str, int]] = {}
        for (sender, epoch), stream in self._streams.items():
            if stream.handed:
                found.setdefault(sender, {})[epoch] = stream.handed
        return {HANDED: found, RETURNED: returned}

    def acks(self) -> dict[Key, int]:
        """Return what is acknowledged, except what waits for a bounce to arrive."""
        found = {key: stream.confirmed for key, stream in self._streams.items()}
        for key, sequence in (*self.bounces, *self._to_return):
            found[key] = min(found[key], sequence - 1)
        return found

    def take_acks(self) -> list[tuple[str, Key, int]]:
        """Return acknowledgements that were not sent yet."""
        fresh = []
        for key, mark in self.acks().items() if self.bounces or self._to_return else self._confirmed():
            stream = self._streams[key]
            if mark > stream.reported:
                stream.reported = mark
                fresh.append((self.agent_id, key, mark))
        return fresh

    def _confirmed(self) -> list[tuple[Key, int]]:
        return [(key, stream.confirmed) for key, stream in self._streams.items()]

    def take_bounces(self, now: float) -> list[Bounce]:
        """Return messages to be sent back that were not yet."""
        self.bounced_at = now
        fresh, self.unsent_bounces = self.unsent_bounces, []
        return fresh

    def repeat_bounces(self, now: float) -> bool:
        """Send again what was sent back and has not arrived for long; return whether there is any."""
        if not self.bounces or self.unsent_bounces or now - self.bounced_at < BOUNCE_SECONDS:
            return False
        self.unsent_bounces = [bounce for bounce in self.bounces.values() if self._may_go(bounce)]
        return bool(self.unsent_bounces)

    def claim(self) -> InboxClaim:
        """Return what a shard that has forgotten everything must know."""
        self.unsent_bounces = [bounce for bounce in self.bounces.values() if self._may_go(bounce)]
        for stream in self._streams.values():
            stream.reported = 0
        return InboxClaim(self.agent_id, self.life, self.acks())

    def peek(self) -> list[Payload]:
        """Return what has arrived and was not handed over."""
        return [payload for run in self._arrived for payload in run.payloads[run.index :]]

    def accepted(self, key: Key) -> int:
        """Return the last sequence number of a stream that has arrived."""
        marks = self._streams.get(key)
        return 0 if marks is None else marks.accepted

    def close(self, why: str) -> Gone:
        """End this life; return its last marks."""
        self.closed = why
        self.unsent_bounces = list(self.bounces.values())  # nothing holds them any more
        self._arrived.clear()
        self.size = 0
        self.changed.notify_all()
        return Gone(self.agent_id, self.life, {key: stream.handed for key, stream in self._streams.items()})

    def _forget_old_lives(self, sender: str) -> None:
        lives = [key for key in self._streams if key[0] == sender]
        for key in lives[:-EPOCHS_KEPT]:
            if self._streams[key].accepted == self._streams[key].handed:
                del self._streams[key]


def plain_marks(marks: Any) -> dict[str, Any]:
    """Return marks as they are kept, checked."""
    if not marks and isinstance(marks, Mapping):
        return {}
    try:
        handed = {
            str(sender): {str(epoch): int(mark) for epoch, mark in epochs.items()}
            for sender, epochs in marks[HANDED].items()
        }
        returned = [
            [str(sender), str(epoch), int(sequence), str(reason)]
            for sender, epoch, sequence, reason in marks[RETURNED]
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BusArgumentError(f"marks: must be what bus.marks(agent_id) returned, got {marks!r}") from None
    return {HANDED: handed, RETURNED: returned}
