"""Who gives how much of its masses to whom in a round: to all neighbours alike, or to one drawn by lot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

_MASK = (1 << 64) - 1

Draw = Callable[[int, int], str]
"""From a decision and a round to the neighbour that an agent draws."""


@dataclass(frozen=True, slots=True)
class Link:
    """One publication of a round: the topic, who reads it, and the shares given and kept."""

    topic: str
    recipients: tuple[str, ...]
    share: float
    keep: float


class Exchange(Protocol):
    """One agent's dealings with its neighbours."""

    def gives(self, decision: int, round_number: int) -> Iterator[Link]:
        """Yield what the agent publishes in this round."""
        ...

    def expects(self, decision: int, round_number: int) -> Sequence[str]:
        """Return whose messages of this round the agent waits for."""
        ...

    def hears(self, sender: str) -> bool:
        """Return whether the sender is a neighbour."""
        ...

    def share_of(self, sender: str) -> float:
        """Return which part of a sender's running sum is this agent's."""
        ...

    def topic(self) -> str:
        """Return the topic under which neighbours publish what is for this agent."""
        ...


class Everybody:
    """Average consensus: every neighbour is given its part in every round, and all read the same message.

    What is published is the sum of all that the agent ever held; readers take their own weight of it.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        """Take the weight that each neighbour's masses have for this agent; what remains is kept."""
        self._weights = dict(weights)
        self._keep = 1.0 - sum(weights.values())

    def gives(self, decision: int, round_number: int) -> Iterator[Link]:
        """Yield the one publication of every round."""
        if self._weights:
            yield Link("consensus", tuple(self._weights), 1.0, self._keep)

    def expects(self, decision: int, round_number: int) -> Sequence[str]:
        """Return all neighbours."""
        return tuple(self._weights)

    def hears(self, sender: str) -> bool:
        """Return whether the sender is a neighbour."""
        return sender in self._weights

    def share_of(self, sender: str) -> float:
        """Return the neighbour's weight."""
        return self._weights[sender]

    def topic(self) -> str:
        """Return the one topic of all."""
        return "consensus"


class OneNeighbour:
    """Push-sum gossip: half of everything goes to one neighbour, drawn anew in every round.

    Everybody can tell whom its neighbours draw, so that nobody waits for a message that is never sent.
    Source: Kempe, Dobra and Gehrke, "Gossip-based computation of aggregate information", FOCS 2003.
    """

    def __init__(self, agent: str, neighbours: Sequence[str], draws: Mapping[str, Draw]) -> None:
        """Take the neighbours, and for this agent and each of them whom it draws, by decision and round."""
        self._agent, self._neighbours, self._draws = agent, frozenset(neighbours), dict(draws)

    def gives(self, decision: int, round_number: int) -> Iterator[Link]:
        """Yield the publication for the neighbour that is drawn."""
        if self._neighbours:
            chosen = self._draws[self._agent](decision, round_number)
            yield Link(f"gossip/{chosen}", (chosen,), 0.5, 0.5)

    def expects(self, decision: int, round_number: int) -> Sequence[str]:
        """Return the neighbours that draw this agent."""
        return [n for n in sorted(self._neighbours) if self._draws[n](decision, round_number) == self._agent]

    def hears(self, sender: str) -> bool:
        """Return whether the sender is a neighbour."""
        return sender in self._neighbours

    def share_of(self, sender: str) -> float:
        """Return 1: what is published is for the reader alone."""
        return 1.0

    def topic(self) -> str:
        """Return the topic of this reader."""
        return f"gossip/{self._agent}"


@dataclass(frozen=True, slots=True)
class Lots:
    """Lots that everybody can draw for everybody, from numbers that all know (splitmix64, Steele 2014)."""

    seed: int

    def place(self, agent: int, decision: int, round_number: int, count: int) -> int:
        """Return a place from 0 to ``count - 1``, all but equally likely."""
        state = self.seed
        for number in (agent, decision, round_number):
            state = _scrambled((state ^ number) + 0x9E3779B97F4A7C15)
        return state % count


def _scrambled(state: int) -> int:
    state &= _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)
