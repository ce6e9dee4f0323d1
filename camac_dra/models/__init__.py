"""Models: torch networks and the RLModule around them, normalisation, acting on arrays, heuristics.

Everything is imported when it is first asked for, so that heuristics need no torch and models no Ray. A class
that is not listed here is looked for in the file of this package that has its name (``CustomModel`` in
``custom_model.py``).
"""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camac_dra.models.acting import DiscretePolicy, as_policy, with_action_head
    from camac_dra.models.attention_network import AttentionNetwork
    from camac_dra.models.base import BaseModel
    from camac_dra.models.communication_network import CommunicationNetwork
    from camac_dra.models.dqn_agent import DQNAgent
    from camac_dra.models.export import export_model
    from camac_dra.models.graph_neural_network import GraphNeuralNetwork
    from camac_dra.models.policy_loading import load_policy
    from camac_dra.models.policy_network import PolicyNetwork
    from camac_dra.models.q_network import QNetwork
    from camac_dra.models.registry import load_model, make_model, model_class, register_model
    from camac_dra.models.value_network import ValueNetwork

_PLACES = {
    "AttentionNetwork": "attention_network",
    "BaseModel": "base",
    "CommunicationNetwork": "communication_network",
    "DQNAgent": "dqn_agent",
    "DiscretePolicy": "acting",
    "GraphNeuralNetwork": "graph_neural_network",
    "PolicyNetwork": "policy_network",
    "QNetwork": "q_network",
    "ValueNetwork": "value_network",
    "as_policy": "acting",
    "export_model": "export",
    "load_model": "registry",
    "load_policy": "policy_loading",
    "make_model": "registry",
    "model_class": "registry",
    "register_model": "registry",
    "with_action_head": "acting",
}

__all__ = [
    "AttentionNetwork",
    "BaseModel",
    "CommunicationNetwork",
    "DQNAgent",
    "DiscretePolicy",
    "GraphNeuralNetwork",
    "PolicyNetwork",
    "QNetwork",
    "ValueNetwork",
    "as_policy",
    "export_model",
    "load_model",
    "load_policy",
    "make_model",
    "model_class",
    "register_model",
    "with_action_head",
]


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name) or _file_of(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{place}"), name)


def _file_of(name: str) -> str | None:
    """Return the module of this package that is named after a class, None where there is none."""
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name):
        return None
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    return words if find_spec(f"{__name__}.{words}") else None
