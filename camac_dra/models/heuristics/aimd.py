"""Additive increase, multiplicative decrease: how the internet shares its links."""

from __future__ import annotations

import numpy as np

from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.heuristics.policy import Heuristic


class AIMD(Heuristic):
    """Each agent keeps a window per resource, which grows steadily and shrinks when a
    group was over capacity.

    All it hears is whether one of its groups was over its capacity in the step before. The window is the
    share of what is pending that it asks for; it starts at 1, grows by 0.1 and is halved. Source: Chiu and
    Jain, "Analysis of the increase and decrease algorithms for congestion avoidance in computer networks",
    Computer Networks and ISDN Systems 17, 1989.
    """

    name = "aimd"
    description = "a window on what is pending: +0.1 a step, halved on overload"

    def __init__(self, increase: float = 0.1, decrease: float = 0.5, most: float = 1.0) -> None:
        """Grow by ``increase`` up to ``most``, and shrink to the share ``decrease``."""
        self._increase, self._decrease, self._most = increase, decrease, most

    def begin(self, env: VectorEnvironment) -> None:
        """Open all windows to 1."""
        self._window = np.ones(env.state.pending.shape)  # (B, N, R)

    def requests(self, env: VectorEnvironment) -> np.ndarray:
        """Return requests (B, N, R)."""
        if env.state.time > 0:
            overload = -env.constraints.groups.least_over_groups(-env.state.last_overload)  # (B, N or 1, R)
            grown = np.minimum(self._window + self._increase, self._most)
            self._window = np.where(overload > 0.0, self._window * self._decrease, grown)
        return self._within_window(env)

    def _within_window(self, env: VectorEnvironment) -> np.ndarray:
        """Return what the windows let through (B, N, R)."""
        return env.askable() * self._window


class TunedAIMD(AIMD):
    """AIMD whose windows are counted in fair shares, with the constants that did best on the default problem.

    Windows in units of the capacity do not swell with the queues, so that fewer steps are over capacity.
    """

    name = "aimd_tuned"
    description = "a window in fair shares, up to 3: +0.2 a step, times 0.7 on overload"

    def __init__(self, increase: float = 0.2, decrease: float = 0.7, most: float = 3.0) -> None:
        """Grow by ``increase`` up to ``most``, and shrink to the share ``decrease``."""
        super().__init__(increase, decrease, most)

    def _within_window(self, env: VectorEnvironment) -> np.ndarray:
        """Return what the windows let through (B, N, R)."""
        return np.minimum(env.askable(), self._window * env.state.fair_share)
