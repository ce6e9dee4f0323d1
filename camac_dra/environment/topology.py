"""Who hears whom: a weighted, undirected graph over the agents, kept as arrays so that it scales.

N agents, E edges. Agents are numbered in the order they were given in; neighbours always come in that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from camac_dra.environment.graph_diameter import hop_diameter
from camac_dra.environment.neighbor_arrays import padded_complete, padded_neighbors
from camac_dra.environment.topology_generators import KINDS, complete_edges, generate_edges, read_graphml
from camac_dra.utils.errors import TopologyError, did_you_mean
from camac_dra.utils.schema.environment import TopologyOptions

IndexArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# A complete graph of more agents is never written out as edges (2,000 agents have 2 million of them).
_EXPLICIT_COMPLETE = 2_000


class Topology:
    """The graph of who hears whom; the weight of an edge is its length.

    A message takes weight * message_delay steps along an edge. Edges have no direction, no agent is its own
    neighbour, and an edge exists once. A complete graph made by `generate` stores no edges at all, whatever
    its size. Not safe for changes from several threads.

    Attributes:
        agents: names of the N agents; position in this list is the agent's index.
        positions: (N, 2) coordinates in the unit square where the generator has some (geometric), else None.
    """

    agents: list[str]
    positions: FloatArray | None

    def __init__(self, agents: Sequence[str], connections: Iterable[tuple[Any, ...]] = ()) -> None:
        """Connect `agents` by `connections`, tuples (a, b) or (a, b, weight); the weight is 1 where left out.

        Raises:
            TopologyError: no agents, a name twice, a connection that is no such tuple, names an unknown
                agent, joins an agent to itself, has a negative or non-finite weight, or comes twice with
                other weights.
        """
        self.agents = list(agents)
        self._index = _numbered(self.agents)
        self._complete_weight: float | None = None  # of an implicit complete graph
        self._pairs: IndexArray = np.empty((0, 2), np.int64)  # (E, 2) agent indices, lower one first, sorted
        self._lengths: FloatArray = np.empty(0)  # (E,)
        self._added: dict[tuple[int, int], float] = {}  # edges not yet merged into the two arrays
        self._rows: sparse.csr_array | None = None  # (N, N) weights, both directions; built when asked for
        self.positions = None
        for connection in connections:
            self._connect(connection)

    @classmethod
    def generate(cls, kind: str, agents: Sequence[str], options: TopologyOptions | None = None) -> Topology:
        """Make a topology of one of the known kinds; equal arguments give equal graphs.

        Kinds: `fully_connected`; `ring` in the order of the agents; `grid`, near-square, four neighbours, its
        last row possibly shorter; `random`, every edge with `edge_probability` plus a ring, so that it is
        connected; `star` around the first agent; `tree`, agent i hangs from (i - 1) // branching;
        `geometric`, uniform in the unit square, all pairs within `radius`, components joined through their
        nearest pairs; `graphml`, a file whose nodes are the agents' names (or carry them as `label` or
        `name`) or the numbers 0 to N - 1.

        Raises:
            TopologyError: unknown kind, too many edges to hold, or a file that does not fit.
        """
        options = options or TopologyOptions()  # type: ignore[call-arg]
        topology = cls(agents)
        if kind == "fully_connected":
            topology._complete_weight = options.edge_weight
        elif kind == "graphml":
            for a, b, weight in read_graphml(options.file, topology.agents, options.edge_weight):
                topology._connect((a, b, weight))
        elif kind in KINDS:
            topology._pairs, topology.positions = generate_edges(kind, len(topology.agents), options)
            topology._lengths = np.full(len(topology._pairs), options.edge_weight)
        else:
            raise TopologyError(
                f"topology must be one of {', '.join(KINDS)}, got {kind!r}.{did_you_mean(str(kind), KINDS)}"
            )
        return topology

    def add_edge(self, agent1: str, agent2: str, weight: float = 1.0) -> None:
        """Connect two agents, or give the edge between them a new weight.

        Raises:
            TopologyError: an unknown agent, the same agent twice, or a weight that is negative or
                not finite; or a complete graph of more than 2,000 agents would have to be written
                out to hold another weight.
        """
        pair, length = self._edge(agent1, agent2, weight)
        if self._complete_weight is not None:
            if length == self._complete_weight:
                return
            self._write_out()
        self._added[pair] = length
        self._rows = None

    def get_neighbors(self, agent_id: str) -> list[str]:
        """Return the names of the agent's neighbours, in the order of `agents`.

        Raises:
            TopologyError: no agent has that name.
        """
        index = self._index_of(agent_id)
        if self._complete_weight is not None:
            return self.agents[:index] + self.agents[index + 1 :]
        rows = self._neighbor_rows()
        return [self.agents[j] for j in rows.indices[rows.indptr[index] : rows.indptr[index + 1]]]

    def is_connected(self) -> bool:
        """Return whether every agent can reach every other one; a single agent is connected."""
        if self._complete_weight is not None:
            return True
        parts = csgraph.connected_components(self.adjacency(), directed=False, return_labels=False)
        return bool(parts == 1)

    def get_diameter(self) -> int:
        """Return the largest number of hops between two agents, exactly; weights do not count.

        0 for a single agent. Takes a few seconds at most for sparse graphs of 10,000 agents.

        Raises:
            TopologyError: the graph is not connected, so that no such number exists.
        """
        if self.is_complete:
            return min(len(self.agents) - 1, 1)
        if not self.is_connected():
            raise TopologyError(
                "the diameter needs a connected topology, got separate parts: join them with add_edge"
            )
        return hop_diameter(self.adjacency())

    @property
    def is_complete(self) -> bool:
        """Whether every agent is every other one's neighbour."""
        size = len(self.agents)
        return self._complete_weight is not None or self.num_edges == size * (size - 1) // 2

    @property
    def num_edges(self) -> int:
        """E, the number of edges."""
        size = len(self.agents)
        if self._complete_weight is not None:
            return size * (size - 1) // 2
        self._merge()
        return len(self._pairs)

    @property
    def max_weight(self) -> float:
        """The largest weight of any edge, 0 where there is none."""
        if self._complete_weight is not None:
            return self._complete_weight if len(self.agents) > 1 else 0.0
        self._merge()
        return float(self._lengths.max(initial=0.0))

    @property
    def degree(self) -> IndexArray:
        """(N,) number of neighbours of each agent."""
        if self._complete_weight is not None:
            return np.full(len(self.agents), len(self.agents) - 1, np.int64)
        return np.diff(self._neighbor_rows().indptr).astype(np.int64)

    @property
    def edges(self) -> IndexArray:
        """(E, 2) agent indices of each edge, lower one first, sorted; refused for large complete graphs."""
        if self._complete_weight is not None:
            self._refuse_if_large("edges")
            return complete_edges(len(self.agents))
        self._merge()
        return self._pairs.copy()

    @property
    def weights(self) -> FloatArray:
        """(E,) weight of each edge of `edges`; refused for large complete graphs."""
        if self._complete_weight is not None:
            self._refuse_if_large("weights")
            return np.full(self.num_edges, self._complete_weight)
        self._merge()
        return self._lengths.copy()

    @property
    def graph(self) -> nx.Graph:
        """A new networkx graph with the agents' names as nodes and `weight` on the edges."""
        graph: nx.Graph = nx.Graph()
        graph.add_nodes_from(self.agents)
        graph.add_weighted_edges_from(
            (self.agents[a], self.agents[b], weight)
            for (a, b), weight in zip(self.edges.tolist(), self.weights.tolist(), strict=True)
        )
        return graph

    def adjacency(self) -> sparse.csr_array:
        """Return the symmetric 0/1 matrix (N, N) of who hears whom; refused for large complete graphs."""
        rows = self._neighbor_rows()
        return sparse.csr_array((np.ones(len(rows.data)), rows.indices, rows.indptr), shape=rows.shape)

    def neighbor_arrays(self, max_neighbors: int | None = None) -> tuple[IndexArray, FloatArray]:
        """Return every agent's neighbours as padded arrays.

        Args:
            max_neighbors: M, the number of columns; None for the largest degree. Agents with more neighbours
                keep the M nearest ones, among equally near ones those that follow them in the order of
                `agents` (around its end), so that nobody is heard by everybody.

        Returns:
            index: (N, M) int64 indices of the neighbours in ascending order, then -1.
            weight: (N, M) float64 weights of those edges, 0 where index is -1.

        Raises:
            TopologyError: `max_neighbors` is below 1, or the arrays would have more than 20 million cells (a
                complete graph of 5,000 agents, a star of 10,000).
        """
        if max_neighbors is not None and max_neighbors < 1:
            raise TopologyError(f"max_neighbors must be at least 1, got {max_neighbors}")
        if self._complete_weight is not None:
            return padded_complete(len(self.agents), self._complete_weight, max_neighbors)
        return padded_neighbors(self._neighbor_rows(), max_neighbors)

    def __repr__(self) -> str:
        return f"Topology({len(self.agents)} agents, {self.num_edges} edges)"

    def _connect(self, connection: tuple[Any, ...]) -> None:
        """Add one connection of the constructor or of a file; an edge may come twice with one weight only."""
        if not isinstance(connection, (tuple, list)) or len(connection) not in (2, 3):
            raise TopologyError(f"a connection must be a tuple (a, b) or (a, b, weight), got {connection!r}")
        pair, length = self._edge(*connection)
        if self._added.get(pair, length) != length:
            raise TopologyError(
                f"the edge between {connection[0]!r} and {connection[1]!r} must have one weight,"
                f" got {self._added[pair]:g} and {length:g}"
            )
        self._added[pair] = length

    def _edge(self, agent1: str, agent2: str, weight: float = 1.0) -> tuple[tuple[int, int], float]:
        a, b = self._index_of(agent1), self._index_of(agent2)
        if a == b:
            raise TopologyError(f"an edge must join two different agents, got {agent1!r} twice")
        try:
            length = float(weight)
        except (TypeError, ValueError):
            length = np.nan
        if not 0.0 <= length < np.inf:
            raise TopologyError(
                f"the weight of the edge between {agent1!r} and {agent2!r} must be a finite number,"
                f" zero or more, got {weight!r}"
            )
        return (min(a, b), max(a, b)), length

    def _index_of(self, agent_id: str) -> int:
        try:
            return self._index[agent_id]
        except (KeyError, TypeError):
            raise TopologyError(
                f"agent must be one of the topology's {len(self.agents)} agents ({self.agents[0]!r}, ...),"
                f" got {agent_id!r}.{did_you_mean(str(agent_id), self.agents)}"
            ) from None

    def _write_out(self) -> None:
        """Turn the implicit complete graph into explicit edges."""
        self._refuse_if_large("an edge with a weight of its own")
        self._pairs, self._lengths = self.edges, self.weights
        self._complete_weight = None

    def _refuse_if_large(self, what: str) -> None:
        if len(self.agents) > _EXPLICIT_COMPLETE:
            raise TopologyError(
                f"{what} of a complete graph must stay at {_EXPLICIT_COMPLETE} agents or fewer,"
                f" got {len(self.agents)}: use is_complete instead of the edges, or another topology"
            )

    def _merge(self) -> None:
        """Move added edges into the sorted arrays, where they replace older ones between the same agents."""
        if not self._added:
            return
        size = len(self.agents)
        pairs = np.concatenate((np.array(list(self._added), np.int64), self._pairs))  # (E, 2), newest first
        lengths = np.concatenate((np.array(list(self._added.values())), self._lengths))  # (E,)
        _, first = np.unique(pairs[:, 0] * size + pairs[:, 1], return_index=True)
        self._pairs, self._lengths, self._added = pairs[first], lengths[first], {}

    def _neighbor_rows(self) -> sparse.csr_array:
        """Return the weights (N, N) of both directions, columns ascending, zero weights stored as well."""
        if self._complete_weight is not None:
            pairs, lengths = self.edges, self.weights
        elif self._rows is not None:
            return self._rows
        else:
            self._merge()
            pairs, lengths = self._pairs, self._lengths
        both = np.concatenate((pairs, pairs[:, ::-1]))  # (2E, 2)
        size = len(self.agents)
        rows = sparse.coo_array((np.tile(lengths, 2), (both[:, 0], both[:, 1])), shape=(size, size)).tocsr()
        rows.sort_indices()
        if self._complete_weight is None:
            self._rows = rows
        return rows


def _numbered(agents: list[str]) -> dict[str, int]:
    """Return each agent's index, or say what is wrong with the names."""
    if not agents:
        raise TopologyError("agents must hold at least one name, got none")
    index: dict[str, int] = {}
    for number, name in enumerate(agents):
        if not isinstance(name, str):
            raise TopologyError(f"agents must be names (str), got {name!r} at position {number}")
        if name in index:
            raise TopologyError(
                f"agents must be different, got {name!r} at positions {index[name]} and {number}"
            )
        index[name] = number
    return index
