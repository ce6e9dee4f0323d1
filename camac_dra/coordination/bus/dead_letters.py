"""Messages that were admitted and not handled, in the process of their sender."""

from __future__ import annotations

from typing import Any, NamedTuple

from camac_dra.coordination.bus.payloads import Payload, decode
from camac_dra.coordination.bus.wire import Bounce, Key

DEAD_LETTERS_KEPT = 10_000


class DeadLetter(NamedTuple):
    """A message that was admitted and not handled."""

    sender: str
    recipient: str
    sequence: int
    reason: str
    message: dict[str, Any] | None  # None where it cannot be decoded here


class DeadLetters:
    """The newest dead letters, each once, however often it comes back."""

    def __init__(self) -> None:
        self.total = 0
        self._letters: dict[tuple[str, Key, int], DeadLetter] = {}

    def add(self, bounce: Bounce) -> None:
        """Keep a message that came back."""
        name = (bounce.recipient, bounce.key, bounce.sequence)
        if name in self._letters:
            return
        message = _readable(bounce.payload)
        self._letters[name] = DeadLetter(
            bounce.key[0], bounce.recipient, bounce.sequence, bounce.reason, message
        )
        self.total += 1
        if len(self._letters) > DEAD_LETTERS_KEPT:
            del self._letters[next(iter(self._letters))]

    def newest(self) -> list[DeadLetter]:
        """Return what is kept, oldest first."""
        return list(self._letters.values())


def _readable(payload: Payload) -> dict[str, Any] | None:
    try:
        return decode(payload)
    except Exception:  # noqa: BLE001  whatever unpickling raises: it is a dead letter all the same
        return None
