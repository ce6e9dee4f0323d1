"""A checker of message histories: what was lost, duplicated, reordered, or never sent.

The method is Jepsen's (Kingsbury): clients record what they did and what they saw, every message carries a
value that no other has, and after the faults are over the histories of all clients are held against the
promise. The promise here is that of ``MessageBus``: every admitted message is handed over exactly once, in
the order in which its sender sent it to that recipient, or is among the dead letters, and never both.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from camac_dra.utils.errors import BusArgumentError
from camac_dra.utils.file_handler import StrPath

Route: TypeAlias = tuple[str, str]  # (sender, recipient)
SENT, REFUSED, MAYBE, RECEIVED, DEAD = "sent", "refused", "maybe", "received", "dead"
KINDS = (SENT, REFUSED, MAYBE, RECEIVED, DEAD)
SHOWN = 5


@dataclass(frozen=True)
class Report:
    """What a check has found; each entry is (sender, recipient, value)."""

    lost: list[tuple[str, str, Any]]  # admitted, neither received nor dead
    duplicated: list[tuple[str, str, Any]]  # received more than once
    reordered: list[tuple[str, str, Any]]  # received after one that was sent later
    never_sent: list[tuple[str, str, Any]]  # received though nobody sent it, or though it was refused
    contradictory: list[tuple[str, str, Any]]  # received and dead
    sent: int = 0
    received: int = 0
    dead: int = 0

    @property
    def ok(self) -> bool:
        """Whether the promise was kept."""
        return not (self.lost or self.duplicated or self.reordered or self.never_sent or self.contradictory)

    def __str__(self) -> str:
        faults = {
            name.replace("_", " "): getattr(self, name)
            for name in ("lost", "duplicated", "reordered", "never_sent", "contradictory")
        }
        found = [
            f"{len(entries)} {name} ({', '.join(map(repr, entries[:SHOWN]))}"
            f"{', ...' if len(entries) > SHOWN else ''})"
            for name, entries in faults.items()
            if entries
        ]
        verdict = "; ".join(found) or "nothing lost, duplicated, reordered or never sent"
        return f"{self.sent} sent, {self.received} received, {self.dead} dead letters: {verdict}"


@dataclass
class History:
    """What clients of a bus did and saw, in the order of each client; methods may be called from any thread.

    Values must be unique per (sender, recipient) and hashable. Record sends of one (sender, recipient) in
    order.
    """

    events: list[tuple[str, str, str, Any]] = field(default_factory=list)  # (kind, sender, recipient, value)

    def sent(self, sender: str, recipient: str, value: Hashable, admitted: bool | None = True) -> None:
        """Record a send: admitted, refused (False), or without an answer (None), after a crash say."""
        kind = MAYBE if admitted is None else SENT if admitted else REFUSED
        self.events.append((kind, sender, recipient, value))

    def received(self, sender: str, recipient: str, value: Hashable) -> None:
        """Record that a message was handed over."""
        self.events.append((RECEIVED, sender, recipient, value))

    def dead(self, sender: str, recipient: str, value: Hashable) -> None:
        """Record a dead letter."""
        self.events.append((DEAD, sender, recipient, value))

    def extend(self, other: History) -> None:
        """Add another client's history."""
        self.events.extend(other.events)

    def save(self, path: StrPath) -> None:
        """Write the history as lines of JSON; values must be what JSON knows."""
        Path(path).write_text("".join(json.dumps(event) + "\n" for event in self.events))

    @classmethod
    def load(cls, path: StrPath) -> History:
        """Read lines of JSON; a last line that a crash cut off is left out.

        Raises:
            BusArgumentError: another line is no event.
        """
        lines = Path(path).read_text().split("\n")
        history = cls()
        for number, line in enumerate(lines[:-1], 1):
            try:
                kind, sender, recipient, value = json.loads(line)
            except ValueError as error:
                raise BusArgumentError(
                    f"{path}, line {number}: must be an event, got {line[:80]!r}: {error}"
                ) from None
            if kind not in KINDS:
                raise BusArgumentError(f"{path}, line {number}: must be one of {KINDS}, got {kind!r}")
            history.events.append((kind, sender, recipient, value))
        return history

    def check(self) -> Report:
        """Hold the history against the promise."""
        routes: dict[Route, dict[str, list[Any]]] = defaultdict(lambda: {kind: [] for kind in KINDS})
        orders: dict[Route, dict[Any, int]] = defaultdict(dict)
        for kind, sender, recipient, value in list(self.events):
            route = (sender, recipient)
            routes[route][kind].append(value)
            if kind in (SENT, MAYBE):
                if value in orders[route]:
                    raise BusArgumentError(
                        f"value: must be unique from {sender!r} to {recipient!r}, got {value!r} twice"
                    )
                orders[route][value] = len(orders[route])
        found: dict[str, list[tuple[str, str, Any]]] = defaultdict(list)
        for route, kinds in routes.items():
            for name, values in _check_route(kinds, orders[route]).items():
                found[name].extend((*route, value) for value in values)
        counts = Counter(event[0] for event in self.events)
        names = ("lost", "duplicated", "reordered", "never_sent", "contradictory")
        faults = {name: found[name] for name in names}
        return Report(**faults, sent=counts[SENT], received=counts[RECEIVED], dead=counts[DEAD])


def _check_route(kinds: dict[str, list[Any]], order: dict[Any, int]) -> dict[str, Iterable[Any]]:
    received = Counter(kinds[RECEIVED])
    dead = set(kinds[DEAD])
    reordered, newest, seen = [], -1, set()
    for value in kinds[RECEIVED]:
        if value in seen or value not in order:
            continue
        seen.add(value)
        if order[value] < newest:
            reordered.append(value)
        newest = max(newest, order[value])
    return {
        "lost": [value for value in kinds[SENT] if value not in received and value not in dead],
        "duplicated": [value for value, times in received.items() if times > 1],
        "reordered": reordered,
        "never_sent": [value for value in {**received, **dict.fromkeys(dead)} if value not in order],
        "contradictory": [value for value in received if value in dead],
    }
