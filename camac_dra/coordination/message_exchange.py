"""Learned messages between agents, over the bus: all speak, then all decide on what they heard.

Axes: n agents of one process, M neighbours, C numbers of a message.
"""

from __future__ import annotations

import heapq
import itertools
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from camac_dra.coordination.message_bus import MessageBus
from camac_dra.coordination.protocol_carrier import Fates, MessageFaults
from camac_dra.environment.neighbourhood import edge_delays
from camac_dra.environment.topology import Topology
from camac_dra.utils.schema.environment import EnvironmentConfig

_Said: TypeAlias = tuple[int, np.ndarray]  # a decision, and the messages (k, C) of all agents of a process

MESSAGES = "messages"
"""Topic of learned messages on the newest-value channel, and key of what is published there."""


@dataclass(frozen=True, slots=True)
class Talk:
    """What agents' telling each other what they see came to in one decision."""

    messages: int = 0  # sent, one to each agent that listens
    message_bytes: int = 0
    missed: int = 0  # not there in time: the last one heard was used in its place

    def __add__(self, other: Talk) -> Talk:
        return Talk(
            self.messages + other.messages,
            self.message_bytes + other.message_bytes,
            self.missed + other.missed,
        )


@dataclass(frozen=True, slots=True)
class Heard:
    """The last message from each neighbour that the delay of the problem lets through."""

    messages: np.ndarray  # (n, M, C)
    mask: np.ndarray  # (n, M) bool, false where none was ever received, and for padding
    talk: Talk


class MessageExchange:
    """Sends the messages of the agents of one process, and keeps what each of them last heard.

    A process publishes the messages of all its agents as one value, whose version is the number of the
    decision. A message is used ``message_delay`` steps per unit of edge weight after it was sent, as in the
    environment, with a slot for every step on the way; what transport takes beyond that is waited for up to a
    deadline. ``message_loss`` is not played here: what the bus loses is lost. Whoever was silent at the last
    decision is not waited for until heard of again. Used from one thread.
    """

    def __init__(
        self,
        agents: Sequence[int],
        environment: EnvironmentConfig,
        topology: Topology,
        bus: MessageBus,
        homes: Mapping[str, str],
        message: tuple[int, np.dtype],
        faults: MessageFaults | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Exchange messages for agents with these numbers (n,).

        Args:
            agents: numbers of those of this process.
            environment: says how late messages are, and how many neighbours are heard.
            topology: who hears whom.
            bus: carries what goes to other processes.
            homes: of every agent, the mailbox of its process.
            message: C, and the type of a message's numbers.
            faults: faults on purpose; None: none.
            clock, sleep: the time, in seconds.
        """
        index, weight = topology.neighbor_arrays(environment.max_neighbors)  # (N, M), (N, M)
        self._names = environment.agent_ids
        self._agents = np.asarray(agents)  # (n,)
        self._bus, self._clock, self._sleep = bus, clock, sleep
        self._home = homes[self._names[agents[0]]]
        members: dict[str, list[int]] = {}
        for number, name in enumerate(self._names):
            members.setdefault(homes[name], []).append(number)
        self._members = members  # numbers of the agents of each process, in order
        self._process = np.empty(len(self._names), int)  # (N,) number of an agent's process
        self._place = np.empty(len(self._names), int)  # (N,) of an agent among those of its process
        for process, group in enumerate(members.values()):
            self._process[group], self._place[group] = process, np.arange(len(group))
        self._delay = edge_delays(weight, environment.message_delay)[self._agents]  # (n, M)
        self._depth = int(edge_delays(weight, environment.message_delay).max(initial=0)) + 1
        self._senders = index[self._agents]  # (n, M), -1 for padding
        listeners = np.bincount(index[index >= 0], minlength=len(self._names))  # (N,)
        self._listeners = int(listeners[self._agents].sum())
        heard_elsewhere = np.delete(index, self._agents, axis=0)
        self._is_heard_elsewhere = bool(np.isin(heard_elsewhere, self._agents).any())
        size, self._dtype = message
        self._messages = np.zeros((*self._senders.shape, size), self._dtype)  # (n, M, C) last heard
        self._versions = np.full(self._senders.shape, -1)  # (n, M) decision that those are of; -1: none
        self._said: dict[int, _Said] = {}  # by slot, what was said here
        self._newest: dict[str, int] = {}  # by process, the newest version seen
        self._silent: set[str] = set()
        self._faults = faults
        self._fates = Fates(faults, zlib.crc32(f"{MESSAGES}/{self._home}".encode()))
        # Heap of what is late on purpose: when, number, row, column, decision, message.
        self._late: list[tuple[float, int, int, int, int, np.ndarray]] = []
        self._numbers = itertools.count()

    def run(
        self,
        step: int,
        said: np.ndarray,
        deadline: float,
        *,
        gone: frozenset[str] = frozenset(),
        cut: frozenset[str] = frozenset(),
    ) -> Heard:
        """Send the messages (n, C) of decision ``step``; return what was heard by ``deadline``.

        Nobody waits for agents in ``gone``, who are known to be dead. Nothing passes between the agents in
        ``cut`` and the others.
        """
        slot = step % self._depth
        self._said[slot] = step, said
        if self._is_heard_elsewhere:
            self._bus.publish(self._home, f"{MESSAGES}/{slot}", {MESSAGES: said}, version=step)
        self._take_late()
        wanted = step - self._delay  # (n, M)
        due = (self._senders >= 0) & (wanted >= 0)
        for version in np.unique(wanted[due & (self._versions < wanted)]):
            self._read(int(version), due & (wanted == version), deadline, gone, cut)
        self._wait_for_late(deadline)
        missed = int((due & (self._versions < wanted)).sum())
        toll = Talk(self._listeners, self._listeners * said[0].nbytes, missed)
        return Heard(self._messages.copy(), self._versions >= 0, toll)

    def _read(
        self, version: int, edges: np.ndarray, deadline: float, gone: frozenset[str], cut: frozenset[str]
    ) -> None:
        """Take in what was said in decision ``version``, for the ``edges`` (n, M) that it is due on."""
        places = np.argwhere(edges)  # (edges, 2) row and column
        process = self._process[self._senders[edges]]  # (edges,) in the same order
        names = list(self._members)
        by_home = {names[number]: places[process == number] for number in np.unique(process).tolist()}
        slot = version % self._depth
        own = by_home.pop(self._home, None)
        if own is not None and slot in self._said:
            self._take(own, *self._said[slot], cut)
        dead = {home for home in by_home if gone.issuperset(self._names[n] for n in self._members[home])}
        for homes, seconds in (
            ([h for h in by_home if h not in dead and h not in self._silent], deadline - self._clock()),
            ([h for h in by_home if h in dead or h in self._silent], 0.0),
        ):
            keys = [(home, f"{MESSAGES}/{slot}") for home in homes]
            for home, found in zip(homes, self._found(keys, version, max(0.0, seconds)), strict=True):
                self._note(home, version, -1 if found is None else found[0])
                if found is not None:
                    self._take(by_home[home], *found, cut)

    def _found(self, keys: list[tuple[str, str]], version: int, seconds: float) -> Sequence[_Said | None]:
        """Return version and messages (k, C) of each slot; None where there are none of the right shape."""
        if not keys:
            return []
        found = self._bus.latest_many(keys, at_least=version, timeout=seconds)
        return [
            None if value is None else self._checked(home, *value)
            for (home, _), value in zip(keys, found, strict=True)
        ]

    def _checked(self, home: str, version: int, content: Mapping[str, object]) -> _Said | None:
        """Return what a process said, None where it is not messages of its agents."""
        said = content.get(MESSAGES)
        shape = (len(self._members[home]), self._messages.shape[-1])
        if not isinstance(said, np.ndarray) or said.shape != shape or said.dtype != self._dtype:
            return None
        return (version, said) if np.isfinite(said).all() else None

    def _note(self, home: str, version: int, found: int) -> None:
        """Remember whether a process speaks."""
        if found >= version or found > self._newest.get(home, -1):
            self._silent.discard(home)
        else:
            self._silent.add(home)
        self._newest[home] = max(found, self._newest.get(home, -1))

    def _take(self, edges: np.ndarray, version: int, said: np.ndarray, cut: frozenset[str]) -> None:
        """Let messages (k, C) of one process pass along ``edges`` (edges, 2), as their fates are."""
        if self._faults is None and not cut:
            rows, columns = edges.T
            newer = version > self._versions[rows, columns]
            rows, columns = rows[newer], columns[newer]
            self._versions[rows, columns] = version
            self._messages[rows, columns] = said[self._place[self._senders[rows, columns]]]
            return
        now = self._clock()
        for row, column in edges.tolist():
            sender = int(self._senders[row, column])
            listener = self._names[self._agents[row]]
            if (self._names[sender] in cut) != (listener in cut):
                continue
            lateness = self._fates.lateness(reliable=False)  # the newest-value channel
            if lateness is None:
                continue
            message = said[self._place[sender]]
            if lateness > 0.0:
                item = (now + lateness, next(self._numbers), row, column, version, message)
                heapq.heappush(self._late, item)
            else:
                self._keep(row, column, version, message)

    def _keep(self, row: int, column: int, version: int, message: np.ndarray) -> None:
        if version > self._versions[row, column]:
            self._versions[row, column] = version
            self._messages[row, column] = message

    def _take_late(self) -> None:
        """Take in messages that were late on purpose and are due."""
        now = self._clock()
        while self._late and self._late[0][0] <= now:
            self._keep(*heapq.heappop(self._late)[2:])

    def _wait_for_late(self, deadline: float) -> None:
        """Wait for messages that are late on purpose, if not for longer than until ``deadline``."""
        coming = [item[0] for item in self._late if item[0] <= deadline]
        if coming:
            self._sleep(max(0.0, max(coming) - self._clock()))
            self._take_late()
