"""The coordinator of the centralized protocol, at work beside the decision loop."""

from __future__ import annotations

import threading
import time
from typing import Self

import numpy as np

from camac_dra.coordination.message_bus import MessageBus
from camac_dra.coordination.plant import PlantState
from camac_dra.coordination.protocol_carrier import COORDINATOR_HOME, PARTS, packed
from camac_dra.coordination.protocols import machine_factory
from camac_dra.coordination.protocols.events import (
    Content,
    Gather,
    Instruction,
    Machine,
    Received,
    Send,
    SetTimer,
    Tick,
)
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.schema.coordination import CoordinationConfig

_ADMISSION = 0.2  # seconds that answering may wait for room at the recipients; they ask again
_POLL = 0.02  # seconds that one wait for messages takes at most


class CoordinatorThread:
    """Gathers requests from the bus and answers them, in a thread of its own, until it is closed."""

    def __init__(self, machine: Machine, bus: MessageBus) -> None:
        """Start to serve ``machine``."""
        self._machine, self._bus = machine, bus
        self._address = COORDINATOR_HOME
        self._homes: dict[str, str] = {}  # by agent: where it was last heard from
        self._timer: float | None = None
        self._begun: list[Gather] = []  # decisions that have begun and are not yet told to the machine
        self._closing = threading.Event()
        bus.register(self._address)
        self._thread = threading.Thread(target=self._serve, name="coordinator", daemon=True)
        self._thread.start()

    @classmethod
    def needed_for(
        cls, coordination: CoordinationConfig, env: VectorEnvironment, bus: MessageBus
    ) -> Self | None:
        """Return the coordinator of a configuration; None where its protocol has none."""
        factory = machine_factory(coordination, env.topology, env.constraints)
        machine = None if factory is None else factory.coordinator()
        return None if machine is None else cls(machine, bus)

    def begin(self, state: PlantState, expected: np.ndarray) -> None:
        """Begin the decision of a plant's state; ``expected`` (N,) bool says who will report."""
        self._begun.append(Gather(state.step, time.monotonic(), state.capacity, state.weights, expected))

    def close(self) -> None:
        """Stop and leave the bus."""
        self._closing.set()
        self._thread.join(timeout=5.0)
        self._bus.unregister(self._address)

    def _serve(self) -> None:
        while not self._closing.is_set():
            while self._begun:
                self._carry_out(self._machine.handle(self._begun.pop(0)))
            for envelope in self._bus.receive_envelopes(self._address, timeout=_POLL):
                now, instructions = time.monotonic(), []
                for sender, content in envelope.message.get(PARTS, ()):
                    self._homes[sender] = envelope.sender
                    instructions += self._machine.handle(Received(sender, content, now))
                self._carry_out(instructions)
            now = time.monotonic()
            if self._timer is not None and now >= self._timer:
                self._timer = None
                self._carry_out(self._machine.handle(Tick(now)))

    def _carry_out(self, instructions: list[Instruction]) -> None:
        answers: dict[str, list[tuple[str, Content]]] = {}  # by mailbox: (whom, content)
        for instruction in instructions:
            if isinstance(instruction, SetTimer):
                self._timer = instruction.at
            elif isinstance(instruction, Send):
                home = self._homes.get(instruction.recipient)
                if home is not None:  # who was never heard asks again
                    answers.setdefault(home, []).append((instruction.recipient, instruction.content))
        if answers:
            items = [(home, packed(parts)) for home, parts in answers.items()]
            self._bus.send_many(self._address, items, timeout=_ADMISSION)
