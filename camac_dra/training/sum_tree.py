"""Drawing from many with probabilities that change: a binary tree of sums in an array."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from camac_dra.utils.errors import ExperienceError


class SumTree:
    """Non-negative weights of ``size`` leaves, all 0 at first; inner nodes hold the sums below them.

    Setting and finding k leaves takes O(k log size), as whole-array operations per level. It takes 16 bytes
    per leaf, ``size`` rounded up to a power of two. Schaul et al. 2016, appendix B.2.1.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._levels = max(1, (size - 1).bit_length())
        self._first_leaf = 1 << self._levels
        self._sums = np.zeros(2 * self._first_leaf)  # node i has the children 2 i and 2 i + 1; the root is 1

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self._sums[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self._sums.nbytes

    def set(self, leaves: np.ndarray, weights: np.ndarray) -> None:
        """Give the leaves (k,) these weights (k,); of a leaf that is there twice, the last one counts."""
        nodes = leaves + self._first_leaf
        self._sums[nodes] = weights
        for _ in range(self._levels):
            nodes = nodes >> 1
            self._sums[nodes] = self._sums[2 * nodes] + self._sums[2 * nodes + 1]

    def get(self, leaves: np.ndarray) -> np.ndarray:
        """Return the weights (k,) of leaves (k,)."""
        return self._sums[leaves + self._first_leaf]

    def find(self, masses: np.ndarray) -> np.ndarray:
        """Return for each mass (k,) in [0, total) the leaf in whose stretch it lies.

        Leaf i's stretch begins at the sum of the weights before it and is as long as its weight; leaves of
        weight 0 are never found, unless all are.
        """
        nodes, left_over = np.ones(len(masses), np.int64), masses.astype(np.float64)
        for _ in range(self._levels):
            nodes = 2 * nodes
            left = self._sums[nodes]
            # Sums are rounded, so that a mass may seem to lie beyond the last leaf that has a weight.
            right = (left_over >= left) & (self._sums[nodes + 1] > 0.0)
            left_over = np.where(right, left_over - left, left_over)
            nodes = nodes + right
        return nodes - self._first_leaf

    def get_state(self) -> dict[str, Any]:
        """Return copies of all sums."""
        return {"sums": torch.from_numpy(self._sums.copy())}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over the weights of a tree of the same size.

        Raises:
            ExperienceError: it is of another size.
        """
        sums = state["sums"].numpy()
        if sums.shape != self._sums.shape:
            raise ExperienceError(f"sums must be {len(self._sums)}, as this tree has, got {len(sums)}")
        self._sums[:] = sums
