"""Prices over time with the forecasts that were known then, from a CSV file."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from camac_dra.environment.dynamics.trace_files import Trace
from camac_dra.utils.errors import TraceError

_MINUTE = 60_000_000_000  # nanoseconds
_FORECAST = re.compile(r"forecast_(\d+)min")


@dataclass(frozen=True, slots=True)
class PriceSeries:
    """Evenly spaced prices, and forecasts made at the same time for so many minutes later.

    Attributes:
        name: what messages call the file.
        times: (S,) nanoseconds since 1970 UTC, from when on a row holds.
        values: (S, 1 + F) the price, then the forecasts by rising lead.
        leads: (F,) minutes ahead of which each forecast speaks.
    """

    name: str
    times: np.ndarray
    values: np.ndarray
    leads: np.ndarray

    @classmethod
    def read(cls, path: str, timezone: str | None) -> PriceSeries:
        """Read the columns ``time``, ``price`` and ``forecast_XXmin``; others are ignored.

        Raises:
            TraceError: a column is missing, a cell is malformed, a forecast or price negative,
                or times have gaps.
        """
        trace = Trace(path, ("time", "price"))
        leads = sorted(int(found[1]) for name in trace.columns if (found := _FORECAST.fullmatch(name)))
        columns = ["price", *(f"forecast_{lead}min" for lead in leads)]
        times = trace.times("time", timezone)
        steps = np.diff(times)
        if len(steps):
            usual = steps[0]
            rule = f"must come {usual / _MINUTE:g} minutes after the line above, without gaps"
            trace.refuse(np.concatenate([[usual <= 0], steps != usual]), "time", rule, trace.text("time"))
        return cls(
            path, times, np.stack([trace.amounts(name) for name in columns], axis=1), np.array(leads, float)
        )

    def known_at(self, begin: np.ndarray, slot: int, number: int) -> np.ndarray:
        """Return the latest row known at the beginning of each slot (D, T + 1, 1 + F).

        Args:
            begin: (D,) beginnings of the episodes, nanoseconds since 1970 UTC.
            slot: length of a slot in nanoseconds.
            number: T; the moment after the last slot may lie past the end of the series, whose
                last row then stays.

        Raises:
            TraceError: an episode is not covered.
        """
        asked = begin[:, None] + slot * np.arange(number + 1)  # (D, T + 1)
        step = self.times[1] - self.times[0] if len(self.times) > 1 else slot
        outside = (asked[:, 0] < self.times[0]) | (asked[:, -2] >= self.times[-1] + step)
        if outside.any():
            first, last = (pd.Timestamp(t, tz="UTC").isoformat() for t in self.times[[0, -1]])
            day = pd.Timestamp(begin[outside][0], tz="UTC").isoformat()
            raise TraceError(
                f"{self.name}: must cover every day that is played, which it does from {first} to {last}, "
                f"got a day that begins at {day}"
            )
        return self.values[np.searchsorted(self.times, asked, side="right") - 1]
