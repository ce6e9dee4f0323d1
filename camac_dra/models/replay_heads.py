"""Action distributions of algorithms that learn from replay: epsilon-greedy choices, squashed Gaussians.

Inputs are component-major, ``(O, rows)``, as in ``distributions.py``.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from gymnasium import spaces
from torch.nn import functional

from camac_dra.models.distributions import (
    IMPOSSIBLE,
    LOG_SQRT_2PI,
    ActionHead,
    CategoricalDistribution,
    CategoricalHead,
    GaussianDistribution,
    make_action_head,
)
from camac_dra.utils.errors import CapabilityError

SQUASHED_MOST = 1.0 - 1e-6  # of what tanh is undone


class EpsilonGreedyDistribution(CategoricalDistribution):
    """Each component is uniform with probability epsilon, else the one of the highest input."""

    def __init__(self, head: EpsilonGreedyHead, inputs: torch.Tensor) -> None:
        super().__init__(head, inputs)
        self._epsilon = float(head.epsilon)
        self._choices = head.last + 1  # (D, 1) or (D, rows)
        self._possible: torch.Tensor | None = None  # (D, W, rows) bool; None: all
        if (inputs <= IMPOSSIBLE).any():
            self._possible = self.logits > IMPOSSIBLE
            self._choices = self._possible.sum(1)

    def sample(self, generator: torch.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw with two uniform numbers per component, whether to explore and what; possible actions only."""
        best = self.logits.argmax(1)  # (D, rows)
        whether, what = torch.rand((2, *best.shape), generator=generator)
        drawn = torch.minimum((what * self._choices).long(), self._choices - 1)  # among the possible ones
        if self._possible is not None:
            order = self._possible.cumsum(1) - 1  # (D, W, rows)
            drawn = ((order == drawn[:, None]) & self._possible).int().argmax(1)
        actions = torch.where(whether < self._epsilon, drawn, best)
        return self._flat(actions), self._log_chance(actions == best)

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Return the sum of the components' log-probabilities."""
        return self._log_chance(self._components(actions)[:, 0] == self.logits.argmax(1))

    def _log_chance(self, greedy: torch.Tensor) -> torch.Tensor:
        explored = self._epsilon / self._choices  # (D, 1) or (D, rows)
        return (explored + (1.0 - self._epsilon) * greedy).log_().sum(0)


class EpsilonGreedyHead(CategoricalHead):
    """Reads Q-values, or what orders actions as they do: explores with the share ``epsilon``, a tensor ()."""

    def __init__(self, sizes: list[int], *, scalar: bool, epsilon: torch.Tensor) -> None:
        super().__init__(sizes, scalar=scalar)
        self.epsilon = epsilon

    def distribution(self, inputs: torch.Tensor) -> EpsilonGreedyDistribution:
        """Read ``inputs`` (D * W, rows) as Q-values."""
        return EpsilonGreedyDistribution(self, inputs)


def greedy_head(space: spaces.Space, epsilon: torch.Tensor) -> EpsilonGreedyHead:
    """Return the head of DQN for an action space.

    Raises ``CapabilityError`` for continuous actions.
    """
    head = make_action_head(space)
    if not isinstance(head, CategoricalHead):
        raise CapabilityError(
            f"model.type: 'dqn' needs discrete or multi_discrete actions, got {space}; sac and actor_critic "
            "have continuous ones"
        )
    return EpsilonGreedyHead(head.sizes, scalar=head.scalar, epsilon=epsilon)


class SquashedGaussianDistribution(GaussianDistribution):
    """Diagonal Gaussians squeezed into (-1, 1) by tanh (Haarnoja et al. 2018, appendix C).

    Entropy has no closed form: it is estimated from samples' log-probabilities, which have gradients.
    """

    def sample(self, generator: torch.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw normal deviates, scale and squeeze them; gradients flow through both results."""
        noise = torch.randn(self.mean.shape, generator=generator)
        plain = self.mean + self.log_std.exp() * noise  # (D, rows)
        log_prob = -0.5 * noise.square() - self.log_std - LOG_SQRT_2PI - _log_slope(plain)
        return plain.tanh().t(), log_prob.sum(0)

    def mode(self) -> torch.Tensor:
        """Return the squeezed means, which are the medians."""
        return self.mean.tanh().t()

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Return the log-density of actions within (-1, 1)."""
        plain = actions.clamp(-SQUASHED_MOST, SQUASHED_MOST).atanh()
        return super().log_prob(plain) - _log_slope(plain.t()).sum(0)

    def entropy(self) -> torch.Tensor:
        """Refuse."""
        raise CapabilityError(
            "entropy of squashed Gaussians has no closed form: average -log_prob of samples"
        )

    def gradient(
        self, actions: torch.Tensor, log_prob_weights: torch.Tensor, entropy_weight: float
    ) -> torch.Tensor:
        """Refuse, as the entropy's is not known."""
        raise CapabilityError("gradient of squashed Gaussians has no closed form: differentiate log_prob")


def _log_slope(plain: torch.Tensor) -> torch.Tensor:
    """Return log(1 - tanh(x)^2) without cancellation."""
    return 2.0 * (math.log(2.0) - plain - functional.softplus(-2.0 * plain))


class SquashedGaussianHead(ActionHead):
    """For bounded ``Box`` spaces: means and deviations from the network, squeezed into the bounds."""

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        self.size = int(low.size)
        self.num_outputs = self.num_distribution_inputs = 2 * self.size
        self.action_shape = (self.size,)
        self.action_dtype = torch.float32
        self._center = torch.as_tensor((high + low) / 2.0, dtype=torch.float32)  # (D,)
        self._half_range = torch.as_tensor((high - low) / 2.0, dtype=torch.float32)  # (D,)

    def distribution(self, inputs: torch.Tensor) -> SquashedGaussianDistribution:
        """Read ``inputs`` (2 * D, rows) as means and logarithms of standard deviations before squeezing."""
        return SquashedGaussianDistribution(inputs)

    def to_environment(self, actions: torch.Tensor) -> np.ndarray:
        """Map (-1, 1) to the bounds of the space."""
        return (actions * self._half_range + self._center).numpy()


def squashed_head(space: spaces.Space) -> SquashedGaussianHead:
    """Return the head of SAC for an action space.

    Raises ``CapabilityError`` for other spaces than bounded one-dimensional Box.
    """
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.is_bounded():
        return SquashedGaussianHead(space.low, space.high)
    raise CapabilityError(
        "model.type: 'sac' needs continuous actions (environment.action_type: continuous), got "
        f"{space}; dqn and actor_critic have discrete ones"
    )
