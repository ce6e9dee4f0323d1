"""Agents as Ray actors, the bus between them, and the protocols by which they agree.

Everything is imported when it is first asked for: the bus's own processes need no environments.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camac_dra.coordination.agent import Agent
    from camac_dra.coordination.agreements import make_agreement
    from camac_dra.coordination.conflict_resolver import ConflictResolver
    from camac_dra.coordination.consensus import consensus_weights
    from camac_dra.coordination.message_bus import MessageBus
    from camac_dra.coordination.plant import MeasuredPlant, Plant, SimulatedPlant
    from camac_dra.coordination.protocol import Protocol
    from camac_dra.coordination.scheduler import Scheduler
    from camac_dra.coordination.state_sync import StateSync

_PLACES = {
    "Agent": "agent",
    "ConflictResolver": "conflict_resolver",
    "MeasuredPlant": "plant",
    "MessageBus": "message_bus",
    "Plant": "plant",
    "Protocol": "protocol",
    "Scheduler": "scheduler",
    "SimulatedPlant": "plant",
    "StateSync": "state_sync",
    "consensus_weights": "consensus",
    "make_agreement": "agreements",
}

__all__ = [
    "Agent",
    "ConflictResolver",
    "MeasuredPlant",
    "MessageBus",
    "Plant",
    "Protocol",
    "Scheduler",
    "SimulatedPlant",
    "StateSync",
    "consensus_weights",
    "make_agreement",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
