"""What agents hear from their neighbours in the topology: delayed by distance, sometimes lost.

Axes, always in this order: B parallel copies, N agents, M neighbours, R resources, F features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from camac_dra.environment.topology import Topology

# Up to this many agents a dense product of the masks beats a sparse one.
_DENSE_AGENTS = 64


def edge_delays(weight: np.ndarray, delay: float) -> np.ndarray:
    """Return how many steps messages take along edges of these weights, ``delay`` per unit, rounded up."""
    return np.ceil(weight * delay - 1e-9).astype(np.int64)


class Mailbox:
    """The last row heard from each neighbour, ``delay`` steps old, kept where the newer one was lost.

    Rows not yet heard in this episode are zero.

    Attributes:
        index: (N, M) numbers of the neighbours, 0 where there is none.
        known: (N, M) bool, which of them there are.
        heard: (B, N, M) bool, from whom anything was heard in this episode.
    """

    def __init__(
        self,
        topology: Topology,
        num_envs: int,
        width: int,
        delay: float,
        loss: float,
        max_neighbors: int | None = None,
    ) -> None:
        """Listen for rows of ``width`` numbers; ``delay`` is in steps per unit of edge weight, rounded up."""
        index, weight = topology.neighbor_arrays(max_neighbors)  # (N, M), (N, M)
        self.index = np.maximum(index, 0)
        self.known = index >= 0  # (N, M) bool
        self.loss = loss
        self._delay = edge_delays(weight, delay)  # (N, M)
        self._depth = int(self._delay.max(initial=0)) + 1
        self._shape = (num_envs, *index.shape, width)
        self.begin()

    @property
    def immediate(self) -> bool:
        """Whether every row arrives in the step it was sent."""
        return self._depth == 1 and self.loss == 0.0

    def begin(self) -> None:
        """Forget everything, for new episodes."""
        copies, agents, _, width = self._shape
        self._clock = 0
        self._sent = np.zeros((self._depth, copies, agents, width))  # (D, B, N, F) ring of what was sent
        self._rows = np.zeros(self._shape)  # (B, N, M, F) as last heard
        whole = np.broadcast_to(self.known, self._shape[:3])
        self.heard = whole if self.immediate else np.zeros(self._shape[:3], bool)

    def exchange(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Send each agent's row (B, N, F) to its neighbours; return what each last heard (B, N, M, F)."""
        if self.immediate:
            return rows[:, self.index] * self.known[..., None]
        self._sent[self._clock % self._depth] = rows
        slot = (self._clock - self._delay) % self._depth  # (N, M)
        copies = np.arange(self._shape[0])[:, None, None]
        arriving = self._sent[slot[None], copies, self.index[None]]  # (B, N, M, F)
        arrived = self.known & (self._clock >= self._delay)  # (N, M)
        now = np.broadcast_to(arrived, self._shape[:3])
        if self.loss > 0.0:
            now = now & (rng.random(self._shape[:3]) >= self.loss)
        self._rows = np.where(now[..., None], arriving, self._rows)
        self.heard = self.heard | now
        self._clock += 1
        return self._rows

    def get_state(self) -> dict[str, Any]:
        """Return what is on its way and what was heard."""
        return {
            "clock": self._clock,
            "sent": self._sent.copy(),
            "rows": self._rows.copy(),
            "heard": self.heard.copy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what ``get_state`` returned."""
        self._clock = int(state["clock"])
        self._sent, self._rows = np.array(state["sent"]), np.array(state["rows"])
        self.heard = np.array(state["heard"])


class NeighbourDemand:
    """Sums of the neighbours' pending demand by its worth to them: above, at and below one's own weight.

    Without delay and loss nothing is stored per edge: complete graphs are summed by weight class, small
    graphs by a dense product, large ones by a sparse one.
    """

    def __init__(
        self, topology: Topology, num_envs: int, num_resources: int, delay: float, loss: float
    ) -> None:
        """Prepare to sum over the neighbours in ``topology``."""
        self._topology = topology
        self._shape = (num_envs, len(topology.agents), num_resources)
        self._mailbox = None
        if loss > 0.0 or (delay > 0.0 and topology.max_weight > 0.0):
            self._mailbox = Mailbox(topology, num_envs, num_resources, delay, loss)
        elif len(topology.agents) <= _DENSE_AGENTS or not topology.is_complete:
            self._receiver, self._sender = topology.adjacency().tocoo().coords  # (E,) each

    def begin(self, weights: np.ndarray) -> None:
        """Prepare the sums for the weights (B, N) of new episodes."""
        agents = self._shape[1]
        if self._mailbox is not None:
            self._mailbox.begin()
            theirs = weights[:, self._mailbox.index]  # (B, N, M)
            own, known = weights[..., None], self._mailbox.known
            masks = [(theirs > own) & known, (theirs == own) & known, (theirs < own) & known]
            self._masks = np.stack(masks, axis=2).astype(float)  # (B, N, 3, M)
        elif agents <= _DENSE_AGENTS:
            self._begin_dense(weights)
        elif self._topology.is_complete:
            self._begin_complete(weights)
        else:
            self._begin_sparse(weights)

    def sums(self, pending: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return (B, N, 3 R): the neighbours' pending demand above, at and below one's own weight."""
        copies, agents, resources = self._shape
        if self._mailbox is not None:
            return (self._masks @ self._mailbox.exchange(pending, rng)).reshape(copies, agents, -1)
        if agents <= _DENSE_AGENTS:
            return (self._dense @ pending).reshape(copies, agents, -1)
        if self._topology.is_complete:
            return self._sums_complete(pending)
        return np.asarray(self._blocks @ pending.reshape(-1, resources)).reshape(copies, agents, -1)

    def get_state(self) -> dict[str, Any]:
        """Return what is on its way; the sums' own tables follow from the weights."""
        return {} if self._mailbox is None else self._mailbox.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what ``get_state`` returned, after ``begin`` with the same weights."""
        if self._mailbox is not None:
            self._mailbox.set_state(state)

    def _begin_complete(self, weights: np.ndarray) -> None:
        """Index the agents by their class of weight."""
        values, group = np.unique(weights, return_inverse=True)
        group = group.reshape(weights.shape)  # (B, N)
        self._one_hot = (group[:, None, :] == np.arange(len(values))[:, None]).astype(float)  # (B, V, N)
        offset = np.arange(len(weights))[:, None] * len(values)
        self._class = group + offset  # (B, N) row of the agent's class in the flattened (B * V)

    def _sums_complete(self, pending: np.ndarray) -> np.ndarray:
        """Sum over everybody else, by class of weight."""
        copies, agents, resources = self._shape
        by_class = self._one_hot @ pending  # (B, V, R) ascending in weight
        below = np.cumsum(by_class, axis=1)  # (B, V, R) up to and including the class
        table = np.empty((copies, by_class.shape[1], 3, resources))  # (B, V, 3, R)
        np.subtract(below[:, -1:], below, out=table[:, :, 0])
        table[:, :, 1] = by_class
        np.subtract(below, by_class, out=table[:, :, 2])
        sums = table.reshape(-1, 3, resources).take(self._class, axis=0)  # (B, N, 3, R)
        # Rounding may leave a hair below zero where an agent is alone in its class.
        sums[:, :, 1] = np.maximum(sums[:, :, 1] - pending, 0.0)
        return sums.reshape(copies, agents, -1)

    def _edges_by_kind(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return receivers (E,), senders (E,), and 0, 1, 2 (B, E): weights above, at, below one's own."""
        receiver, sender = self._receiver, self._sender
        own, theirs = weights[:, receiver], weights[:, sender]  # (B, E)
        return receiver, sender, np.where(theirs > own, 0, np.where(theirs == own, 1, 2))

    def _begin_dense(self, weights: np.ndarray) -> None:
        """Build the masked adjacency of every copy."""
        copies, agents, _ = self._shape
        receiver, sender, kind = self._edges_by_kind(weights)
        self._dense = np.zeros((copies, agents * 3, agents))  # (B, 3 N, N)
        self._dense[np.arange(copies)[:, None], receiver * 3 + kind, sender] = 1.0

    def _begin_sparse(self, weights: np.ndarray) -> None:
        """Build the masked adjacency of all copies as one block-diagonal matrix."""
        copies, agents, _ = self._shape
        receiver, sender, kind = self._edges_by_kind(weights)
        offset = np.arange(copies)[:, None] * agents
        rows = (offset + receiver) * 3 + kind  # (B, E)
        columns = offset + sender
        shape = (copies * agents * 3, copies * agents)
        self._blocks = sparse.csr_array((np.ones(rows.size), (rows.ravel(), columns.ravel())), shape=shape)
