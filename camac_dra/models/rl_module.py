"""The actor-critic network as an RLModule of RLlib's new API stack."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.distribution import Distribution
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from camac_dra.models.array_policy import ActingPart
from camac_dra.models.distributions import (
    IMPOSSIBLE,
    ActionDistribution,
    ActionHead,
    factored_head,
    make_action_head,
)
from camac_dra.models.network_spec import NetworkSpec
from camac_dra.models.networks import generator_of
from camac_dra.models.normalization import ReturnScaler
from camac_dra.models.value_network import ValueNetwork

JOINT = "joint_observations"  # column (rows, N * F): everybody's own row, for a centralised critic
MASKS = "action_masks"  # column (rows, O) bool: false where an action is impossible
MEMORY = "memory"  # column (sequences, M): what was remembered before the first step
STARTS = "starts"  # column (sequences, T) bool: an episode begins
ACTIVE = "active"  # column (sequences, T) bool: the step counts


@dataclass(frozen=True)
class ActorCriticConfig:
    """What an ``ActorCriticModule`` is built from, besides its spaces."""

    network: NetworkSpec = field(default_factory=NetworkSpec)
    shared_torso: bool = False  # policy and value heads on one torso; halves the arithmetic
    normalize_observations: bool = False
    normalize_returns: bool = False
    critic_agents: int = (
        0  # N of a critic that sees everybody's own row besides; 0: one that sees what agents see
    )
    factored: bool = False  # log-probabilities and values of every action component, instead of one
    seed: int | None = None  # of the initial weights; None: torch's global generator

    def __post_init__(self) -> None:
        """Take the network as a mapping too, as which it travels."""
        if isinstance(self.network, Mapping):
            object.__setattr__(self, "network", NetworkSpec(**self.network))


class HeadDistribution(Distribution):
    """RLlib's face of an action distribution; ``inputs`` are (rows, O), and nothing is computed
    before it is asked.
    """

    head: ActionHead

    def __init__(self, inputs: torch.Tensor, *, deterministic: bool = False) -> None:
        self.inputs = inputs
        self.deterministic = deterministic

    @cached_property
    def _distribution(self) -> ActionDistribution:
        return self.head.distribution(self.inputs.t())

    def logp(self, value: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Return the log-probabilities (rows,) of actions."""
        return self._distribution.log_prob(value)

    def entropy(self, **kwargs: Any) -> torch.Tensor:
        """Return the entropies (rows,)."""
        return self._distribution.entropy()

    def kl(self, other: HeadDistribution, **kwargs: Any) -> torch.Tensor:
        """Return KL(self || other) (rows,)."""
        return self._distribution.divergence(other._distribution)

    def sample(self, **kwargs: Any) -> torch.Tensor:
        """Draw actions (rows, *action_shape) with torch's global generator, or return
        the mode if deterministic.
        """
        return self._distribution.mode() if self.deterministic else self._distribution.sample(None)[0]

    def rsample(self, **kwargs: Any) -> torch.Tensor:
        """Draw actions; gradients do not flow through them."""
        return self.sample()

    def to_deterministic(self) -> HeadDistribution:
        """Return the distribution whose ``sample`` is the mode."""
        return type(self)(self.inputs, deterministic=True)

    @classmethod
    def from_logits(cls, logits: torch.Tensor, **kwargs: Any) -> HeadDistribution:
        """Return the distribution that the network's outputs (rows, O) describe."""
        return cls(logits)

    @staticmethod
    def required_input_dim(space: Any, **kwargs: Any) -> int:
        """Return O for an action space."""
        return make_action_head(space).num_distribution_inputs


def distribution_class(action_head: ActionHead) -> type[HeadDistribution]:
    """Return the class whose instances read their inputs as this head does."""

    class BoundHeadDistribution(HeadDistribution):
        head = action_head

    return BoundHeadDistribution


class ActorCriticModule(ActingPart, TorchRLModule, InferenceOnlyAPI, ValueFunctionAPI):
    """Policy and value network of any kind that a `NetworkSpec` describes; of fully connected layers they are
    the parts of a `PolicyNetwork`.

    ``model_config`` holds the fields of ``ActorCriticConfig``. Observations are raw everywhere; the frozen
    scaling is part of the module and of its state. The value network and the return scaling are missing where
    the module is ``inference_only`` (on env runners), and so they are from the weights sent there.

    Where the network has memory, batches are sequences: columns (sequences, T, ...) and those named above.
    """

    value: torch.nn.Module
    return_scaler: ReturnScaler | None

    def setup(self) -> None:
        """Build the networks; RLlib calls it once, from the constructor."""
        fields = ActorCriticConfig.__dataclass_fields__
        self.actor_critic = ActorCriticConfig(
            **{k: v for k, v in (self.model_config or {}).items() if k in fields}
        )
        config, shape = self.actor_critic, self.observation_space.shape
        self.network, self.input_shape = config.network, config.network.input_shape(shape)
        self.num_features = config.network.num_features(shape)
        self.head = (factored_head if config.factored else make_action_head)(self.action_space)
        self._distribution_class = distribution_class(self.head)
        generator = generator_of(config.seed)
        self.observation_scaler = config.network.scaler(shape) if config.normalize_observations else None
        self.policy = config.network.policy(shape, self.head, generator)
        self.value = self._make_value(shape, generator)
        self.return_scaler = ReturnScaler() if config.normalize_returns else None

    def _make_value(self, shape: tuple[int, ...], generator: torch.Generator | None) -> torch.nn.Module:
        config, network, outputs = self.actor_critic, self.actor_critic.network, math.prod(self.value_shape)
        if config.critic_agents:
            return ValueNetwork(
                self.num_features * (1 + config.critic_agents),
                outputs,
                hidden_sizes=network.hidden_sizes,
                activation=network.activation,
                seed=generator,
            )
        if self.reads_features:
            return ValueNetwork(
                self.policy.torso.output_size,
                outputs,
                hidden_sizes=(),
                activation=network.activation,
                seed=generator,
            )
        return network.value(shape, generator, outputs)

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape of one observation's value: () or, where the critic is ``factored``, (C,)."""
        return self.head.action_shape if self.actor_critic.factored else ()

    @property
    def reads_features(self) -> bool:
        """Whether the critic goes on from what the policy's torso makes of observations, or remembers."""
        config = self.actor_critic
        return config.critic_agents == 0 and (config.shared_torso or config.network.memory_size > 0)

    @property
    def critic_is_apart(self) -> bool:
        """Whether policy and critic have no parameter in common, and need nothing of each other."""
        of_policy = {id(parameter) for parameter in self.policy.parameters()}
        return not self.reads_features and of_policy.isdisjoint(map(id, self.value.parameters()))

    def get_non_inference_attributes(self) -> list[str]:
        """Name what acting does not need."""
        return ["value", "return_scaler"]

    def get_inference_action_dist_cls(self) -> type[HeadDistribution]:
        """Return the distribution class over this module's action space, for all three phases."""
        return self._distribution_class

    def forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        """Skip RLlib's switch into training mode for every minibatch: these layers know one mode only."""
        return self._forward_train(batch, **kwargs)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        return {Columns.ACTION_DIST_INPUTS: self.distribution_inputs(batch[Columns.OBS]).t()}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        """Also return what ``compute_values`` can go on from, so that nothing is computed twice.

        Of sequences, the results are those of the steps that count: as many rows as `counted` leaves.
        """
        if MEMORY in batch:
            features = self._remember(batch)
            embeddings = features if self.reads_features else self.scaled(batch[Columns.OBS])
            if not self.reads_features:
                embeddings = embeddings[_active(batch)]
        else:
            x = self.scaled(batch[Columns.OBS])
            features = self.policy.torso(x)
            embeddings = features if self.reads_features else x
        inputs = self.policy.from_features(features)  # (O, rows)
        if MASKS in batch:
            masks = batch[MASKS].flatten(0, -2)  # (rows, O)
            masks = masks[_active(batch)] if MEMORY in batch else masks
            inputs = masked(inputs, masks)
        return {Columns.ACTION_DIST_INPUTS: inputs.t(), Columns.EMBEDDINGS: embeddings}

    def _remember(self, batch: dict[str, Any]) -> torch.Tensor:
        """Return the memories (rows, M) at the steps of sequences that count."""
        observations = batch[Columns.OBS]  # (S, T, *shape)
        scaled = self.scaled(observations).unflatten(0, observations.shape[:2])  # (S, T, F)
        memories = self.policy.torso.sequence(
            scaled.transpose(0, 1), batch[MEMORY], batch[STARTS].t()
        )  # (T, S, M)
        return memories.transpose(0, 1).flatten(0, 1)[_active(batch)]

    @staticmethod
    def counted(batch: dict[str, Any]) -> dict[str, Any]:
        """Return the columns of a batch by row: of sequences, those of the steps that count."""
        if MEMORY not in batch:
            return batch
        chosen = _active(batch)
        rest = {name: column for name, column in batch.items() if name not in (MEMORY, STARTS, ACTIVE)}
        return {name: column.flatten(0, 1)[chosen] for name, column in rest.items()}

    def compute_values(self, batch: dict[str, Any], embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Return values (rows, *value_shape) in the value network's own units, which are returns
        unless they are normalised.
        """
        return self.shaped(self.value(self.critic_inputs(batch, embeddings)))

    def critic_inputs(self, batch: dict[str, Any], embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Return what the value network reads, (rows, ...)."""
        if embeddings is None:
            embeddings = self.scaled(batch[Columns.OBS])
            if self.reads_features:
                embeddings = self.policy.torso(embeddings)
        if self.actor_critic.critic_agents:
            return torch.cat([self._own(embeddings), self._everybody(batch[JOINT])], dim=1)
        return embeddings

    def shaped(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the value network's outputs (rows, outputs) as values (rows, *value_shape)."""
        return outputs if self.actor_critic.factored else outputs[:, 0]

    @staticmethod
    def _own(scaled: torch.Tensor) -> torch.Tensor:
        """Return the own row (rows, F) of scaled observations."""
        return scaled[:, 0, :-1] if scaled.ndim == 3 else scaled

    def _everybody(self, joint: torch.Tensor) -> torch.Tensor:
        """Return everybody's own row, scaled, (rows, N * F)."""
        joint = joint.reshape(-1, self.actor_critic.critic_agents * self.num_features)
        if self.observation_scaler is None:
            return joint
        return self.observation_scaler.features(joint.unflatten(1, (-1, self.num_features))).flatten(1)

    def expected_returns(self, batch: dict[str, Any]) -> torch.Tensor:
        """Return values (rows, *value_shape) of raw observations (rows, *shape) in real units."""
        return self.in_returns(self.compute_values(batch))

    def in_returns(self, values: torch.Tensor) -> torch.Tensor:
        """Turn values in the network's own units into returns."""
        return values if self.return_scaler is None else self.return_scaler.to_returns(values)


def _active(batch: dict[str, Any]) -> torch.Tensor:
    return batch[ACTIVE].flatten()


def masked(inputs: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return distribution inputs (O, rows) with impossible actions where ``masks`` (rows, O) is false."""
    return inputs.masked_fill(~masks.t(), IMPOSSIBLE)
