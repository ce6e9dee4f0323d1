"""What the rounds of one decision do to the masses that agents hold, as arrays; all lots are drawn
beforehand.

Axes: B parallel copies, C times as many where several questions are asked under the same lots, T rounds, N
agents, L directed links, M masses; the last mass is the weight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from camac_dra.coordination.protocols.plan import Plan
from camac_dra.environment.groups import FloatArray

_DENSE_AGENTS = 512  # up to which weights are multiplied as dense matrices
_TRANSFER_AGENTS = 64  # up to which all that rounds do is worked out as one matrix per copy


@dataclass(frozen=True, slots=True, eq=False)
class Lots:
    """What chance decides in one decision."""

    delivered: np.ndarray | None  # (B, T, L) bool: which messages arrive; None: all
    chosen: np.ndarray | None  # (B, T, N) place of the neighbour that each agent draws; None: gives to all


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """The directed links of a plan, ordered by recipient and then by sender."""

    senders: np.ndarray  # (L,)
    recipients: np.ndarray  # (L,)
    weights: FloatArray  # (L,)
    kept: FloatArray  # (N,) what an agent keeps of its masses
    first_out: np.ndarray  # (N,) place in ``out`` of each agent's first link
    out: np.ndarray  # (L,) links ordered by sender and then by recipient
    degree: np.ndarray  # (N,)

    @classmethod
    def of(cls, plan: Plan) -> Links:
        """Return the links of a plan."""
        senders, recipients, weights = plan.links
        agents = plan.weights.shape[0]
        degree = np.bincount(senders, minlength=agents)
        out = np.lexsort((recipients, senders))
        first = np.concatenate(([0], np.cumsum(degree)[:-1]))
        return cls(senders, recipients, weights, plan.weights.diagonal(), first, out, degree)

    def chosen_links(self, chosen: np.ndarray) -> np.ndarray:
        """Return the links (..., N) to the neighbours at the places ``chosen`` (..., N); L for nobody."""
        place = np.minimum(self.first_out + chosen, max(len(self.out) - 1, 0))
        link = self.out[place] if len(self.out) else np.zeros_like(chosen)
        return np.where(self.degree > 0, link, len(self.out))


class Mixing(Protocol):
    """The rounds of one decision, begun anew for every question."""

    def begin(self, masses: FloatArray) -> None:
        """Start with ``masses`` (C * B, N, M), C batches one after the other."""
        ...

    def step(self) -> FloatArray:
        """Run a round and return the masses (C * B, N, M); adding to them in place adds to what is held."""
        ...

    def transfers(self, first: int, stops: Sequence[int]) -> list[FloatArray] | None:
        """Return what the rounds after round ``first`` do until each of ``stops``: (B or 1, N, N) each.

        Row i has what agent i then holds of everybody's masses. None where that is too large to be worth it.
        """
        ...


class ConstantMixing:
    """Average consensus over links that lose nothing: a product with the weights per round."""

    def __init__(self, plan: Plan) -> None:
        """Take the weights as they are multiplied fastest."""
        size = plan.weights.shape[0]
        self._dense = plan.weights.toarray() if size <= _DENSE_AGENTS else None  # (N, N)
        self._sparse = plan.weights
        self._powers: dict[int, FloatArray] = {}  # (1, N, N) by exponent

    def begin(self, masses: FloatArray) -> None:
        """Start with ``masses`` (B, N, M)."""
        self._held = masses

    def step(self) -> FloatArray:
        """Run a round and return the masses (B, N, M)."""
        if self._dense is not None:
            self._held = self._dense @ self._held
        else:
            copies, agents, width = self._held.shape
            flat = self._held.transpose(1, 0, 2).reshape(agents, -1)  # (N, B M)
            self._held = (self._sparse @ flat).reshape(agents, copies, width).transpose(1, 0, 2).copy()
        return self._held

    def transfers(self, first: int, stops: Sequence[int]) -> list[FloatArray] | None:
        """Return powers of the weights (1, N, N)."""
        if self._dense is None:
            return None
        for rounds in (stop - first for stop in stops):
            if rounds not in self._powers:
                self._powers[rounds] = np.linalg.matrix_power(self._dense, rounds)[None]
        return [self._powers[stop - first] for stop in stops]


class PushMixing:
    """Push-sum over links that lose nothing, for few agents: a matrix per copy and round."""

    def __init__(self, links: Links, chosen: np.ndarray) -> None:
        """Take the draws (B, T, N)."""
        copies, rounds, agents = chosen.shape
        link = links.chosen_links(chosen)  # (B, T, N)
        alone = link == len(links.recipients)
        recipient = np.append(links.recipients, 0)[link]  # (B, T, N)
        half = np.where(alone, 0.0, 0.5)
        self._rounds = np.zeros((copies, rounds, agents, agents))  # (B, T, N, N)
        grid = np.ogrid[:copies, :rounds, :agents]
        self._rounds[grid[0], grid[1], recipient, grid[2]] = half
        self._rounds[:, :, np.arange(agents), np.arange(agents)] += 1.0 - half

    def begin(self, masses: FloatArray) -> None:
        """Start with ``masses`` (C * B, N, M)."""
        self._held, self._round = masses, 0

    def step(self) -> FloatArray:
        """Run a round and return the masses (C * B, N, M)."""
        copies = len(self._rounds)
        held = self._held.reshape(-1, copies, *self._held.shape[1:])  # (C, B, N, M)
        self._held = (self._rounds[:, self._round] @ held).reshape(self._held.shape)
        self._round += 1
        return self._held

    def transfers(self, first: int, stops: Sequence[int]) -> list[FloatArray] | None:
        """Return products of rounds (B, N, N)."""
        whole, found = self._rounds[:, first], []
        for number in range(first + 1, stops[-1] + 1):
            if number in stops:
                found.append(whole)
            if number < stops[-1]:
                whole = self._rounds[:, number] @ whole
        return found


class LinkMixing:
    """Running sums over links one by one: whatever is lost, late, or too large for the others."""

    def __init__(self, links: Links, lots: Lots, copies: int, delay: int) -> None:
        """Take the lots of ``copies`` copies, and by how many rounds messages are late."""
        self._links, self._lots, self._copies, self._delay = links, lots, copies, delay
        self._filled = np.flatnonzero(np.bincount(links.recipients, minlength=len(links.kept)))
        self._starts = np.searchsorted(links.recipients, self._filled)

    def begin(self, masses: FloatArray, first: int = 0) -> None:
        """Start with ``masses`` (C * B, N, M), after round ``first``."""
        self._held, self._round = masses.copy(), first
        self._times = len(masses) // self._copies
        self._on_its_way = np.zeros((len(masses), len(self._links.senders), masses.shape[2]))
        self._given: deque[tuple[FloatArray, np.ndarray | None]] = deque()  # of late rounds, oldest first

    def step(self) -> FloatArray:
        """Run a round and return the masses (C * B, N, M)."""
        given, arriving = self._give()
        self._given.append((given, arriving))
        self._round += 1
        if len(self._given) <= self._delay:
            return self._held
        given, arriving = self._given.popleft()
        waiting = self._on_its_way
        waiting += given  # what a message brings is all that was given so far and has not arrived
        if arriving is None:
            arrived, self._on_its_way = waiting, np.zeros_like(waiting)
        else:
            arrived = waiting * arriving[..., None]
            waiting -= arrived
        if len(self._filled):
            self._held[:, self._filled] += np.add.reduceat(arrived, self._starts, axis=1)
        return self._held

    def _give(self) -> tuple[FloatArray, np.ndarray | None]:
        """Return what agents give in this round (C * B, L, M), and which links bring what they hold."""
        links, lots = self._links, self._lots
        delivered = None if lots.delivered is None else lots.delivered[:, self._round]  # (B, L)
        if lots.chosen is None:
            given = self._held[:, links.senders] * links.weights[:, None]
            self._held *= links.kept[:, None]
            return given, None if delivered is None else np.tile(delivered, (self._times, 1))
        link = links.chosen_links(lots.chosen[:, self._round])  # (B, N)
        used = np.zeros((self._copies, len(links.senders) + 1), bool)
        np.put_along_axis(used, link, values=True, axis=1)
        used = used[:, :-1]
        given = self._held[:, links.senders] * np.tile(0.5 * used, (self._times, 1))[..., None]
        self._held *= np.where(links.degree > 0, 0.5, 1.0)[:, None]
        arriving = used if delivered is None else used & delivered
        return given, np.tile(arriving, (self._times, 1))

    def transfers(self, first: int, stops: Sequence[int]) -> list[FloatArray] | None:
        """Return what becomes of one mass of each agent alone (B, N, N)."""
        agents = len(self._links.kept)
        if agents > _TRANSFER_AGENTS:
            return None
        self.begin(np.tile(np.eye(agents), (self._copies, 1, 1)), first)
        found = []
        for number in range(first + 1, stops[-1] + 1):
            held = self.step()
            if number in stops:
                found.append(held.copy())
        return found
