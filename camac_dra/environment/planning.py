"""Planning ahead in the decision problem: from its arrays to a `QueueProgram`, and back to grants.

Used by the oracle, which knows what comes, and by planners that only expect it.

Axes, always in this order: T periods, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.queue_program import QueueData, QueueProgram
from camac_dra.utils.schema.environment import EnvironmentConfig

# Independent parts of the problem are solved together up to this many cells (T, N, R): each call has its
# overhead.
CALL_CELLS = 2_000


@dataclass(frozen=True, slots=True)
class Outlook:
    """What happens to N agents in T periods, or is expected to, in the units of the resources.

    Amounts are those of the whole period, which may be longer than a step.
    """

    lengths: np.ndarray  # (T,) of the periods in steps
    arrivals: np.ndarray  # (T, N, R) those of the first period include what waits already
    capacity: np.ndarray  # (T, K, R) infinite where a group does not bind
    price: np.ndarray  # (T, N, R) per fair share used
    weights: np.ndarray  # (N,) value of a served fair share
    leaving: np.ndarray | None = None  # (T, N) bool: what waits at the end of the period is lost
    service_yield: np.ndarray | None = None  # (T, N, R) in (0, 1]


@dataclass(frozen=True, slots=True)
class Plan:
    """An optimal plan."""

    grants: np.ndarray  # (T, N, R) what is used, in the units of the resources
    backlog: np.ndarray  # (T, N, R) what waits at the end of the period, in the units of the resources
    bound: float  # certified: no grants have a greater efficiency


class Planner:
    """Optimal plans for some agents and resources over a fixed number of periods.

    With coupling ``leontief`` demand is planned in bundles: exactly where each agent's demand comes in fixed
    proportions and no queue overflows, else approximately.

    Attributes:
        agents, resources: indices (N,), (R,) of those that are planned for; R is one or all.
        groups: indices (K,) of the groups with such members; `Outlook.capacity` is of these.
        copies: how many copies of them are planned side by side; N and K are ``copies`` times as long.
    """

    def __init__(
        self,
        config: EnvironmentConfig,
        constraints: Constraints,
        agents: np.ndarray,
        resources: np.ndarray,
        num_periods: int,
        copies: int = 1,
    ) -> None:
        """Prepare what all plans share."""
        self.agents, self.resources, self.copies = agents, resources, copies
        members = constraints.membership[:, agents]  # (K, N)
        self.groups = np.flatnonzero(members.any(axis=1))
        self._leontief = config.coupling == "leontief"
        self._num_resources = config.num_resources
        self._holding_cost, self._loss_cost = config.holding_cost, config.loss_cost
        cells = np.ix_(agents, resources)
        share, limit = constraints.fair_share[cells], constraints.agent_limit[cells]
        self._fair_share, self._limit = np.tile(share, (copies, 1)), np.tile(limit, (copies, 1))  # (N, R)
        self._backlog_limit = np.inf if config.backlog_limit is None else config.backlog_limit  # fair shares
        group, agent = np.nonzero(members[self.groups])  # (P,)
        copy = np.arange(copies)[:, None]
        pair_groups = (copy * len(self.groups) + group).ravel()
        pair_agents = (copy * len(agents) + agent).ravel()
        column = np.arange(len(resources))
        self._pair_cells = (pair_agents[:, None] * len(resources) + column).ravel()
        pools = (pair_groups[:, None] * len(resources) + column).ravel()
        queues = np.repeat(pair_agents, len(resources)) if self._leontief else self._pair_cells
        number = self._fair_share.shape[0] if self._leontief else self._fair_share.size
        self._program = QueueProgram(num_periods, number, pools, queues)

    def solve(self, outlook: Outlook) -> Plan:
        """Return an optimal plan.

        Raises:
            OracleError: no plan was found whose optimality is certified.
        """
        shape = outlook.arrivals.shape  # (T, N, R)
        inverse_yield = np.ones(shape) if outlook.service_yield is None else 1.0 / outlook.service_yield
        unit = self._bundles(outlook.arrivals) if self._leontief else self._fair_share  # (N, R)
        used = inverse_yield * unit  # (T, N, R) what serving a unit takes
        data = self._bundle_data(outlook, unit, used) if self._leontief else self._cell_data(outlook, used)
        solution = self._program.solve(data)
        queues = (*shape[:2], 1) if self._leontief else shape
        served, backlog = solution.served.reshape(queues), solution.backlog.reshape(queues)
        return Plan(served * used, backlog * unit, solution.bound)

    def _cell_data(self, outlook: Outlook, used: np.ndarray) -> QueueData:
        """Return the programme's data with a queue for each agent and resource."""
        shape = used.shape
        length = outlook.lengths[:, None, None]  # (T, 1, 1)
        weights = np.broadcast_to(outlook.weights[:, None] / self._num_resources, shape)
        worth = weights - outlook.price * used / (self._fair_share * self._num_resources)
        lives = 1.0 if outlook.leaving is None else ~outlook.leaving[..., None]
        return _queue_data(
            arrivals=outlook.arrivals / self._fair_share,
            worth=worth,
            holding=weights * self._holding_cost * length,
            losing=weights * self._loss_cost,
            backlog_limit=np.where(np.broadcast_to(lives, shape), self._backlog_limit, 0.0),
            service_limit=self._limit / used * length,
            largest_share=self._fair_share / used,
            use=used.reshape(len(used), -1)[:, self._pair_cells],
            capacity=outlook.capacity,
        )

    def _bundle_data(self, outlook: Outlook, unit: np.ndarray, used: np.ndarray) -> QueueData:
        """Return the programme's data with a queue for each agent: bundles of all resources."""
        shape = used.shape[:2]
        weights = np.broadcast_to(outlook.weights, shape)
        paid = (outlook.price * used / self._fair_share).sum(axis=2) / self._num_resources  # (T, N)
        lives = True if outlook.leaving is None else ~outlook.leaving
        size = (outlook.arrivals / self._fair_share).sum(axis=2) / self._num_resources  # (T, N) bundles
        wanted = unit > 0.0  # (N, R)
        relative = np.divide(self._fair_share, unit, out=np.full(unit.shape, np.inf), where=wanted)
        limit = self._backlog_limit * relative.min(axis=1)
        share = np.divide(unit, used, out=np.ones(used.shape), where=wanted)
        most = self._limit * outlook.lengths[:, None, None]
        most = np.divide(most, used, out=np.full(used.shape, np.inf), where=wanted)
        return _queue_data(
            arrivals=size,
            worth=weights - paid,
            holding=weights * self._holding_cost * outlook.lengths[:, None],
            losing=weights * self._loss_cost,
            backlog_limit=np.where(np.broadcast_to(lives, shape), limit, 0.0),
            service_limit=most.min(axis=2),
            largest_share=share.min(axis=2),
            use=used.reshape(len(used), -1)[:, self._pair_cells],
            capacity=outlook.capacity,
        )

    def _bundles(self, arrivals: np.ndarray) -> np.ndarray:
        """Return each agent's bundle (N, R), in the units of the resources, worth one fair share
        of all of them.
        """
        amount = arrivals.sum(axis=0)  # (N, R)
        size = (amount / self._fair_share).sum(axis=1, keepdims=True) / self._num_resources  # (N, 1)
        return np.divide(amount, size, out=np.zeros_like(amount), where=size > 0.0)


def independent_parts(
    config: EnvironmentConfig, constraints: Constraints, binds: np.ndarray, num_periods: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield parts of the problem that can be planned apart, as agents (N,) and resources (R,).

    Agents are tied together by the groups that bind, ``binds`` (K, R) bool, and resources by bundles.
    """
    everything = np.arange(config.num_resources)
    for resources in [everything] if config.coupling == "leontief" else everything[:, None]:
        membership = sparse.csr_array(constraints.membership * binds[:, resources].any(axis=1, keepdims=True))
        count, label = connected_components(membership.T @ membership, directed=False)
        size = np.bincount(label, minlength=count) * num_periods * len(resources)
        # Components are packed in order until a part is full.
        part = np.cumsum(size) // CALL_CELLS
        for number in np.unique(part):
            yield np.flatnonzero(part[label] == number), resources


def _queue_data(**arrays: np.ndarray) -> QueueData:
    """Return the data with all arrays as (T, columns)."""
    return QueueData(**{name: array.reshape(len(array), -1) for name, array in arrays.items()})
