"""PPO's loss with its gradient in closed form.

It is RLlib's (Schulman et al. 2017: clipped surrogate, squared value error, entropy bonus), which the
contract tests compare it with. Differentiating that through torch's graph of some forty small operations took
a fifth of a training step, as long as a third of the matrix products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from camac_dra.models.distributions import ActionDistribution


@dataclass(frozen=True, slots=True)
class LossWeights:
    """The coefficients of the loss."""

    clip_param: float | None  # None: the plain policy gradient (Williams 1992)
    value_clip: float  # bound of the squared value error, may be infinite
    value_loss_coeff: float
    entropy_coeff: float


@dataclass(frozen=True, slots=True)
class LossTerm:
    """A term of the loss of a minibatch, its gradient, and what is worth logging: all detached from the
    graph.
    """

    loss: float
    gradient: torch.Tensor  # by the distribution's inputs (O, rows), or by the values (rows,) or (rows, C)
    figures: dict[str, float]


def policy_term(
    distribution: ActionDistribution,
    *,
    actions: torch.Tensor,
    log_probs: torch.Tensor,
    advantages: torch.Tensor,
    weights: LossWeights,
) -> LossTerm:
    """Return what the policy is to lower: minus surrogate and entropy bonus. All arguments have the rows of
    ``actions``.

    ``log_probs`` are those of ``actions`` when they were sampled. They and ``advantages`` are (rows,), or
    (rows, C) where each of C action components is credited by itself: the surrogate, clipped for each, is
    summed over components. That is the gradient with an action-dependent factored baseline (Wu et al. 2018):
    what a component has no part in is taken out of its credit (factored policy gradients, Spooner et al.
    2021).
    """
    rows = len(advantages)
    now = distribution.log_prob(actions)
    log_ratio = now - log_probs
    ratio = log_ratio.exp()
    surrogate, slope = _surrogate(now, ratio, advantages, weights.clip_param)
    entropy = distribution.entropy()
    divergences = ratio - 1.0 - log_ratio
    if advantages.ndim == 2:
        surrogate, divergences = surrogate.sum(1), divergences.sum(1)
    gain, entropy_mean, divergence = torch.stack([surrogate, entropy, divergences]).mean(1).tolist()
    figures = {
        "policy_loss": -gain,
        "entropy": entropy_mean,
        "kl_from_sampling": divergence,  # Schulman's estimate of KL(sampling policy || current one)
    }
    return LossTerm(
        -gain - weights.entropy_coeff * entropy_mean,
        distribution.gradient(actions, slope.mul_(-1.0 / rows), -weights.entropy_coeff / rows),
        figures,
    )


def value_term(values: torch.Tensor, targets: torch.Tensor, weights: LossWeights) -> LossTerm:
    """Return the weighted squared error of ``values`` (rows,) or (rows, C), averaged over components too;
    ``targets`` are alike.
    """
    error = values - targets
    squared, gradient = _squared(error, weights)
    unexplained, spread = torch.stack([error, targets]).flatten(1).var(1).tolist()
    mean = squared.mean().item()
    figures = {"vf_loss": mean, "vf_explained_var": 1.0 - unexplained / max(spread, 1e-8)}
    return LossTerm(weights.value_loss_coeff * mean, gradient, figures)


def _surrogate(
    log_prob: torch.Tensor, ratio: torch.Tensor, advantages: torch.Tensor, clip_param: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what is to be raised and its derivatives by the log-probabilities, all of one shape."""
    if clip_param is None:
        return advantages * log_prob, advantages.clone()
    plain = advantages * ratio
    clipped = advantages * ratio.clamp(1.0 - clip_param, 1.0 + clip_param)
    # Where the clipped term is the smaller one it does not depend on the ratio.
    return torch.minimum(plain, clipped), plain * (plain <= clipped)


def _squared(error: torch.Tensor, weights: LossWeights) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the squared value errors, clipped, and the gradient of their weighted mean by the values."""
    squared, scale = error.square(), 2.0 * weights.value_loss_coeff / error.numel()
    if math.isinf(weights.value_clip):
        return squared, error * scale
    by_values = (error * (squared <= weights.value_clip)).mul_(scale)
    return squared.clamp_(max=weights.value_clip), by_values
