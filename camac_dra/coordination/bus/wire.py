"""What clients and shards tell each other. Shards never look into messages: a run is one opaque block."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from camac_dra.coordination.bus.payloads import Payload

Key: TypeAlias = tuple[str, str]  # (sender, epoch): one life of a sender


class Run(NamedTuple):
    """Messages of one stream with consecutive sequence numbers; ``block`` is their payloads, packed."""

    first: int
    length: int
    block: Any
    plain: bool = False  # nothing in it expires: it may stay packed until it is handed over

    @property
    def last(self) -> int:
        """Sequence number of the last message."""
        return self.first + self.length - 1


class Segment(NamedTuple):
    """A run on its way: ``base`` is the first sequence number that is not settled yet, as far as is known."""

    recipient: str
    life: str
    key: Key
    base: int
    run: Run


class Bounce(NamedTuple):
    """A message that comes back: its recipient says why it was not handled."""

    recipient: str
    key: Key
    sequence: int
    reason: str
    payload: Payload


class Publication(NamedTuple):
    """The newest value of a sender's topic; later epochs win over earlier ones, then higher versions."""

    sender: str
    topic: str
    epoch: str
    version: int
    payload: Payload


@dataclass(slots=True)
class Upload:
    """What a client tells a shard."""

    client: str
    session: int
    segments: list[Segment] = field(default_factory=list)
    acks: list[tuple[str, Key, int]] = field(default_factory=list)  # (recipient, stream, mark)
    bounces: list[Bounce] = field(default_factory=list)
    wants: list[tuple[str, int]] = field(default_factory=list)  # (recipient, credits)
    returns: list[tuple[str, int]] = field(default_factory=list)  # (recipient, credits)
    publications: list[Publication] = field(default_factory=list)
    confirmed: list[tuple[str, Key, int]] = field(default_factory=list)  # bounces that have arrived

    def __bool__(self) -> bool:
        return bool(
            self.segments
            or self.acks
            or self.bounces
            or self.wants
            or self.returns
            or self.publications
            or self.confirmed
        )


class Grant(NamedTuple):
    """Credit for a recipient: ``delta`` may be negative; ``verdict`` answers a want, where it is one.

    Verdicts: ``granted``, ``full``, ``unknown``, or empty for a change without a question.
    """

    recipient: str
    life: str
    delta: int
    verdict: str


class Gone(NamedTuple):
    """A life of a recipient has ended; what its marks do not cover was not handed over."""

    recipient: str
    life: str
    marks: dict[Key, int]


@dataclass(slots=True)
class Download:
    """What a shard tells a client."""

    session: int
    segments: list[Segment] = field(default_factory=list)
    acks: list[tuple[str, Key, int]] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)
    recalls: list[str] = field(default_factory=list)  # recipients whose idle credit others wait for
    gone: list[Gone] = field(default_factory=list)
    bounces: list[Bounce] = field(default_factory=list)
    confirmed: list[tuple[str, Key, int]] = field(default_factory=list)
    fenced: list[str] = field(default_factory=list)  # recipients that another client hosts by now
    ping: bool = False

    def __bool__(self) -> bool:
        return bool(
            self.segments
            or self.acks
            or self.grants
            or self.recalls
            or self.gone
            or self.bounces
            or self.confirmed
            or self.fenced
            or self.ping
        )


class OutletClaim(NamedTuple):
    """What a sender's process knows about a recipient: the life, the credit it holds, its streams."""

    recipient: str
    life: str
    lease: int
    streams: tuple[tuple[Key, int], ...]  # with the first sequence number that is not settled


class InboxClaim(NamedTuple):
    """What a recipient's process knows: the life it hosts, and what is acknowledged."""

    recipient: str
    life: str
    acks: dict[Key, int]


@dataclass(slots=True)
class Hello:
    """All that a client knows, told to a shard that has forgotten everything."""

    client: str
    session: int
    outlets: list[OutletClaim]
    inboxes: list[InboxClaim]
    tombstones: list[Gone]
    publications: list[Publication]


class Welcome(NamedTuple):
    """A shard's answer to ``Hello``: its incarnation, and lives of recipients that differ from the claims."""

    incarnation: str
    lives: dict[str, str]
    fenced: tuple[str, ...]


def pack(value: Any) -> list[Any]:
    """Return ``value`` as one pickle and the large buffers it refers to."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, 5, buffer_callback=buffers.append)
    return [head, *(np.frombuffer(buffer.raw(), dtype=np.uint8) for buffer in buffers)]


def unpack(parts: list[Any]) -> Any:
    """Return what ``pack`` was given."""
    return pickle.loads(parts[0], buffers=[memoryview(part) for part in parts[1:]])
