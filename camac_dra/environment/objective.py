"""The efficiency objective: what a step is worth to each agent.

Axes, always in this order: B parallel copies, N agents, R resources.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from camac_dra.utils.schema.environment import EnvironmentConfig


@dataclass(slots=True)
class Objective:
    """The coefficients of the objective over one batch of episodes, per nominal fair share and resource.

    All that is pending costs as if it waited: what is served earns that back on top of its worth, and what is
    lost costs the difference.
    """

    scale: np.ndarray  # (1, N, R) one over the nominal fair share times R
    served: np.ndarray  # (B, N, R) value of a served unit over one that waits
    pending: np.ndarray  # (B, N, R) cost of a unit that waits
    lost: np.ndarray  # (B, N, R) cost of a lost unit over one that waits, negative where losing is cheaper
    ones: np.ndarray  # (R,) whose product with an array is its sum over resources

    @classmethod
    def of(cls, weights: np.ndarray, scale: np.ndarray, holding: float, loss: float) -> Objective:
        """Prepare for agents with these ``weights`` (B, N); costs are times the worth of a unit."""
        worth = weights[..., None] * scale  # (B, N, R)
        return cls(
            scale=scale,
            served=worth * (1.0 + holding),
            pending=worth * holding,
            lost=worth * (loss - holding),
            ones=np.ones(scale.shape[2]),
        )

    def deferring(self, weights: np.ndarray, price: float) -> Objective:
        """Return the objective in which what waits counts as served already, later, at ``price`` per fair
        share.

        A unit that is served now then earns what it saves over that price, and one that is lost costs what it
        would have earned besides. The difference is a potential of the queues (Ng, Harada and Russell 1999):
        which requests are best stays the same, up to what still waits at the end, but what they are worth
        shows at once. Agents whose units are worth less than the price gain nothing by serving them later.
        """
        due = np.maximum(weights - price, 0.0)[..., None] * self.scale  # (B, N, R)
        return replace(self, served=self.served - due, lost=self.lost + due)

    def without_worth(self) -> Objective:
        """Return the objective in which nothing counts but the price of what is granted."""
        nothing = np.zeros((1, 1, 1))
        return replace(self, served=nothing, pending=nothing, lost=nothing)

    def price(self, price: np.ndarray) -> np.ndarray:
        """Return the price (B or 1, N, R) of a granted unit from that of a fair share (B or 1, R)."""
        return price[:, None, :] * self.scale

    def values(
        self, price: np.ndarray, pending: np.ndarray, grants: np.ndarray, served: np.ndarray, lost: np.ndarray
    ) -> np.ndarray:
        """Return each agent's value (..., B, N) of what became, (..., B, N, R) each, of what was pending (B,
        N, R) at the ``price`` of granted units (B or 1, N, R).
        """
        return self.by_resource(price, pending, grants, served, lost) @ self.ones

    def by_resource(
        self, price: np.ndarray, pending: np.ndarray, grants: np.ndarray, served: np.ndarray, lost: np.ndarray
    ) -> np.ndarray:
        """Return what each resource contributes (..., B, N, R) to `values`."""
        gain = self.gain(price, grants, served)
        gain -= self.pending * pending
        gain -= self.lost * lost
        return gain

    def gain(self, price: np.ndarray, grants: np.ndarray, served: np.ndarray) -> np.ndarray:
        """Return what grants gain over waiting (..., B, N, R): what they serve is worth, less their price."""
        if served is grants:  # nothing is lost on the way
            return (self.served - price) * grants
        gain = self.served * served
        gain -= price * grants
        return gain


def drawn_weights(config: EnvironmentConfig, rng: np.random.Generator, copies: int) -> np.ndarray:
    """Return the agents' weights (B, N) of one episode in each of B ``copies``."""
    if config.weights is not None:
        return np.tile(np.asarray(config.weights, float), (copies, 1))
    size = (copies, config.num_agents)
    return rng.choice(config.weight_values, p=config.weight_probabilities, size=size)
