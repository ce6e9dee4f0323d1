"""How a model that somebody holds becomes the policy network of an algorithm, and gets its weights back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from camac_dra.models.base import BaseModel, class_path
from camac_dra.models.normalization import ObservationScaler, ReturnScaler, RunningMoments
from camac_dra.models.policy_network import PolicyNetwork

TRUST = 10_000  # rows that the scaling of a network counts for which was trained elsewhere
SIZES = ("input_size", "input_dim", "output_size")  # constructor arguments that the environment decides
INSIDE = "policy.torso.model."  # where a model of another kind stands in an actor-critic's weights

Weights = dict[str, torch.Tensor]


def held_model(model: BaseModel) -> HeldModel:
    """Return what trains ``model``, whatever its kind."""
    return HeldPolicyNetwork(model) if isinstance(model, PolicyNetwork) else HeldModel(model)


class HeldModel:
    """A `BaseModel` that scores actions: the policy is the model itself, the critic another one of its class.

    The model sees observations as they are: it has no scaling, and would not act by itself with one.
    """

    def __init__(self, model: BaseModel) -> None:
        self.model: BaseModel = model

    def settings(self) -> dict[str, Any]:
        """Return the settings of the algorithm that are the model's to decide."""
        options = {name: value for name, value in self.model.get_config().items() if name not in SIZES}
        return {
            "network_kind": class_path(type(self.model)),
            "network_options": options,
            "normalize_observations": False,
        }

    def into(self, weights: Mapping[str, torch.Tensor]) -> Weights:
        """Return an actor-critic's weights with those of the model in their place."""
        own = {f"{INSIDE}{name}": value for name, value in self.model.state_dict().items()}
        return {**weights, **own}

    def take(self, weights: Mapping[str, torch.Tensor]) -> Weights:
        """Give the model its weights out of an actor-critic's; return the others."""
        own = {name: value for name, value in weights.items() if name.startswith(INSIDE)}
        self.model.load_state_dict({name.removeprefix(INSIDE): value for name, value in own.items()})
        return {name: value for name, value in weights.items() if name not in own}

    def moments(self, policy: str) -> dict[str, Any]:
        """Return what the model's scaling says of observations and returns that it has seen elsewhere."""
        return {}


class HeldPolicyNetwork(HeldModel):
    """A `PolicyNetwork`: policy, critic and scaling are its own."""

    model: PolicyNetwork

    def settings(self) -> dict[str, Any]:
        """Return the settings of the algorithm that are the model's to decide."""
        model = self.model
        return {
            "hidden_sizes": model.hidden_sizes,
            "activation": model.activation,
            "shared_torso": model.shared_torso,
            "recurrent_size": model.recurrent_size,
            "normalize_observations": model.observation_scaler is not None,
            "normalize_returns": model.return_scaler is not None,
        }

    def into(self, weights: Mapping[str, torch.Tensor]) -> Weights:
        """Return the model's weights, which are an actor-critic's."""
        return dict(self.model.state_dict())

    def take(self, weights: Mapping[str, torch.Tensor]) -> Weights:
        """Give the model its weights; none are left."""
        self.model.load_state_dict(weights)
        return {}

    def moments(self, policy: str) -> dict[str, Any]:
        """Return what the model's scaling says of observations and returns that it has seen elsewhere."""
        found: dict[str, Any] = {}
        scaler, returns = self.model.observation_scaler, self.model.return_scaler
        if isinstance(scaler, ObservationScaler) and not (scaler.scale == 1.0).all():
            found["observation_moments"] = _moments(scaler.mean, 1.0 / scaler.scale)
        if isinstance(returns, ReturnScaler) and returns.std != 1.0:
            found["return_moments"] = {policy: _moments(returns.mean[None], returns.std[None])}
        return found


def _moments(mean: torch.Tensor, std: torch.Tensor) -> dict[str, Any]:
    squares = TRUST * std.double().numpy() ** 2
    return RunningMoments(float(TRUST), mean.double().numpy(), squares).get_state()
