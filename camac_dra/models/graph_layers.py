"""Message passing along the edges of a graph; B graphs share the edges.

``nodes`` are (B, N, F); ``sources`` and ``targets`` (E,) say from whom to whom each edge goes; ``heard``
(B, E) is false for edges that carry nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from camac_dra.models.distributions import IMPOSSIBLE
from camac_dra.models.networks import HIDDEN_GAIN, linear

SLOPE = 0.2  # of the leaky rectifier in attention scores, as in the paper


class MeanLayer(nn.Module):
    """Own row and the mean of those heard, each through a linear layer (GraphSAGE, Hamilton et al. 2017)."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        activation: Callable[[torch.Tensor], torch.Tensor],
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.own = linear(input_size, output_size, HIDDEN_GAIN, generator)
        self.heard = linear(input_size, output_size, HIDDEN_GAIN, generator)
        self._activation = activation

    def forward(
        self, nodes: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor, heard: torch.Tensor | None
    ) -> torch.Tensor:
        """Map (B, N, F) to (B, N, H)."""
        messages = nodes[:, sources]  # (B, E, F)
        count = nodes.new_ones(messages.shape[:2]) if heard is None else heard.to(nodes.dtype)  # (B, E)
        sums = _sum_at(messages * count[..., None], targets, nodes.shape[1])
        counts = _sum_at(count[..., None], targets, nodes.shape[1])  # (B, N, 1)
        return self._activation(self.own(nodes) + self.heard(sums / counts.clamp_min(1.0)))

    def hub(self, own: torch.Tensor, others: torch.Tensor, heard: torch.Tensor) -> torch.Tensor:
        """Map the node (B, F) that hears ``others`` (B, M, F), those with ``heard`` (B, M), to (B, H)."""
        count = heard.to(others.dtype)  # (B, M)
        mean = (others * count[..., None]).sum(1) / count.sum(1, keepdim=True).clamp_min(1.0)
        return self._activation(self.own(own) + self.heard(mean))

    def alone(self, nodes: torch.Tensor) -> torch.Tensor:
        """Map nodes (B, M, F) that hear nobody to (B, M, H)."""
        return self._activation(self.own(nodes) + self.heard.bias)


class AttentionLayer(nn.Module):
    """Own row and an attended sum of those heard (GATv2, Brody et al. 2022)."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        num_heads: int,
        activation: Callable[[torch.Tensor], torch.Tensor],
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.own = linear(input_size, output_size, HIDDEN_GAIN, generator)
        self.source = linear(input_size, output_size, HIDDEN_GAIN, generator)
        self.target = linear(input_size, output_size, HIDDEN_GAIN, generator)
        self.score = nn.Parameter(torch.empty(num_heads, output_size // num_heads))  # (heads, D)
        nn.init.xavier_uniform_(self.score, generator=generator)
        self._activation = activation

    def forward(
        self, nodes: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor, heard: torch.Tensor | None
    ) -> torch.Tensor:
        """Map (B, N, F) to (B, N, H)."""
        size = nodes.shape[1]
        messages = self.source(nodes)[:, sources].unflatten(-1, self.score.shape)  # (B, E, heads, D)
        asked = self.target(nodes)[:, targets].unflatten(-1, self.score.shape)
        scores = (functional.leaky_relu(messages + asked, SLOPE) * self.score).sum(-1)  # (B, E, heads)
        if heard is not None:
            scores = scores.masked_fill(~heard[..., None], IMPOSSIBLE)
        mass = (scores - _highest_at(scores.detach(), targets, size)[:, targets]).exp()
        if heard is not None:
            mass = mass * heard[..., None]
        total = _sum_at(mass, targets, size)  # (B, N, heads)
        sums = _sum_at(messages * mass[..., None], targets, size)  # (B, N, heads, D)
        # The highest score alone contributes 1: below that, nobody was heard.
        found = sums / total.clamp_min(1.0)[..., None]
        return self._activation(self.own(nodes) + found.flatten(-2))

    def hub(self, own: torch.Tensor, others: torch.Tensor, heard: torch.Tensor) -> torch.Tensor:
        """Map the node (B, F) that hears ``others`` (B, M, F), those with ``heard`` (B, M), to (B, H)."""
        messages = self.source(others).unflatten(-1, self.score.shape)  # (B, M, heads, D)
        asked = self.target(own).unflatten(-1, self.score.shape)[:, None]  # (B, 1, heads, D)
        scores = (functional.leaky_relu(messages + asked, SLOPE) * self.score).sum(-1)  # (B, M, heads)
        mask = heard[..., None]
        weights = scores.masked_fill(~mask, IMPOSSIBLE).softmax(1) * mask
        found = (messages * weights[..., None]).sum(1)  # (B, heads, D)
        return self._activation(self.own(own) + found.flatten(-2))

    def alone(self, nodes: torch.Tensor) -> torch.Tensor:
        """Map nodes (B, M, F) that hear nobody to (B, M, H)."""
        return self._activation(self.own(nodes))


def _sum_at(values: torch.Tensor, targets: torch.Tensor, size: int) -> torch.Tensor:
    """Sum (B, E, ...) by target into (B, size, ...)."""
    sums = values.new_zeros(values.shape[0], size, *values.shape[2:])
    return sums.index_add(1, targets, values)


def _highest_at(values: torch.Tensor, targets: torch.Tensor, size: int) -> torch.Tensor:
    """Return the highest of (B, E, heads) by target, (B, size, heads); 0 where there is none."""
    start = values.new_zeros(values.shape[0], size, values.shape[2])
    index = targets[None, :, None].expand_as(values)
    return start.scatter_reduce(1, index, values, "amax", include_self=False)
