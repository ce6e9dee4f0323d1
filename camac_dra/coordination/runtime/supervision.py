"""Which processes are alive, which hang, and how long it took those that died to come back.

It does no I/O and reads no clock: the caller says what happened and when, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class _Process:
    heard: float  # when it last answered
    down_since: float | None = None


@dataclass(slots=True)
class Supervisor:
    """Keeps book of P processes; all are alive at first.

    Attributes:
        patience: seconds of silence after which a process counts as dead.
        deaths: how often one died or was declared dead.
        restarts: how often one came back.
        recoveries: seconds from each death to the return.
    """

    patience: float
    deaths: int = 0
    restarts: int = 0
    recoveries: list[float] = field(default_factory=list)
    _processes: list[_Process] = field(default_factory=list)

    def watch(self, count: int, now: float) -> None:
        """Begin with ``count`` processes that are all alive."""
        self._processes = [_Process(now) for _ in range(count)]

    def is_alive(self, process: int) -> bool:
        """Return whether it may be asked."""
        return self._processes[process].down_since is None

    @property
    def alive(self) -> list[int]:
        """The processes that may be asked."""
        return [number for number in range(len(self._processes)) if self.is_alive(number)]

    @property
    def down(self) -> list[int]:
        """The processes that died and are not back."""
        return [number for number in range(len(self._processes)) if not self.is_alive(number)]

    def heard(self, process: int, now: float) -> None:
        """It answered."""
        self._processes[process].heard = now

    def died(self, process: int, now: float) -> bool:
        """It is dead; return whether that is news."""
        known = self._processes[process]
        if known.down_since is not None:
            return False
        known.down_since = now
        self.deaths += 1
        return True

    def hanging(self, now: float) -> list[int]:
        """Return who has been silent for too long; they count as dead from now on, and must be killed."""
        silent = [
            number
            for number, known in enumerate(self._processes)
            if known.down_since is None and now - known.heard > self.patience
        ]
        for number in silent:
            self.died(number, now)
        return silent

    def back(self, process: int, now: float) -> None:
        """It was restarted and answers again."""
        known = self._processes[process]
        if known.down_since is not None:
            self.recoveries.append(now - known.down_since)
            self.restarts += 1
        known.down_since, known.heard = None, now
