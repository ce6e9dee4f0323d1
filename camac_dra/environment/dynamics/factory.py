"""Choose the dynamics that a configuration asks for."""

from __future__ import annotations

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.dynamics.base import Dynamics
from camac_dra.environment.dynamics.synthetic import SyntheticDynamics
from camac_dra.utils.schema.environment import EnvironmentConfig


def make_dynamics(config: EnvironmentConfig, constraints: Constraints, num_envs: int) -> Dynamics:
    """Return the generator of exogenous events for ``num_envs`` copies of the problem ``config``.

    Raises:
        TraceError: a trace file is missing or malformed.
    """
    return SyntheticDynamics(config.dynamics.synthetic, num_envs, constraints, config.max_episode_length)
