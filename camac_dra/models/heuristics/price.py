"""A price for each group's capacity, found by dual ascent on its load."""

from __future__ import annotations

import numpy as np

from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.heuristics.policy import Heuristic


class CongestionPrice(Heuristic):
    """Every group's price rises while it is asked for more than it has and falls while it is asked for less.

    Agents ask for more the more a served unit is worth to them beyond what they pay: the capacity's price
    and the groups'. Nobody need know anybody's demand; a group's members hear only its last load. Source:
    Kelly, Maulloo and Tan, "Rate control for communication networks: shadow prices, proportional fairness
    and stability", Journal of the Operational Research Society 49, 1998.
    """

    name = "price"
    description = "dual ascent: capacity gets a price that follows the load, agents respond by worth"

    def __init__(self, step: float = 0.4, slope: float = 0.16) -> None:
        """Set how prices and demand move, both in units of the mean weight.

        Args:
            step: change of the price per share by which the load misses the capacity.
            slope: surplus per unit (value less prices) for which an agent asks one fair share.
        """
        self._step, self._slope = step, slope

    def begin(self, env: VectorEnvironment) -> None:
        """Let all capacity be free of charge."""
        self._prices = np.zeros_like(env.state.last_load)  # (B, K, R)
        config = env.config
        if config.weights is None:
            self._unit = float(np.dot(config.weight_values, config.weight_probabilities))
        else:
            self._unit = float(np.mean(config.weights))

    def requests(self, env: VectorEnvironment) -> np.ndarray:
        """Return requests (B, N, R)."""
        state = env.state
        if state.time > 0:
            change = self._step * self._unit * (state.last_load - 1.0)
            self._prices = np.maximum(self._prices + change, 0.0)
        worth = state.weights[..., None] * (1.0 + env.config.holding_cost)  # (B, N, 1)
        if state.draw.service_yield is not None:
            worth = worth * state.draw.service_yield
        charged = env.constraints.groups.sum_over_groups(self._prices)  # (B, N, R)
        surplus = np.maximum(worth - state.draw.price[:, None] - charged, 0.0)
        return np.minimum(env.askable(), surplus / (self._slope * self._unit) * state.fair_share)
