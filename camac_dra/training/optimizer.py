"""Optimisers, and all parameters of a network as one vector that is clipped and stepped as one."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn, optim

from camac_dra.utils.errors import ConfigurationError, TrainingDivergedError, did_you_mean

ALIGNMENT = 16  # floats; every parameter begins at a multiple of 64 bytes, where matrix products are fastest
OPTIMIZERS = ("adam", "sgd", "rmsprop", "adamw")


class FlatParameters:
    """Moves a module's trainable parameters into ``vector``, of which they become views; their values stay.

    The module keeps working, saving and loading as before. ``vector`` is what an optimiser steps on; the gaps
    between parameters are zero and have no gradient.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        starts, size = [], 0
        for parameter in self.parameters:
            starts.append(size)
            size += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
        device = self.parameters[0].device
        self.vector = nn.Parameter(torch.zeros(size, device=device))
        self.vector.grad = torch.zeros(size, device=device)
        places = [
            slice(start, start + parameter.numel())
            for start, parameter in zip(starts, self.parameters, strict=True)
        ]
        pairs = list(zip(places, self.parameters, strict=True))
        self._values = [self.vector.data[place].view_as(parameter) for place, parameter in pairs]
        self._slots = [self.vector.grad[place].view_as(parameter) for place, parameter in pairs]
        self.attach()

    def attach(self) -> None:
        """Take the parameters (back) into the vector, with the values that they have now."""
        for values, parameter in zip(self._values, self.parameters, strict=True):
            if parameter.data_ptr() != values.data_ptr():
                values.copy_(parameter.data)
                parameter.data = values

    def gradient_by(self, parameters: Iterable[nn.Parameter]) -> PartialGradient:
        """Return what differentiates by some of the parameters; those without a gradient are passed over."""
        slots = {id(p): slot for p, slot in zip(self.parameters, self._slots, strict=True)}
        chosen = [p for p in parameters if p.requires_grad]
        return PartialGradient(chosen, [slots[id(p)] for p in chosen])


class PartialGradient:
    """The gradient by some of the parameters that `FlatParameters` hold."""

    def __init__(self, parameters: list[nn.Parameter], slots: list[torch.Tensor]) -> None:
        """``slots`` are views of the vector's gradient, in the shapes of ``parameters``."""
        self._parameters, self._slots = parameters, slots

    def differentiate(
        self, outputs: Sequence[torch.Tensor], by_outputs: Sequence[torch.Tensor | None]
    ) -> None:
        """Differentiate ``outputs``, given the gradients by them (None: of a loss), and take over the result:
        zero for what they do not depend on.
        """
        pairs = [pair for pair in zip(outputs, by_outputs, strict=True) if pair[0].requires_grad]
        if not pairs or not self._parameters:
            for slot in self._slots:
                slot.zero_()
            return
        gradients = torch.autograd.grad(
            [output for output, _ in pairs],
            self._parameters,
            [given for _, given in pairs],
            allow_unused=True,
            materialize_grads=True,
        )
        self.take(gradients)

    def take(self, gradients: Sequence[torch.Tensor]) -> None:
        """Take over one gradient per parameter, in their order."""
        torch._foreach_copy_(self._slots, list(gradients))


class Optimizer:
    """Steps all parameters of a module as one vector: differentiate, refuse what is not finite, clip, step.

    Attributes:
        vector: all parameters, as an `nn.Parameter`.
        torch_optimizer: what steps on ``vector``, in its fused form where torch has one.
    """

    def __init__(
        self,
        module: nn.Module,
        kind: str = "adam",
        learning_rate: float = 1e-3,
        grad_clip: float | None = None,
        *,
        name: str = "the model",
    ) -> None:
        """Take over the module's parameters.

        Args:
            module: whose parameters; they become views of one vector.
            kind: one of adam (Kingma and Ba 2015), sgd (with momentum 0.9), rmsprop, adamw (with weight decay
                0.01, Loshchilov and Hutter 2019).
            learning_rate: step size.
            grad_clip: largest global norm of the gradient; None: none.
            name: of the module, in messages.

        Raises:
            ConfigurationError: the kind is not known, or a number is not positive and finite.
        """
        for setting, value in (("learning_rate", learning_rate), ("grad_clip", grad_clip)):
            if value is not None and not 0.0 < value < math.inf:
                raise ConfigurationError(f"{setting} must be a finite number above 0, got {value!r}")
        self.grad_clip = grad_clip
        self._name = name
        self._flat = FlatParameters(module)
        self._whole = self._flat.gradient_by(self._flat.parameters)
        self.vector = self._flat.vector
        self.torch_optimizer = _torch_optimizer(kind, self.vector, learning_rate)

    @property
    def learning_rate(self) -> float:
        """Step size from now on."""
        return float(self.torch_optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.torch_optimizer.param_groups[0]["lr"] = value

    def step(self, loss: torch.Tensor) -> float:
        """Move the parameters against the gradient of ``loss``; return the gradient's norm before clipping.

        Raises:
            TrainingDivergedError: the loss or the gradient is not finite; the parameters are as they were.
        """
        self.differentiate(loss)
        norm = self.clip()
        self.torch_optimizer.step()
        return norm

    def differentiate(self, loss: torch.Tensor) -> torch.Tensor:
        """Return the gradient of ``loss`` by all parameters, which is ``vector.grad`` from now on.

        Raises:
            TrainingDivergedError: the loss is not finite.
        """
        self.refuse_unless_finite(loss.item())
        self._whole.differentiate([loss], [None])
        assert self.vector.grad is not None
        return self.vector.grad

    def gradient_by(self, parameters: Iterable[nn.Parameter]) -> PartialGradient:
        """Return what differentiates by some of the parameters alone; parts of them that have none in common
        may be differentiated at the same time.
        """
        return self._flat.gradient_by(parameters)

    def refuse_unless_finite(self, loss: float) -> None:
        """Raise ``TrainingDivergedError`` where the loss is not finite."""
        if not math.isfinite(loss):
            raise TrainingDivergedError(f"loss of {self._name} must be finite, got {loss}")

    def take(self, gradient: torch.Tensor) -> torch.Tensor:
        """Take over a gradient by all parameters; return it, which is ``vector.grad`` from now on."""
        assert self.vector.grad is not None
        return self.vector.grad.copy_(gradient)

    def clip(self) -> float:
        """Scale the gradient down to the norm ``grad_clip`` where it is longer; return its norm before.

        Raises:
            TrainingDivergedError: the norm is not finite.
        """
        gradient = self.vector.grad
        assert gradient is not None
        norm = torch.linalg.vector_norm(gradient).item()
        if not math.isfinite(norm):
            gradient.zero_()  # also between the parameters, where nothing else is written
            raise TrainingDivergedError(f"gradient of {self._name} must be finite, got norm {norm}")
        if self.grad_clip is not None and norm > self.grad_clip:
            gradient.mul_(self.grad_clip / norm)
        return norm

    def attach(self) -> None:
        """Take the parameters back where somebody else has taken them over since."""
        self._flat.attach()

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the optimiser's state, without the parameters."""
        return copy.deepcopy(self.torch_optimizer.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.torch_optimizer.load_state_dict(copy.deepcopy(state))  # torch would keep its tensors


def _torch_optimizer(kind: str, vector: nn.Parameter, learning_rate: float) -> optim.Optimizer:
    if kind == "adam":
        return optim.Adam([vector], lr=learning_rate, eps=1e-5, fused=True)
    if kind == "adamw":
        return optim.AdamW([vector], lr=learning_rate, eps=1e-5, fused=True)
    if kind == "sgd":
        return optim.SGD([vector], lr=learning_rate, momentum=0.9, fused=True)
    if kind == "rmsprop":
        return optim.RMSprop([vector], lr=learning_rate, alpha=0.99, eps=1e-5, foreach=True)
    raise ConfigurationError(
        f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {kind!r}.{did_you_mean(kind, OPTIMIZERS)}"
    )
