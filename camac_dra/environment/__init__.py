"""The decision problem: agents that share scarce resources.

What needs Ray or PettingZoo is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.dynamics import Dynamics
from camac_dra.environment.environment import Environment
from camac_dra.environment.foreign import ForeignVectorEnvironment
from camac_dra.environment.resource_pool import ResourcePool
from camac_dra.environment.topology import Topology
from camac_dra.environment.vector_environment import VectorEnvironment

if TYPE_CHECKING:
    from camac_dra.environment.parallel_environment import parallel_env
    from camac_dra.environment.rllib_environment import RLlibEnvironment

_LAZY = {"parallel_env": "parallel_environment", "RLlibEnvironment": "rllib_environment"}

__all__ = [
    "Constraints",
    "Dynamics",
    "Environment",
    "ForeignVectorEnvironment",
    "RLlibEnvironment",
    "ResourcePool",
    "Topology",
    "VectorEnvironment",
    "parallel_env",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
