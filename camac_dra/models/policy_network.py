"""The actor-critic network: a policy and the value of what it sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gymnasium import spaces

from camac_dra.models.action_spaces import describe_space, space_of
from camac_dra.models.base import BaseModel
from camac_dra.models.checks import last_axis, same_mask, sizes, whole_number
from camac_dra.models.distributions import (
    IMPOSSIBLE,
    ActionDistribution,
    CategoricalHead,
    GaussianHead,
    make_action_head,
)
from camac_dra.models.networks import DistributionNetwork, RecurrentTorso, Seed, generator_of, make_torso
from camac_dra.models.normalization import ObservationScaler, ReturnScaler
from camac_dra.models.value_network import ValueNetwork
from camac_dra.utils.errors import ConfigurationError, ModelError


class PolicyNetwork(BaseModel):
    """Actor-critic architecture: logits of actions (or means of continuous ones), and values.

    ``policy`` and ``value`` are networks of their own, or two outputs of one torso with ``shared_torso``.
    States are raw: with ``normalize_observations`` the frozen scaling is part of the network, and with
    ``normalize_returns`` the critic works in normalised units, which `values` turns into returns. Its parts
    have the names of an ``ActorCriticModule``'s, which is made of them: weights of one fit the other.

    Without ``action_space`` there are ``output_size`` discrete actions. MultiDiscrete spaces have a row of
    logits per component, padded to the longest; Box spaces a mean per component.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        action_space: spaces.Space | Mapping[str, Any] | None = None,
        hidden_sizes: Sequence[int] = (128, 128),
        activation: str = "relu",
        shared_torso: bool = False,
        recurrent_size: int | None = None,
        normalize_observations: bool = False,
        normalize_returns: bool = False,
        seed: Seed = None,
    ) -> None:
        """With ``recurrent_size`` the torso, which then is shared, ends in a gated recurrent unit."""
        super().__init__(input_size, output_size)
        self.hidden_sizes, self.activation = sizes("hidden_sizes", hidden_sizes), activation
        self.shared_torso, self.recurrent_size = shared_torso, recurrent_size
        if recurrent_size is not None:
            self.memory_size = whole_number("recurrent_size", recurrent_size)
            if not shared_torso:
                raise ConfigurationError(
                    "shared_torso must be True with recurrent_size: there is one memory, got False"
                )
        space = space_of(action_space) if isinstance(action_space, Mapping) else action_space
        self.action_space = spaces.Discrete(output_size) if space is None else space
        self.head = make_action_head(self.action_space)
        if output_size != self.head.num_outputs:
            raise ConfigurationError(
                f"output_size must be {self.head.num_outputs} for {self.action_space}, got {output_size}"
            )
        generator = generator_of(seed)
        self.observation_scaler = ObservationScaler(input_size) if normalize_observations else None
        torso = make_torso(input_size, self.hidden_sizes, activation, recurrent_size, generator)
        self.policy = DistributionNetwork(torso, self.head, generator)
        self.value = ValueNetwork(
            self.policy.torso.output_size if shared_torso else input_size,
            hidden_sizes=() if shared_torso else self.hidden_sizes,
            activation=activation,
            seed=generator,
        )
        self.return_scaler = ReturnScaler() if normalize_returns else None

    @property
    def action_size(self) -> int | None:
        """Number of actions; None where an action has several components or is continuous."""
        return self.head.width if isinstance(self.head, CategoricalHead) and self.head.scalar else None

    @property
    def can_take_action_head(self) -> bool:
        """It has one."""
        return False

    def forward(self, state: torch.Tensor, action_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Map (..., input_size) to logits or means (..., output_size).

        Where ``action_mask``, which broadcasts to the logits, is false, an action is impossible.
        """
        return self._outputs(self._features(state), state.shape[:-1], action_mask)

    def values(self, state: torch.Tensor) -> torch.Tensor:
        """Return values (...) of states (..., input_size), in units of returns."""
        x = self._features(state) if self.shared_torso else self._scaled(state)
        values = self.value(x)[:, 0].reshape(state.shape[:-1])
        return values if self.return_scaler is None else self.return_scaler.to_returns(values)

    def distribution(
        self, state: torch.Tensor, action_mask: torch.Tensor | None = None
    ) -> ActionDistribution:
        """Return the distributions of actions in states (rows, input_size)."""
        return self.read(self(state, action_mask))

    def read(self, outputs: torch.Tensor) -> ActionDistribution:
        """Return the distributions that outputs (rows, output_size) describe."""
        inputs = outputs.t()  # (O, rows)
        if self.policy.log_std is not None:
            inputs = torch.cat([inputs, self.policy.log_std[:, None].expand_as(inputs)], dim=0)
        return self.head.distribution(inputs)

    def step(
        self, observations: torch.Tensor, memory: torch.Tensor, action_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return outputs (rows, output_size) and the memories (rows, M) after these observations."""
        torso = self.policy.torso
        if not isinstance(torso, RecurrentTorso):
            return self(observations, action_mask), memory
        memory = torso.step(self._scaled(observations), memory)
        return self._outputs(memory, observations.shape[:-1], action_mask), memory

    def sequence(
        self, states: torch.Tensor, memory: torch.Tensor, starts: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return outputs (T, rows, output_size) and values (T, rows) of successive states.

        ``states`` are (T, rows, input_size); where ``starts`` (T, rows) is true, an episode begins.

        Raises:
            ModelError: this network has no memory.
        """
        torso = self.policy.torso
        if not isinstance(torso, RecurrentTorso):
            raise ModelError(
                "sequence needs recurrent_size, got None: without memory call the network itself"
            )
        scaled = self._scaled(states).reshape(states.shape)
        memories = torso.sequence(scaled, memory, starts)  # (T, rows, M)
        flat = memories.flatten(0, 1)
        values = self.value(flat)[:, 0].reshape(states.shape[:-1])
        if self.return_scaler is not None:
            values = self.return_scaler.to_returns(values)
        return self._outputs(flat, states.shape[:-1], None), values

    def _scaled(self, state: torch.Tensor) -> torch.Tensor:
        """Return states as the networks take them: (rows, F)."""
        x = last_axis("state", state, self.input_size).reshape(-1, self.input_size)
        return x if self.observation_scaler is None else self.observation_scaler(x)

    def _features(self, state: torch.Tensor) -> torch.Tensor:
        return self.policy.torso(self._scaled(state))

    def _outputs(
        self, features: torch.Tensor, lead: torch.Size, action_mask: torch.Tensor | None
    ) -> torch.Tensor:
        outputs = self.policy.outputs_of(features).t()  # (rows, O)
        outputs = outputs.reshape(*lead, self.output_size)
        if action_mask is None:
            return outputs
        if isinstance(self.head, GaussianHead):
            raise ModelError("action_mask must be None for continuous actions")
        return outputs.masked_fill(~same_mask(action_mask, outputs.shape), IMPOSSIBLE)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "action_space": describe_space(self.action_space),
            "hidden_sizes": list(self.hidden_sizes),
            "activation": self.activation,
            "shared_torso": self.shared_torso,
            "recurrent_size": self.recurrent_size,
            "normalize_observations": self.observation_scaler is not None,
            "normalize_returns": self.return_scaler is not None,
        }
