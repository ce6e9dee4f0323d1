"""Which policy decides for which agent."""

from __future__ import annotations

from typing import Any

import numpy as np

from camac_dra.utils.errors import ConfigurationError

SHARED = "shared"  # name of the one policy of all agents


def assign_policies(policies: str, env: Any) -> tuple[list[str], list[int]]:
    """Return names of policies, and for each of the N agents of ``env`` the index of its own.

    ``shared``: one for all. ``per_agent``: each its own, of its name. ``by_group``: one for each group of
    agents, with the group's name; an agent in several capacity groups belongs to the smallest of them, the
    first of equals, and whoever is in none to a policy ``ungrouped``. A foreign environment says by its
    ``agent_groups`` (the name of a group for each agent) who belongs together.

    Raises:
        ConfigurationError: the environment has no groups to go by.
    """
    agent_ids = list(env.agent_ids)
    if policies == SHARED:
        return [SHARED], [0] * len(agent_ids)
    if policies == "per_agent":
        return agent_ids, list(range(len(agent_ids)))
    groups = _groups(env)
    names = list(dict.fromkeys(groups))
    if len(names) < 2:
        raise ConfigurationError(
            f"training.policies: 'by_group' needs agents of several groups, got {len(agent_ids)} agents of "
            f"{names or 'none'}; environment.constraints.groups or environment.constraints.num_groups make "
            "some"
        )
    return names, [names.index(group) for group in groups]


def _groups(env: Any) -> list[str]:
    """Return the name of each agent's group."""
    named: list[str] | None = getattr(env, "agent_groups", None)
    if named is not None:
        return list(named)
    constraints = getattr(env, "constraints", None)
    if constraints is None:
        return []
    membership = constraints.membership > 0  # (K, N)
    sizes = np.where(membership, membership.sum(axis=1, keepdims=True), membership.shape[1] + 1)  # (K, N)
    smallest = sizes.argmin(axis=0)  # (N,)
    return [
        constraints.group_names[group] if membership[group, agent] else "ungrouped"
        for agent, group in enumerate(smallest)
    ]
