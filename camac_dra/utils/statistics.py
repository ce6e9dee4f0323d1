"""Statistics of few runs: interquartile means with stratified bootstrap intervals instead of bare means.

Source: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021.

Arrays have runs (seeds) first and tasks (problems, episodes) second: (runs, tasks).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camac_dra.utils.errors import StatisticsError

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # reduces the last two axes, (..., runs, tasks) to (...)

CHUNK_VALUES = 4_000_000  # resampled values held at a time


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its interval at a level of confidence."""

    estimate: float
    low: float
    high: float
    level: float = 0.95

    def __str__(self) -> str:
        """Return ``estimate [low, high]`` with four digits."""
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}]"


def interquartile_mean(scores: ArrayLike) -> float:
    """Return the mean of the middle half of all scores, runs and tasks pooled.

    A quarter of the values, rounded down, is left out at either end: of 5 values the middle 3 count.

    Raises:
        StatisticsError: there are no scores, or one is not finite.
    """
    return float(_interquartile_mean(_scores(scores)))


def _interquartile_mean(scores: Floats) -> Floats:
    flat = scores.reshape(*scores.shape[:-2], -1)  # (..., runs * tasks)
    size = flat.shape[-1]
    cut = size // 4
    ordered = np.partition(flat, (cut, size - cut - 1), axis=-1)
    return ordered[..., cut : size - cut].mean(axis=-1)


def _mean(scores: Floats) -> Floats:
    return scores.mean(axis=(-2, -1))


def stratified_bootstrap_interval(
    scores: ArrayLike,
    rng: np.random.Generator,
    *,
    statistic: Statistic = _interquartile_mean,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """Return a statistic of all scores and its percentile bootstrap interval.

    Runs are drawn with replacement within each task (the strata), independently for every task.

    Args:
        scores: (runs,) or (runs, tasks), finite.
        rng: source of the draws; the same state gives the same interval.
        statistic: reduces the last two axes; the interquartile mean unless told otherwise.
        level: share of the bootstrap distribution that the interval holds.
        resamples: number of bootstrap samples.

    Raises:
        StatisticsError: there are no scores, one is not finite, or level or resamples are out of range.
    """
    array = _scores(scores)  # (runs, tasks)
    _check_sampling(level, resamples)
    runs, tasks = array.shape
    chunk = max(1, CHUNK_VALUES // array.size)
    values = []
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        rows = rng.integers(runs, size=(count, runs, tasks))  # (count, runs, tasks)
        values.append(statistic(array[rows, np.arange(tasks)]))  # (count,)
    tail = (1.0 - level) / 2
    low, high = np.quantile(np.concatenate(values), (tail, 1.0 - tail))
    return Interval(float(statistic(array[None])[0]), float(low), float(high), level)


def paired_difference_interval(
    first: ArrayLike,
    second: ArrayLike,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """Return the mean of ``first - second`` over pairs (the same episodes) and its bootstrap interval.

    Pairs are drawn, so that what makes both of a pair easy or hard cancels out. An interval on one side of
    zero says that the two differ.

    Args:
        first: (pairs,) or (runs, tasks); the pairs of a task are its stratum.
        second: of the same shape, entry by entry the partner of ``first``.
        rng: source of the draws.
        level: share of the bootstrap distribution that the interval holds.
        resamples: number of bootstrap samples.

    Raises:
        StatisticsError: shapes differ, there are no pairs, or a value is not finite or out of range.
    """
    left, right = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if left.shape != right.shape:
        raise StatisticsError(f"pairs: both must have the same shape, got {left.shape} and {right.shape}")
    with np.errstate(invalid="ignore"):  # inf - inf is found, and named, below
        differences = left - right
    return stratified_bootstrap_interval(differences, rng, statistic=_mean, level=level, resamples=resamples)


def jain_index(values: ArrayLike, where: ArrayLike | None = None) -> float:
    """Return Jain's fairness index ``(sum x)^2 / (n sum x^2)``, from 1/n (one has all) to 1 (all alike).

    Values that are all zero are alike, so their index is 1; so is that of no values. Source: Jain, Chiu and
    Hawe, DEC-TR-301, 1984.

    Args:
        values: (n,), not negative.
        where: (n,) bool; agents left out (those without demand, say) are False.

    Raises:
        StatisticsError: a value is negative or not finite, or shapes differ.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    if where is not None:
        mask = np.asarray(where, dtype=bool).ravel()
        if mask.shape != array.shape:
            raise StatisticsError(f"where: must have the shape of values {array.shape}, got {mask.shape}")
        array = array[mask]
    if not np.isfinite(array).all() or (array < 0).any():
        raise StatisticsError(f"values: must be finite and not negative, got {array}")
    largest = array.max(initial=0.0)
    if largest == 0.0:
        return 1.0
    scaled = array / largest  # squares of tiny or huge values would leave the range of numbers
    return float(scaled.sum() ** 2 / (scaled.size * (scaled**2).sum()))


def _scores(scores: ArrayLike) -> Floats:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.size == 0:
        raise StatisticsError(
            f"scores: must be (runs,) or (runs, tasks) with at least one, got {array.shape}"
        )
    if not np.isfinite(array).all():
        bad = array[~np.isfinite(array)][0]
        raise StatisticsError(f"scores: must be finite, got {bad} among {array.size}")
    return array


def _check_sampling(level: float, resamples: int) -> None:
    if not 0.0 < level < 1.0:
        raise StatisticsError(f"level: must be above 0 and below 1, got {level}")
    if resamples < 1:
        raise StatisticsError(f"resamples: must be at least 1, got {resamples}")
