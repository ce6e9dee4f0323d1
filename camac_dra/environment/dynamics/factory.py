"""Choose the dynamics that a configuration asks for."""

from __future__ import annotations

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.dynamics.base import Dynamics
from camac_dra.environment.dynamics.replay import ReplayDynamics
from camac_dra.environment.dynamics.sessions import SessionsDynamics
from camac_dra.environment.dynamics.synthetic import SyntheticDynamics
from camac_dra.utils.schema.environment import EnvironmentConfig


def make_dynamics(config: EnvironmentConfig, constraints: Constraints, num_envs: int) -> Dynamics:
    """Return the generator of exogenous events for ``num_envs`` copies of the problem ``config``.

    Raises:
        TraceError: a trace file is missing or malformed.
        ConfigurationError: the trace does not fit the rest of the problem.
    """
    section, length = config.dynamics, config.max_episode_length
    if section.replay is not None:
        names = (config.agent_ids, config.resource_ids)
        pool_groups = config.constraints.num_groups
        return ReplayDynamics(section.replay, num_envs, constraints, length, *names, pool_groups)
    if section.sessions is not None:
        return SessionsDynamics(section.sessions, num_envs, constraints, length, config.resource_ids)
    return SyntheticDynamics(section.synthetic, num_envs, constraints, length)
