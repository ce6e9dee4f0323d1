"""Action distributions on plain tensors: how network outputs become actions, log-probabilities and entropies.

Sampling (one pass over all copies and agents) and learning (minibatches) share these definitions. Inputs are
component-major, ``(O, rows)``: reductions over a short last axis are several times slower. ``D`` is the
number of action components, ``W`` the number of categories of the largest one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np
import torch
from gymnasium import spaces
from torch.nn import functional

from camac_dra.utils.errors import ConfigurationError

IMPOSSIBLE = -1e9  # logit of categories that do not exist; finite, so that 0 * log(0) stays 0
LOG_STD_RANGE = (-5.0, 2.0)
LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


class ActionDistribution(ABC):
    """Distributions over the actions of many rows."""

    @abstractmethod
    def sample(self, generator: torch.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw actions (rows, *action_shape) and return them with their log-probabilities (rows,)."""

    @abstractmethod
    def mode(self) -> torch.Tensor:
        """Return the most likely actions (rows, *action_shape)."""

    @abstractmethod
    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities (rows,) of actions (rows, *action_shape)."""

    @abstractmethod
    def entropy(self) -> torch.Tensor:
        """Return entropies (rows,) in nats, summed over components."""

    @abstractmethod
    def gradient(
        self, actions: torch.Tensor, log_prob_weights: torch.Tensor, entropy_weight: float
    ) -> torch.Tensor:
        """Return the gradient (O, rows) by the inputs of ``sum(log_prob_weights * log_prob(actions)) +
        entropy_weight * sum(entropy())``, in closed form: several times cheaper than differentiating it.
        """

    @abstractmethod
    def divergence(self, other: ActionDistribution) -> torch.Tensor:
        """Return KL(self || other) (rows,), summed over components."""


class ActionHead(ABC):
    """What one kind of action space needs from a network, and how its outputs are read."""

    num_outputs: int  # O of the policy network's last layer
    num_distribution_inputs: int  # O of ``distribution``; log standard deviations may be appended
    action_shape: tuple[int, ...]  # of one agent's action: () or (D,)
    action_dtype: torch.dtype
    by_component = False  # log-probabilities are (rows, D) wherever (rows,) is said

    @abstractmethod
    def distribution(self, inputs: torch.Tensor) -> ActionDistribution:
        """Return the distributions that ``inputs`` (O, rows) describe."""

    @abstractmethod
    def to_environment(self, actions: torch.Tensor) -> np.ndarray:
        """Return actions as the environment takes them: integers as they are, others scaled and clipped."""


class CategoricalDistribution(ActionDistribution):
    """Independent categorical components; what the padding of smaller components holds is never drawn."""

    def __init__(self, head: CategoricalHead, inputs: torch.Tensor) -> None:
        self.head = head
        logits = inputs.unflatten(0, (len(head.sizes), head.width))  # (D, W, rows)
        self.logits = (
            logits.masked_fill(head.impossible.to(logits.device), IMPOSSIBLE) if head.padded else logits
        )

    @cached_property
    def log_probabilities(self) -> torch.Tensor:
        """(D, W, rows)."""
        return functional.log_softmax(self.logits, dim=1)

    def _flat(self, components: torch.Tensor) -> torch.Tensor:
        """Turn (D, rows) into (rows, *action_shape)."""
        return components[0] if self.head.scalar else components.t()

    def sample(self, generator: torch.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw by inverting the cumulative distribution: one uniform number per component."""
        masses = (self.logits - self.logits.amax(1, keepdim=True)).exp_()  # (D, W, rows), not normalised
        cumulative = torch.matmul(self.head.lower_triangle, masses)  # (D, W, rows); faster than cumsum
        total = cumulative[:, -1]  # (D, rows)
        threshold = torch.rand(total.shape, generator=generator) * total
        position = (cumulative <= threshold[:, None]).sum(1, dtype=torch.int16)  # (D, rows)
        actions = torch.minimum(position.long(), self.head.last)  # rounding may point one past the end
        chosen = masses.gather(1, actions[:, None])[:, 0]  # (D, rows)
        return self._flat(actions), self._joined((chosen / total).log_())

    def mode(self) -> torch.Tensor:
        """Return the most likely category of each component; ties go to the lower one."""
        return self._flat(self.logits.argmax(1))

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Return the sum of the components' log-probabilities."""
        return self._joined(self.log_probabilities.gather(1, self._components(actions))[:, 0])

    def _joined(self, log_probs: torch.Tensor) -> torch.Tensor:
        """Return those of actions from those of their components (D, rows)."""
        return log_probs.sum(0)

    def _spread(self, log_prob_weights: torch.Tensor) -> torch.Tensor:
        """Return weights of actions' log-probabilities as they broadcast over (D, 1, rows)."""
        return log_prob_weights

    def _components(self, actions: torch.Tensor) -> torch.Tensor:
        """Turn (rows, *action_shape) into indices (D, 1, rows)."""
        return actions[None, None] if self.head.scalar else actions.t()[:, None]

    @cached_property
    def _probabilities(self) -> torch.Tensor:
        return self.log_probabilities.exp()  # (D, W, rows)

    @cached_property
    def _negative_entropies(self) -> torch.Tensor:
        return (self._probabilities * self.log_probabilities).sum(1)  # (D, rows)

    def entropy(self) -> torch.Tensor:
        """Return the sum of the components' entropies."""
        return self._negative_entropies.sum(0).neg_()

    def gradient(
        self, actions: torch.Tensor, log_prob_weights: torch.Tensor, entropy_weight: float
    ) -> torch.Tensor:
        """Return ``weight * (chosen - p) - entropy_weight * p * (log p + H)`` per component."""
        weights = self._spread(log_prob_weights)
        slope = self.log_probabilities - self._negative_entropies[:, None]  # (D, W, rows)
        gradient = slope.mul_(-entropy_weight).sub_(weights).mul_(self._probabilities)
        chosen = self._components(actions)
        gradient.scatter_add_(1, chosen, weights.expand(chosen.shape))
        return gradient.flatten(0, 1)

    def divergence(self, other: ActionDistribution) -> torch.Tensor:
        """Return the sum of the components' divergences."""
        assert isinstance(other, CategoricalDistribution)
        mine, theirs = self.log_probabilities, other.log_probabilities
        return (mine.exp() * (mine - theirs)).sum((0, 1))


class CategoricalHead(ActionHead):
    """For ``Discrete`` (one component) and ``MultiDiscrete`` (several, padded to the largest)."""

    def __init__(self, sizes: list[int], *, scalar: bool) -> None:
        self.sizes = sizes
        self.width = max(sizes)
        self.scalar = scalar
        self.num_outputs = self.num_distribution_inputs = len(sizes) * self.width
        self.action_shape = () if scalar else (len(sizes),)
        self.action_dtype = torch.int64
        self.padded = min(sizes) < self.width
        self.last = torch.tensor(sizes)[:, None] - 1  # (D, 1)
        self.impossible = (torch.arange(self.width) > self.last)[..., None]  # (D, W, 1) bool
        self.lower_triangle = torch.ones(self.width, self.width).tril()

    def distribution(self, inputs: torch.Tensor) -> CategoricalDistribution:
        """Read ``inputs`` (D * W, rows) as logits."""
        return CategoricalDistribution(self, inputs)

    def to_environment(self, actions: torch.Tensor) -> np.ndarray:
        """Return the integers as they are."""
        return actions.numpy()


class FactoredDistribution(CategoricalDistribution):
    """Independent categorical components, each with a log-probability of its own: (rows, D)."""

    def _joined(self, log_probs: torch.Tensor) -> torch.Tensor:
        return log_probs.t()

    def _spread(self, log_prob_weights: torch.Tensor) -> torch.Tensor:
        return log_prob_weights.t()[:, None]


class FactoredHead(CategoricalHead):
    """For ``MultiDiscrete`` spaces whose components are credited one by one."""

    by_component = True

    def __init__(self, sizes: list[int]) -> None:
        super().__init__(sizes, scalar=False)

    def distribution(self, inputs: torch.Tensor) -> FactoredDistribution:
        """Read ``inputs`` (D * W, rows) as logits."""
        return FactoredDistribution(self, inputs)


class GaussianDistribution(ActionDistribution):
    """Diagonal Gaussians on the unit scale, where [-1, 1] spans the bounds of the action space."""

    def __init__(self, inputs: torch.Tensor) -> None:
        self.mean, log_std = inputs.chunk(2, dim=0)  # (D, rows) each
        self.log_std = log_std.clamp(*LOG_STD_RANGE)
        self._within = log_std == self.log_std

    def sample(self, generator: torch.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw normal deviates and scale them."""
        noise = torch.randn(self.mean.shape, generator=generator)
        log_prob = (-0.5 * noise.square() - self.log_std - LOG_SQRT_2PI).sum(0)
        return (self.mean + self.log_std.exp() * noise).t(), log_prob

    def mode(self) -> torch.Tensor:
        """Return the means."""
        return self.mean.t()

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Return the log-density of unclipped actions on the unit scale."""
        deviation = (actions.t() - self.mean) * (-self.log_std).exp()
        return (-0.5 * deviation.square() - self.log_std - LOG_SQRT_2PI).sum(0)

    def entropy(self) -> torch.Tensor:
        """Return the differential entropy on the unit scale."""
        return (self.log_std + (LOG_SQRT_2PI + 0.5)).sum(0)

    def gradient(
        self, actions: torch.Tensor, log_prob_weights: torch.Tensor, entropy_weight: float
    ) -> torch.Tensor:
        """Return the closed form; standard deviations at their bounds have no slope."""
        precision = (-self.log_std).exp()  # (D, rows)
        deviation = (actions.t() - self.mean) * precision
        by_mean = log_prob_weights * deviation * precision
        by_log_std = log_prob_weights * (deviation.square() - 1.0) + entropy_weight
        return torch.cat([by_mean, by_log_std * self._within])

    def divergence(self, other: ActionDistribution) -> torch.Tensor:
        """Return the closed form for diagonal Gaussians."""
        assert isinstance(other, GaussianDistribution)
        ratio = (2.0 * (self.log_std - other.log_std)).exp()
        shift = (self.mean - other.mean).square() * (-2.0 * other.log_std).exp()
        return (0.5 * (ratio + shift - 1.0) + other.log_std - self.log_std).sum(0)


class GaussianHead(ActionHead):
    """For bounded ``Box`` spaces: means from the network, standard deviations of their own per component.

    Actions outside the bounds are clipped on the way to the environment only, so that stored actions keep
    their log-probabilities.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        self.size = int(low.size)
        self.num_outputs = self.size
        self.num_distribution_inputs = 2 * self.size
        self.action_shape = (self.size,)
        self.action_dtype = torch.float32
        self._center = torch.as_tensor((high + low) / 2.0, dtype=torch.float32)  # (D,)
        self._half_range = torch.as_tensor((high - low) / 2.0, dtype=torch.float32)  # (D,)

    def distribution(self, inputs: torch.Tensor) -> GaussianDistribution:
        """Read ``inputs`` (2 * D, rows) as means and logarithms of standard deviations."""
        return GaussianDistribution(inputs)

    def to_environment(self, actions: torch.Tensor) -> np.ndarray:
        """Clip to [-1, 1] and map to the bounds of the space."""
        return (actions.clamp(-1.0, 1.0) * self._half_range + self._center).numpy()


def factored_head(space: spaces.Space) -> FactoredHead:
    """Return the head for an action space whose components are credited one by one.

    Raises:
        ConfigurationError: it is not MultiDiscrete, counting from 0.
    """
    head = make_action_head(space)
    if isinstance(head, CategoricalHead) and not head.scalar:
        return FactoredHead(head.sizes)
    raise ConfigurationError(
        f"training.factored_credit: actions must be MultiDiscrete to be credited by component, got {space}"
    )


def make_action_head(space: spaces.Space) -> ActionHead:
    """Return the head for an action space.

    Raises ``ConfigurationError`` for spaces other than Discrete, MultiDiscrete (both counting from 0) and
    bounded one-dimensional Box.
    """
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return CategoricalHead([int(space.n)], scalar=True)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not np.any(space.start):
        return CategoricalHead([int(n) for n in space.nvec], scalar=False)
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.is_bounded():
        return GaussianHead(space.low, space.high)
    raise ConfigurationError(
        "action space must be Discrete or MultiDiscrete counting from 0, or a one-dimensional Box with "
        f"finite bounds, got {space}"
    )
