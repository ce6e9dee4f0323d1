"""Who goes first where a mechanism serves one agent after another, by what is known of the sessions.

Axes, always in this order: B parallel copies, N agents, R resources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from camac_dra.environment.dynamics.base import Dynamics
from camac_dra.environment.dynamics.sessions import SessionsDynamics
from camac_dra.environment.state import EnvironmentState

Ranks = Callable[[EnvironmentState, SessionsDynamics], np.ndarray]


def announced_left(state: EnvironmentState) -> np.ndarray:
    """Return the steps (B, N) until the announced departures, this one included, at least 0.

    A session that announced nothing, or is overdue, counts as about to leave: 0.
    """
    announced = state.draw.announced
    assert announced is not None
    return np.maximum(np.where(np.isfinite(announced), announced, 0.0), 0.0)


def laxity(state: EnvironmentState, sessions: SessionsDynamics) -> np.ndarray:
    """Return the steps left less those that serving the rest takes at full rate (B, N)."""
    return announced_left(state) - (state.pending / sessions.full_rate).max(axis=2)


_RANKS: Mapping[str, Ranks] = MappingProxyType(
    {
        "arrival": lambda state, sessions: sessions.arrived(state.time),
        "deadline": lambda state, sessions: announced_left(state),
        "laxity": laxity,
    }
)


def service_order_of(dynamics: Dynamics) -> Callable[[EnvironmentState], np.ndarray] | None:
    """Return what ranks agents (B, N), lowest first, by ``sessions.service_order``; None: their index."""
    if not isinstance(dynamics, SessionsDynamics) or dynamics.config.service_order == "index":
        return None
    ranks = _RANKS[dynamics.config.service_order]
    return lambda state: ranks(state, dynamics)
