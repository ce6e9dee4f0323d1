"""Running moments of observations and returns, and the frozen scaling that networks apply.

The moments are merged from batches with the parallel update of Chan, Golub and LeVeque (1983), so the order
in which runners report does not bias them. Networks carry only a frozen mean and scale as float32 buffers:
they travel with the weights, are saved with the policy, and stay fixed while a fragment is sampled and
learned from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from camac_dra.utils.errors import CheckpointError

MIN_STD = 1e-6  # features that do not vary (padding, fixed weights) are centred, not blown up
BLOCK_ROWS = 2048  # rows that stay in cache while their moments are taken


@dataclass(frozen=True, slots=True)
class RunningMoments:
    """Count, mean and sum of squared deviations, per feature; immutable: a kept reference is a snapshot."""

    count: float
    mean: np.ndarray  # (F,) float64
    squares: np.ndarray  # (F,) float64, sum of squared deviations from the mean

    @classmethod
    def empty(cls, size: int) -> RunningMoments:
        """Return moments of nothing, for ``size`` features."""
        return cls(0.0, np.zeros(size), np.zeros(size))

    @classmethod
    def of(cls, rows: torch.Tensor) -> RunningMoments:
        """Return the moments of ``rows`` (n, F), taken in blocks that are merged in float64."""
        moments = cls.empty(rows.shape[1])
        for block in rows.split(BLOCK_ROWS):
            mean = block.mean(0)
            squares = (block - mean).square_().sum(0)
            moments = moments.merge(cls(float(len(block)), mean.double().numpy(), squares.double().numpy()))
        return moments

    def merge(self, other: RunningMoments, max_count: float = np.inf) -> RunningMoments:
        """Return the moments of both together (Chan et al. 1983).

        Beyond ``max_count`` rows older data is forgotten exponentially: this side is weighed as if it had at
        most ``max_count`` rows.
        """
        if other.count == 0.0:
            return self
        weight = min(1.0, max_count / self.count) if self.count else 1.0
        mine = self.count * weight
        count = mine + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        squares = self.squares * weight + other.squares + delta * delta * (mine * other.count / count)
        return RunningMoments(count, mean, squares)

    @property
    def std(self) -> np.ndarray:
        """(F,) standard deviation, and 1 where nothing was seen yet or nothing varies."""
        deviation = np.sqrt(self.squares / max(self.count, 1.0))
        return np.where(deviation < MIN_STD, 1.0, deviation)

    def get_state(self) -> dict[str, Any]:
        """Return plain values: a number and two tensors."""
        return {"count": self.count, "mean": torch.tensor(self.mean), "squares": torch.tensor(self.squares)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> RunningMoments:
        """Return what ``get_state`` described, or raise ``CheckpointError``."""
        mean, squares = state["mean"].numpy().copy(), state["squares"].numpy().copy()
        if mean.shape != squares.shape or mean.ndim != 1:
            raise CheckpointError(
                "normaliser state: mean and squares must be vectors of one length, "
                f"got {mean.shape} and {squares.shape}"
            )
        return cls(float(state["count"]), mean, squares)


class ObservationScaler(nn.Module):
    """Centre, scale and clip observations with frozen moments; the identity until moments are set."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, size: int, clip: float = 10.0) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(size))  # (F,)
        self.register_buffer("scale", torch.ones(size))  # (F,) one over the standard deviation

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Map features (..., F) to scaled ones."""
        return ((x - self.mean) * self.scale).clamp_(-self.clip, self.clip)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map observations (..., F) to scaled ones."""
        return self.features(x)

    @torch.no_grad()
    def set_moments(self, moments: RunningMoments) -> None:
        """Freeze these moments until the next call."""
        self.mean.copy_(torch.from_numpy(moments.mean))
        self.scale.copy_(torch.from_numpy(1.0 / moments.std))


class EntityScaler(ObservationScaler):
    """The same for rows of entities, (..., E, F + 1) with a mask in the last column, which stays as it is.

    All entities share one scaling; what padding holds becomes zero.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map observations (..., E, F + 1) to scaled ones."""
        mask = x[..., -1:]
        return torch.cat([self.features(x[..., :-1]) * (mask > 0.5), mask], dim=-1)


class ReturnScaler(nn.Module):
    """Relate the value network's units to returns: ``return = value * std + mean``.

    Changing the moments rescales the last layer so that its predictions in real units stay what they were
    (PopArt, van Hasselt et al. 2016).
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def to_returns(self, values: torch.Tensor) -> torch.Tensor:
        """Map the network's values to real units."""
        return values * self.std + self.mean

    def from_returns(self, returns: torch.Tensor) -> torch.Tensor:
        """Map returns to the network's units."""
        return (returns - self.mean) / self.std

    @torch.no_grad()
    def set_moments(self, moments: RunningMoments, output: nn.Linear) -> None:
        """Adopt these moments (one feature) and rescale ``output``, the value network's last layer."""
        mean = torch.tensor(float(moments.mean[0]))
        std = torch.tensor(float(moments.std[0]))
        output.weight.mul_(self.std / std)
        output.bias.mul_(self.std).add_(self.mean - mean).div_(std)
        self.mean.copy_(mean)
        self.std.copy_(std)
