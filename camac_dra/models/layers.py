"""Fully connected layers forth and back, as one node of torch's graph or without it.

Everything lies in memory column by column, (outputs, rows), activations are computed in place, and so is
their gradient where nobody else has it: half of the memory traffic of a graph of single operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from camac_dra.models.products import affine_by_column, product
from camac_dra.utils.errors import ConfigurationError, did_you_mean

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


def activate_(x: torch.Tensor, name: str) -> torch.Tensor:
    """Apply an activation in place."""
    function = _IN_PLACE[name]
    return function.apply(x if function.scale == 1.0 else x.mul_(function.scale))


def activation(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the activation function of that name, or raise ``ConfigurationError``."""
    if name not in ACTIVATIONS:
        raise ConfigurationError(
            f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}."
            f"{did_you_mean(name, ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def hidden_layers(activation_name: str, x: torch.Tensor, layers: Iterable[nn.Linear]) -> torch.Tensor:
    """Return (rows, n) for ``x`` (rows, k), after linear layers that the activation follows each: one node of
    torch's graph.
    """
    parameters = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    return _HiddenLayers.apply(activation_name, x, *parameters)  # type: ignore[no-any-return]


class LayerStack:
    """Linear layers with an activation in between, which are run and differentiated without torch's graph.

    That is for gradients by the outputs that are known already. It spares what the graph costs for each
    operation, and Python is free for other threads more of the time.
    """

    def __init__(self, layers: Sequence[nn.Linear], activation_name: str) -> None:
        # Weight and bias of each layer.
        self.parameters = [parameter for layer in layers for parameter in layer.parameters()]
        self._activation = activation_name

    @classmethod
    def of(cls, layers: Sequence[nn.Linear], activation_name: str) -> LayerStack | None:
        """Return the stack of these layers; None where some of them do not learn."""
        stack = cls(layers, activation_name)
        return stack if all(parameter.requires_grad for parameter in stack.parameters) else None

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return ``x`` (rows, k) and what each layer makes of it, (rows, n), which `backward` takes."""
        return _forward(self._activation, x, self.parameters, linear_end=True)

    @torch.no_grad()
    def backward(self, outputs: list[torch.Tensor], by_last: torch.Tensor) -> list[torch.Tensor]:
        """Return the gradients by the parameters, from that by the last of what `forward` returned."""
        count = len(outputs) - 1
        found, _ = _backward(
            self._activation, outputs, self.parameters[::2], by_last, [True] * (2 * count), linear_end=True
        )
        return [gradient for gradient in found if gradient is not None]


def _forward(
    activation_name: str, x: torch.Tensor, parameters: Sequence[torch.Tensor], *, linear_end: bool = False
) -> list[torch.Tensor]:
    """Return ``x`` (rows, k) and the outputs (rows, n) of every layer, given weights and biases in turn; with
    ``linear_end`` no activation follows the last.
    """
    function, outputs = _IN_PLACE[activation_name], [x]
    for k in range(0, len(parameters), 2):
        weight, bias = parameters[k], parameters[k + 1]
        if linear_end and k + 2 == len(parameters):
            outputs.append(affine_by_column(outputs[-1], weight, bias).t())
            break
        if function.scale != 1.0:
            weight, bias = weight * function.scale, bias * function.scale
        outputs.append(function.apply(affine_by_column(outputs[-1], weight, bias)).t())
    return outputs


def _backward(
    activation_name: str,
    outputs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    by_last: torch.Tensor,
    needed: Sequence[bool],
    *,
    by_x: bool = False,
    linear_end: bool = False,
) -> tuple[list[torch.Tensor | None], torch.Tensor | None]:
    """Return the gradients by weights and biases in turn, where ``needed``, and that by ``x``."""
    slope, count = _IN_PLACE[activation_name].slope, len(weights)
    found: list[torch.Tensor | None] = []
    grad = by_last  # (rows, n)
    for k in reversed(range(count)):
        columns = grad.t().contiguous()  # (n, rows)
        if k + 1 < count or not linear_end:
            owned = columns if k + 1 < count else torch.empty_like(columns)  # the first is somebody else's
            columns = slope(columns, outputs[k + 1].t(), grad_input=owned)
        found += [
            columns.sum(1) if needed[2 * k + 1] else None,
            product(columns, outputs[k].t()) if needed[2 * k] else None,
        ]
        if k == 0 and not by_x:
            break
        grad = product(weights[k].t(), columns.t()).t()  # (rows, k)
    return found[::-1], grad if by_x else None


class _HiddenLayers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, activation_name: str, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        outputs = _forward(activation_name, x, parameters)
        ctx.save_for_backward(*outputs, *parameters[::2])
        ctx.activation_name = activation_name
        return outputs[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        count = len(ctx.saved_tensors) // 2  # of layers
        outputs, weights = ctx.saved_tensors[: count + 1], ctx.saved_tensors[count + 1 :]
        _, by_x, *needed = ctx.needs_input_grad
        found, grad_x = _backward(ctx.activation_name, outputs, weights, grad, needed, by_x=by_x)
        return None, grad_x, *found
