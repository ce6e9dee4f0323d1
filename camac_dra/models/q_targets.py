"""What Q-values should be and how wrong they are: the arithmetic that all Q-learning here shares."""

from __future__ import annotations

import torch
from torch.nn import functional


def best_values(next_target: torch.Tensor, next_online: torch.Tensor | None) -> torch.Tensor:
    """Return the value (..., 1) of the best next action by the target network's Q-values (..., A).

    With the online network's Q-values that network chooses the action which the target network values
    (double Q-learning, van Hasselt et al. 2016); without, the target network does both.
    """
    choosing = next_target if next_online is None else next_online
    return next_target.gather(-1, choosing.argmax(-1, keepdim=True))


def huber_loss(
    chosen: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean Huber loss of Q-values (rows,), and the errors (rows,) without gradient.

    ``weights`` (rows,) weigh the rows, as prioritised replay needs (Schaul et al. 2016).
    """
    losses = functional.smooth_l1_loss(chosen, targets, reduction="none")  # (rows,)
    loss = losses.mean() if weights is None else (losses * weights).mean()
    return loss, targets - chosen.detach()
