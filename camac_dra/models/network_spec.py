"""What an agent's network is, in plain values that travel, and the networks that such values describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from camac_dra.models.attention_network import AttentionNetwork
from camac_dra.models.base import BaseModel
from camac_dra.models.communication_network import CommunicationNetwork
from camac_dra.models.custom_models import CustomTorso, custom_model
from camac_dra.models.distributions import ActionHead
from camac_dra.models.graph_neural_network import GraphNeuralNetwork
from camac_dra.models.networks import DistributionNetwork, linear, make_torso
from camac_dra.models.normalization import EntityScaler, ObservationScaler, RunningMoments
from camac_dra.models.value_network import ValueNetwork
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema import ModelConfig
from camac_dra.utils.schema.model import ATTENTION_WIDTH, NUM_HEADS

ENTITY_KINDS = (
    "attention",
    "gnn",
    "communication",
)  # read ``graph`` observations: a row for each agent that is seen


@dataclass(frozen=True)
class NetworkSpec:
    """Kind and sizes of the network that maps an agent's observation to what it does.

    ``kind`` is ``mlp`` (fully connected layers over the flattened observation), ``attention``, ``gnn`` or
    ``communication`` (over rows of entities, see `AttentionNetwork`, `GraphNeuralNetwork` and
    `CommunicationNetwork`), or the dotted path of a `BaseModel` of one's own, whose outputs are the action
    scores. ``options`` are further arguments of the
    network's constructor, plain values. With ``recurrent_size``, which goes with ``mlp`` only, the layers end
    in a gated recurrent unit that remembers between steps.

    Raises ``ConfigurationError`` where these do not go together.
    """

    kind: str = "mlp"
    hidden_sizes: tuple[int, ...] = (128, 128)
    activation: str = "relu"
    recurrent_size: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))
        object.__setattr__(self, "options", dict(self.options))
        if self.recurrent_size is not None and self.kind != "mlp":
            raise ConfigurationError(
                f"recurrent_size must be None for a network of kind {self.kind!r}, got {self.recurrent_size}"
            )
        if self.kind == "mlp" and self.options:
            raise ConfigurationError(f"options must be empty for fully connected layers, got {self.options}")

    @property
    def is_custom(self) -> bool:
        """Whether the network is a class of the user's own."""
        return "." in self.kind

    @property
    def communicates(self) -> bool:
        """Whether agents see themselves only, and send each other messages."""
        return self.kind == "communication"

    @property
    def memory_size(self) -> int:
        """M, numbers that the network remembers between steps."""
        return self.recurrent_size or 0

    def sees_entities(self, observation_shape: tuple[int, ...]) -> bool:
        """Whether observations of this shape are read as rows of entities with a mask in the last column."""
        return self.kind != "mlp" and len(observation_shape) == 2

    def takes(self, made_for: tuple[int, ...], given: tuple[int, ...]) -> bool:
        """Whether weights made for observations of one shape fit those of another: rows of entities may be
        more or fewer.
        """
        if made_for == given:
            return True
        rows = len(made_for) == len(given) == 2 and made_for[1] == given[1]
        return rows and self.kind in ENTITY_KINDS

    def input_shape(self, observation_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one observation as the network takes it: (E, F + 1), or flat (F,)."""
        if self.sees_entities(observation_shape):
            return tuple(observation_shape)
        return (int(np.prod(observation_shape)),)

    def num_features(self, observation_shape: tuple[int, ...]) -> int:
        """Return F, the numbers that are scaled by moments of their own."""
        shape = self.input_shape(observation_shape)
        return shape[-1] - 1 if len(shape) == 2 else shape[0]

    def moments(
        self, observations: torch.Tensor, active: np.ndarray, observation_shape: tuple[int, ...]
    ) -> RunningMoments:
        """Return the moments of the features in observations (..., *shape) where ``active`` (...) is true.

        Rows of entities count where their mask says that they are real.
        """
        rows = observations.reshape(-1, *self.input_shape(observation_shape))
        if not active.all():
            rows = rows[torch.from_numpy(active.reshape(-1))]
        if rows.ndim == 3:
            rows = rows.flatten(0, 1)
            rows = rows[rows[:, -1] > 0.5][:, :-1]
        return RunningMoments.of(rows)

    def scaler(self, observation_shape: tuple[int, ...]) -> ObservationScaler:
        """Return what scales observations of this shape; the identity until moments are set."""
        size = self.num_features(observation_shape)
        return EntityScaler(size) if self.sees_entities(observation_shape) else ObservationScaler(size)

    def policy(
        self, observation_shape: tuple[int, ...], head: ActionHead, generator: torch.Generator | None
    ) -> DistributionNetwork:
        """Return the network that maps scaled observations to the inputs of an action distribution."""
        if self.is_custom:
            model = CustomTorso(self._custom(observation_shape, head.num_outputs, generator))
            return DistributionNetwork(model, head, generator, output=None)
        return DistributionNetwork(self._torso(observation_shape, generator), head, generator)

    def value(
        self, observation_shape: tuple[int, ...], generator: torch.Generator | None, outputs: int = 1
    ) -> nn.Module:
        """Return a network of the same kind that maps scaled observations to values (rows, outputs).

        Its attribute ``output`` is the last, linear layer. Where agents communicate it reads the rows
        themselves, by attention: it acts in training only.
        """
        if self.kind == "mlp":
            return ValueNetwork(
                self.num_features(observation_shape),
                outputs,
                hidden_sizes=self.hidden_sizes,
                activation=self.activation,
                seed=generator,
            )
        if self.is_custom:
            # So that the critic's units can change without the model's knowing.
            output = nn.Linear(outputs, outputs)
            nn.init.eye_(output.weight)
            nn.init.zeros_(output.bias)
            return ValueHead(CustomTorso(self._custom(observation_shape, outputs, generator)), output)
        reading = replace(self, kind="attention", options={}) if self.communicates else self
        torso = reading._torso(observation_shape, generator)
        return ValueHead(torso, linear(torso.output_size, outputs, 1.0, generator))

    def _custom(
        self, observation_shape: tuple[int, ...], outputs: int, generator: torch.Generator | None
    ) -> BaseModel:
        """Return the user's model."""
        sizes = (self.num_features(observation_shape), outputs)
        return custom_model(self.kind, sizes, self.hidden_sizes, self.activation, self.options, generator)

    def try_once(self, observation_shape: tuple[int, ...], head: ActionHead) -> None:
        """Make the policy network, and let one of the user's own decide once.

        Raises:
            ConfigurationError, ModelError: it cannot be made, or does not do what it must.
        """
        torso = self.policy(observation_shape, head, None).torso
        if isinstance(torso, CustomTorso):
            torso.try_once(self.input_shape(observation_shape))

    def _torso(self, observation_shape: tuple[int, ...], generator: torch.Generator | None) -> Any:
        if self.kind == "mlp":
            size = self.num_features(observation_shape)
            return make_torso(size, self.hidden_sizes, self.activation, self.recurrent_size, generator)
        size = self.num_features(observation_shape)
        common: dict[str, Any] = {
            "hidden_sizes": self.hidden_sizes,
            "activation": self.activation,
            "seed": generator,
        }
        if self.kind == "attention":
            return EntityTorso(AttentionNetwork(size, **{**_ATTENTION, **self.options}, **common))
        if self.kind == "gnn":
            return EntityTorso(GraphNeuralNetwork(size, **self.options, **common))
        if self.kind == "communication":
            return EntityTorso(CommunicationNetwork(size, **self.options, **common))
        raise ConfigurationError(
            f"kind of a network must be mlp, {', '.join(ENTITY_KINDS)} or a class's dotted path, "
            f"got {self.kind!r}"
        )


def network_of(model: ModelConfig) -> NetworkSpec:
    """Return the network that the ``model`` section of a configuration describes.

    Raises:
        ConfigurationError: what it says does not go together.
    """
    kinds: dict[str, dict[str, Any]] = {
        "attention": {"num_heads": model.num_heads, "width": model.attention_width},
        "gnn": {"num_heads": model.num_heads, "aggregation": model.aggregation},
        "communication": {
            "num_heads": model.num_heads,
            "width": model.attention_width,
            "message_size": model.message_size,
            "message_bits": model.message_bits,
        },
    }
    options = kinds.get(model.type, model.options)
    return NetworkSpec(
        kind=model.type if model.type in ENTITY_KINDS or "." in model.type else "mlp",
        hidden_sizes=tuple(model.hidden_sizes),
        activation=model.activation,
        recurrent_size=model.recurrent_size,
        options={name: value for name, value in options.items() if value is not None},
    )


# Observations have any number of features, but heads must divide the width.
_ATTENTION: dict[str, Any] = {
    "num_heads": NUM_HEADS,
    "width": ATTENTION_WIDTH,
}


class EntityTorso(nn.Module):
    """Turns scaled rows of entities (rows, E, F + 1) into what the observer makes of them, (rows, H)."""

    def __init__(self, model: AttentionNetwork | GraphNeuralNetwork | CommunicationNetwork) -> None:
        super().__init__()
        self.model = model
        self.output_size = model.output_size

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Map observations, (rows, E, F + 1) or (rows, F) of nobody else, to (rows, H)."""
        return self.model.outputs(observations)


class ValueHead(nn.Module):
    """A torso and a linear output: the value of an observation."""

    def __init__(self, torso: nn.Module, output: nn.Linear) -> None:
        super().__init__()
        self.torso, self.output = torso, output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map scaled observations (rows, *shape) to values (rows, outputs)."""
        return self.output(self.torso(x))
