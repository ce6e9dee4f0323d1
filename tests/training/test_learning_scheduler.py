"""Schedules at their ends and in the middle, and as RLlib takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camac_dra.training.learning_scheduler import SCHEDULES, LearningScheduler, learning_rate_schedule
from camac_dra.utils.errors import ConfigurationError


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("constant", [8.0, 8.0, 8.0, 8.0, 8.0]),
        ("linear", [8.0, 6.5, 5.0, 2.0, 2.0]),
        ("exponential", [8.0, 8.0 * 0.25**0.25, 4.0, 2.0, 2.0]),
        ("cosine", [8.0, 2 + 3 * (1 + np.sqrt(0.5)), 5.0, 2.0, 2.0]),
    ],
)
def test_values_by_hand(kind: str, values: list[float]) -> None:
    schedule = LearningScheduler(kind, 8.0, 2.0, duration=100)
    assert [schedule.value(done) for done in (0, 25, 50, 100, 170)] == pytest.approx(values)


def test_decay_is_per_step_and_ends_at_the_end() -> None:
    epsilon = LearningScheduler("exponential", 1.0, 0.2, decay=0.5)
    assert [epsilon.value(done) for done in range(5)] == [1.0, 0.5, 0.25, 0.2, 0.2]


@given(
    st.sampled_from(SCHEDULES), st.floats(0.001, 1), st.floats(0.001, 1), st.integers(1, 10_000), st.data()
)
def test_every_schedule_runs_one_way_and_rllibs_points_lie_on_it(
    kind: str, start: float, end: float, duration: int, data: st.DataObject
) -> None:
    schedule = LearningScheduler(kind, start, end, duration=duration)
    done = sorted(data.draw(st.lists(st.floats(0, 2 * duration), min_size=2, max_size=6)))
    steps = np.diff([schedule.value(d) for d in done])
    assert (steps <= 1e-12).all() if end <= start else (steps >= -1e-12).all()
    points = schedule.points()
    if kind == "constant":
        assert points == start
        return
    assert isinstance(points, list)
    at, values = zip(*points, strict=True)
    assert (at[0], at[-1]) == (0, duration)
    straight = np.interp(done, at, values)
    np.testing.assert_allclose(straight, [schedule.value(d) for d in done], atol=0.02 + 0.6 / duration)


def test_learning_rates_fall_to_nothing() -> None:
    for kind, end in (("constant", 0.1), ("linear", 0.0), ("cosine", 0.0), ("exponential", 0.001)):
        assert learning_rate_schedule(kind, 0.1, 50).value(50) == pytest.approx(end)


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        (("linaer", 1.0), {}, "must be one of constant, .*, got 'linaer'. Did you mean 'linear'"),
        (("linear", 1.0), {}, "duration must be a finite number above 0 for a linear schedule, got None"),
        (("cosine", 1.0), {"duration": 0}, "duration must be .* for a cosine schedule, got 0"),
        (("constant", -1.0), {}, "start of a schedule must be finite and at least 0, got -1.0"),
        (("linear", 1.0), {"duration": 5, "decay": 0.5}, "decay must be .* exponential schedule, got 0.5"),
        (("exponential", 1.0), {"duration": 5}, "start and end must be above 0 .*got 1.0 and 0.0"),
    ],
)
def test_bad_settings_are_refused(arguments: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        LearningScheduler(*arguments, **options)


def test_a_decay_without_end_is_nothing_for_rllib() -> None:
    with pytest.raises(ConfigurationError, match="duration must be given for a schedule with an end"):
        LearningScheduler("exponential", 1.0, decay=0.5).points()
