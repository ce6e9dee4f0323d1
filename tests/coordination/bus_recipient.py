"""A recipient in a process of its own, which may be killed: its state and the bus's marks are one file."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from camac_dra.coordination import MessageBus


class Recipient:
    """Receives for one agent; keeps what it received, atomically with the marks, before it acknowledges."""

    def __init__(self, bus: MessageBus, agent_id: str, folder: str) -> None:
        self._bus = bus
        self._agent_id = agent_id
        self._path = Path(folder) / f"{agent_id}.json"
        state: dict[str, Any] = {"received": [], "marks": {}}
        if self._path.exists():
            state = json.loads(self._path.read_text())
        self._received: list[list[Any]] = state["received"]
        bus.register(agent_id, acknowledge="manual", marks=state["marks"])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            envelopes = self._bus.receive_envelopes(self._agent_id, timeout=0.5)
            if not envelopes:
                continue
            self._received += [[envelope.sender, envelope.message["value"]] for envelope in envelopes]
            marks = self._bus.marks(self._agent_id)
            aside = self._path.with_suffix(".new")
            aside.write_text(json.dumps({"received": self._received, "marks": marks}))
            aside.rename(self._path)
            self._bus.acknowledge(self._agent_id, marks)

    def pid(self) -> int:
        """Return the process to kill."""
        return os.getpid()

    def count(self) -> int:
        """Return how many messages were received."""
        return len(self._received)


class Caller:
    """Uses a bus from another process."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the bus."""
        return getattr(self._bus, method)(*arguments, **options)

    def pid(self) -> int:
        """Return the process to kill."""
        return os.getpid()

    def modules(self) -> list[str]:
        """Return what this process has imported."""
        import sys

        return list(sys.modules)
