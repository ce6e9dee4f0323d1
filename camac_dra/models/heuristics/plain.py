"""Policies without memory: random, greedy, fair share."""

from __future__ import annotations

import numpy as np

from camac_dra.environment.agreement import PerfectAgreement
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.heuristics.policy import Heuristic


class RandomRequests(Heuristic):
    """Each agent asks for a uniform share of what it may ask for, of each resource anew at every step."""

    name = "random"
    description = "a uniform share of what is pending"

    def __init__(self, seed: int = 0) -> None:
        """Draw from a generator of its own, which starts anew with every episode."""
        self._seed = seed

    def begin(self, env: VectorEnvironment) -> None:
        """Start the generator anew."""
        self._rng = np.random.default_rng(self._seed)

    def requests(self, env: VectorEnvironment) -> np.ndarray:
        """Return requests (B, N, R)."""
        askable = env.askable()
        return askable * self._rng.random(askable.shape)


class Greedy(Heuristic):
    """Everybody asks for everything."""

    name = "greedy"
    description = "everything that is pending"

    def requests(self, env: VectorEnvironment) -> np.ndarray:
        """Return requests (B, N, R)."""
        return env.askable()


class FairShare(Heuristic):
    """Nobody asks for more than its equal part of the tightest group, so that requests always fit."""

    name = "fair_share"
    description = "at most an equal part of the capacity"

    def requests(self, env: VectorEnvironment) -> np.ndarray:
        """Return requests (B, N, R)."""
        return np.minimum(env.askable(), env.state.fair_share)


class GreedyAgreed(Greedy):
    """Everybody wants everything, and all scale down together until it fits.

    The agreement is perfect: what greed is worth once contention is out of the way.
    """

    name = "greedy_agreed"
    description = "everything, cut in proportion until it fits"

    def __init__(self) -> None:
        """Agree perfectly and in proportion."""
        self.agreement = PerfectAgreement()
