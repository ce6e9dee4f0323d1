"""All that one process knows of a bus: its outlets, its inboxes, what it published, its dead letters. No I/O.

A carrier moves what ``collect`` returns to the shard, and what the shard answers into ``deliver``. When
anything fails on the way, the carrier begins a new session (``begin_session``, ``welcome``), after which
everything that is not settled goes out again: there is one way to recover, whatever happened.

Locks: ``link.lock`` may be held when an outlet's or an inbox's lock is taken, never the other way round.
``wake`` is called without any of them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from camac_dra.coordination.bus.dead_letters import DeadLetters
from camac_dra.coordination.bus.inbox import Inbox
from camac_dra.coordination.bus.link import Link, shard_of
from camac_dra.coordination.bus.outlet import Outlet, Stream
from camac_dra.coordination.bus.payloads import Batch, Payload, pack_block
from camac_dra.coordination.bus.wire import (
    Bounce,
    Download,
    Gone,
    Hello,
    Key,
    Publication,
    Upload,
    Welcome,
)

TOMBSTONES_KEPT = 1_000
GONE = "recipient gone"
FENCED = "another process has registered it"


class ClientCore:
    """One process's part of a bus. Methods may be called from any thread; none blocks."""

    def __init__(
        self,
        client: str,
        num_shards: int,
        max_queue_size: int,
        wake: Callable[[int], None],
        log: Callable[[str, Key, int, int, Any], None] | None = None,
        settled: Callable[[str, Key, int], None] | None = None,
        pack: Callable[[list[Payload]], Any] = pack_block,
    ) -> None:
        """``log`` hears of every admitted message in order of its stream, as (recipient, stream, first
        sequence number, how many, their payloads or block), and must be quick; ``settled`` of
        every (recipient, stream, mark) up to which a stream needs no log any more. ``pack`` makes one block
        of a run.
        """
        self.client = client
        self.num_shards = num_shards
        self.inboxes: dict[str, Inbox] = {}
        self.outlets: dict[str, Outlet] = {}
        self.keys: dict[str, Key] = {}  # of the agents registered here
        self.dead = DeadLetters()
        self.waiters: set[object] = set()  # one for each thread that waits for a message
        self.published: dict[tuple[str, str], Publication] = {}
        self.links = [Link() for _ in range(num_shards)]
        self._max_queue_size = max_queue_size
        self.wake = wake
        self._log = log
        self._settled = settled
        self._pack = pack
        self._lock = threading.Lock()  # of the dicts above
        self._tombstones: deque[Gone] = deque(maxlen=TOMBSTONES_KEPT)
        self.closing: dict[str, Inbox] = {}  # ended lives whose bounces are under way

    # -- senders ----

    def outlet(self, recipient: str) -> Outlet:
        """Return the outlet to a recipient, made at first use."""
        found = self.outlets.get(recipient)
        if found is None:
            with self._lock:
                found = self.outlets.get(recipient)
                if found is None:
                    shard = shard_of(recipient, self.num_shards)
                    found = self.outlets[recipient] = Outlet(
                        recipient, shard, self._max_queue_size, self._pack
                    )
        return found

    def try_send(self, sender: str, recipient: str, payload: Payload) -> int:
        """Admit one message; return its sequence number, or 0 where credit is lacking (which is then asked
        for).
        """
        outlet = self.outlets.get(recipient) or self.outlet(recipient)
        with outlet.lock:
            sequence = outlet.admit(self.keys[sender], payload)
            if self._log is not None and sequence:
                self._log(recipient, self.keys[sender], sequence, 1, (payload,))
            fresh = not outlet.queued
            if fresh:
                outlet.queued = True
        if fresh:
            self.queue_outlet(outlet)
        return sequence

    def try_send_many(self, sender: str, batch: Batch) -> int:
        """Admit messages while credit lasts; return how many."""
        outlet = self.outlets.get(batch.recipient) or self.outlet(batch.recipient)
        key = self.keys[sender]
        payloads, block = batch.payloads, batch.block
        with outlet.lock:
            count = outlet.admit_many(key, payloads, None if block is None else self._block_of(batch))
            if self._log is not None and count:
                whole = block is not None and count == len(payloads)
                written = block if whole else batch.snapshots(0, count)
                self._log(batch.recipient, key, outlet.streams[key].last - count + 1, count, written)
            fresh, outlet.queued = not outlet.queued, True
        if fresh:
            self.queue_outlet(outlet)
        return count

    def _block_of(self, batch: Batch) -> Any:
        """Return the messages of a batch as this bus's runs hold them."""
        return batch.block if self._pack is pack_block else batch.snapshots(0)

    def queue_outlet(self, outlet: Outlet) -> None:
        """Have an outlet that is marked as queued looked at by the next upload."""
        self.links[outlet.shard].outlets.append(outlet)
        self.wake(outlet.shard)

    def ask_for_credit(self, outlet: Outlet) -> None:
        """Have the next upload ask for credit."""
        with outlet.lock:
            fresh, outlet.queued = not outlet.queued, True
        if fresh:
            self.queue_outlet(outlet)

    def adopt(self, recipient: str, stream: Stream) -> None:
        """Take over the log that a dead sender has left in a journal, before the first session begins."""
        outlet = self.outlet(recipient)
        with outlet.lock:
            outlet.adopt(stream)

    def unsettled(self) -> int:
        """Return how many admitted messages are not settled."""
        return sum(outlet.outstanding for outlet in list(self.outlets.values()))

    # -- recipients ----

    def open_inbox(self, agent_id: str, automatic: bool, marks: Mapping[str, Any]) -> Inbox | None:
        """Return a new inbox for an agent, or None where one of that name exists here."""
        with self._lock:
            if agent_id in self.inboxes:
                return None
            inbox = Inbox(agent_id, shard_of(agent_id, self.num_shards), automatic, marks)
            self.inboxes[agent_id] = inbox
            self.keys[agent_id] = (agent_id, self.client)
            return inbox

    def registered(self, inbox: Inbox, session: int, life: str) -> bool:
        """Note a shard's consent; return False where the session has changed since it was asked."""
        link = self.links[inbox.shard]
        with link.lock:
            if link.session != session or not link.ready:
                return False
            inbox.life = life
            return True

    def drop_inbox(self, inbox: Inbox, why: str) -> Gone:
        """End the life of an inbox; return its last marks."""
        with inbox.lock:
            gone = inbox.close(why)
            if inbox.bounces:
                self.closing[inbox.agent_id] = inbox
        with self._lock:
            if self.inboxes.get(inbox.agent_id) is inbox:
                del self.inboxes[inbox.agent_id]
                self.keys.pop(inbox.agent_id, None)
        return gone

    def bury(self, gone: Gone) -> None:
        """Remember the end of a life, to tell it to shards that have forgotten."""
        self._tombstones.append(gone)

    def queue_inbox(self, inbox: Inbox) -> None:
        """Have the next upload report an inbox's acknowledgements and bounces."""
        inbox.queued = True
        self.links[inbox.shard].inboxes.append(inbox)
        self.wake(inbox.shard)

    # -- the newest values ----

    def publish(self, sender: str, topic: str, payload: Payload, version: int | None) -> int:
        """Make a value the newest of its slot, unless its version is older, without waking anybody.

        Returns the shard to be woken.
        """
        slot = (sender, topic)
        shard = shard_of(sender, self.num_shards)
        link = self.links[shard]
        with link.lock:
            held = self.published.get(slot)
            if version is None:
                version = 1 if held is None else held.version + 1
            elif held is not None and version < held.version:
                return shard
            publication = Publication(sender, topic, self.client, version, payload)
            self.published[slot] = link.publications[slot] = publication
        return shard

    # -- uploads ----

    def has_upload(self, shard: int) -> bool:
        """Return whether there may be something to tell a shard."""
        link = self.links[shard]
        waiting = link.outlets or link.inboxes or link.publications or link.returns or link.confirmed
        return bool(link.ready and waiting)

    def collect(self, shard: int, now: float = 0.0) -> Upload | None:
        """Return what is to be told to a shard, or None."""
        link = self.links[shard]
        with link.lock:
            if not link.ready:
                return None
            upload = Upload(self.client, link.session)
            link.collect_outlets(upload, now)
            link.collect_inboxes(upload, now)
            if link.publications:
                upload.publications = list(link.publications.values())
                link.publications.clear()
            upload.returns, link.returns = link.returns + upload.returns, []
            upload.confirmed, link.confirmed = link.confirmed, []
            return upload if upload else None

    # -- downloads ----

    def deliver(self, shard: int, download: Download) -> bool:
        """Take in what a shard says; return False where a new session must begin."""
        link = self.links[shard]
        woken = False
        with link.lock:
            if download.session != link.session:
                return True
            for grant in download.grants:
                outlet = self.outlet(grant.recipient)
                with outlet.lock:
                    outlet.apply_grant(grant)
                    again = bool(outlet.life and outlet.streams and not outlet.queued)
                    outlet.queued |= again
                if again:
                    link.outlets.append(outlet)
                    woken = True
            for recipient, key, mark in download.acks:
                self._settle(recipient, key, mark)
            for recipient in download.recalls:
                outlet = self.outlet(recipient)
                with outlet.lock:
                    link.returns.append((recipient, outlet.give_back()))
                woken = True
            for gone in download.gone:
                self._end_life(gone)
            whole = self._deliver_segments(link, download)
            woken |= bool(link.inboxes) | self._deliver_bounces(link, download)
            for agent_id in download.fenced:
                self._fence(agent_id)
        if woken:
            self.wake(shard)
        return whole

    def _deliver_segments(self, link: Link, download: Download) -> bool:
        for segment in download.segments:
            inbox = self.inboxes.get(segment.recipient)
            if inbox is None:
                continue
            with inbox.lock:
                doubles = inbox.doubles
                if not inbox.closed and not inbox.accept(segment):
                    return False
                if inbox.doubles != doubles and not inbox.queued:  # its sender missed the acknowledgement
                    inbox.queued = True
                    link.inboxes.append(inbox)
        return True

    def _deliver_bounces(self, link: Link, download: Download) -> bool:
        for bounce in download.bounces:
            self.dead.add(bounce)
            link.confirmed.append((bounce.recipient, bounce.key, bounce.sequence))
        for recipient, key, sequence in download.confirmed:
            for inbox in (self.inboxes.get(recipient), self.closing.get(recipient)):
                if inbox is None:
                    continue
                with inbox.lock:
                    inbox.confirm_bounce(key, sequence)
                    fresh, inbox.queued = not inbox.queued, True
                if fresh:
                    link.inboxes.append(inbox)
        return bool(download.bounces or download.confirmed)

    def _settle(self, recipient: str, key: Key, mark: int) -> None:
        outlet = self.outlets.get(recipient)
        if outlet is None:
            return
        with outlet.lock:
            done = outlet.settle(key, mark)
        if done and self._settled is not None:
            self._settled(recipient, key, mark)

    def _end_life(self, gone: Gone) -> None:
        outlet = self.outlets.get(gone.recipient)
        if outlet is None:
            return
        with outlet.lock:
            dead = outlet.end_life(gone)
            marks = [(key, stream.settled) for key, stream in outlet.streams.items()]
        for key, sequence, payload in dead:
            self.dead.add(Bounce(gone.recipient, key, sequence, GONE, payload))
        if self._settled is not None:
            for key, mark in marks:
                self._settled(gone.recipient, key, mark)

    def _fence(self, agent_id: str) -> None:
        inbox = self.inboxes.get(agent_id)
        if inbox is not None:
            self.drop_inbox(inbox, FENCED)

    # -- sessions ----

    def begin_session(self, shard: int) -> Hello:
        """Return all that a shard must know; whatever was on its way is void."""
        link = self.links[shard]
        with link.lock:
            link.session += 1
            link.ready = False
            link.returns.clear()
            link.publications.clear()
            outlets = []
            for outlet in self.mine(self.outlets, shard):
                with outlet.lock:
                    claim = outlet.claim()
                if claim is not None:
                    outlets.append(claim)
            inboxes = []
            for inbox in self.mine(self.inboxes, shard) + self.mine(self.closing, shard):
                with inbox.lock:
                    claim_inbox = inbox.claim()
                if inbox.life and not inbox.closed:
                    inboxes.append(claim_inbox)
            tombstones = [
                gone for gone in self._tombstones if shard_of(gone.recipient, self.num_shards) == shard
            ]
            publications = [
                value
                for (sender, _), value in list(self.published.items())
                if shard_of(sender, self.num_shards) == shard
            ]
            return Hello(self.client, link.session, outlets, inboxes, tombstones, publications)

    def welcome(self, shard: int, welcome: Welcome) -> None:
        """Begin to talk to a shard that knows what we know."""
        link = self.links[shard]
        with link.lock:
            link.restarts += bool(link.incarnation and link.incarnation != welcome.incarnation)
            link.incarnation = welcome.incarnation
            for agent_id in welcome.fenced:
                self._fence(agent_id)
            link.outlets.clear()
            for outlet in self.mine(self.outlets, shard):
                with outlet.lock:
                    if outlet.life or outlet.outstanding:
                        outlet.life = welcome.lives.get(outlet.recipient, outlet.life)
                    outlet.queued = True
                    outlet.changed.notify_all()
                link.outlets.append(outlet)
            link.inboxes.clear()
            for inbox in self.mine(self.inboxes, shard) + self.mine(self.closing, shard):
                with inbox.lock:
                    if inbox.life:
                        inbox.life = welcome.lives.get(inbox.agent_id, inbox.life)
                    inbox.queued = True
                link.inboxes.append(inbox)
            link.ready = True
        self.wake(shard)

    def suspend(self, shard: int) -> None:
        """Stop talking to a shard until a new session begins."""
        self.links[shard].ready = False

    @staticmethod
    def mine(found: Mapping[str, Any], shard: int) -> list[Any]:
        """Return those outlets or inboxes that a shard serves."""
        return [value for value in list(found.values()) if value.shard == shard]
