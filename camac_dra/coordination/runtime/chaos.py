"""Faults on purpose, at stated rates and from a seed: kills, lost and late messages, a network cut in two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from camac_dra.utils.errors import ConfigurationError, did_you_mean

_SHARES = ("drop",)  # the others are rates and times


@dataclass(frozen=True, slots=True)
class ChaosSpec:
    """What goes wrong, how often. Times between events are exponential, drawn from ``seed``."""

    kill_agents: float = 0.0  # share of the agents' processes that are killed per minute
    kill_bus: float = 0.0  # bus actors killed per minute
    drop: float = 0.0  # share of the messages of protocol rounds that are lost; a coordinator's come late
    delay: float = 0.0  # mean seconds by which messages of protocol rounds come late
    partitions: float = 0.0  # times per minute that the topology is cut in two
    partition_seconds: float = 5.0  # for which it stays cut
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `ConfigurationError` where a rate is negative or not finite, or a share above 1."""
        for name in (entry.name for entry in fields(self) if entry.name != "seed"):
            value = getattr(self, name)
            most = 1.0 if name in _SHARES else math.inf
            if not (0.0 <= value <= most and math.isfinite(value)):
                rule = "from 0 to 1" if name in _SHARES else "zero or more"
                raise ConfigurationError(f"--chaos: {name} must be a finite number {rule}, got {value}")
        if self.seed < 0:
            raise ConfigurationError(f"--chaos: seed must be zero or more, got {self.seed}")

    @classmethod
    def parse(cls, text: str) -> ChaosSpec:
        """Return what ``kill_agents=0.1,drop=0.05,seed=3`` says.

        Raises:
            ConfigurationError: an unknown name, a name twice, or a value that is no number or out of range.
        """
        known = [entry.name for entry in fields(cls)]
        given: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if name not in known:
                raise ConfigurationError(
                    f"--chaos: must be of {', '.join(known)}, got {name!r}.{did_you_mean(name, known)}"
                )
            if name in given:
                raise ConfigurationError(f"--chaos: {name} must be given once, got it twice")
            try:
                given[name] = int(value) if name == "seed" else float(value)
            except ValueError:
                raise ConfigurationError(
                    f"--chaos: {name} must be a number as in {name}=1, got {value if equals else part!r}"
                ) from None
        return cls(**given)

    @property
    def message_faults(self) -> bool:
        """Whether messages get lost or late."""
        return self.drop > 0.0 or self.delay > 0.0


@dataclass(frozen=True, slots=True)
class KillAgents:
    """Kill the process with this number."""

    process: int


@dataclass(frozen=True, slots=True)
class KillBus:
    """Kill the bus actor with this number."""

    shard: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Let nothing pass between these agents and the others until the next `Heal`."""

    side: frozenset[str]


@dataclass(frozen=True, slots=True)
class Heal:
    """Let everything pass again."""


Event = KillAgents | KillBus | Cut | Heal


class Chaos:
    """Says what goes wrong when. It does nothing itself, and reads no clock: the caller tells the time."""

    def __init__(self, spec: ChaosSpec, agents: Sequence[str], processes: int, shards: int) -> None:
        """Plan for these agents, so many processes that host them, and so many bus actors."""
        self.spec = spec
        self._agents, self._processes, self._shards = list(agents), processes, shards
        self._rng = np.random.default_rng(spec.seed)
        self._next = {
            "kill_agents": self._wait(spec.kill_agents * processes),
            "kill_bus": self._wait(spec.kill_bus),
            "partitions": self._wait(spec.partitions),
            "heal": math.inf,
        }

    def due(self, now: float) -> list[Event]:
        """Return what has gone wrong by ``now``, seconds from the start, in order of time.

        Each event is returned once; ``now`` must not go back.
        """
        events: list[Event] = []
        while True:
            name = min(self._next, key=lambda key: self._next[key])
            time = self._next[name]
            if time > now:
                return events
            events.append(self._happen(name, time))

    def _happen(self, name: str, time: float) -> Event:
        spec, rng = self.spec, self._rng
        if name == "kill_agents":
            self._next[name] = time + self._wait(spec.kill_agents * self._processes)
            return KillAgents(int(rng.integers(self._processes)))
        if name == "kill_bus":
            self._next[name] = time + self._wait(spec.kill_bus)
            return KillBus(int(rng.integers(self._shards)))
        if name == "heal":
            self._next["heal"] = math.inf
            self._next["partitions"] = time + self._wait(spec.partitions)
            return Heal()
        self._next["partitions"], self._next["heal"] = math.inf, time + spec.partition_seconds
        half = rng.permutation(len(self._agents))[: len(self._agents) // 2]
        return Cut(frozenset(self._agents[index] for index in half))

    def _wait(self, per_minute: float) -> float:
        """Draw the seconds until the next event."""
        return float(self._rng.exponential(60.0 / per_minute)) if per_minute > 0.0 else math.inf
