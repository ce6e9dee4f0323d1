"""A squashed Gaussian policy, twin critics and their targets as an RLModule of RLlib's new API stack."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from ray.rllib.algorithms.sac.sac_learner import QF_PREDS, QF_TARGET_NEXT, QF_TWIN_PREDS
from ray.rllib.core.columns import Columns
from torch import nn

from camac_dra.models.network_spec import NetworkSpec
from camac_dra.models.networks import generator_of
from camac_dra.models.normalization import ReturnScaler
from camac_dra.models.replay_heads import SquashedGaussianHead, squashed_head
from camac_dra.models.replay_module import ReplayModule
from camac_dra.models.rl_module import distribution_class
from camac_dra.models.value_network import ValueNetwork
from camac_dra.utils.errors import CapabilityError

LOGP, NEXT_LOGP, Q_CURRENT = "logp_resampled", "logp_next_resampled", "q_curr"  # RLlib's names


@dataclass(frozen=True)
class SACConfig:
    """What a ``SACModule`` is built from, besides its spaces."""

    network: NetworkSpec = field(default_factory=NetworkSpec)
    normalize_observations: bool = False
    normalize_returns: bool = False
    initial_temperature: float = 0.1
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
                "model.type: 'sac' needs fully connected layers without memory, got "
                f"{self.network.kind!r} with recurrent_size {self.network.recurrent_size}"
            )


class TwinCritics(nn.Module):
    """Two values of what is seen and done (Fujimoto et al. 2018)."""

    def __init__(self, inputs: int, config: SACConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        self.first, self.second = (
            ValueNetwork(
                inputs,
                hidden_sizes=config.network.hidden_sizes,
                activation=config.network.activation,
                seed=generator,
            )
            for _ in range(2)
        )

    def forward(self, x: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map scaled observations (rows, F) and actions (rows, D) to two values (rows,)."""
        both = torch.cat([x, actions], dim=1)
        return self.first(both)[:, 0], self.second(both)[:, 0]


class SACModule(ReplayModule):
    """What soft actor-critic learns (Haarnoja et al. 2018), over flat or flattened observations.

    ``model_config`` holds the fields of ``SACConfig``. Observations are raw everywhere; the frozen scaling is
    part of the module and of its state. With ``normalize_returns`` values and the temperature are in units of
    ``return_scaler``. Critics, temperature and units are missing where the module is ``inference_only``.

    Attributes:
        generator: what actions are drawn with in training; None: torch's global one.
    """

    head: SquashedGaussianHead

    def setup(self) -> None:
        """Build the networks; RLlib calls it once, from the constructor.

        Raises:
            CapabilityError: actions are not continuous and bounded.
        """
        fields = SACConfig.__dataclass_fields__
        self.sac_config = config = SACConfig(
            **{k: v for k, v in (self.model_config or {}).items() if k in fields}
        )
        self.generator: torch.Generator | None = None
        self.head = squashed_head(self.action_space)
        self._distribution_class = distribution_class(self.head)
        shape = self.observation_space.shape
        self.network, self.input_shape = config.network, config.network.input_shape(shape)
        self.observation_scaler = config.network.scaler(shape) if config.normalize_observations else None
        seeded = generator_of(config.seed)
        self.policy = config.network.policy(shape, self.head, seeded)
        if not self.inference_only:
            inputs = self.input_shape[0] + self.head.size
            self.critics = TwinCritics(inputs, config, seeded)
            self.target = TwinCritics(inputs, config, seeded).requires_grad_(False)
            self.make_target_networks()
            self.log_temperature = nn.Parameter(torch.tensor([math.log(config.initial_temperature)]))
            self.return_scaler = ReturnScaler() if config.normalize_returns else None

    def get_non_inference_attributes(self) -> list[str]:
        """Name what acting does not need."""
        return ["critics", "target", "log_temperature", "return_scaler"]

    @property
    def valued(self) -> TwinCritics:
        """The critics."""
        return self.critics

    def value_layers(self, network: Any) -> list[list[nn.Linear]]:
        """Return the last layer of either critic."""
        return [[network.first.output], [network.second.output]]

    @torch.no_grad()
    def forward_target(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the lower of the target critics' values of new actions in the next observations, and the
        log-probabilities of those actions (rows,).
        """
        x = self.scaled(batch[Columns.NEXT_OBS])
        actions, log_probs = self.draw(x)
        return {QF_TARGET_NEXT: torch.minimum(*self.target(x, actions)), NEXT_LOGP: log_probs}

    # Forward passes

    def draw(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw actions (rows, D) for (rows, F), with their log-probabilities (rows,) and gradients."""
        return self.head.distribution(self.policy(x)).sample(self.generator)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        return {Columns.ACTION_DIST_INPUTS: self.policy(self.scaled(batch[Columns.OBS])).t()}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        """Return what RLlib's loss takes: values of what was done and of what would be done now."""
        x = self.scaled(batch[Columns.OBS])
        first, second = self.critics(x, batch[Columns.ACTIONS])
        actions, log_probs = self.draw(x)
        return {
            QF_PREDS: first,
            QF_TWIN_PREDS: second,
            LOGP: log_probs,
            Q_CURRENT: torch.minimum(*self._frozen_critics(x, actions)),
            **self.forward_target(batch),
        }

    def _frozen_critics(self, x: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the critics' values, with gradients by the actions only."""
        frozen = {name: value.detach() for name, value in self.critics.named_parameters()}
        return torch.func.functional_call(self.critics, frozen, (x, actions))
