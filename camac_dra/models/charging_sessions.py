"""What policies for sessions ask of an environment: its sessions, and when they leave.

Axes, always in this order: B parallel copies, N agents.
"""

from __future__ import annotations

import numpy as np

from camac_dra.environment.dynamics.sessions import SessionsDynamics
from camac_dra.environment.service_order import announced_left
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.errors import ConfigurationError


def sessions_of(env: VectorEnvironment, name: str) -> SessionsDynamics:
    """Return the environment's sessions.

    Raises:
        ConfigurationError: its dynamics are of another kind.
    """
    if not isinstance(env.dynamics, SessionsDynamics):
        kind = env.config.dynamics.kind
        raise ConfigurationError(
            f"{name} needs sessions with deadlines: environment.dynamics.kind must be 'sessions', "
            f"got {kind!r}"
        )
    return env.dynamics


def single_resource_sessions(env: VectorEnvironment, name: str) -> SessionsDynamics:
    """Return the sessions of an environment with one resource.

    Raises:
        ConfigurationError: there are several resources, or no sessions.
    """
    if env.num_resources != 1:
        raise ConfigurationError(f"{name} plans one resource, got num_resources {env.num_resources}")
    return sessions_of(env, name)


def steps_left(env: VectorEnvironment, informed: bool) -> np.ndarray:
    """Return how many steps each session will stay (B, N), this one included, at least 0.

    With ``informed`` those until it really leaves, else until it announced to.
    """
    if not informed:
        return announced_left(env.state)
    deadline = env.state.draw.deadline
    assert deadline is not None
    return np.where(np.isfinite(deadline), np.maximum(deadline, 0.0), 0.0)
