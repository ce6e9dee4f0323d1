"""The network of Q-learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from camac_dra.models.base import BaseModel
from camac_dra.models.checks import last_axis, same_mask, sizes
from camac_dra.models.distributions import IMPOSSIBLE
from camac_dra.models.networks import MLP, Seed, generator_of, linear


class QNetwork(BaseModel):
    """Q-values of ``output_size`` discrete actions.

    With ``dueling`` they are the state's value plus the actions' advantages over their mean (Wang et al.
    2016).
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        hidden_sizes: Sequence[int] = (128, 128),
        activation: str = "relu",
        dueling: bool = True,
        seed: Seed = None,
    ) -> None:
        """``seed`` decides the initial weights."""
        super().__init__(input_size, output_size)
        self.hidden_sizes, self.activation, self.dueling = (
            sizes("hidden_sizes", hidden_sizes),
            activation,
            dueling,
        )
        generator = generator_of(seed)
        self.torso = MLP(input_size, self.hidden_sizes, activation, generator)
        self.advantage = linear(self.torso.output_size, output_size, 1.0, generator)
        self.value = linear(self.torso.output_size, 1, 1.0, generator) if dueling else None

    @property
    def can_take_action_head(self) -> bool:
        """Its outputs are Q-values already."""
        return False

    def forward(self, state: torch.Tensor, action_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Map (..., input_size) to Q-values (..., output_size), very low where the mask is false."""
        features = self.torso(last_axis("state", state, self.input_size))
        q = self.advantage(features)  # (..., A)
        if self.value is not None:
            q = self.value(features) + q - q.mean(-1, keepdim=True)
        return q if action_mask is None else q.masked_fill(~same_mask(action_mask, q.shape), IMPOSSIBLE)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "hidden_sizes": list(self.hidden_sizes),
            "activation": self.activation,
            "dueling": self.dueling,
        }
