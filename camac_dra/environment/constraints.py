"""Resource constraints: which agents share which capacity, what one agent may use, and who may use what.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from camac_dra.environment.groups import Groups
from camac_dra.utils.errors import ConfigurationError, did_you_mean
from camac_dra.utils.schema.environment import EnvironmentConfig

FEASIBILITY_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Constraints:
    """Capacity groups, per-agent limits and access.

    Attributes:
        membership: (K, N) 0/1, who is in which group.
        capacity: (K, R) nominal capacity per step, in each resource's unit; infinite where it does not bind.
        agent_limit: (N, R) most that one agent can use per step; infinite where there is no limit.
        access: (N, R) 0/1, which agent may use which resource; None: everybody everything.
        group_names: length K.
        groups: index over ``membership`` and ``access``, for the mechanisms.
        fair_share: (N, R) the least, over an agent's groups, of nominal capacity / members; the agent's limit
            where no group binds.
    """

    membership: np.ndarray
    capacity: np.ndarray
    agent_limit: np.ndarray
    access: np.ndarray | None
    group_names: tuple[str, ...]
    groups: Groups
    fair_share: np.ndarray

    @classmethod
    def build(
        cls,
        membership: np.ndarray,
        capacity: np.ndarray,
        agent_limit: np.ndarray | None = None,
        access: np.ndarray | None = None,
        group_names: Sequence[str] | None = None,
    ) -> Constraints:
        """Make constraints from arrays; members of a group without capacity have no access to the resource.

        Raises:
            ConfigurationError: nothing bounds an agent's use of a resource, so that it has no fair share.
        """
        num_groups, num_agents = membership.shape
        cells = (num_agents, capacity.shape[1])
        if agent_limit is None:
            agent_limit = np.full(cells, np.inf)  # (N, R)
        shut_out = membership.T @ (capacity == 0.0) > 0.0  # (N, R) a group of the agent's has nothing of it
        if shut_out.any():
            access = (np.ones(cells) if access is None else access) * ~shut_out
        groups = Groups.from_membership(membership, access)
        share = np.broadcast_to(groups.equal_share(capacity[None])[0], cells)  # (N, R)
        share = np.where(np.isfinite(share), share, agent_limit)
        unbounded = np.argwhere(~np.isfinite(share))
        if len(unbounded):
            agent, resource = unbounded[0]
            raise ConfigurationError(
                f"environment.constraints: agent {agent} may use resource {resource} without any bound: "
                "put it into a group with a limit, or give the resource an agent_limits entry"
            )
        names = tuple(group_names or (f"group_{k}" for k in range(num_groups)))
        # Where nothing can be had nothing is demanded, and any unit will do.
        share = np.where(share > 0.0, share, 1.0)
        return cls(membership, capacity, agent_limit, access, names, groups, share)

    @classmethod
    def from_config(cls, config: EnvironmentConfig) -> Constraints:
        """Make the constraints of ``config``.

        Raises:
            ConfigurationError: a group, limit or access list names an unknown agent or resource.
        """
        pool = pool_of(config)  # (R,)
        section = config.constraints
        if section.groups is not None and section.num_groups > 1:
            raise ConfigurationError(
                "environment.constraints: give num_groups (equal racks) or groups (explicit), not both,"
                f" got num_groups {section.num_groups} and {len(section.groups)} groups"
            )
        membership, capacity, names = _racks(config, pool)
        if section.groups is not None:
            rows, limits, own_names = _explicit(config)
            membership = np.concatenate([membership, rows])  # (K, N)
            capacity = np.concatenate([capacity, limits])  # (K, R)
            names = [*names, *own_names]
        agent_limit = np.full((config.num_agents, config.num_resources), np.inf)  # (N, R)
        for resource, limit in section.agent_limits.items():
            agent_limit[:, _resource(config, resource, "agent_limits")] = limit
        return cls.build(membership, capacity, agent_limit, _access(config), names)

    @property
    def num_groups(self) -> int:
        """K."""
        return len(self.membership)

    def shared_capacity(self) -> np.ndarray:
        """Return the capacity (N, R) that each agent's fair share is a part of, in the resource's unit.

        Of several groups that are equally tight the smallest counts; where none binds, the agent's limit.
        """
        groups = self.groups
        sizes = np.broadcast_to(np.maximum(groups.sizes, 1.0), self.capacity.shape)  # (K, R)
        share = self.capacity / sizes  # (K, R)
        tightest = share[groups.pair_groups] <= self.fair_share[groups.pair_agents] * (1.0 + 1e-9)  # (P, R)
        members = np.full(self.fair_share.shape, np.inf)  # (N, R)
        np.minimum.at(members, groups.pair_agents, np.where(tightest, sizes[groups.pair_groups], np.inf))
        return self.fair_share * np.where(np.isfinite(members), members, 1.0)

    def violation(self, allocation: np.ndarray) -> float:
        """Return how far ``allocation`` (N, R) or (B, N, R) exceeds a bound, as a share; 0 if feasible."""
        amounts = allocation if allocation.ndim == 3 else allocation[None]  # (B, N, R)
        load = self.groups.load(amounts)  # (B, K, R)
        over_group = _excess(load, self.capacity)
        over_agent = _excess(amounts, self.agent_limit)
        negative = float(np.max(-amounts / self.fair_share, initial=0.0))
        forbidden = (
            0.0 if self.access is None else float(np.max(amounts * (1 - self.access) / self.fair_share))
        )
        return max(over_group, over_agent, negative, forbidden)

    def is_feasible(self, allocation: np.ndarray, tolerance: float = FEASIBILITY_TOLERANCE) -> bool:
        """Return if ``allocation`` (N, R) or (B, N, R) keeps all bounds to the relative ``tolerance``."""
        return self.violation(allocation) <= tolerance


def pool_of(config: EnvironmentConfig) -> np.ndarray:
    """Return the pool's nominal capacities (R,)."""
    limits = config.resource_limits
    return np.array([limits.get(name, config.default_resource_limit) for name in config.resource_ids])


def _excess(amounts: np.ndarray, bound: np.ndarray) -> float:
    """Return the largest relative excess over ``bound``."""
    over = np.maximum(amounts - bound, 0.0)
    return float(np.max(over / np.maximum(bound, 1e-12), initial=0.0))


def _racks(config: EnvironmentConfig, pool: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return membership (K, N), capacity (K, R) and names of consecutive groups of (nearly) equal size."""
    count, agents = config.constraints.num_groups, config.num_agents
    if count == 1:
        return np.ones((1, agents)), pool[None], ["pool"]
    rack = np.arange(agents) * count // agents  # (N,)
    membership = (rack[None, :] == np.arange(count)[:, None]).astype(float)  # (K, N)
    capacity = pool * membership.sum(axis=1, keepdims=True) / agents  # (K, R)
    return membership, capacity, [f"rack_{k}" for k in range(count)]


def _explicit(config: EnvironmentConfig) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return membership, capacity and names of the groups listed in the configuration."""
    groups = config.constraints.groups or []
    membership = np.zeros((len(groups), config.num_agents))  # (K', N)
    capacity = np.full((len(groups), config.num_resources), np.inf)  # (K', R)
    for k, group in enumerate(groups):
        where = f"groups[{k}] ({group.name})"
        for agent in group.agents:
            membership[k, _agent(config, agent, where)] = 1.0
        for resource, limit in group.limits.items():
            capacity[k, _resource(config, resource, where)] = limit
    return membership, capacity, [group.name for group in groups]


def _access(config: EnvironmentConfig) -> np.ndarray | None:
    """Return the access matrix (N, R), or None where everybody may use everything."""
    listed = config.constraints.access
    if listed is None:
        return None
    access = np.ones((config.num_agents, config.num_resources))  # (N, R)
    for resource, agents in listed.items():
        column = _resource(config, resource, "access")
        access[:, column] = 0.0
        for agent in agents:
            access[_agent(config, agent, f"access.{resource}"), column] = 1.0
    return access


def _agent(config: EnvironmentConfig, agent: int | str, where: str) -> int:
    """Return the index of an agent given as index or id."""
    if isinstance(agent, int) and 0 <= agent < config.num_agents:
        return agent
    if isinstance(agent, str) and agent in config.agent_ids:
        return config.agent_ids.index(agent)
    raise ConfigurationError(
        f"environment.constraints.{where}: agents must be indices from 0 to {config.num_agents - 1}"
        f" or ids like {config.agent_ids[0]!r}, got {agent!r}.{did_you_mean(str(agent), config.agent_ids)}"
    )


def _resource(config: EnvironmentConfig, resource: str, where: str) -> int:
    """Return the index of a resource."""
    if resource in config.resource_ids:
        return config.resource_ids.index(resource)
    raise ConfigurationError(
        f"environment.constraints.{where}: resources are {', '.join(config.resource_ids)}, got {resource!r}."
        f"{did_you_mean(resource, config.resource_ids)}"
    )
