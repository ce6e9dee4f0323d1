"""A network that estimates returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from camac_dra.models.base import BaseModel
from camac_dra.models.checks import last_axis, sizes, whole_number
from camac_dra.models.layers import LayerStack
from camac_dra.models.networks import MLP, RecurrentTorso, Seed, generator_of, linear, make_torso
from camac_dra.models.products import affine_by_column
from camac_dra.utils.errors import ModelError


class ValueNetwork(BaseModel):
    """Estimates ``output_size`` returns of a state (one: the state's value).

    Fully connected layers of ``hidden_sizes`` with ``activation`` (relu, elu, tanh), with
    ``recurrent_size`` a gated recurrent unit on top, and a linear output.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int = 1,
        *,
        hidden_sizes: Sequence[int] = (128, 128),
        activation: str = "relu",
        recurrent_size: int | None = None,
        seed: Seed = None,
    ) -> None:
        """``seed``, or the generator itself, decides the initial weights; None: torch's global generator."""
        super().__init__(input_size, output_size)
        self.hidden_sizes = sizes("hidden_sizes", hidden_sizes)
        self.activation = activation
        self.recurrent_size = (
            None if recurrent_size is None else whole_number("recurrent_size", recurrent_size)
        )
        generator = generator_of(seed)
        self.torso = make_torso(input_size, self.hidden_sizes, activation, self.recurrent_size, generator)
        self.output = linear(self.torso.output_size, output_size, 1.0, generator)
        self.memory_size = self.recurrent_size or 0

    @property
    def action_size(self) -> None:
        """Returns are no scores of actions."""
        return None

    @property
    def can_take_action_head(self) -> bool:
        """Returns say nothing about actions."""
        return False

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Map (..., input_size) to (..., output_size); with memory, each is the first of its episode."""
        x = last_axis("state", state, self.input_size)
        rows = x.reshape(-1, self.input_size)
        values = affine_by_column(self.torso(rows), self.output.weight, self.output.bias).t()
        return values.reshape(*x.shape[:-1], self.output_size)

    def stack(self) -> LayerStack | None:
        """Return the layers as a stack where they are all there is, and all of them learn."""
        if not isinstance(self.torso, MLP):
            return None
        return LayerStack.of([*self.torso.layers, self.output], self.torso.activation_name)

    def step(self, observations: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return values (rows, output_size) and the memories (rows, M) after these observations."""
        if not isinstance(self.torso, RecurrentTorso):
            return self(observations), memory
        memory = self.torso.step(observations, memory)
        return self.output(memory), memory

    def sequence(
        self, states: torch.Tensor, memory: torch.Tensor, starts: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return values (T, rows, output_size) of successive states (T, rows, input_size).

        Where ``starts`` (T, rows) is true, an episode begins.

        Raises:
            ModelError: this network has no memory.
        """
        if not isinstance(self.torso, RecurrentTorso):
            raise ModelError(
                "sequence needs recurrent_size, got None: without memory call the network itself"
            )
        return self.output(self.torso.sequence(states, memory, starts))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "hidden_sizes": list(self.hidden_sizes),
            "activation": self.activation,
            "recurrent_size": self.recurrent_size,
        }
