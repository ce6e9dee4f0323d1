"""Weights of average consensus over a topology, and how fast they contract.

Agents hold numbers and, round by round, replace their own by a weighted mean of it and their neighbours'.
Where rows and columns of the weights sum to one, everybody ends at the mean of all, and the deviation from it
shrinks by the second largest eigenvalue modulus per round (Xiao and Boyd, "Fast linear iterations for
distributed averaging", Systems & Control Letters 53, 2004).

Axes: N agents.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from camac_dra.environment.topology import Topology
from camac_dra.utils.errors import TopologyError, did_you_mean

KINDS = ("metropolis", "local_degree", "max_degree", "best_constant")
"""The names of all kinds of weights."""

# Dense eigenvalue problems up to this size take a second at most.
_DENSE_AGENTS = 1_000


def consensus_weights(topology: Topology, kind: str = "metropolis") -> np.ndarray:
    """Return the symmetric weights (N, N) of average consensus; row i has what agent i gives to whom it
    hears.

    Kinds, for an edge between agents with ``d_i`` and ``d_j`` neighbours: ``metropolis``, ``1 / (1 + max(d_i,
    d_j))``, which always converges on a connected graph (Xiao, Boyd and Lall 2005); ``local_degree``, ``1 /
    max(d_i, d_j)``; ``max_degree``, one over the largest degree of all; ``best_constant``, the best among all
    that are equal on all edges (Xiao and Boyd 2004). Of these, ``local_degree`` and ``max_degree`` never
    converge on a regular bipartite graph, a ring of 10 for one. What an agent keeps is 1 less what it gives.

    Raises:
        TopologyError: the kind is unknown, or the graph too large to hold (a complete one of more than 2,000
            agents).
    """
    return sparse_consensus_weights(topology, kind).toarray()


def sparse_consensus_weights(topology: Topology, kind: str = "metropolis") -> sparse.csr_array:
    """Return what `consensus_weights` does as a sparse matrix (N, N), for thousands of agents."""
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise TopologyError(f"kind must be one of {known}, got {kind!r}.{did_you_mean(str(kind), KINDS)}")
    adjacency = topology.adjacency()  # (N, N)
    degree = topology.degree.astype(np.float64)  # (N,)
    rows, columns = adjacency.tocoo().coords  # (2 E,) each
    larger = np.maximum(degree[rows], degree[columns])
    if kind == "metropolis":
        given = 1.0 / (1.0 + larger)
    elif kind == "local_degree":
        given = 1.0 / larger
    elif kind == "max_degree":
        given = np.full(len(rows), 1.0 / max(degree.max(), 1.0))
    else:
        given = np.full(len(rows), _best_constant(adjacency, degree))
    shape = adjacency.shape
    off_diagonal = sparse.coo_array((given, (rows, columns)), shape=shape).tocsr()
    kept = 1.0 - off_diagonal.sum(axis=1)  # (N,)
    return sparse.csr_array(off_diagonal + sparse.diags_array(kept, format="csr"))


def contraction(weights: np.ndarray | sparse.csr_array) -> float:
    """Return the factor by which deviations from the mean shrink per round, whatever they are.

    It is the second largest modulus of an eigenvalue of symmetric ``weights`` (N, N) whose rows sum to one;
    1: they never shrink, because the graph falls apart or values only change places. 0 for a single agent.

    Raises:
        TopologyError: the weights are not square, or not symmetric.
    """
    size = weights.shape[0]
    if weights.ndim != 2 or weights.shape[1] != size or abs(weights - weights.T).max() > 1e-9:
        raise TopologyError(f"weights must be a symmetric matrix (N, N), got shape {weights.shape}")
    if size <= _DENSE_AGENTS:
        dense = weights if isinstance(weights, np.ndarray) else weights.toarray()
        moduli = np.abs(np.linalg.eigvalsh(dense - 1.0 / size))
        return float(min(moduli.max(), 1.0)) if size > 1 else 0.0
    without_mean = _operator(size, lambda x: weights @ x - x.mean())
    return min(abs(_extreme_eigenvalue(without_mean, size)), 1.0)


def delayed_contraction(contraction: float, kept: float, delay: int) -> float:
    """Return the contraction where what others give takes ``delay`` rounds longer, and what is kept does not.

    For weights without negative eigenvalues, exact where every agent keeps the share ``kept``: along an
    eigenvector of the weights values then follow ``x(t + 1) = kept x(t) + (eigenvalue - kept) x(t - delay)``.
    What swings between agents and their links counts as well, although it is the same for all agents.
    """
    if delay == 0:
        return contraction
    slowest = 0.0
    for eigenvalue in (contraction, 0.0, 1.0):
        polynomial = np.zeros(delay + 2)
        polynomial[0], polynomial[1] = 1.0, -kept
        polynomial[-1] -= eigenvalue - kept
        moduli = np.sort(np.abs(np.roots(polynomial)))
        slowest = max(slowest, float(moduli[-2] if eigenvalue == 1.0 else moduli[-1]))
    return min(slowest, 1.0)


def walk_contraction(topology: Topology) -> float:
    """Return the factor per round of a walk that stays half the time and else goes to a random neighbour.

    It is the second largest eigenvalue, which says how fast gossip spreads on a connected topology (Boyd,
    Ghosh, Prabhakar and Shah, "Randomized gossip algorithms", 2006); 0 for a single agent.
    """
    size = len(topology.agents)
    if size == 1:
        return 0.0
    degree = np.maximum(topology.degree, 1).astype(np.float64)  # (N,)
    spread = sparse.diags_array(degree**-0.5)
    walk = sparse.csr_array(spread @ topology.adjacency() @ spread)  # (N, N) as symmetric as the graph
    first = np.sqrt(degree / degree.sum())  # (N,) the eigenvector of 1
    if size <= _DENSE_AGENTS:
        second = np.linalg.eigvalsh(walk.toarray())[-2]
    else:
        lazy = _operator(size, lambda x: 0.5 * (x + walk @ x) - first * (first @ x))
        return min(abs(_extreme_eigenvalue(lazy, size)), 1.0)
    return float(min(0.5 + 0.5 * second, 1.0))


def rounds_until(contraction: float, error: float) -> int | None:
    """Return the rounds after which ``error`` of a deviation is left, at least 1; None: it never is."""
    if contraction >= 1.0:
        return None
    if contraction <= 0.0:
        return 1
    return max(1, math.ceil(math.log(error) / math.log(contraction)))


def _best_constant(adjacency: sparse.csr_array, degree: np.ndarray) -> float:
    """Return 2 over the sum of the largest and the second smallest eigenvalue of the graph's Laplacian."""
    size = len(degree)
    laplacian = sparse.csr_array(sparse.diags_array(degree) - adjacency)
    if size <= _DENSE_AGENTS:
        values = np.linalg.eigvalsh(laplacian.toarray())
        return 2.0 / (values[-1] + values[min(1, size - 1)]) if values[-1] > 0.0 else 0.0
    largest = _extreme_eigenvalue(laplacian, size)
    # The constant vector, of eigenvalue 0, is lifted to the top, so that the second smallest is what is left
    # of the largest once all are mirrored.
    mirrored = _operator(size, lambda x: largest * (x - x.mean()) - laplacian @ x)
    return 2.0 / (largest + largest - _extreme_eigenvalue(mirrored, size))


def _operator(size: int, product: Callable[[np.ndarray], np.ndarray]) -> LinearOperator:
    return LinearOperator((size, size), matvec=lambda x: product(x.ravel()), dtype=np.float64)


def _extreme_eigenvalue(operator: LinearOperator | sparse.csr_array, size: int) -> float:
    """Return the eigenvalue of largest modulus of a symmetric operator, to six digits at least."""
    start = np.random.default_rng(0).standard_normal(size)  # equal graphs give equal digits
    try:
        values = eigsh(
            operator, k=1, which="LM", v0=start, tol=1e-9, maxiter=100 * size, return_eigenvectors=False
        )
    except ArpackNoConvergence as error:
        raise TopologyError(
            f"the eigenvalues of a graph of {size} agents must be found, got: {error}"
        ) from None
    return float(values[0])
