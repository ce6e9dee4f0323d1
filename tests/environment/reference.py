"""The step of the decision problem once more, slow and obvious: plain loops over plain lists, one
copy at a time.

Written from the description of the problem, not from the package; of the package it uses only the mechanisms
(through `allocate`). Exogenous events and weights are given to it, since they are nobody's decision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from camac_dra.environment.allocation import allocate
from camac_dra.environment.dynamics import Draw
from camac_dra.utils.schema.environment import EnvironmentConfig

Matrix = list[list[float]]


@dataclass
class Events:
    """What happens to one copy in one step, whatever its agents do."""

    arrivals: Matrix  # [agent][resource]
    capacity: Matrix  # [group][resource]
    price: list[float]  # [resource]
    present: list[bool]  # [agent]
    leaving: list[bool]  # [agent]
    service_yield: Matrix  # [agent][resource]

    @classmethod
    def of(cls, draw: Draw, copy: int, num_agents: int) -> Events:
        """Take one copy's events out of ``draw``, where arrays may broadcast over copies or be left out."""

        def row(array: np.ndarray | None, otherwise: Any) -> Any:
            return otherwise if array is None else array[min(copy, len(array) - 1)].tolist()

        arrivals = draw.arrivals[copy].tolist()
        ones = [[1.0] * len(arrivals[0]) for _ in range(num_agents)]
        return cls(
            arrivals=arrivals,
            capacity=row(draw.capacity, None),
            price=row(draw.price, None),
            present=row(draw.present, [True] * num_agents),
            leaving=row(draw.leaving, [False] * num_agents),
            service_yield=row(draw.service_yield, ones),
        )


@dataclass
class Limits:
    """Who shares which capacity, what one agent may use, and who may use what."""

    membership: list[list[int]]  # [group][agent]
    capacity: Matrix  # [group][resource], infinite where a group does not bind
    agent_limit: Matrix  # [agent][resource]
    access: list[list[int]]  # [agent][resource]

    @classmethod
    def of(cls, config: EnvironmentConfig) -> Limits:
        """Read the limits that ``config`` describes."""
        agents, resources = config.num_agents, config.resource_ids
        pool = [config.resource_limits.get(name, config.default_resource_limit) for name in resources]
        section = config.constraints
        membership: list[list[int]] = [[] for _ in range(section.num_groups)]
        for agent in range(agents):
            home = agent * section.num_groups // agents
            for group, row in enumerate(membership):
                row.append(int(group == home))
        capacity = [[limit * sum(row) / agents for limit in pool] for row in membership]
        for group in section.groups or []:
            members = {a if isinstance(a, int) else config.agent_ids.index(a) for a in group.agents}
            membership.append([int(agent in members) for agent in range(agents)])
            capacity.append([group.limits.get(name, math.inf) for name in resources])
        agent_limit = [
            [section.agent_limits.get(name, math.inf) for name in resources] for _ in range(agents)
        ]
        allowed = section.access or {}
        access = [
            [
                int(name not in allowed or agent in allowed[name] or config.agent_ids[agent] in allowed[name])
                for name in resources
            ]
            for agent in range(agents)
        ]
        for members, row in zip(membership, capacity, strict=True):
            for agent in range(agents):
                for resource, amount in enumerate(row):
                    if members[agent] and amount == 0.0:
                        access[agent][resource] = 0
        return cls(membership, capacity, agent_limit, access)

    def groups_of(self, agent: int) -> list[int]:
        """Return the groups that ``agent`` is in."""
        return [group for group, row in enumerate(self.membership) if row[agent]]

    def fair_shares(self, capacity: Matrix, present: list[bool]) -> Matrix:
        """Return [agent][resource]: the least of capacity / present members; where nothing
        binds, the agent's limit.
        """
        return [
            [self._fair_share(agent, resource, capacity, present) for resource in range(len(capacity[0]))]
            for agent in range(len(present))
        ]

    def _fair_share(self, agent: int, resource: int, capacity: Matrix, present: list[bool]) -> float:
        least = math.inf
        for group in self.groups_of(agent):
            members = 0
            for other, is_member in enumerate(self.membership[group]):
                if is_member and present[other] and self.access[other][resource]:
                    members += 1
            least = min(least, capacity[group][resource] / max(members, 1))
        return least if math.isfinite(least) else self.agent_limit[agent][resource]


@dataclass
class Outcome:
    """What became of one copy in one step."""

    requests: Matrix
    load: Matrix  # [group][resource] as a share of the capacity
    overload: Matrix
    grants: Matrix
    served: Matrix
    backlog: Matrix
    lost: Matrix
    values: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)


class ReferenceEnvironment:
    """One copy of the problem, from one step to the next."""

    def __init__(
        self,
        config: EnvironmentConfig,
        weights: list[float],
        agreement: str | None = None,
        rng: np.random.Generator | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Start an episode of agents with these ``weights``; ``agreement`` names the mechanism that they
        agree by.
        """
        self.config, self.weights, self.agreement, self.rng = config, weights, agreement, rng
        self.limits = limits or Limits.of(config)
        self.agents, self.resources = range(config.num_agents), range(config.num_resources)
        everybody = [True] * config.num_agents
        shares = self.limits.fair_shares(self.limits.capacity, everybody)
        self.nominal_share = [[share or 1.0 for share in row] for row in shares]
        self.backlog = self._zeros()
        self.demanded, self.served = self._zeros(), self._zeros()
        self.fairness = 1.0

    def step_action(self, action: Any, events: Events) -> Outcome:
        """Advance by an action: [agent] levels, [agent][resource] levels or numbers."""
        return self.step_requests(self.requests(action, events), events)

    def step_requests(self, intended: Matrix, events: Events) -> Outcome:
        """Advance by requests that are at most what is pending."""
        pending = self._pending(events)
        outcome = self._resolve(intended, pending, events)
        outcome.values = self._values(outcome, events)
        for i, r in self._cells():
            self.demanded[i][r] += events.arrivals[i][r]
            self.served[i][r] += outcome.served[i][r]
        outcome.rewards = self._rewards(intended, pending, outcome, events)
        self.backlog = outcome.backlog
        return outcome

    def requests(self, action: Any, events: Events) -> Matrix:
        """Return what an action asks for: min(pending, limit, level * fair share)."""
        config = self.config
        pending = self._pending(events)
        share = self.limits.fair_shares(events.capacity, events.present)
        requests = self._zeros()
        for i, r in self._cells():
            if config.action_type == "continuous":
                part = action[i][r]
            else:
                level = action[i] if config.action_type == "discrete" else action[i][r]
                part = level / (config.action_size - 1)
            limit = self.limits.agent_limit[i][r]
            if config.max_multiple is not None:
                wanted = part * config.max_multiple * share[i][r]
            elif math.isfinite(limit):
                wanted = part * limit
            else:
                wanted = part * pending[i][r]
            requests[i][r] = min(pending[i][r], limit, wanted)
        return requests

    def _resolve(self, intended: Matrix, pending: Matrix, events: Events) -> Outcome:
        """Agree, contend, allocate, serve and queue."""
        config, limits = self.config, self.limits
        requests = intended
        if self.agreement is not None:
            requests = self._allocate(self.agreement, intended, events.capacity)
        groups = range(len(limits.membership))
        load = [[0.0 for _ in self.resources] for _ in groups]
        overload = [[0.0 for _ in self.resources] for _ in groups]
        usable = [[0.0 for _ in self.resources] for _ in groups]
        for k in groups:
            for r in self.resources:
                capacity = events.capacity[k][r]
                asked = sum(requests[i][r] for i in self.agents if limits.membership[k][i])
                if math.isfinite(capacity):
                    load[k][r] = asked / capacity if capacity > 0.0 else (math.inf if asked > 0.0 else 0.0)
                overload[k][r] = max(load[k][r] - 1.0, 0.0)
                lost = config.contention * overload[k][r] if config.contention > 0.0 else 0.0
                usable[k][r] = capacity * max(config.contention_floor, 1.0 - lost) if lost > 0.0 else capacity
        grants = self._allocate(config.mechanism, requests, usable)
        served = self._serve(pending, grants, events)
        backlog, lost_amounts = self._zeros(), self._zeros()
        for i, r in self._cells():
            rest = pending[i][r] - served[i][r]
            if config.backlog_limit is None:
                backlog[i][r] = rest
            else:
                backlog[i][r] = min(rest, config.backlog_limit * self.nominal_share[i][r])
            if events.leaving[i]:
                backlog[i][r] = 0.0
            lost_amounts[i][r] = rest - backlog[i][r]
        return Outcome(requests, load, overload, grants, served, backlog, lost_amounts)

    def _allocate(self, mechanism: str, requests: Matrix, capacity: Matrix) -> Matrix:
        grants: np.ndarray = allocate(
            requests,
            capacity,
            mechanism,
            weights=self.weights,
            membership=self.limits.membership,
            access=self.limits.access,
            rng=self.rng,
        )
        return grants.tolist()

    def _serve(self, pending: Matrix, grants: Matrix, events: Events) -> Matrix:
        served = self._zeros()
        for i in self.agents:
            useful = [grants[i][r] * events.service_yield[i][r] for r in self.resources]
            if self.config.coupling == "leontief":
                parts = [useful[r] / pending[i][r] for r in self.resources if pending[i][r] > 0.0]
                scarcest = min(parts, default=0.0)
                useful = [scarcest * pending[i][r] for r in self.resources]
            served[i] = useful
        return served

    def _values(self, outcome: Outcome, events: Events) -> list[float]:
        """Return each agent's efficiency objective: in fair shares, mean over resources."""
        config = self.config
        values = []
        for i in self.agents:
            total = 0.0
            for r in self.resources:
                weight = self.weights[i]
                worth = weight * outcome.served[i][r] - events.price[r] * outcome.grants[i][r]
                worth -= config.holding_cost * weight * outcome.backlog[i][r]
                worth -= config.loss_cost * weight * outcome.lost[i][r]
                total += worth / self.nominal_share[i][r]
            values.append(total / len(self.resources))
        return values

    def _rewards(self, intended: Matrix, pending: Matrix, outcome: Outcome, events: Events) -> list[float]:
        config, values = self.config, outcome.values
        if config.reward_function != "efficiency":
            fairness = self._jain_so_far()
            change, self.fairness = fairness - self.fairness, fairness
            mix = 1.0 if config.reward_function == "fairness" else config.hybrid_fairness
            values = [(1.0 - mix) * value + mix * change for value in values]
        there = [i for i in self.agents if events.present[i]]
        if config.credit == "team":
            mean = sum(values[i] for i in there) / max(len(there), 1)
            values = [mean] * len(values)
        elif config.credit == "marginal":
            values = [self._marginal(i, intended, pending, outcome, events) for i in self.agents]
        return [values[i] if events.present[i] else 0.0 for i in self.agents]

    def _marginal(
        self, agent: int, intended: Matrix, pending: Matrix, outcome: Outcome, events: Events
    ) -> float:
        """Return ``v_i - sum over j != i of (v_j with request_i = 0, minus v_j)``, by
        resolving the step again.
        """
        without = [[0.0] * len(row) if i == agent else list(row) for i, row in enumerate(intended)]
        values = self._values(self._resolve(without, pending, events), events)
        gain = sum(values[j] - outcome.values[j] for j in self.agents if j != agent)
        return outcome.values[agent] - gain

    def _jain_so_far(self) -> float:
        """Return Jain's index of the service ratios of the agents that had demand so far."""
        ratios = []
        for i in self.agents:
            demanded = sum(self.demanded[i][r] / self.nominal_share[i][r] for r in self.resources)
            served = sum(self.served[i][r] / self.nominal_share[i][r] for r in self.resources)
            if demanded > 0.0:
                ratios.append(served / demanded)
        squares = sum(ratio * ratio for ratio in ratios)
        return sum(ratios) ** 2 / (len(ratios) * squares) if squares > 0.0 else 1.0

    def _pending(self, events: Events) -> Matrix:
        return [[self.backlog[i][r] + events.arrivals[i][r] for r in self.resources] for i in self.agents]

    def _cells(self) -> Iterator[tuple[int, int]]:
        return ((i, r) for i in self.agents for r in self.resources)

    def _zeros(self) -> Matrix:
        return [[0.0 for _ in self.resources] for _ in self.agents]
