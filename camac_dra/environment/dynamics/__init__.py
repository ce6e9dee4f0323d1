"""Where demand, capacity, price and presence come from: generators of exogenous events."""

from camac_dra.environment.dynamics.base import Draw, Dynamics
from camac_dra.environment.dynamics.factory import make_dynamics

__all__ = ["Draw", "Dynamics", "make_dynamics"]
