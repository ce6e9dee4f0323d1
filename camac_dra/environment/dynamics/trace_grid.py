"""The evenly spaced timestamps of a trace, and tables over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from camac_dra.environment.dynamics.trace_files import Trace
from camac_dra.utils.errors import TraceError

_DAY = 86_400.0  # seconds
_SLACK = 1e-6  # of a step: what rounding may do to numbers


@dataclass(frozen=True, slots=True)
class Grid:
    """Timestamps that follow each other at equal distances.

    Attributes:
        times: (S,) as written, or for dates seconds since 1970 UTC.
        dates: whether they are dates.
        offset: seconds that the first one's local time is ahead of UTC.
        between: for messages, the range they were restricted to.
    """

    times: np.ndarray
    dates: bool
    offset: float
    between: str

    def __len__(self) -> int:
        return len(self.times)

    @classmethod
    def of(cls, trace: Trace, start: float | str | None, end: float | str | None) -> Grid:
        """Return the timestamps from ``start`` to ``end``, both as written in the trace; None: no bound.

        Raises:
            TraceError: a timestamp is malformed, or the distances differ, in which case something is missing.
        """
        dates = not trace.is_number("timestamp")
        written = timestamps(trace, dates)  # (J,)
        times, first_row = np.unique(written, return_index=True)  # (S,)
        kept = np.ones(len(times), bool)
        for name, bound, inside in (("start", start, np.greater_equal), ("end", end, np.less_equal)):
            if bound is not None:
                kept &= inside(times, _as_time(bound, dates, name, trace.name))
        times, first_row = times[kept], first_row[kept]
        steps = np.diff(times)
        if len(steps):
            distances, number = np.unique(np.round(steps, 9), return_counts=True)
            usual = distances[np.argmax(number)]
            wrong = np.flatnonzero(np.abs(steps - usual) > usual * _SLACK)
            if len(wrong):
                before, after = first_row[wrong[0]], first_row[wrong[0] + 1]
                text = trace.text("timestamp")
                raise TraceError(
                    f"{trace.name}, line {trace.line(after)}: timestamps must be {usual:g}{' s' * dates} "
                    f"apart without gaps, got {text[after]} after {text[before]} (line {trace.line(before)})"
                )
        bounds = "" if start is None and end is None else f" from {start} to {end}"
        offset = float(trace.offsets("timestamp")[0]) * 1e-9 if dates else 0.0
        return cls(times, dates, offset, bounds)

    def steps_of(self, trace: Trace) -> np.ndarray:
        """Return the index (J,) of each row's timestamp; -1 where it is outside of the range.

        Raises:
            TraceError: a timestamp within the range is none of the grid's.
        """
        written = timestamps(trace, self.dates)
        step = self.times[1] - self.times[0] if len(self) > 1 else 1.0
        place = (written - self.times[0]) / step
        index = np.rint(place).astype(np.int64)
        inside = (index >= 0) & (index < len(self))
        off = inside & (np.abs(place - index) > _SLACK)
        rule = "must be a timestamp of the demand trace"
        trace.refuse(off, "timestamp", rule, trace.text("timestamp"))
        return np.where(inside, index, -1)

    def phase(self, day_length: float | None) -> np.ndarray | None:
        """Return sine and cosine of the time of day (S + 1, 2), the last one after the last step.

        A day has ``day_length`` steps from the first timestamp on; None takes local days where timestamps are
        dates, and gives None where they are not.
        """
        steps = np.arange(len(self) + 1)
        if day_length is not None:
            days = steps / day_length
        elif self.dates and len(self) > 1:
            days = (self.times[0] + self.offset + steps * (self.times[1] - self.times[0])) / _DAY
        else:
            return None
        angle = 2.0 * np.pi * (days % 1.0)
        return np.stack([np.sin(angle), np.cos(angle)], axis=1)

    def table(self, path: str, column: str, resource_ids: list[str]) -> np.ndarray:
        """Return a table (S, R) from a file with timestamp, resource_type and ``column``; NaN for resources
        not in it.

        Raises:
            TraceError: the file is malformed, names an unknown resource, has a cell twice, or lacks one for a
                resource that it names.
        """
        trace = Trace(path, ("timestamp", "resource_type", column))
        values, resource = trace.amounts(column), names_of(trace, "resource_type", resource_ids)
        step = self.steps_of(trace)
        cell = step * len(resource_ids) + resource  # (J,)
        inside = step >= 0
        count = np.bincount(cell[inside], minlength=len(self) * len(resource_ids))
        twice = np.zeros(len(trace), bool)
        _, first = np.unique(cell, return_index=True)
        twice[first] = True
        trace.refuse(inside & ~twice, column, "must be given once per timestamp and resource", values)
        named = np.unique(resource)
        lacking = np.argwhere(count.reshape(len(self), -1)[:, named] == 0)
        if len(lacking):
            at, which = lacking[0]
            raise TraceError(
                f"{path}: must have {column} of {resource_ids[named[which]]} for every timestamp "
                f"of the demand trace, got none for {self.written(int(at))}"
            )
        out = np.full(len(self) * len(resource_ids), np.nan)
        out[cell[inside]] = values[inside]
        return out.reshape(len(self), -1)

    def written(self, step: int) -> str:
        """Return a timestamp as messages show it."""
        time = float(self.times[step])
        return pd.Timestamp(time, unit="s", tz="UTC").isoformat() if self.dates else f"{time:g}"


def timestamps(trace: Trace, dates: bool) -> np.ndarray:
    """Return the column ``timestamp`` (J,): seconds since 1970 for ``dates``, else numbers as written."""
    return trace.times("timestamp") * 1e-9 if dates else trace.numbers("timestamp")


def names_of(trace: Trace, column: str, known: list[str]) -> np.ndarray:
    """Return the index (J,) of each row's name among the ``known`` ones.

    Raises:
        TraceError: a name is not among them.
    """
    given = trace.text(column)
    places = {name: place for place, name in enumerate(known)}
    index = np.array([places.get(name, -1) for name in given])
    few = known if len(known) <= 8 else [*known[:3], "...", known[-1]]
    trace.refuse(index < 0, column, f"must be one of {', '.join(few)}", given, known)
    return index


def _as_time(bound: float | str, dates: bool, name: str, file: str) -> float:
    """Return a bound of the range in the units of ``timestamps``."""
    try:
        if not dates:
            return float(bound)
        if isinstance(bound, str):
            stamp = pd.Timestamp(bound)
            return (stamp.tz_localize("UTC") if stamp.tz is None else stamp).timestamp()
    except ValueError:
        pass
    kind = "a date and time in ISO 8601" if dates else "a number"
    raise TraceError(
        f"environment.dynamics.replay.{name}: must be {kind}, as the timestamps of {file} are, got {bound!r}"
    )
