"""Fronts and their hypervolume against counting cells, and what must always hold of them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from camac_dra.utils.pareto_front import hypervolume, lattice_of, non_dominated, simplex_lattice


def clouds(most: int = 7) -> st.SearchStrategy[np.ndarray]:
    """Return whole-numbered points (P, O) between -1 and 5, of one to four objectives."""
    shapes = st.tuples(st.integers(0, most), st.integers(1, 4))
    return shapes.flatmap(lambda shape: arrays(np.int64, shape, elements=st.integers(-1, 5)))


def cells_below(points: np.ndarray, reference: int) -> int:
    """Count the unit cells above the reference that some point dominates."""
    axes = [range(reference, 6)] * points.shape[1]
    return sum(
        any((point > cell).all() for point in points) for cell in map(np.array, itertools.product(*axes))
    )


@given(points=clouds(), reference=st.integers(-1, 1))
def test_the_hypervolume_is_what_counting_cells_gives(points: np.ndarray, reference: int) -> None:
    corner = np.full(points.shape[1], reference)
    assert hypervolume(points, corner) == pytest.approx(cells_below(points, reference), abs=1e-9)


@given(points=clouds(), scale=st.floats(0.1, 10.0), seed=st.integers(0, 100))
def test_hypervolumes_scale_and_do_not_depend_on_order(points: np.ndarray, scale: float, seed: int) -> None:
    objectives = points.shape[1]
    volume = hypervolume(points, np.zeros(objectives))
    shuffled = np.random.default_rng(seed).permutation(points)
    assert hypervolume(shuffled, np.zeros(objectives)) == pytest.approx(volume)
    assert hypervolume(points * scale, np.zeros(objectives)) == pytest.approx(volume * scale**objectives)
    assert hypervolume(points + 3.0, np.full(objectives, 3.0)) == pytest.approx(volume)


@given(points=clouds(), more=st.lists(st.integers(-1, 5), min_size=4, max_size=4))
def test_more_points_never_lessen_it_and_dominated_ones_add_nothing(points: np.ndarray, more: Any) -> None:
    reference = np.full(points.shape[1], -2)
    volume = hypervolume(points, reference)
    with_more = np.vstack([points, more[: points.shape[1]]])
    assert hypervolume(with_more, reference) >= volume - 1e-9
    if not non_dominated(with_more)[-1]:
        assert hypervolume(with_more, reference) == pytest.approx(volume)
    assert hypervolume(points[non_dominated(points)], reference) == pytest.approx(volume)


@given(points=clouds())
def test_a_point_is_on_the_front_where_none_is_better_in_all_that_counts(points: np.ndarray) -> None:
    expected = [
        not any((other >= point).all() and (other > point).any() for other in points) for point in points
    ]
    assert non_dominated(points).tolist() == expected
    assert bool(len(points)) == bool(np.any(expected))


def test_by_hand() -> None:
    points = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [1.0, 1.0]])
    assert hypervolume(points, np.zeros(2)) == 6.0
    assert non_dominated(points).tolist() == [True, True, True, False]
    assert hypervolume(points, np.array([3.0, 0.0])) == 0.0


def test_a_lattice_has_every_multiple_once() -> None:
    for objectives, divisions in [(2, 4), (3, 1), (3, 3), (4, 2)]:
        weights = simplex_lattice(objectives, divisions)
        assert len(weights) == math.comb(divisions + objectives - 1, objectives - 1)
        assert len({tuple(row) for row in weights.tolist()}) == len(weights)
        np.testing.assert_allclose(weights.sum(axis=1), 1.0)
        np.testing.assert_allclose(weights * divisions, np.round(weights * divisions))


@pytest.mark.parametrize(("least", "size"), [(1, 3), (3, 3), (4, 6), (10, 10), (11, 15)])
def test_the_smallest_lattice_is_taken_that_has_enough(least: int, size: int) -> None:
    assert len(lattice_of(3, least)) == size
