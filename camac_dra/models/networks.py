"""What models are made of: fully connected layers, recurrent units, and outputs for distributions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import EllipsisType
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from camac_dra.models.distributions import ActionHead, GaussianHead
from camac_dra.models.products import Linear, affine_by_column, product
from camac_dra.utils.errors import ConfigurationError, ModelError, did_you_mean

POLICY_GAIN = (
    0.01  # first policies are nearly uniform (Andrychowicz et al. 2021, "What matters in on-policy RL")
)
HIDDEN_GAIN = math.sqrt(2.0)
_MINUS_ONE = torch.tensor(-1.0)  # of any device and type, being a single number


class _Tanh(torch.autograd.Function):
    """tanh as ``2 sigmoid(2x) - 1``: equal to 1e-7, several times faster than torch.tanh on x86 CPUs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        y = _tanh_of_half_(x * 2.0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(grad, y)  # type: ignore[no-any-return]


def _tanh_of_half_(x: torch.Tensor) -> torch.Tensor:
    """Turn ``x`` into tanh(x / 2), in place and in two passes."""
    x.sigmoid_()
    return torch.add(_MINUS_ONE, x, alpha=2.0, out=x)


def fast_tanh(x: torch.Tensor) -> torch.Tensor:
    """Return tanh(x), to an absolute error of about 1e-7."""
    if torch.compiler.is_compiling():
        return torch.tanh(x)
    return _Tanh.apply(x)  # type: ignore[no-any-return]


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": functional.relu,
    "elu": functional.elu,
    "tanh": fast_tanh,
}


@dataclass(frozen=True, slots=True)
class _InPlace:
    """An activation ``f`` of `ACTIVATIONS` and its gradient, both in place."""

    apply: Callable[[torch.Tensor], torch.Tensor]  # f(x) from x * scale
    slope: Callable[..., torch.Tensor]  # (gradient by f(x), f(x), grad_input=where to put that by x)
    scale: float = 1.0  # a power of two, which changes no digit


_IN_PLACE = {
    "relu": _InPlace(torch.relu_, partial(torch.ops.aten.threshold_backward.grad_input, threshold=0.0)),
    "elu": _InPlace(
        functional.elu_,
        lambda grad, y, grad_input: torch.ops.aten.elu_backward.grad_input(
            grad, 1.0, 1.0, 1.0, True, y, grad_input=grad_input
        ),
    ),
    "tanh": _InPlace(_tanh_of_half_, torch.ops.aten.tanh_backward.grad_input, scale=2.0),
}


def activation(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the activation function of that name, or raise ``ConfigurationError``."""
    if name not in ACTIVATIONS:
        raise ConfigurationError(
            f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}."
            f"{did_you_mean(name, ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


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


class _Layers(torch.autograd.Function):
    """Linear layers, each followed by the activation, as one node of the graph.

    Everything lies in memory column by column, (outputs, rows), activations are computed in place, and so is
    their gradient where nobody else has it: half of the memory traffic of a graph of single operations.
    """

    @staticmethod
    def forward(ctx: Any, activation_name: str, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        """Return (rows, n) for ``x`` (rows, k) and the layers' weights and biases."""
        function = _IN_PLACE[activation_name]
        weights, biases = parameters[::2], parameters[1::2]
        outputs = [x]
        for weight, bias in zip(weights, biases, strict=True):
            if function.scale != 1.0:
                weight, bias = weight * function.scale, bias * function.scale
            outputs.append(function.apply(affine_by_column(outputs[-1], weight, bias)).t())
        ctx.save_for_backward(*outputs, *weights)
        ctx.slope = function.slope
        return outputs[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Return the gradients by ``x`` and the parameters, where they are needed."""
        count = len(ctx.saved_tensors) // 2  # of layers
        outputs, weights = ctx.saved_tensors[: count + 1], ctx.saved_tensors[count + 1 :]
        _, by_x, *by_parameters = ctx.needs_input_grad
        found: list[torch.Tensor | None] = []
        for k in reversed(range(count)):
            columns, y = grad.t().contiguous(), outputs[k + 1].t()  # (n, rows)
            owned = columns if k + 1 < count else torch.empty_like(columns)  # the first is somebody else's
            columns = ctx.slope(columns, y, grad_input=owned)
            found += [
                columns.sum(1) if by_parameters[2 * k + 1] else None,
                product(columns, outputs[k].t()) if by_parameters[2 * k] else None,
            ]
            if k == 0 and not by_x:
                break
            grad = product(weights[k].t(), columns.t()).t()  # (rows, k)
        return None, grad if by_x else None, *reversed(found)


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
            parameters = [p for layer in self.layers for p in (layer.weight, layer.bias)]
            return _Layers.apply(self.activation_name, x, *parameters)  # type: ignore[no-any-return]
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
