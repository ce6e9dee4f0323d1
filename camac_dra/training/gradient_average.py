"""Gradients of several learners, averaged over the rows of all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import distributed


class GradientAverage:
    """Sums gradients and rows of all policies over all learners in one exchange per minibatch.

    All learners must call it equally often, each with whatever policies it has rows of.
    """

    def __init__(self, sizes: Mapping[str, int], device: torch.device) -> None:
        """Take the lengths of the policies' gradients, the same in every learner."""
        starts, end = {}, 0
        for policy, size in sizes.items():
            starts[policy] = slice(end, end + size)
            end += size
        self._places = starts
        self._sums = torch.zeros(end + len(sizes), device=device)  # gradients, then rows

    def over_learners(
        self, gradients: Mapping[str, torch.Tensor], rows: Mapping[str, int]
    ) -> dict[str, torch.Tensor]:
        """Return the mean gradient by policy, for those that any learner has rows of.

        ``gradients`` are means over a learner's own ``rows``.
        """
        self._sums.zero_()
        counts = self._sums[-len(self._places) :]  # (policies,)
        for index, (policy, place) in enumerate(self._places.items()):
            if policy in gradients:
                torch.mul(gradients[policy], rows[policy], out=self._sums[place])
                counts[index] = rows[policy]
        distributed.all_reduce(self._sums)
        totals = counts.tolist()
        return {
            policy: self._sums[place] / total
            for (policy, place), total in zip(self._places.items(), totals, strict=True)
            if total > 0
        }
