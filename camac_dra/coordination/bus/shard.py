"""The queue logic of one shard: everything about the recipients whose names hash to it. No I/O, no clock.

A shard may die at any time. Its successor has another incarnation and knows nothing; clients say ``hello``
with all they know and send again what is not settled. For ``grace`` seconds after such a restart it lends
no credit beyond what clients claim to hold already, and calls nobody unknown, because others may yet
report. Whoever is silent for longer may hold credit that is lent twice: until it reports, a queue may exceed
its bound by as much. To wait for it would let one dead process hold up all others.

Between a client and a shard there is one session at a time. Uploads of an older session are ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from camac_dra.coordination.bus.latest import LatestSlots
from camac_dra.coordination.bus.mailbox import Mailbox
from camac_dra.coordination.bus.wire import (
    Bounce,
    Download,
    Gone,
    Grant,
    Hello,
    InboxClaim,
    Key,
    OutletClaim,
    Publication,
    Segment,
    Upload,
    Welcome,
)

CHALLENGE_SECONDS = 2.0  # within which a live host answers a ping
DEAD_AFTER_SECONDS = 20.0  # of silence; live clients poll every second
TOMBSTONES = 10_000
DOWNLOAD_BYTES_RUNS = 2_000  # runs in one answer


@dataclass(slots=True)
class _Session:
    number: int
    last_seen: float
    out: Download


class Shard:
    """One shard's state machine. ``woken`` collects clients for whom there is something new."""

    def __init__(
        self,
        incarnation: str,
        max_queue_size: int,
        *,
        now: float,
        grace: float = 0.0,
        new_life: Callable[[], str],
    ) -> None:
        self.incarnation = incarnation
        self.woken: set[str] = set()
        self.latest = LatestSlots()
        self.published = 0
        self._max = max_queue_size
        self._ready_at = now + grace
        self._new_life = new_life
        self._sessions: dict[str, _Session] = {}
        self._mailboxes: dict[str, Mailbox] = {}
        self._tombstones: dict[tuple[str, str], Gone] = {}
        self._bounced: dict[tuple[str, Key, int], tuple[str, str]] = {}  # under way -> (from, to) clients
        self._missing: dict[str, float] = {}  # senders' clients that bounces look for in vain, since when
        self._asked: list[tuple[str, str, int]] = []  # (client, recipient, credits) asked within the grace

    # -- sessions ----

    def hello(self, now: float, hello: Hello) -> Welcome:
        """Begin a session: forget what was on its way to this client and take in what it claims."""
        client = hello.client
        self._sessions[client] = _Session(hello.session, now, Download(hello.session))
        self._bounced = {name: way for name, way in self._bounced.items() if client not in way}
        for gone in hello.tombstones:
            self._bury(gone)
        fenced = tuple(claim.recipient for claim in hello.inboxes if not self._host(client, claim))
        hosted = {claim.recipient for claim in hello.inboxes}
        claimed = {claim.recipient for claim in hello.outlets}
        for claim in hello.outlets:
            self._claim_outlet(client, claim)
        for recipient, mailbox in self._mailboxes.items():
            if recipient not in claimed and client in mailbox.leases:
                mailbox.orphan(client)
            if recipient not in hosted and mailbox.host == client:
                mailbox.host = None
        for publication in hello.publications:
            self._publish(publication)
        lives = {name: self._mailboxes[name].life for name in hosted | claimed if name in self._mailboxes}
        return Welcome(self.incarnation, lives, fenced)

    def _host(self, client: str, claim: InboxClaim) -> bool:
        mailbox = self._mailboxes.get(claim.recipient)
        if mailbox is None:
            mailbox = self._open(claim.recipient, claim.life)
        if mailbox.host not in (None, client):
            return False
        mailbox.rename(claim.life)
        self._deliver_all(mailbox, client, claim.acks)
        return True

    def _claim_outlet(self, client: str, claim: OutletClaim) -> None:
        gone = self._tombstones.get((claim.recipient, claim.life))
        if gone is not None:
            self._out(client).gone.append(gone)
            self._wake(client)
            return
        mailbox = self._mailboxes.get(claim.recipient)
        if mailbox is None:
            mailbox = self._open(claim.recipient, claim.life or self._new_life())
        for (_, epoch), _ in claim.streams:
            if epoch != client:  # the log of a sender that died was taken over
                self.forget(epoch)
        if claim.life:
            mailbox.rename(claim.life)
        mailbox.claim(client, claim.lease, claim.streams)
        for key, base in claim.streams:
            if mailbox.acked(key) >= base:  # it missed that
                self._out(client).acks.append((claim.recipient, key, mailbox.acked(key)))
                self._wake(client)

    def knows(self, client: str, session: int) -> bool:
        """Return whether this is the client's session."""
        found = self._sessions.get(client)
        return found is not None and found.number == session

    def alive(self, now: float, client: str, session: int) -> bool:
        """Note a sign of life; return whether this is the client's session."""
        found = self._sessions.get(client)
        if found is None or found.number != session:
            return False
        found.last_seen = now
        return True

    def collect(self, client: str) -> Download | None:
        """Return what there is for a client, or None."""
        session = self._sessions.get(client)
        if session is None or not session.out:
            return None
        found, session.out = session.out, Download(session.number)
        if len(found.segments) > DOWNLOAD_BYTES_RUNS:
            session.out.segments = found.segments[DOWNLOAD_BYTES_RUNS:]
            found.segments = found.segments[:DOWNLOAD_BYTES_RUNS]
            self._wake(client)
        return found

    def tick(self, now: float) -> None:
        """Answer what waited for the end of the grace; forget clients that have been silent for long."""
        if now >= self._ready_at and self._asked:
            asked, self._asked = self._asked, []
            for client, recipient, amount in asked:
                self._want(now, client, recipient, amount)
        for client in [c for c, s in self._sessions.items() if now - s.last_seen > DEAD_AFTER_SECONDS]:
            self.forget(client)

    def forget(self, client: str) -> None:
        """Let a client go that closed or died: its idle credit is free, what it hosted waits for another."""
        self._sessions.pop(client, None)
        for mailbox in self._mailboxes.values():
            if mailbox.host == client:
                mailbox.host = None
            if client in mailbox.leases or client in mailbox.waiters:
                mailbox.orphan(client)
                self._serve_waiters(mailbox)

    # -- registration ----

    def register(self, now: float, client: str, session: int, claim: InboxClaim) -> tuple[str, str]:
        """Make a client the host of a recipient; return a status and the recipient's life.

        Statuses: ``ok``; ``taken``, where a live client hosts it; ``wait`` until the host has answered, or
        not; ``hello``, where the session is not this one.
        """
        if not self.alive(now, client, session):
            return "hello", ""
        mailbox = self._mailboxes.get(claim.recipient)
        if mailbox is None:
            mailbox = self._open(claim.recipient, claim.life or self._new_life())
        if mailbox.host not in (None, client):
            status = self._challenge(now, mailbox)
            if status != "ok":
                return status, ""
        self._deliver_all(mailbox, client, claim.acks)
        return "ok", mailbox.life

    def _challenge(self, now: float, mailbox: Mailbox) -> str:
        host = self._sessions.get(mailbox.host or "")
        if host is None:
            return "ok"
        if mailbox.challenged is None:
            mailbox.challenged = now
            host.out.ping = True
            self._wake(mailbox.host or "")
        elif host.last_seen > mailbox.challenged:
            mailbox.challenged = None
            return "taken"
        elif now - mailbox.challenged > CHALLENGE_SECONDS:
            host.out.fenced.append(mailbox.recipient)
            self._wake(mailbox.host or "")
            return "ok"
        return "wait"

    def _deliver_all(self, mailbox: Mailbox, client: str, acks: dict[Key, int]) -> None:
        mailbox.host, mailbox.challenged = client, None
        for key, mark in acks.items():
            self._acknowledge(mailbox, key, mark)
        out = self._out(client)
        out.segments = [segment for segment in out.segments if segment.recipient != mailbox.recipient]
        out.segments.extend(mailbox.deliver_again(acks))
        self._wake(client)

    def unregister(self, client: str, gone: Gone) -> None:
        """End a recipient's life: senders are told its last marks."""
        mailbox = self._mailboxes.get(gone.recipient)
        if mailbox is None or mailbox.host in (None, client):
            self._bury(gone)

    def _bury(self, gone: Gone) -> None:
        self._tombstones[gone.recipient, gone.life] = gone
        if len(self._tombstones) > TOMBSTONES:
            del self._tombstones[next(iter(self._tombstones))]
        mailbox = self._mailboxes.get(gone.recipient)
        if mailbox is None or mailbox.life != gone.life:
            return
        del self._mailboxes[gone.recipient]
        for client in mailbox.clients():
            if client in self._sessions:
                self._out(client).gone.append(gone)
                self._wake(client)

    def recipients(self) -> list[str]:
        """Return the names of all recipients known here."""
        return list(self._mailboxes)

    def _open(self, recipient: str, life: str) -> Mailbox:
        mailbox = self._mailboxes[recipient] = Mailbox(recipient, life, self._max)
        return mailbox

    # -- uploads ----

    def push(self, now: float, upload: Upload) -> bool:
        """Take in what a client says; return False where it has to say hello first."""
        client = upload.client
        if not self.alive(now, client, upload.session):
            return False
        for recipient, key, mark in upload.acks:
            mailbox = self._mailboxes.get(recipient)
            if mailbox is not None and mailbox.host == client:
                self._acknowledge(mailbox, key, mark)
        for recipient, amount in upload.returns:
            self._take_back(client, recipient, amount)
        for segment in upload.segments:
            self._enqueue(client, segment)
        for recipient, amount in upload.wants:
            self._want(now, client, recipient, amount)
        for bounce in upload.bounces:
            self._bounce(now, client, bounce)
        for confirmed in upload.confirmed:
            self._confirm_bounce(confirmed)
        for publication in upload.publications:
            self._publish(publication)
        return True

    def _enqueue(self, client: str, segment: Segment) -> None:
        mailbox = self._mailboxes.get(segment.recipient)
        if mailbox is None or segment.life not in mailbox.aliases:
            gone = self._tombstones.get((segment.recipient, segment.life))
            gone = gone or Gone(segment.recipient, segment.life, {})
            self._out(client).gone.append(gone)
            self._wake(client)
            return
        ready = mailbox.enqueue(segment, client)
        if not ready and (mark := mailbox.acked(segment.key)) >= segment.base:  # it missed that
            self._out(client).acks.append((segment.recipient, segment.key, mark))
            self._wake(client)
        if ready and mailbox.host is not None:
            self._out(mailbox.host).segments.extend(ready)
            self._wake(mailbox.host)

    def _acknowledge(self, mailbox: Mailbox, key: Key, mark: int) -> None:
        client, count = mailbox.acknowledge(key, mark)
        if client in self._sessions:
            self._out(client).acks.append((mailbox.recipient, key, mark))
            self._wake(client)
        elif client in mailbox.leases:
            mailbox.orphan(client)
        if not mailbox.waiters or not count:
            return
        if client in self._sessions:
            taken = min(count, mailbox.leases.get(client, 0))
            self._grant(mailbox, client, -taken, "")
        self._serve_waiters(mailbox)

    def _publish(self, publication: Publication) -> None:
        if self.latest.put(publication):
            self.published += 1

    # -- credit ----

    def _want(self, now: float, client: str, recipient: str, amount: int) -> None:
        mailbox = self._mailboxes.get(recipient)
        if now < self._ready_at:
            self._asked.append((client, recipient, amount))
        elif mailbox is None:
            self._out(client).grants.append(Grant(recipient, "", 0, "unknown"))
            self._wake(client)
        else:
            mailbox.waiters[client] = amount
            self._serve_waiters(mailbox)
            if client in mailbox.waiters:
                self._recall(mailbox)
                self._answer_full(mailbox)

    def _serve_waiters(self, mailbox: Mailbox) -> None:
        while mailbox.waiters and (free := mailbox.free) > 0:
            client = next(iter(mailbox.waiters))
            amount = mailbox.waiters.pop(client)
            share = max(free // (len(mailbox.waiters) + 1), 1)
            self._grant(mailbox, client, min(amount, share), "granted")

    def _recall(self, mailbox: Mailbox) -> None:
        for holder, lease in mailbox.leases.items():
            if holder in mailbox.waiters or holder in mailbox.recalled:
                continue
            if lease and holder in self._sessions:
                mailbox.recalled.add(holder)
                self._out(holder).recalls.append(mailbox.recipient)
                self._wake(holder)

    def _answer_full(self, mailbox: Mailbox) -> None:
        """Once all holders have given back what lies idle, the rest is really in use: say so to who waits."""
        if mailbox.recalled:
            return
        for client in mailbox.waiters:
            self._out(client).grants.append(Grant(mailbox.recipient, mailbox.life, 0, "full"))
            self._wake(client)

    def _take_back(self, client: str, recipient: str, amount: int) -> None:
        mailbox = self._mailboxes.get(recipient)
        if mailbox is None:
            return
        if client in mailbox.leases:
            mailbox.lend(client, -min(amount, mailbox.leases[client]))
        mailbox.recalled.discard(client)
        self._serve_waiters(mailbox)
        self._answer_full(mailbox)

    def _grant(self, mailbox: Mailbox, client: str, amount: int, verdict: str) -> None:
        mailbox.lend(client, amount)
        if client in self._sessions:
            self._out(client).grants.append(Grant(mailbox.recipient, mailbox.life, amount, verdict))
            self._wake(client)

    # -- bounces ----

    def _bounce(self, now: float, client: str, bounce: Bounce) -> None:
        name = (bounce.recipient, bounce.key, bounce.sequence)
        mailbox = self._mailboxes.get(bounce.recipient)
        sender = bounce.key[1] if mailbox is None else mailbox.source(bounce.key)
        if sender in self._sessions:
            self._missing.pop(sender, None)
            if self._bounced.get(name) != (client, sender):
                self._bounced[name] = (client, sender)
                self._out(sender).bounces.append(bounce)
                self._wake(sender)
        elif now - self._missing.setdefault(sender, now) > DEAD_AFTER_SECONDS:  # nobody is left to be told
            self._out(client).confirmed.append(name)
            self._wake(client)

    def _confirm_bounce(self, name: tuple[str, Key, int]) -> None:
        client, _ = self._bounced.pop(name, ("", ""))
        if client in self._sessions:
            self._out(client).confirmed.append(name)
            self._wake(client)

    # -- the newest values, figures ----

    def stats(self) -> dict[str, int]:
        """Return figures of this shard."""
        return {
            "recipients": len(self._mailboxes),
            "queued": sum(mailbox.queued for mailbox in self._mailboxes.values()),
            "clients": len(self._sessions),
            "slots": len(self.latest),
        }

    def _out(self, client: str) -> Download:
        session = self._sessions.get(client)
        return session.out if session is not None else Download(-1)

    def _wake(self, client: str) -> None:
        self.woken.add(client)
