"""What a planner without clairvoyance expects: demand as it was lately, prices as announced or as they are.

Axes, always in this order: H steps ahead, B parallel copies, N agents, R resources.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from camac_dra.environment.dynamics.synthetic import SyntheticDynamics
from camac_dra.environment.vector_environment import VectorEnvironment

PriceForecast = Callable[[VectorEnvironment, int], np.ndarray]
"""Takes an environment and H; returns prices (H, B or 1, R) of this step and those after it."""


class SmoothedDemand:
    """Expects of every coming step the exponentially smoothed demand of those so far."""

    def __init__(self, memory: float) -> None:
        """Remember about ``memory`` steps."""
        self._rate = 1.0 / memory

    def begin(self) -> None:
        """Forget earlier episodes."""
        self._sum: np.ndarray | None = None
        self._weight = 0.0

    def update(self, arrivals: np.ndarray) -> np.ndarray:
        """Take in this step's demand and return what is expected of each coming step, both (B, N, R)."""
        kept = 1.0 - self._rate
        self._sum = self._rate * arrivals + (0.0 if self._sum is None else kept * self._sum)
        self._weight = self._rate + kept * self._weight  # so that the first steps are not biased towards 0
        return self._sum / self._weight


def tariff_or_persistence(env: VectorEnvironment, steps: int) -> np.ndarray:
    """Return the prices (H, B or 1, R) of a published tariff where there is one, else the price as it is now.

    Synthetic dynamics have a tariff: their price follows the clock alone.
    """
    if not isinstance(env.dynamics, SyntheticDynamics):
        return np.repeat(env.state.draw.price[None], steps, axis=0)
    config = env.dynamics.config
    hours = 2.0 * np.pi / config.day_length * (env.state.time + np.arange(steps))
    price = np.maximum(config.price_base + config.price_amplitude * np.sin(hours + config.price_phase), 0.0)
    return np.broadcast_to(price[:, None, None], (steps, 1, env.num_resources))
