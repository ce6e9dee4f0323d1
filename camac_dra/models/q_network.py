"""The network of Q-learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from camac_dra.models.base import BaseModel
from camac_dra.models.checks import last_axis, same_mask, sizes, whole_number
from camac_dra.models.distributions import IMPOSSIBLE
from camac_dra.models.networks import MLP, Seed, generator_of, linear
from camac_dra.utils.errors import ConfigurationError


class QNetwork(BaseModel):
    """Q-values of ``output_size`` discrete actions.

    With ``dueling`` they are the state's value plus the actions' advantages over their mean (Wang et al.
    2016). With ``branches`` an action has so many components of equally many choices each, whose outputs
    follow each other; every component has Q-values of its own on one torso and one state's value (Tavakoli et
    al. 2018), and the mean of the chosen ones is that of the whole action (Seyde et al. 2023).
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        hidden_sizes: Sequence[int] = (128, 128),
        activation: str = "relu",
        dueling: bool = True,
        branches: int = 1,
        seed: Seed = None,
    ) -> None:
        """``seed`` decides the initial weights; ``output_size`` counts the choices of all branches.

        Raises:
            ConfigurationError: the outputs do not divide into so many branches.
        """
        super().__init__(input_size, output_size)
        self.branches = whole_number("branches", branches)
        if output_size % branches:
            raise ConfigurationError(
                f"output_size must be a multiple of the {branches} branches, got {output_size}"
            )
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
    def action_size(self) -> int | None:
        """Number of actions; None where an action has several components."""
        return self.output_size if self.branches == 1 else None

    @property
    def can_take_action_head(self) -> bool:
        """Its outputs are Q-values already."""
        return False

    def forward(self, state: torch.Tensor, action_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Map (..., input_size) to Q-values (..., output_size), very low where the mask is false."""
        features = self.torso(last_axis("state", state, self.input_size))
        q = self.advantage(features)  # (..., A)
        if self.value is not None:
            q = self.value(features) + q - self._mean(q)
        return q if action_mask is None else q.masked_fill(~same_mask(action_mask, q.shape), IMPOSSIBLE)

    def _mean(self, q: torch.Tensor) -> torch.Tensor:
        """Return the means over each branch, (..., 1) or (..., A)."""
        if self.branches == 1:
            return q.mean(-1, keepdim=True)
        parts = q.unflatten(-1, (self.branches, -1))  # (..., D, W)
        return parts.mean(-1, keepdim=True).expand_as(parts).flatten(-2)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "hidden_sizes": list(self.hidden_sizes),
            "activation": self.activation,
            "dueling": self.dueling,
            "branches": self.branches,
        }
