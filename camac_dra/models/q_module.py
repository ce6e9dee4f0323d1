"""The Q-network and its target network as an RLModule of RLlib's new API stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from ray.rllib.algorithms.dqn.dqn_learner import QF_NEXT_PREDS, QF_PREDS, QF_TARGET_NEXT_PREDS
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import QNetAPI
from torch import nn

from camac_dra.models.distributions import IMPOSSIBLE
from camac_dra.models.network_spec import NetworkSpec
from camac_dra.models.networks import generator_of
from camac_dra.models.normalization import ReturnScaler
from camac_dra.models.q_network import QNetwork
from camac_dra.models.replay_heads import EpsilonGreedyHead, greedy_head
from camac_dra.models.replay_module import ReplayModule
from camac_dra.models.rl_module import distribution_class
from camac_dra.utils.errors import CapabilityError


@dataclass(frozen=True)
class QConfig:
    """What a ``QModule`` is built from, besides its spaces."""

    network: NetworkSpec = field(default_factory=NetworkSpec)
    double: bool = True
    dueling: bool = True
    normalize_observations: bool = False
    normalize_returns: bool = False
    seed: int | None = None  # of the initial weights; None: torch's global generator

    def __post_init__(self) -> None:
        """Take the network as a mapping too, as which it travels.

        Raises:
            CapabilityError: it is no network of fully connected layers without memory.
        """
        if isinstance(self.network, Mapping):
            object.__setattr__(self, "network", NetworkSpec(**self.network))
        if self.network.kind != "mlp" or self.network.recurrent_size is not None:
            raise CapabilityError(
                "model.type: 'dqn' needs fully connected layers without memory, got "
                f"{self.network.kind!r} with recurrent_size {self.network.recurrent_size}"
            )


class GreedyNetwork:
    """The layers that decide: the best of the advantages is the best of the Q-values."""

    log_std, is_layered = None, True

    def __init__(self, network: QNetwork) -> None:
        self.torso, self._advantage = network.torso, network.advantage

    def layers(self) -> list[nn.Linear]:
        """Return the linear layers from observations to advantages."""
        return [*self.torso.layers, self._advantage]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map observations (rows, F) to advantages (O, rows), component-major."""
        return self._advantage(self.torso(x)).t()


class QModule(ReplayModule, QNetAPI):
    """A `QNetwork`, the target network that lags behind it, and what both see and predict.

    ``model_config`` holds the fields of ``QConfig``. Observations are raw everywhere; the frozen scaling and
    the exploration rate ``epsilon`` are part of the module and of its state. With ``normalize_returns``
    Q-values are in units of ``return_scaler``. It and the target network are missing where the module is
    ``inference_only`` (on env runners), and so they are from the weights sent there.

    A discrete action is one choice; a multi-discrete one is a branch per component.
    """

    head: EpsilonGreedyHead
    epsilon: torch.Tensor  # ()

    def setup(self) -> None:
        """Build the networks; RLlib calls it once, from the constructor.

        Raises:
            CapabilityError: actions are continuous.
        """
        fields = QConfig.__dataclass_fields__
        self.q_config = config = QConfig(
            **{k: v for k, v in (self.model_config or {}).items() if k in fields}
        )
        self.register_buffer("epsilon", torch.ones(()))
        shape = self.observation_space.shape
        self.network, self.input_shape = config.network, config.network.input_shape(shape)
        self.head = greedy_head(self.action_space, self.epsilon)
        self._distribution_class = distribution_class(self.head)
        self.observation_scaler = config.network.scaler(shape) if config.normalize_observations else None
        generator = generator_of(config.seed)
        self.online = self._make_network(generator)
        if not self.inference_only:
            self.target = self._make_network(generator).requires_grad_(False)
            self.make_target_networks()
            self.return_scaler = ReturnScaler() if config.normalize_returns else None

    def _make_network(self, generator: torch.Generator | None) -> QNetwork:
        return QNetwork(
            self.input_shape[0],
            self.head.num_outputs,
            hidden_sizes=self.network.hidden_sizes,
            activation=self.network.activation,
            dueling=self.q_config.dueling,
            branches=len(self.head.sizes),
            seed=generator,
        )

    @property
    def policy(self) -> GreedyNetwork:  # type: ignore[override]
        """What acts."""
        return GreedyNetwork(self.online)

    def get_non_inference_attributes(self) -> list[str]:
        """Name what acting does not need."""
        return ["target", "return_scaler"]

    @property
    def valued(self) -> QNetwork:
        """The online network."""
        return self.online

    def value_layers(self, network: Any) -> list[list[nn.Linear]]:
        """Return the layers of advantages and, where they are apart, of the state's value."""
        return [[head for head in (network.advantage, network.value) if head is not None]]

    @torch.no_grad()
    def forward_target(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the target network's Q-values (rows, O) of ``batch["obs"]``."""
        return {QF_PREDS: self.target(self.scaled(batch[Columns.OBS]))}

    # Q-values

    def compute_q_values(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the online network's Q-values (rows, O) of ``batch["obs"]``."""
        return {QF_PREDS: self.online(self.scaled(batch[Columns.OBS]))}

    def by_component(self, q: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
        """Turn Q-values (rows, O) into (rows, D, W), very low where there is no such choice, or where
        ``masks`` (rows, O) is false.
        """
        if masks is not None:
            q = q.masked_fill(~masks, IMPOSSIBLE)
        q = q.unflatten(-1, (len(self.head.sizes), self.head.width))
        return q.masked_fill(self.head.impossible[..., 0], IMPOSSIBLE) if self.head.padded else q

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        return {Columns.ACTION_DIST_INPUTS: self.compute_q_values(batch)[QF_PREDS]}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        return {**self.compute_q_values(batch), **self.next_q_values(batch)}

    @torch.no_grad()
    def next_q_values(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the Q-values (rows, O) of ``batch["new_obs"]`` that targets are made of."""
        x = self.scaled(batch[Columns.NEXT_OBS])
        outputs = {QF_TARGET_NEXT_PREDS: self.target(x)}
        if self.q_config.double:
            outputs[QF_NEXT_PREDS] = self.online(x)
        return outputs
