"""What moves uploads and downloads between a process and the shards."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Protocol

from camac_dra.coordination.bus.client_core import ClientCore
from camac_dra.coordination.bus.payloads import Payload
from camac_dra.coordination.bus.wire import Gone, InboxClaim


class Carrier(Protocol):
    """Moves what a client has to say to shards and back. ``wake`` must be cheap; it is called for new
    messages.
    """

    def start(self, core: ClientCore) -> None:
        """Begin sessions with all shards."""

    def wake(self, number: int) -> None:
        """Note that there is something to tell a shard."""

    def urge(self, number: int) -> None:
        """Carry now, in this thread, where nobody else does."""

    def register(self, number: int, claim: InboxClaim) -> tuple[str, str, int]:
        """Return a shard's status and life for a recipient, and the session in which it was asked."""

    def unregister(self, number: int, gone: Gone, timeout: float) -> None:
        """Tell a shard of the end of a recipient's life."""

    def recipients(self, timeout: float) -> list[str]:
        """Return the names of all recipients."""

    def read_latest(
        self, number: int, slots: Sequence[tuple[str, str]], at_least: int | None, timeout: float
    ) -> list[tuple[int, Payload] | None]:
        """Return slots, once all have versions of at least so much or time is up."""

    def shard_stats(self, timeout: float) -> list[dict[str, int]]:
        """Return the figures of all shards."""

    def close(self) -> None:
        """Stop carrying."""


def new_name() -> str:
    """Return a name that nobody else has and that sorts after older ones."""
    return f"{time.time_ns():020d}-{uuid.uuid4().hex[:12]}"
