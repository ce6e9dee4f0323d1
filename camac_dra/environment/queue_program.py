"""Serving queues over several periods out of shared pools, as a sparse linear programme.

Variables are what waits at the end of each period, ``b``, and what is lost in it, ``l``. With ``p`` what
waited before plus what arrived, what is served is ``s = p - b - l``; so there are neither balance equations
nor variables for what is served, and HiGHS solves it four times as fast as with them.

The programme may lose demand before a queue is full, which the plant never does: its optimum is an upper
bound that the plant's may miss by the cost of holding what is lost anyway. What can be said about that
linearly is said: where the plant loses part of the ``a`` that arrive, the queue is at its limit, so that
``l <= a * b / limit``.

Axes, always in this order: T periods, Q queues; P pairs of a pool and a queue that draws on it, M pools.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from camac_dra.utils.errors import OracleError

CERTIFICATE_TOLERANCE = 1e-6  # largest difference of the certified bound and the optimum found, relative


@dataclass(frozen=True, slots=True)
class QueueData:
    """What happens in T periods; amounts of a queue are in any unit of its own."""

    arrivals: np.ndarray  # (T, Q) those of the first period include what waits already
    worth: np.ndarray  # (T, Q) value of a served unit, less its price
    holding: np.ndarray  # (T, Q) cost of a unit that waits at the end of the period
    losing: np.ndarray  # (T, Q) cost of a lost unit
    backlog_limit: (
        np.ndarray
    )  # (T, Q) most that waits at the end of the period; 0 where everything left is lost
    service_limit: np.ndarray  # (T, Q) most that is served; infinite: no limit
    largest_share: np.ndarray  # (T, Q) most that is served of what is pending, as a share of it
    use: np.ndarray  # (T, P) what a served unit takes out of the pool
    capacity: np.ndarray  # (T, M) of each pool; infinite: no limit


@dataclass(frozen=True, slots=True)
class QueueSolution:
    """An optimal solution."""

    served: np.ndarray  # (T, Q)
    backlog: np.ndarray  # (T, Q) what waits at the end of the period
    bound: float  # certified: nothing feasible has a greater value


class QueueProgram:
    """The programme for one set of queues and pools; solve it for as much `QueueData` as you like."""

    def __init__(
        self, num_periods: int, num_queues: int, pair_pools: np.ndarray, pair_queues: np.ndarray
    ) -> None:
        """Prepare what all solutions share; ``pair_pools`` and ``pair_queues`` (P,) say who draws on what."""
        self._shape = (num_periods, num_queues)
        self._pair_pools, self._pair_queues = pair_pools, pair_queues
        cells = num_periods * num_queues
        one = sparse.eye_array(cells, format="csr")
        before = sparse.eye_array(cells, k=-num_queues, format="csr")
        # Linear forms of x = (b, l), each (cells, 2 cells): p less arrivals, p less s, s less arrivals.
        self._waited = sparse.hstack([before, sparse.csr_array((cells, cells))], format="csr")
        self._rest = sparse.hstack([one, one], format="csr")
        self._served = (self._waited - self._rest).tocsr()

    def solve(self, data: QueueData) -> QueueSolution:
        """Return an optimal solution.

        Raises:
            OracleError: the solver found no solution, or one whose optimality is not certified.
        """
        arrivals, worth = data.arrivals.ravel(), data.worth.ravel()  # (cells,)
        upper = self._upper(data)  # (2 cells,)
        matrix, right = self._conditions(data, upper)
        cost = (
            np.concatenate([data.holding.ravel(), data.losing.ravel()]) - self._served.T @ worth
        )  # (2 cells,)
        x, bound = _minimise(cost, matrix, right, upper)
        served = np.maximum(arrivals + self._served @ x, 0.0).reshape(self._shape)
        backlog = x[: len(arrivals)].reshape(self._shape)
        return QueueSolution(served, backlog, float(worth @ arrivals - bound))

    def _conditions(self, data: QueueData, upper: np.ndarray) -> tuple[sparse.csr_array, np.ndarray]:
        """Return ``(A, r)`` of all conditions ``A x <= r`` on x = (b, l)."""
        arrivals, served = data.arrivals.ravel(), self._served
        load, capacity = self._load(data)
        parts = [(-served, arrivals), (load @ served, capacity - load @ arrivals)]
        limit = data.service_limit.ravel()
        if (cells := np.flatnonzero(np.isfinite(limit))).size:
            parts.append((served[cells], limit[cells] - arrivals[cells]))
        left = 1.0 - data.largest_share.ravel()
        if (cells := np.flatnonzero(left > 0.0)).size:
            stays = _scaled(left[cells], self._waited[cells]) - self._rest[cells]
            parts.append((stays, -left[cells] * arrivals[cells]))
        parts.append(self._losses(data, upper[len(arrivals) :]))
        matrices, rights = zip(*parts, strict=True)
        return sparse.vstack(matrices, format="csr"), np.concatenate(rights)

    def _load(self, data: QueueData) -> tuple[sparse.csr_array, np.ndarray]:
        """Return what a unit served takes out of each pool that binds (rows, cells),
        and their capacities (rows,).
        """
        periods, queues = self._shape
        pools = data.capacity.shape[1]
        period = np.arange(periods)[:, None]
        rows, columns = period * pools + self._pair_pools, period * queues + self._pair_queues  # (T, P)
        shape = (periods * pools, periods * queues)
        load = sparse.csr_array((data.use.ravel(), (rows.ravel(), columns.ravel())), shape=shape)
        capacity = data.capacity.ravel()
        binds = np.flatnonzero(np.isfinite(capacity))
        return load[binds], capacity[binds]

    def _losses(self, data: QueueData, most: np.ndarray) -> tuple[sparse.csr_array, np.ndarray]:
        """Return the conditions ``l <= a * b / limit``, where losses are possible and the queue goes on."""
        arrivals, limit = data.arrivals.ravel(), data.backlog_limit.ravel()
        cells = np.flatnonzero((most > 0.0) & (limit > 0.0))
        row = np.arange(len(cells))
        values = np.concatenate([np.ones(len(cells)), -arrivals[cells] / limit[cells]])
        places = (np.concatenate([row, row]), np.concatenate([cells + len(limit), cells]))
        matrix = sparse.csr_array((values, places), shape=(len(cells), 2 * len(limit)))
        return matrix, np.zeros(len(cells))

    def _upper(self, data: QueueData) -> np.ndarray:
        """Return the most that can wait and be lost (2 cells,), finite: what does when nothing is served."""
        waits, lost = np.zeros(self._shape), np.zeros(self._shape)
        pending = np.zeros(self._shape[1])  # (Q,)
        for t, limit in enumerate(data.backlog_limit):
            pending = pending + data.arrivals[t]
            waits[t] = np.minimum(pending, limit)
            lost[t] = pending - waits[t]
            pending = waits[t]
        return np.concatenate([waits.ravel(), lost.ravel()])


def _scaled(factors: np.ndarray, matrix: sparse.csr_array) -> sparse.csr_array:
    """Return ``matrix`` with its rows multiplied by ``factors``."""
    return sparse.diags_array(factors, format="csr") @ matrix


def _minimise(
    cost: np.ndarray, matrix: sparse.csr_array, right: np.ndarray, upper: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return ``argmin cost x`` over ``matrix x <= right, 0 <= x <= upper``, and a certified
    lower bound of it.

    By weak duality every vector of multipliers gives a bound; it holds to rounding whatever the solver did.
    """
    free = np.flatnonzero(upper > 0.0)
    x = np.zeros(len(upper))
    if not len(free):
        return x, 0.0
    narrow = matrix[:, free]
    touched = np.flatnonzero(np.diff(narrow.indptr))
    narrow, bounded = narrow[touched], right[touched]
    found = linprog(
        cost[free],
        A_ub=narrow,
        b_ub=bounded,
        bounds=np.stack([np.zeros(len(free)), upper[free]], axis=1),
        method="highs-ds",
        options={"presolve": False},  # presolving takes longer than it saves here
    )
    if found.x is None:
        raise OracleError(f"the linear programme of the optimum must have a solution, got: {found.message}")
    multipliers = np.maximum(-found.ineqlin.marginals, 0.0)
    reduced = cost[free] + narrow.T @ multipliers
    bound = float(np.minimum(reduced, 0.0) @ upper[free] - multipliers @ bounded)
    scale = max(1.0, abs(found.fun), float(np.abs(cost[free]) @ found.x))
    if abs(found.fun - bound) > CERTIFICATE_TOLERANCE * scale:
        raise OracleError(
            f"the optimum must be certified to {CERTIFICATE_TOLERANCE:g}, got {found.fun}, bounded by {bound}"
        )
    x[free] = np.clip(found.x, 0.0, upper[free])
    return x, bound
