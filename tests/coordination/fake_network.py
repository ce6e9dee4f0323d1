"""A network without wires and a clock without time: carries machines, and loses what it is told to lose."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from camac_dra.coordination.protocols import (
    COORDINATOR,
    AveragingMachine,
    CoordinatorMachine,
    Done,
    Gather,
    Instruction,
    Machine,
    MachineFactory,
    Publish,
    Received,
    Send,
    SetTimer,
    Start,
    Tick,
)

Arrives = Callable[[str, str, int], bool]
"""From sender, recipient and round (or trip) to whether the message gets there."""


class FakeNetwork:
    """Delivers in the order of sending, at once or not at all; ticks when nothing is on its way."""

    def __init__(
        self, factory: MachineFactory, arrives: Arrives | None = None, order: int | None = None
    ) -> None:
        """Take which messages arrive; with ``order``, deliver in an order drawn from that seed, and twice."""
        self.machines: Mapping[str, Machine] = factory.machines()
        self.coordinator: CoordinatorMachine | None = factory.coordinator()
        self._arrives = arrives or (lambda sender, recipient, number: True)
        self._shuffle = None if order is None else np.random.default_rng(order)
        self._queue: deque[tuple[str, Received]] = deque()
        self._timers: dict[str, float] = {}
        self._asked: dict[str, int] = {}  # by member: trips so far
        self.now, self.done = 0.0, {}
        self.sent = 0  # messages

    def decide(
        self,
        requests: np.ndarray,
        weights: np.ndarray,
        capacity: np.ndarray,
        dead: Sequence[str] = (),
        decision: int = 0,
        worth: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return what agents agree on (N, R) from their requests (N, R); zeros for the dead.

        ``worth`` (N, 1 or R) is what a unit counts for; None: the weights (N,).
        """
        worth = weights[:, None] if worth is None else worth
        self.done = {}
        self._asked = {}
        self._timers = {}
        alive = [name for name in self.machines if name not in dead]
        if self.coordinator is not None:
            expected = np.array([name in alive for name in self.machines])
            gather = Gather(decision, self.now, capacity, weights, expected)
            self._do(COORDINATOR, self.coordinator.handle(gather))
        for i, (name, machine) in enumerate(self.machines.items()):
            if name in alive:
                start = Start(decision, self.now, requests[i], worth[i], capacity)
                self._do(name, machine.handle(start))
        while len(self.done) < len(alive):
            self._deliver(alive)
            if len(self.done) < len(alive):
                self._tick()
        rows = [
            self.done[name].agreed if name in alive else np.zeros(requests.shape[1]) for name in self.machines
        ]
        return np.array(rows)

    def _deliver(self, alive: Sequence[str]) -> None:
        while self._queue:
            if self._shuffle is None:
                recipient, event = self._queue.popleft()
            else:
                place = int(self._shuffle.integers(len(self._queue)))
                recipient, event = self._queue[place]
                if self._shuffle.random() < 0.7:  # else it comes once more
                    del self._queue[place]
            if recipient == COORDINATOR or recipient in alive:
                self._do(recipient, self._party(recipient).handle(event))

    def _tick(self) -> None:
        # Who is furthest behind first, so that nobody gives up a message that is yet to be sent.
        rounds = {n: m.awaited().round for n, m in self.machines.items() if isinstance(m, AveragingMachine)}
        if rounds:
            least = min(rounds[name] for name in self._timers)
            names = [name for name in self._timers if rounds[name] == least]
        else:
            # The coordinator first: what it decides at its deadline is there before members ask again.
            soonest = min(self._timers.values())
            names = [name for name, at in self._timers.items() if at == soonest]
            names = [COORDINATOR] if COORDINATOR in names else names
        self.now = max(self.now, *(self._timers[name] for name in names))
        for name in names:
            del self._timers[name]
        for name in names:
            self._do(name, self._party(name).handle(Tick(self.now)))

    def _party(self, name: str) -> Machine:
        if name != COORDINATOR:
            return self.machines[name]
        assert self.coordinator is not None
        return self.coordinator

    def _do(self, name: str, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Publish):
                for recipient in instruction.recipients:
                    self._post(name, recipient, instruction.content, instruction.content["round"])
            elif isinstance(instruction, Send):
                member = instruction.recipient if name == COORDINATOR else name
                self._asked[member] = self._asked.get(member, 0) + (name != COORDINATOR)
                self._post(name, instruction.recipient, instruction.content, max(1, self._asked[member]))
            elif isinstance(instruction, SetTimer):
                self._timers[name] = instruction.at
            elif isinstance(instruction, Done):
                assert name not in self.done
                self.done[name] = instruction
                self._timers.pop(name, None)

    def _post(self, sender: str, recipient: str, content: dict, number: int) -> None:
        self.sent += 1
        if self._arrives(sender, recipient, number):
            self._queue.append((recipient, Received(sender, content, self.now)))
