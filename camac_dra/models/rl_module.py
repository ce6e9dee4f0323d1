"""The actor-critic network as an RLModule of RLlib's new API stack."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.distribution import Distribution
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from camac_dra.models.distributions import ActionDistribution, ActionHead, make_action_head
from camac_dra.models.networks import DistributionNetwork
from camac_dra.models.normalization import ObservationScaler, ReturnScaler
from camac_dra.models.policy_network import PolicyNetwork
from camac_dra.models.value_network import ValueNetwork


@dataclass(frozen=True)
class ActorCriticConfig:
    """What an ``ActorCriticModule`` is built from, besides its spaces."""

    hidden_sizes: tuple[int, ...] = (128, 128)
    activation: str = "relu"
    shared_torso: bool = False  # policy and value heads on one torso; halves the arithmetic
    normalize_observations: bool = False
    normalize_returns: bool = False
    seed: int | None = None  # of the initial weights; None: torch's global generator


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


class ActorCriticModule(TorchRLModule, InferenceOnlyAPI, ValueFunctionAPI):
    """The parts of a `PolicyNetwork` over flat or flattened observations.

    ``model_config`` holds the fields of ``ActorCriticConfig``. Observations are raw everywhere; the frozen
    scaling is part of the module and of its state. The value network and the return scaling are missing where
    the module is ``inference_only`` (on env runners), and so they are from the weights sent there.
    """

    observation_scaler: ObservationScaler | None
    policy: DistributionNetwork
    value: ValueNetwork
    return_scaler: ReturnScaler | None

    def setup(self) -> None:
        """Build the networks; RLlib calls it once, from the constructor."""
        fields = ActorCriticConfig.__dataclass_fields__
        self.actor_critic = ActorCriticConfig(
            **{k: v for k, v in (self.model_config or {}).items() if k in fields}
        )
        config = self.actor_critic
        self.head = make_action_head(self.action_space)
        self._distribution_class = distribution_class(self.head)
        self.observation_size = int(np.prod(self.observation_space.shape))
        network = PolicyNetwork(
            self.observation_size,
            self.head.num_outputs,
            action_space=self.action_space,
            hidden_sizes=config.hidden_sizes,
            activation=config.activation,
            shared_torso=config.shared_torso,
            normalize_observations=config.normalize_observations,
            normalize_returns=config.normalize_returns,
            seed=config.seed,
        )
        self.observation_scaler, self.policy = network.observation_scaler, network.policy
        self.value, self.return_scaler = network.value, network.return_scaler

    def get_non_inference_attributes(self) -> list[str]:
        """Name what acting does not need."""
        return ["value", "return_scaler"]

    def get_inference_action_dist_cls(self) -> type[HeadDistribution]:
        """Return the distribution class over this module's action space, for all three phases."""
        return self._distribution_class

    def _scaled(self, batch: dict[str, Any]) -> torch.Tensor:
        """Return observations as the networks take them: (rows, F) float32."""
        x = batch[Columns.OBS].reshape(-1, self.observation_size)
        return x if self.observation_scaler is None else self.observation_scaler(x)

    def forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        """Skip RLlib's switch into training mode for every minibatch: these layers know one mode only."""
        return self._forward_train(batch, **kwargs)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        return {Columns.ACTION_DIST_INPUTS: self.policy(self._scaled(batch)).t()}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        """Also return what ``compute_values`` can go on from, so that nothing is computed twice."""
        x = self._scaled(batch)
        features = self.policy.torso(x)
        embeddings = features if self.actor_critic.shared_torso else x
        inputs = self.policy.from_features(features).t()  # (rows, O)
        return {Columns.ACTION_DIST_INPUTS: inputs, Columns.EMBEDDINGS: embeddings}

    def compute_values(self, batch: dict[str, Any], embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Return values (rows,) in the value network's own units, which are returns
        unless they are normalised.
        """
        if embeddings is None:
            embeddings = self._scaled(batch)
            if self.actor_critic.shared_torso:
                embeddings = self.policy.torso(embeddings)
        return self.value(embeddings)[:, 0]

    def expected_returns(self, observations: torch.Tensor) -> torch.Tensor:
        """Return values (rows,) of raw observations (rows, *shape) in real units."""
        values = self.compute_values({Columns.OBS: observations})
        return values if self.return_scaler is None else self.return_scaler.to_returns(values)


def model_config(config: ActorCriticConfig) -> dict[str, Any]:
    """Return ``config`` as the plain dict that an ``RLModuleSpec`` takes."""
    return asdict(config)
