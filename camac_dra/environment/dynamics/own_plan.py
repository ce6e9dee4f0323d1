"""What a session would do by itself: charge in the slots before its departure that gain it the most.

Axes, always in this order: B parallel copies, N agents (stations), F forecasts, H steps ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_EQUAL = 1e-9  # gains as close as this are alike: the earlier slot is taken


@dataclass(frozen=True, slots=True)
class Outlook:
    """What each station has before it, from the step that begins up to its departure.

    Attributes:
        better: (B, N) how many of the later steps gain more than this one.
        advantage: (B, N) by how much a unit gains more in the best later step than in this one; 0 where no
            later step is left.
    """

    better: np.ndarray
    advantage: np.ndarray

    def share(self, need: np.ndarray) -> np.ndarray:
        """Return what share (B, N) of the full rate to serve now, where the rest takes ``need`` (B, N) steps
        at full rate.
        """
        return np.clip(need - self.better, 0.0, 1.0)


class OwnPlanner:
    """Solves every station's own problem in closed form, by prices that are the same for all of a copy.

    A station that needs ``need`` steps at full rate and has ``left`` of them serves x_h in [0, 1] in step h,
    at most ``need`` in all, so that the sum of ``stay^h * (worth - price_h) * x_h`` is highest: a unit served
    is worth ``worth``, and the session is there in each further step with probability ``stay``. That is a
    fractional knapsack: the steps of the highest gain are filled. Prices between the leads of the forecasts
    are interpolated; after the last one they stay. No capacity is thought of.
    """

    def __init__(self, lead_steps: np.ndarray, horizon: int, stay: float, worth: float) -> None:
        """Plan up to ``horizon`` steps ahead by forecasts for ``lead_steps`` (F,) later."""
        steps, leads = np.arange(horizon), np.concatenate([[0.0], lead_steps])
        rows = [np.interp(steps, leads, row) for row in np.eye(len(leads))]
        self._between = np.stack(rows)  # (1 + F, H) what each known price adds to that of a step
        self._stay = stay**steps  # (H,)
        self._worth = worth

    def outlook(self, left: np.ndarray, price: np.ndarray, forecasts: np.ndarray) -> Outlook:
        """Return what the plans go by now.

        Args:
            left: (B, N) whole steps until the departure, this one included, from 1 up to the horizon.
            price: (B,) of now.
            forecasts: (B, F).
        """
        prices = np.column_stack([price, forecasts]) @ self._between  # (B, H)
        gain = self._stay * (self._worth - prices)  # (B, H)
        now = gain[:, :1]
        better = np.cumsum(gain > now + _EQUAL, axis=1)  # (B, H) among this step and those before it
        later = gain - now
        later[:, 0] = -np.inf
        best = np.maximum.accumulate(later, axis=1)  # (B, H)
        last = left - 1  # (B, N)
        return Outlook(
            better=np.take_along_axis(better, last, axis=1),
            advantage=np.where(last > 0, np.take_along_axis(best, last, axis=1), 0.0),
        )
