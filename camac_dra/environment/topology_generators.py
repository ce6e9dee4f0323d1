"""Edges of the known kinds of topology, as arrays: N agents, E edges (E, 2) with the
lower index first, sorted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from xml.etree.ElementTree import ParseError

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph
from scipy.spatial import Delaunay, cKDTree

from camac_dra.utils.errors import TopologyError, did_you_mean
from camac_dra.utils.schema.environment import TopologyKind, TopologyOptions

IndexArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

KINDS: tuple[str, ...] = get_args(TopologyKind)

# 20 million edges take about a gigabyte while they are sorted: beyond that a mistake is likelier than a wish.
_MOST_EDGES = 20_000_000


def generate_edges(kind: str, size: int, options: TopologyOptions) -> tuple[IndexArray, FloatArray | None]:
    """Return the edges (E, 2) of a graph of `kind` over `size` agents
    and, for `geometric`, positions (N, 2).
    """
    if kind == "geometric":
        return _geometric(size, options)
    if kind == "random":
        return _random(size, options), None
    agents = np.arange(1, size)  # (N - 1,)
    if kind == "ring":
        return _ring(size), None
    if kind == "star":
        return np.column_stack((np.zeros(size - 1, np.int64), agents)), None
    if kind == "tree":
        return np.column_stack(((agents - 1) // options.branching, agents)), None
    return _grid(size), None


def complete_edges(size: int) -> IndexArray:
    """Return all pairs (E, 2) of `size` agents."""
    return np.column_stack(np.triu_indices(size, 1)).astype(np.int64)


def _ring(size: int) -> IndexArray:
    agents = np.arange(size - 1)
    edges = np.column_stack((agents, agents + 1))
    return _sorted(np.concatenate((edges, [[0, size - 1]])), size) if size > 2 else edges


def _grid(size: int) -> IndexArray:
    """Lay agents out row by row in a grid as wide as the root of their number, rounded up."""
    width = int(np.ceil(np.sqrt(size)))
    agents = np.arange(size)
    right = agents[(agents % width != width - 1) & (agents + 1 < size)]
    below = agents[agents + width < size]
    edges = np.concatenate((np.column_stack((right, right + 1)), np.column_stack((below, below + width))))
    return _sorted(edges, size)


def _random(size: int, options: TopologyOptions) -> IndexArray:
    """Draw each pair with `edge_probability` and add a ring, without which a sparse graph falls apart."""
    probability = options.edge_probability
    pairs = size * (size - 1) // 2
    _refuse_too_many("random", probability * pairs, f"edge_probability {probability:g}", size)
    drawn = _bernoulli(pairs, probability, np.random.default_rng(options.seed))  # ascending
    starts = np.concatenate(
        ([0], np.cumsum(np.arange(size - 1, 0, -1)))
    )  # (N,) number of the first pair (i, .)
    lower = np.searchsorted(starts, drawn, side="right") - 1
    upper = drawn - starts[lower] + lower + 1
    return _sorted(np.concatenate((np.column_stack((lower, upper)), _ring(size))), size)


def _bernoulli(trials: int, probability: float, rng: np.random.Generator) -> IndexArray:
    """Return which of `trials` succeed, by drawing the gaps between successes instead of every trial."""
    if probability in (0.0, 1.0) or trials == 0:
        return np.arange(trials if probability else 0)
    successes: list[IndexArray] = []
    last = -1
    while last < trials:
        expected = (trials - last) * probability
        gaps = rng.geometric(probability, size=int(expected + 4 * np.sqrt(expected)) + 8)
        successes.append(last + np.cumsum(np.minimum(gaps, trials + 1)))
        last = int(successes[-1][-1])
    found = np.concatenate(successes)
    return found[found < trials]


def _geometric(size: int, options: TopologyOptions) -> tuple[IndexArray, FloatArray]:
    """Scatter agents over the unit square, connect those within `radius`, and join what stays apart.

    Joining the components again and again through their nearest pair is single linkage, which adds exactly
    the edges of the Euclidean minimum spanning tree that are longer than the radius (Gower and Ross 1969).
    """
    positions = np.random.default_rng(options.seed).random((size, 2))  # (N, 2)
    tree = cKDTree(positions)
    found = (tree.count_neighbors(tree, options.radius) - size) / 2
    _refuse_too_many("geometric", found, f"radius {options.radius:g}", size)
    near = tree.query_pairs(options.radius, output_type="ndarray").astype(np.int64)  # (E, 2)
    spanning = _euclidean_spanning_tree(positions)  # (N - 1, 2)
    length = np.linalg.norm(positions[spanning[:, 0]] - positions[spanning[:, 1]], axis=1)
    return _sorted(np.concatenate((near, spanning[length > options.radius])), size), positions


def _euclidean_spanning_tree(positions: FloatArray) -> IndexArray:
    """Return the edges (N - 1, 2) of the minimum spanning tree, which
    lies within the Delaunay triangulation.
    """
    size = len(positions)
    if size < 4:
        candidates = complete_edges(size)
    else:
        corners = Delaunay(positions).simplices  # (T, 3)
        candidates = _sorted(np.concatenate((corners[:, :2], corners[:, 1:], corners[:, ::2])), size)
    length = np.linalg.norm(positions[candidates[:, 0]] - positions[candidates[:, 1]], axis=1)
    graph = sparse.coo_array((length, (candidates[:, 0], candidates[:, 1])), shape=(size, size))
    chosen = csgraph.minimum_spanning_tree(graph.tocsr()).tocoo()
    return np.column_stack((chosen.row, chosen.col)).astype(np.int64)


def _sorted(edges: NDArray[np.integer], size: int) -> IndexArray:
    """Return the different edges, lower index first, in ascending order."""
    codes = edges.min(axis=1).astype(np.int64) * size + edges.max(axis=1)
    codes.sort(kind="stable")  # nearly sorted already in most generators
    codes = codes[np.concatenate((np.ones(min(len(codes), 1), bool), codes[1:] != codes[:-1]))]
    return np.column_stack((codes // size, codes % size))


def _refuse_too_many(kind: str, edges: float, cause: str, size: int) -> None:
    if edges > _MOST_EDGES:
        raise TopologyError(
            f"topology {kind!r} must have at most {_MOST_EDGES:,} edges, got about {int(edges):,} from"
            f" {cause} and {size} agents: lower it, or use fully_connected, which stores no edges"
        )


def read_graphml(
    file: str | None, agents: list[str], default_weight: float
) -> Iterator[tuple[str, str, float]]:
    """Yield the edges (a, b, weight) of a GraphML file, its nodes translated into `agents`.

    Nodes are the agents' names, or carry them in the attribute `label` or `name`, or are the numbers 0 to N -
    1 (also as n0, n1, ...). Directed edges count as undirected. Edges without `weight` get `default_weight`.

    Raises:
        TopologyError: no file given, one that cannot be read or is no GraphML, or nodes that
        are not the agents.
    """
    if file is None:
        raise TopologyError("topology 'graphml' needs the path of a file in topology_options.file, got none")
    try:
        graph = nx.read_graphml(Path(file))
    except OSError as error:
        raise TopologyError(
            f"topology_options.file must be a readable GraphML file, got {file!r}: {error}"
        ) from error
    except (ParseError, nx.NetworkXError, KeyError, ValueError) as error:
        raise TopologyError(f"topology_options.file {file!r} must hold GraphML, got: {error}") from error
    names = _translate(graph, agents, file)
    for a, b, attributes in graph.edges(data=True):
        yield names[a], names[b], attributes.get("weight", default_weight)


def _translate(graph: nx.Graph, agents: list[str], file: str) -> dict[str, str]:
    """Return the agent of each node by the first rule that fits all nodes."""
    nodes = list(graph.nodes)
    known = set(agents)
    if len(nodes) != len(agents):
        raise TopologyError(
            f"topology_options.file {file!r} must have one node per agent ({len(agents)}),"
            f" got {len(nodes)} nodes"
        )
    for attribute in (None, "label", "name"):
        names = {node: graph.nodes[node].get(attribute) if attribute else node for node in nodes}
        if set(names.values()) == known:
            return names
    numbers = {node: str(node).removeprefix("n") for node in nodes}
    if set(numbers.values()) == {str(number) for number in range(len(agents))}:
        return {node: agents[int(number)] for node, number in numbers.items()}
    stranger = next(node for node in nodes if node not in known)
    raise TopologyError(
        f"topology_options.file {file!r} must name its nodes like the agents ({agents[0]!r}, ...) or 0 to"
        f" {len(agents) - 1}, got node {stranger!r}.{did_you_mean(str(stranger), agents)}"
    )
