"""Every agent's neighbours as padded arrays: N agents, M columns, E edges."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from camac_dra.utils.errors import TopologyError

IndexArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_MOST_CELLS = 20_000_000  # 16 bytes each


def padded_neighbors(rows: sparse.csr_array, max_neighbors: int | None) -> tuple[IndexArray, FloatArray]:
    """Return index and weight (N, M) of the neighbours in `rows`, the weights (N, N) with ascending columns.

    See `Topology.neighbor_arrays` for which neighbours stay where there are more than `max_neighbors`.
    """
    size = rows.shape[0]
    degree = np.diff(rows.indptr)  # (N,)
    agent = np.repeat(np.arange(size), degree)  # (2E,)
    neighbor, length = rows.indices.astype(np.int64), rows.data  # (2E,), (2E,)
    width = int(degree.max()) if max_neighbors is None else max_neighbors
    _refuse_if_large(size, width)
    if degree.max() > width:
        nearest = np.lexsort(((neighbor - agent) % size, length, agent))  # (2E,) grouped by agent
        kept = np.sort(nearest[_place_in_row(degree) < width])
        agent, neighbor, length = agent[kept], neighbor[kept], length[kept]
        degree = np.minimum(degree, width)
    column = _place_in_row(degree)  # (2E,)
    index = np.full((size, width), -1, np.int64)  # (N, M)
    weight = np.zeros((size, width))  # (N, M)
    index[agent, column] = neighbor
    weight[agent, column] = length
    return index, weight


def padded_complete(size: int, weight: float, max_neighbors: int | None) -> tuple[IndexArray, FloatArray]:
    """Return the same for a complete graph of `size` agents and one weight, without its edges."""
    width = size - 1 if max_neighbors is None else max_neighbors
    _refuse_if_large(size, width)
    heard = min(width, size - 1)
    index = np.full((size, width), -1, np.int64)  # (N, M)
    index[:, :heard] = np.sort((np.arange(size)[:, None] + np.arange(1, heard + 1)) % size, axis=1)
    return index, np.where(index >= 0, weight, 0.0)


def _place_in_row(degree: NDArray[Any]) -> IndexArray:
    """Return 0, 1, ..., degree - 1 for each row in turn."""
    return np.arange(int(degree.sum())) - np.repeat(np.cumsum(degree) - degree, degree)


def _refuse_if_large(size: int, width: int) -> None:
    if size * width > _MOST_CELLS:
        raise TopologyError(
            f"neighbor_arrays must have at most {_MOST_CELLS:,} cells, got {size} agents with up to {width}"
            " neighbours: give a smaller max_neighbors, or another topology (grid, random, geometric)"
        )
