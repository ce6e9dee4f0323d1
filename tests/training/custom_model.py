"""A model of a user's own, as the specification's example writes it."""

from __future__ import annotations

import torch
from torch import nn

from camac_dra.models.base import BaseModel


class CustomModel(BaseModel):
    """Two layers; ``hidden_sizes`` comes from the configuration because the constructor takes it."""

    def __init__(
        self, input_size: int, output_size: int, hidden_sizes: tuple[int, ...] = (8,), bias: float = 0.0
    ):
        super().__init__(input_size, output_size)
        self.fc1 = nn.Linear(input_size, hidden_sizes[0])
        self.fc2 = nn.Linear(hidden_sizes[0], output_size)
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(nn.functional.relu(self.fc1(x))) + self.bias


class WrongShape(CustomModel):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:, :1]


class Spare(CustomModel):
    """Has a layer that it does not use."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__(input_size, output_size)
        self.spare = nn.Linear(input_size, 3)


class Raises(CustomModel):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError("nothing here")


class NoTensor(CustomModel):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return None  # type: ignore[return-value]


class Unbuildable(CustomModel):
    def __init__(self, input_size: int, output_size: int) -> None:
        raise RuntimeError("no weights today")
