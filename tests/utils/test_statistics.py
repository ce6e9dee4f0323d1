"""Interquartile means, bootstrap intervals, Jain's index."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from camac_dra.utils.errors import StatisticsError
from camac_dra.utils.statistics import (
    Interval,
    interquartile_mean,
    jain_index,
    paired_difference_interval,
    stratified_bootstrap_interval,
)

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)
AMOUNTS = st.lists(st.floats(0, 1e150), min_size=1, max_size=20)


def test_interquartile_mean_by_hand() -> None:
    assert interquartile_mean([1.0, 2.0, 3.0, 4.0]) == 2.5
    assert interquartile_mean([0.0, 1.0, 2.0, 3.0, 1000.0]) == 2.0
    assert interquartile_mean([[1.0, 2.0], [3.0, -100.0]]) == 1.5
    assert interquartile_mean([7.0]) == 7.0


@given(NUMBERS)
def test_interquartile_mean_is_scipys_trimmed_mean(values: list[float]) -> None:
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-9, abs=1e-6)


def test_interval_holds_the_estimate_and_is_the_same_for_the_same_draws() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 8))
    one, two = (stratified_bootstrap_interval(scores, np.random.default_rng(1)) for _ in range(2))
    assert one == two
    assert one.low < one.estimate < one.high
    assert one.estimate == interquartile_mean(scores)
    narrow = stratified_bootstrap_interval(scores, np.random.default_rng(1), level=0.5)
    assert one.low < narrow.low < narrow.high < one.high


def test_runs_are_drawn_within_each_task() -> None:
    scores = np.array([[0.0, 10.0, 20.0, 30.0]] * 3)  # runs agree, tasks differ: nothing is uncertain
    interval = stratified_bootstrap_interval(scores, np.random.default_rng(0))
    assert interval == Interval(15.0, 15.0, 15.0)


def test_tasks_are_drawn_independently_of_each_other() -> None:
    scores = np.array([[0.0, 0.0], [1.0, 1.0]])
    interval = stratified_bootstrap_interval(
        scores, np.random.default_rng(0), statistic=lambda x: np.ptp(x.mean(axis=-2), axis=-1), resamples=2000
    )
    assert interval.high == 1.0  # drawn together, both tasks would always have the same mean


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        sample = rng.normal(size=(20, 2))
        interval = stratified_bootstrap_interval(sample, rng, resamples=300)
        hits += interval.low <= 0.0 <= interval.high
    assert 0.85 <= hits / 200 <= 0.99


def test_many_resamples_are_made_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).normal(size=(4, 3))
    whole = stratified_bootstrap_interval(scores, np.random.default_rng(1), resamples=500)
    monkeypatch.setattr("camac_dra.utils.statistics.CHUNK_VALUES", 100)
    assert stratified_bootstrap_interval(scores, np.random.default_rng(1), resamples=500) == whole


def test_paired_differences_see_what_bare_intervals_do_not() -> None:
    rng = np.random.default_rng(0)
    episode = rng.normal(scale=10.0, size=40)  # what makes an episode easy or hard for both
    first = episode + 1.0 + rng.normal(scale=0.1, size=40)
    second = episode + rng.normal(scale=0.1, size=40)
    paired = paired_difference_interval(first, second, rng)
    assert paired.low > 0.9
    assert paired.high < 1.1
    alone = stratified_bootstrap_interval(first, rng)
    assert alone.high - alone.low > 1.0
    assert paired_difference_interval(first, first, rng) == Interval(0.0, 0.0, 0.0)


def test_interval_reads_well() -> None:
    assert str(Interval(0.65432, 0.6, 0.7)) == "0.6543 [0.6, 0.7]"


def test_jain_index_by_hand() -> None:
    assert jain_index([1.0, 1.0, 1.0]) == pytest.approx(1.0)
    assert jain_index([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain_index([3.0, 1.0]) == pytest.approx(16 / 20)
    assert jain_index([0.0, 0.0]) == 1.0
    assert jain_index([]) == 1.0
    assert jain_index([1.0, 5.0, 1.0], where=[True, False, True]) == pytest.approx(1.0)


@given(AMOUNTS, st.floats(1e-100, 1e100), st.randoms())
def test_jain_index_is_bounded_and_blind_to_scale_and_order(
    values: list[float], scale: float, random: Any
) -> None:
    index = jain_index(values)
    assert 1 / len(values) - 1e-9 <= index <= 1 + 1e-9
    shuffled = random.sample(values, len(values))
    assert jain_index(shuffled) == pytest.approx(index)
    if max(values) > 1e-100:
        assert jain_index(np.array(values) * scale) == pytest.approx(index)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: interquartile_mean([]),
            r"scores: must be \(runs,\) or \(runs, tasks\) with at least one, got \(0, 1\)",
        ),
        (lambda: interquartile_mean([[[1.0]]]), r"scores: must be .*, got \(1, 1, 1\)"),
        (lambda: interquartile_mean([1.0, np.nan]), "scores: must be finite, got nan among 2"),
        (lambda: bootstrap(level=1.0), "level: must be above 0 and below 1, got 1.0"),
        (lambda: bootstrap(resamples=0), "resamples: must be at least 1, got 0"),
        (
            lambda: differences([1.0], [1.0, 2.0]),
            r"pairs: both must have the same shape, got \(1,\) and \(2,\)",
        ),
        (lambda: differences([np.inf], [np.inf]), "scores: must be finite, got nan"),
        (lambda: jain_index([1.0, -1.0]), "values: must be finite and not negative"),
        (lambda: jain_index([np.nan]), "values: must be finite and not negative"),
        (
            lambda: jain_index([1.0], where=[True, False]),
            r"where: must have the shape of values \(1,\), got \(2,\)",
        ),
    ],
)
def test_numbers_that_make_no_sense_are_refused(call: Any, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        call()


def bootstrap(**options: Any) -> Interval:
    return stratified_bootstrap_interval([1.0, 2.0], np.random.default_rng(0), **options)


def differences(first: list[float], second: list[float]) -> Interval:
    return paired_difference_interval(first, second, np.random.default_rng(0))
