"""What models are made of: fully connected layers, recurrent units, and outputs for distributions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from types import EllipsisType
from typing import Any

import torch
from torch import nn

from camac_dra.models.distributions import ActionHead, GaussianHead
from camac_dra.models.layers import LayerStack, activation, hidden_layers
from camac_dra.models.products import Linear, affine_by_column
from camac_dra.utils.errors import ModelError

POLICY_GAIN = (
    0.01  # first policies are nearly uniform (Andrychowicz et al. 2021, "What matters in on-policy RL")
)
HIDDEN_GAIN = math.sqrt(2.0)

Seed = int | torch.Generator | None  # of initial weights; None: torch's global generator


def generator_of(seed: Seed) -> torch.Generator | None:
    """Return the generator that initial weights are drawn with."""
    return torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed


def linear(inputs: int, outputs: int, gain: float, generator: torch.Generator | None) -> nn.Linear:
    """Return a linear layer with orthogonal weights scaled by ``gain`` (Saxe et al. 2014) and zero bias."""
    layer = Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Module):
    """Fully connected layers, each followed by the activation; with no layers it is the identity."""

    def __init__(
        self,
        input_size: int,
        hidden_sizes: Sequence[int],
        activation_name: str,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = [input_size, *hidden_sizes]
        self.layers: Iterable[nn.Linear] = nn.ModuleList(  # type: ignore[assignment]
            linear(a, b, HIDDEN_GAIN, generator) for a, b in itertools.pairwise(sizes)
        )
        self.activation_name = activation_name
        self.output_size = sizes[-1]
        self._activation = activation(activation_name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., input_size) to (..., output_size); what comes of (rows, input_size) lies in memory column
        by column.
        """
        if x.ndim == 2 and self.layers and not torch.compiler.is_compiling():
            return hidden_layers(self.activation_name, x, self.layers)
        for layer in self.layers:
            x = self._activation(layer(x))
        return x


class RecurrentTorso(nn.Module):
    """Fully connected layers and a gated recurrent unit (Cho et al. 2014), whose memory is the output.

    An empty memory is zero; called without one, every row is the first of its episode.
    """

    def __init__(
        self,
        input_size: int,
        hidden_sizes: Sequence[int],
        activation_name: str,
        recurrent_size: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.mlp = MLP(input_size, hidden_sizes, activation_name, generator)
        self.cell = nn.GRUCell(self.mlp.output_size, recurrent_size)
        for weight in (self.cell.weight_ih, self.cell.weight_hh):
            for gate in weight.data.chunk(3):
                nn.init.orthogonal_(gate, generator=generator)
        nn.init.zeros_(self.cell.bias_ih)
        nn.init.zeros_(self.cell.bias_hh)
        self.activation_name = activation_name
        self.output_size = recurrent_size

    def step(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """Return the memory (rows, M) after seeing (rows, input_size)."""
        return self.cell(self.mlp(x), memory)

    def sequence(
        self, x: torch.Tensor, memory: torch.Tensor, starts: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the memories (T, rows, M) after each of the steps (T, rows, input_size).

        ``memory`` (rows, M) is that before the first step; where ``starts`` (T, rows) is true, an episode
        begins and what was remembered is forgotten.
        """
        embedded = self.mlp(x)  # (T, rows, H)
        memories = []
        for t, now in enumerate(embedded):
            if starts is not None:
                memory = memory.masked_fill(starts[t, :, None], 0.0)
            memory = self.cell(now, memory)
            memories.append(memory)
        return torch.stack(memories)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (rows, input_size), each the first of its episode, to (rows, M)."""
        return self.step(x, x.new_zeros(len(x), self.output_size))


def make_torso(
    input_size: int,
    hidden_sizes: Sequence[int],
    activation_name: str,
    recurrent_size: int | None,
    generator: torch.Generator | None,
) -> MLP | RecurrentTorso:
    """Return a torso with or without memory."""
    if recurrent_size is None:
        return MLP(input_size, hidden_sizes, activation_name, generator)
    return RecurrentTorso(input_size, hidden_sizes, activation_name, recurrent_size, generator)


class DistributionNetwork(nn.Module):
    """Torso and output layer that turn observations into inputs of an action distribution.

    With ``output`` None the torso's outputs are final.
    """

    def __init__(
        self,
        torso: Any,
        head: ActionHead,
        generator: torch.Generator | None = None,
        output: nn.Linear | EllipsisType | None = ...,
    ) -> None:
        """``output`` is made unless it is given, from the ``output_size`` that the torso, a module, has."""
        super().__init__()
        self.torso = torso
        if isinstance(output, EllipsisType):
            output = linear(torso.output_size, head.num_outputs, POLICY_GAIN, generator)
        self.output = output
        self.log_std = (
            nn.Parameter(torch.full((head.size,), -0.5)) if isinstance(head, GaussianHead) else None
        )

    def stack(self) -> LayerStack | None:
        """Return the layers as a stack where they are all there is, and all of them learn."""
        if not self.is_layered or self.log_std is not None:
            return None
        return LayerStack.of(self.layers(), self.torso.activation_name)

    @property
    def is_layered(self) -> bool:
        """Whether linear layers with an activation in between are all there is."""
        return isinstance(self.torso, MLP) and self.output is not None

    def layers(self) -> list[nn.Linear]:
        """Return the linear layers from observations to outputs.

        Raises:
            ModelError: they are not all there is.
        """
        if not isinstance(self.torso, MLP) or self.output is None:
            raise ModelError(
                f"policy must be fully connected layers to be taken apart, got a {type(self.torso).__name__}"
            )
        return [*self.torso.layers, self.output]

    def outputs_of(self, features: torch.Tensor) -> torch.Tensor:
        """Map the torso's output (rows, H) to logits or means (num_outputs, rows), component-major."""
        if self.output is None:
            return features.t()
        return affine_by_column(features, self.output.weight, self.output.bias)

    def from_features(self, features: torch.Tensor) -> torch.Tensor:
        """Map the torso's output (rows, H) to distribution inputs (O, rows), component-major."""
        outputs = self.outputs_of(features)
        if self.log_std is None:
            return outputs
        return torch.cat([outputs, self.log_std[:, None].expand_as(outputs)], dim=0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map observations (rows, *shape) to distribution inputs (O, rows), component-major."""
        return self.from_features(self.torso(x))
