"""Fronts of points with several objectives, all to be raised, and what they dominate.

Axes: P points, O objectives.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Return which of the ``points`` (P, O) no other one dominates, (P,) bool.

    A point dominates another where it is at least as good in every objective and better in one; equal points
    do not dominate each other.
    """
    points = np.asarray(points, np.float64)
    at_least = (points[:, None] >= points).all(axis=2)  # (P, P) row dominates column, or equals it
    better = (points[:, None] > points).any(axis=2)
    return np.logical_not((at_least & better).any(axis=0))


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """Return the volume that ``points`` (P, O) dominate above the ``reference`` (O,).

    Zitzler and Thiele 1999; exact, by slices along one objective after the other (Zitzler 2001), which is
    fast enough for some hundred points of three objectives. Points that are not above the reference in every
    objective add nothing.
    """
    above = np.asarray(points, np.float64) - np.asarray(reference, np.float64)  # (P, O)
    return _volume(above[(above > 0.0).all(axis=1)])


def _volume(points: np.ndarray) -> float:
    """Return the volume of the union of the boxes from 0 to each of the points (P, O), all above 0."""
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(points.max())
    points = points[np.argsort(-points[:, -1])]
    heights = points[:, -1] - np.append(points[1:, -1], 0.0)  # (P,) from each point down to the next one
    return sum(
        float(heights[k]) * _volume(points[: k + 1, :-1]) for k in np.flatnonzero(heights > 0.0).tolist()
    )


def simplex_lattice(objectives: int, divisions: int) -> np.ndarray:
    """Return all weights (P, O) that are multiples of ``1 / divisions`` and add up to 1.

    Das and Dennis 1998. The corners are among them; the first weight falls from the first row to the last.
    """
    return np.array(list(_compositions(objectives, divisions)), np.float64) / divisions


def lattice_of(objectives: int, least: int) -> np.ndarray:
    """Return the smallest `simplex_lattice` that has at least so many weights."""
    divisions = 1
    while len(weights := simplex_lattice(objectives, divisions)) < least:
        divisions += 1
    return weights


def _compositions(parts: int, total: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to split a whole number into so many parts, in order."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        for rest in _compositions(parts - 1, total - first):
            yield (first, *rest)
