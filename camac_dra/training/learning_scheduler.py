"""How a quantity changes while training goes on: learning rate, exploration, entropy bonus."""

from __future__ import annotations

import math

from camac_dra.utils.errors import ConfigurationError, did_you_mean

SCHEDULES = ("constant", "linear", "exponential", "cosine")
SEGMENTS = 100  # straight lines that stand for a curve
FINAL_SHARE = 0.01  # of the start, where an exponential decay is to end near 0


class LearningScheduler:
    """A value as a function of how much is done, in steps, episodes or whatever ``duration`` counts.

    With p the share of ``duration`` that is done, at most 1: ``constant`` stays at ``start``; ``linear`` is
    ``start + p (end - start)``; ``cosine`` is ``end + (start - end) (1 + cos(pi p)) / 2`` (Loshchilov and
    Hutter 2017); ``exponential`` is ``start (end / start)^p``, or with ``decay``, which needs no duration,
    ``start decay^done``, and never passes ``end``.
    """

    def __init__(
        self,
        kind: str,
        start: float,
        end: float = 0.0,
        *,
        duration: float | None = None,
        decay: float | None = None,
    ) -> None:
        """Make a schedule.

        Raises:
            ConfigurationError: the kind is not known, or a number is missing, out of range or without effect.
        """
        if kind not in SCHEDULES:
            raise ConfigurationError(
                f"kind of a schedule must be one of {', '.join(SCHEDULES)}, got {kind!r}."
                f"{did_you_mean(kind, SCHEDULES)}"
            )
        for name, value in (("start", start), ("end", end)):
            if not 0.0 <= value < math.inf:
                raise ConfigurationError(f"{name} of a schedule must be finite and at least 0, got {value!r}")
        if decay is not None and (kind != "exponential" or not 0.0 <= decay <= 1.0):
            raise ConfigurationError(
                f"decay must be between 0 and 1, of an exponential schedule, got {decay!r} for {kind!r}"
            )
        needs_duration = kind != "constant" and decay is None
        if needs_duration and (duration is None or not 0.0 < duration < math.inf):
            raise ConfigurationError(
                f"duration must be a finite number above 0 for a {kind} schedule, got {duration!r}"
            )
        if kind == "exponential" and decay is None and not (start > 0.0 and end > 0.0):
            raise ConfigurationError(
                f"start and end must be above 0 for an exponential schedule without decay, "
                f"got {start!r} and {end!r}"
            )
        self.kind, self.start, self.end, self.duration, self.decay = kind, start, end, duration, decay

    def value(self, done: float) -> float:
        """Return the value after so many steps."""
        if self.kind == "constant":
            return self.start
        if self.decay is not None:
            return max(min(self.start, self.end), self.start * self.decay**done)
        assert self.duration is not None
        progress = min(max(done / self.duration, 0.0), 1.0)
        if self.kind == "linear":
            return self.start + progress * (self.end - self.start)
        if self.kind == "exponential":
            return self.start * (self.end / self.start) ** progress
        return self.end + (self.start - self.end) * 0.5 * (1.0 + math.cos(math.pi * progress))

    def points(self) -> float | list[list[float]]:
        """Return the schedule as RLlib takes it: a number, or (step, value) of a piecewise linear function.

        Raises:
            ConfigurationError: it has no duration.
        """
        if self.kind == "constant":
            return self.start
        if self.duration is None:
            raise ConfigurationError("duration must be given for a schedule with an end, got None")
        segments = 1 if self.kind == "linear" else SEGMENTS
        steps = [round(self.duration * k / segments) for k in range(segments + 1)]
        return [[step, self.value(step)] for step in dict.fromkeys(steps)]


def learning_rate_schedule(kind: str, learning_rate: float, duration: float | None) -> LearningScheduler:
    """Return the schedule of a learning rate that falls to 0 (``exponential``: to a hundredth)."""
    end = FINAL_SHARE * learning_rate if kind == "exponential" else 0.0
    return LearningScheduler(kind, learning_rate, end, duration=duration)
