"""Optimisers, and all parameters of a network as one vector that is clipped and stepped as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn, optim

from camac_dra.training.settings import PPOSettings

ALIGNMENT = 16  # floats; every parameter begins at a multiple of 64 bytes, where matrix products are fastest


class FlatParameters:
    """Moves a module's parameters into ``vector``, of which they become views; their values stay.

    The module keeps working, saving and loading as before. ``vector`` is what an optimiser steps on; the gaps
    between parameters are zero and have no gradient.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parameters = list(module.parameters())
        starts, size = [], 0
        for parameter in self.parameters:
            starts.append(size)
            size += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
        self.vector = nn.Parameter(torch.zeros(size))
        self.vector.grad = torch.zeros(size)
        self._slots: list[torch.Tensor] = []  # views of the gradient
        for parameter, start in zip(self.parameters, starts, strict=True):
            place = slice(start, start + parameter.numel())
            values = self.vector.data[place].view_as(parameter)
            values.copy_(parameter.data)
            parameter.data = values
            self._slots.append(self.vector.grad[place].view_as(parameter))

    def set_gradient(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """Take over one gradient per parameter; return the vector of all, which is ``vector.grad``."""
        torch._foreach_copy_(self._slots, list(gradients))
        assert self.vector.grad is not None
        return self.vector.grad


def make_optimizer(settings: PPOSettings, vector: nn.Parameter) -> optim.Optimizer:
    """Return the optimiser that the settings name, in its fused form where torch has one."""
    if settings.optimizer == "adam":
        return optim.Adam([vector], lr=settings.learning_rate, eps=1e-5, fused=True)
    if settings.optimizer == "sgd":
        return optim.SGD([vector], lr=settings.learning_rate, momentum=0.9, fused=True)
    return optim.RMSprop([vector], lr=settings.learning_rate, alpha=0.99, eps=1e-5, foreach=True)
