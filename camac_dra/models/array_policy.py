"""Acting for all copies and agents at once, without gradients: what env runners and evaluation use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional

from camac_dra.models.distributions import ActionDistribution, ActionHead
from camac_dra.models.networks import DistributionNetwork
from camac_dra.models.normalization import ObservationScaler
from camac_dra.utils.errors import ConfigurationError


class ActingModule(Protocol):
    """What of a module acting needs; an `ActorCriticModule` is one, and an `Actor`."""

    head: ActionHead
    observation_size: int
    policy: DistributionNetwork

    @property
    def observation_scaler(self) -> torch.nn.Module | None:
        """What scales observations, or None."""
        ...


BLOCK_ROWS = 1024  # rows whose activations stay in the second-level cache


def _activate_(x: torch.Tensor, name: str) -> torch.Tensor:
    """Apply an activation in place."""
    if name == "relu":
        return x.relu_()
    if name == "elu":
        return functional.elu(x, inplace=True)
    return x.mul_(2.0).sigmoid_().mul_(2.0).sub_(1.0)


@dataclass(frozen=True, slots=True)
class _Layers:
    """Weights of G networks of one shape: lists over layers of (G, in, out) and (G, 1, out)."""

    weights: list[torch.Tensor]
    biases: list[torch.Tensor]
    log_std: torch.Tensor | None  # (G, 1, D)
    mean: torch.Tensor | None  # (G, 1, F)
    scale: torch.Tensor | None  # (G, 1, F)
    clip: float
    activation: str


def _stack(modules: Sequence[ActingModule]) -> _Layers:
    policies = [m.policy for m in modules]
    layers = [p.layers() for p in policies]
    depth = range(len(layers[0]))
    scalers = [s for m in modules if isinstance(s := m.observation_scaler, ObservationScaler)]
    log_stds = [p.log_std for p in policies if p.log_std is not None]
    return _Layers(
        weights=[torch.stack([net[d].weight.t() for net in layers]) for d in depth],
        biases=[torch.stack([net[d].bias[None] for net in layers]) for d in depth],
        log_std=torch.stack([s[None] for s in log_stds]) if log_stds else None,
        mean=torch.stack([s.mean[None] for s in scalers]) if scalers else None,
        scale=torch.stack([s.scale[None] for s in scalers]) if scalers else None,
        clip=scalers[0].clip if scalers else 0.0,
        activation=policies[0].torso.activation_name,
    )


def _forward(layers: _Layers, x: torch.Tensor) -> torch.Tensor:
    """Map observations (G, rows, F) to network outputs (O, G, rows)."""
    if layers.mean is not None and layers.scale is not None:
        x = ((x - layers.mean).mul_(layers.scale)).clamp_(-layers.clip, layers.clip)
    if len(x) == 1:
        return _forward_one(layers, x[0])[:, None]
    for weight, bias in zip(layers.weights[:-1], layers.biases[:-1], strict=True):
        x = _activate_(torch.baddbmm(bias, x, weight), layers.activation)
    outputs = torch.bmm(layers.weights[-1].mT, x.mT)  # (G, O, rows)
    return outputs.add_(layers.biases[-1].mT).transpose(0, 1)


def _forward_one(layers: _Layers, x: torch.Tensor) -> torch.Tensor:
    """Map (rows, F) to (O, rows) with a single network; unbatched products are faster."""
    for weight, bias in zip(layers.weights[:-1], layers.biases[:-1], strict=True):
        x = _activate_(torch.addmm(bias[0], x, weight[0]), layers.activation)
    return torch.addmm(layers.biases[-1][0].t(), layers.weights[-1][0].t(), x.t())


class ArrayPolicy:
    """The policies of N agents, applied to (B, N) observations in as few matrix products as possible.

    ``assignment[i]`` is the index of the module that decides for agent i. One module for everybody is one
    product per layer; several modules with equally many agents each are one batched product per layer.
    """

    def __init__(self, modules: Sequence[ActingModule], assignment: Sequence[int]) -> None:
        self.head: ActionHead = modules[0].head
        self.observation_size = modules[0].observation_size
        self.num_agents = len(assignment)
        members = [np.flatnonzero(np.asarray(assignment) == m) for m in range(len(modules))]
        if len({len(m) for m in members}) != 1 or len(members[0]) == 0:
            raise ConfigurationError(
                f"assignment must give every module equally many agents, got {[len(m) for m in members]}"
            )
        self._modules = list(modules)
        order = np.concatenate(members)
        self._order = None if (order == np.arange(self.num_agents)).all() else torch.from_numpy(order)
        self._inverse = None if self._order is None else torch.from_numpy(np.argsort(order))
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the modules' weights; call it after they changed."""
        self._layers = _stack(self._modules)

    @torch.inference_mode()
    def act(
        self, observations: torch.Tensor, generator: torch.Generator | None, *, explore: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return actions (B, N, *action_shape) and their log-probabilities (B, N).

        ``observations`` is (B, N, *shape) float32. Without ``explore`` the most likely actions are taken,
        whose log-probabilities are those under the sampling distribution.
        """
        copies = observations.shape[0]
        rows = self._rows(
            observations.reshape(copies, self.num_agents, self.observation_size)
        )  # (G, rows, F)
        step = max(1, BLOCK_ROWS // len(self._modules))
        parts = [self._act_on(block, generator, explore) for block in rows.split(step, dim=1)]
        actions, log_probs = (
            parts[0] if len(parts) == 1 else (torch.cat(c, dim=1) for c in zip(*parts, strict=True))
        )
        return self._by_agent(actions, copies), self._by_agent(log_probs, copies)

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        """Turn (B, N, F) into (G, B * N / G, F)."""
        copies, groups = len(x), len(self._modules)
        if groups == 1:
            return x.reshape(1, -1, self.observation_size)
        x = x if self._order is None else x[:, self._order]
        return (
            x.reshape(copies, groups, -1, self.observation_size)
            .transpose(0, 1)
            .reshape(groups, -1, x.shape[-1])
        )

    def _act_on(
        self, rows: torch.Tensor, generator: torch.Generator | None, explore: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return actions (G, rows, *action_shape) and log-probabilities (G, rows) for (G, rows, F)."""
        groups = len(rows)
        distribution = self._distribution(_forward(self._layers, rows))
        if explore:
            actions, log_probs = distribution.sample(generator)
        else:
            actions = distribution.mode()
            log_probs = distribution.log_prob(actions)
        return actions.unflatten(0, (groups, -1)), log_probs.unflatten(0, (groups, -1))

    def _distribution(self, outputs: torch.Tensor) -> ActionDistribution:
        """Read network outputs (O, G, rows)."""
        if self._layers.log_std is not None:  # (G, 1, D)
            log_std = self._layers.log_std.permute(2, 0, 1)  # (D, G, 1)
            outputs = torch.cat([outputs, log_std.expand_as(outputs)], dim=0)
        return self.head.distribution(outputs.flatten(1))

    def _by_agent(self, grouped: torch.Tensor, copies: int) -> torch.Tensor:
        """Turn (G, B * N / G, ...) into (B, N, ...)."""
        if len(self._modules) == 1:
            return grouped.reshape(copies, self.num_agents, *grouped.shape[2:])
        split = grouped.unflatten(1, (copies, -1)).transpose(0, 1)  # (B, G, N / G, ...)
        result = split.reshape(copies, self.num_agents, *grouped.shape[2:])
        return result if self._inverse is None else result[:, self._inverse]
