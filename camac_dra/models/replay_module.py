"""What the RLModules of DQN and SAC share: a target network that lags behind, and the units of values."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, TargetNetworkAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import nn

from camac_dra.models.array_policy import ActingPart
from camac_dra.models.normalization import ReturnScaler, RunningMoments
from camac_dra.models.rl_module import HeadDistribution


class ReplayModule(ActingPart, TorchRLModule, InferenceOnlyAPI, TargetNetworkAPI):
    """A module with values of actions, and with a ``target`` of the same layers that lags behind them.

    Values are in units of ``return_scaler``, in real units where it is None. Both are missing where the
    module is ``inference_only`` (on env runners).
    """

    target: nn.Module
    return_scaler: ReturnScaler | None
    _distribution_class: type[HeadDistribution]

    @property
    @abstractmethod
    def valued(self) -> nn.Module:
        """What the target lags behind."""

    @abstractmethod
    def value_layers(self, network: Any) -> list[list[nn.Linear]]:
        """Return, of ``valued`` or the target, the layers that add up to a value, for each value it has."""

    def get_inference_action_dist_cls(self) -> type[HeadDistribution]:
        """Return the distribution class over this module's action space, for all three phases."""
        return self._distribution_class

    def forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        """Skip RLlib's switch into training mode for every minibatch: these layers know one mode only."""
        return self._forward_train(batch, **kwargs)

    def make_target_networks(self) -> None:
        """Make the target a copy of what it lags behind."""
        self.target.load_state_dict(self.valued.state_dict())

    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Return what the target lags behind, and the target."""
        return [(self.valued, self.target)]

    @torch.no_grad()
    def set_return_moments(self, moments: RunningMoments) -> None:
        """Change the units of the values, keeping the predictions of both networks (PopArt, van Hasselt et
        al. 2016).
        """
        scaler = self.return_scaler
        assert scaler is not None
        mean, std = float(moments.mean[0]), float(moments.std[0])
        factor, shift = float(scaler.std) / std, (float(scaler.mean) - mean) / std
        for layers in [*self.value_layers(self.valued), *self.value_layers(self.target)]:
            for layer in layers:
                layer.weight.mul_(factor)
                layer.bias.mul_(factor)
            layers[-1].bias.add_(shift)  # once, however many add up
        scaler.mean.fill_(mean)
        scaler.std.fill_(std)
