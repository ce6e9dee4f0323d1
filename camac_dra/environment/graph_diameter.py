"""The exact diameter of large sparse graphs, in hops."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

# One breadth-first search costs about as much per edge as this many word operations of the bit-parallel one.
_WORDS_PER_STEP = 5
_BLOCK_CELLS = 16_000_000  # 64-bit words that the bit-parallel search gathers at once (128 MB)


def hop_diameter(adjacency: sparse.csr_array) -> int:
    """Return the largest hop distance in a connected undirected graph (N, N), exactly.

    Searches from the fringe of a central agent inwards until no pair further in can be further apart (iFUB;
    Crescenzi et al. 2013); where that would search from nearly everywhere (random graphs), it searches from
    64 agents per machine word at once instead. Time is about O(diameter * N * E / 64) at worst.
    """
    size = adjacency.shape[0]
    if (np.diff(adjacency.indptr) == 2).all():
        return size // 2  # a ring, the one sparse graph in which every agent is as central as any other
    levels = _levels(adjacency, _central(adjacency))  # (N,)
    fringe = np.flatnonzero(levels == levels.max())
    longest = max(int(levels.max()), int(_levels(adjacency, int(fringe[0])).max()))
    candidates = np.flatnonzero(2 * levels > longest)  # others reach each other through the centre
    if len(candidates) * 64 * _WORDS_PER_STEP > 2 * int(levels.max()) * size:
        return _bit_parallel(adjacency, candidates)
    for agent in candidates[np.argsort(-levels[candidates], kind="stable")]:
        if 2 * int(levels[agent]) <= longest:
            break
        longest = max(longest, int(_levels(adjacency, int(agent)).max()))
    return longest


def _levels(adjacency: sparse.csr_array, start: int) -> NDArray[np.int64]:
    """Return the hop distance (N,) from `start`."""
    order, parents = csgraph.breadth_first_order(adjacency, start, directed=True)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    ahead = place[parents[order[1:]]]  # place of the parent of each agent but the first, never decreasing
    # An agent's level is one more than its parent's, so levels rise where the parent is past the level's
    # first.
    levels = np.zeros(len(order), np.int64)
    begin, end, level = 0, 1, 0
    while end < len(order):
        level += 1
        begin, end = end, 1 + int(np.searchsorted(ahead, end))
        levels[begin:end] = level
    return levels[place]


def _central(adjacency: sparse.csr_array) -> int:
    """Return an agent that is far from no end of the graph, as seen from
    the ends of two long shortest paths.
    """
    farthest = np.zeros(adjacency.shape[0], np.int64)  # (N,) from the ends found so far
    central = 0
    for _ in range(2):
        end = int(_levels(adjacency, central).argmax())
        from_end = _levels(adjacency, end)
        from_other = _levels(adjacency, int(from_end.argmax()))
        farthest = np.maximum(farthest, np.maximum(from_end, from_other))
        central = int(farthest.argmin())
    return central


def _bit_parallel(adjacency: sparse.csr_array, sources: NDArray[Any]) -> int:
    """Return the largest distance from any of `sources`: bit s of row i says whether source s has reached
    agent i.
    """
    size = adjacency.shape[0]
    words = max(1, _BLOCK_CELLS // adjacency.nnz)
    longest = 0
    for first in range(0, len(sources), 64 * words):
        block = sources[first : first + 64 * words]
        width = -(-len(block) // 64)
        reached = np.zeros((size, width), np.uint64)  # (N, W)
        bits = np.uint64(1) << (np.arange(len(block)) % 64).astype(np.uint64)
        np.bitwise_or.at(reached, (block, np.arange(len(block)) // 64), bits)
        rounds = 0
        while True:
            heard = np.bitwise_or.reduceat(reached[adjacency.indices], adjacency.indptr[:-1], axis=0)
            heard |= reached
            if np.array_equal(heard, reached):
                break
            reached, rounds = heard, rounds + 1
        longest = max(longest, rounds)
    return longest
