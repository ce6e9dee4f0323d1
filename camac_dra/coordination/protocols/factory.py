"""The state machines of a configuration, one per agent, and the coordinator's where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from camac_dra.coordination.protocols.averaging import AveragingMachine, Membership
from camac_dra.coordination.protocols.central import CoordinatorMachine, MemberMachine
from camac_dra.coordination.protocols.events import Machine
from camac_dra.coordination.protocols.exchange import Draw, Everybody, Exchange, Lots, OneNeighbour
from camac_dra.coordination.protocols.plan import Plan, plan_protocol
from camac_dra.coordination.protocols.resolution import mechanism_of
from camac_dra.environment.constraints import Constraints
from camac_dra.environment.topology import Topology
from camac_dra.utils.schema import CoordinationConfig

_SAME_FOR_ALL = Lots(0)
_WAITING = 0.8  # share of the message timeout that may be spent on waiting for messages that do not come


@dataclass(frozen=True)
class MachineFactory:
    """Makes the machines of a plan, also one at a time in the process of the agent it is for.

    Attributes:
        plan: from `plan_protocol`.
        topology, constraints: of the problem; agents are in the topology's order.
        round_timeout: seconds that a message is waited for.
        lots: who gossips with whom; everybody must have the same.
    """

    plan: Plan
    topology: Topology
    constraints: Constraints
    round_timeout: float = 1.0
    lots: Lots = _SAME_FOR_ALL

    def machine(self, agent: str) -> Machine:
        """Return the machine of one agent.

        Raises:
            TopologyError: no agent has that name.
        """
        neighbours = self.topology.get_neighbors(agent)  # refuses unknown agents
        number = self.topology.agents.index(agent)
        plan, constraints = self.plan, self.constraints
        if plan.protocol == "centralized":
            timeout = 2 * (1 + plan.message_delay) * self.round_timeout
            share, says_worth = constraints.fair_share[number], plan.objective.by_queue
            return MemberMachine(share, plan.trips, timeout, says_worth=says_worth)
        exchange: Exchange
        if plan.protocol == "gossip":
            draws = {name: self._draw(name) for name in [agent, *neighbours] if neighbours}
            exchange = OneNeighbour(agent, neighbours, draws)
        else:
            exchange = Everybody(self._weights_of(number))
        access = constraints.access
        membership = Membership(
            groups=constraints.membership[:, number] > 0.0,
            access=np.ones(constraints.capacity.shape[1], bool) if access is None else access[number] > 0.0,
            num_agents=len(self.topology.agents),
        )
        return AveragingMachine(plan, exchange, membership, self.round_timeout)

    def machines(self) -> Mapping[str, Machine]:
        """Return everybody's machines by name."""
        return {agent: self.machine(agent) for agent in self.topology.agents}

    def coordinator(self) -> CoordinatorMachine | None:
        """Return the coordinator's machine, None where the protocol has none."""
        plan = self.plan
        if plan.protocol != "centralized":
            return None
        timeout = 2 * (1 + plan.message_delay) * self.round_timeout
        mechanism = mechanism_of(plan.objective_name)
        agents = self.topology.agents
        return CoordinatorMachine(agents, self.constraints.groups, mechanism, plan.trips, timeout)

    def _weights_of(self, agent: int) -> dict[str, float]:
        """Return the weight that each neighbour's masses have for this agent."""
        weights = self.plan.weights
        first, last = weights.indptr[agent], weights.indptr[agent + 1]
        row = zip(weights.indices[first:last], weights.data[first:last], strict=True)
        return {self.topology.agents[j]: float(weight) for j, weight in sorted(row) if j != agent}

    def _draw(self, agent: str) -> Draw:
        return partial(
            _drawn, self.lots, self.topology.agents.index(agent), self.topology.get_neighbors(agent)
        )


def _drawn(lots: Lots, agent: int, neighbours: list[str], decision: int, round_number: int) -> str:
    return neighbours[lots.place(agent, decision, round_number, len(neighbours))]


def machine_factory(
    coordination: CoordinationConfig, topology: Topology, constraints: Constraints
) -> MachineFactory | None:
    """Return what makes the machines of a protocol; None where there is none.

    A round waits so long for a message that all rounds together fit into the message timeout, however many
    messages are lost.

    Raises:
        ConfigurationError: the topology does not suit the protocol.
    """
    if coordination.protocol == "none":
        return None
    plan = plan_protocol(coordination, topology)
    return MachineFactory(plan, topology, constraints, _WAITING * coordination.message_timeout / plan.rounds)
