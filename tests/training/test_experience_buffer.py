"""The replay buffer: what goes in comes out, drawn as promised, in the memory that is promised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camac_dra.training.experience_buffer import ExperienceBuffer
from camac_dra.utils.errors import ConfigurationError, ExperienceError

MIB = 2**20


def experience(t: int, *end: bool) -> tuple[Any, ...]:
    """Return step ``t``: state t, action t modulo 3, reward t, next state t + 1."""
    return (np.full(2, t), t % 3, float(t), np.full(2, t + 1), *(end or (False,)))


def filled(steps: int, **options: Any) -> ExperienceBuffer:
    buffer = ExperienceBuffer(seed=0, **options)
    for t in range(steps):
        buffer.add(experience(t))
    return buffer


def test_experiences_come_out_as_they_went_in() -> None:
    buffer = filled(50, max_size=20)
    drawn = [row for _ in range(20) for row in buffer.sample(20)]
    for state, action, reward, following, done in drawn:
        t = int(state[0])
        assert (state.shape, state.dtype, action, reward, done) == ((2,), np.float32, t % 3, t, False)
        assert following.tolist() == [t + 1, t + 1]
    assert {int(state[0]) for state, *_ in drawn} == set(range(30, 50))


def test_observations_keep_their_shape() -> None:
    buffer = ExperienceBuffer(10, seed=0)
    buffer.add((np.ones((3, 4)), 0, 1.0, np.zeros((3, 4)), True))
    state, _, _, following, done = buffer.sample(1)[0]
    assert (state.shape, following.shape, done) == ((3, 4), (3, 4), True)


def test_it_is_ready_when_it_has_enough_and_not_after_clearing() -> None:
    buffer = filled(5)
    assert (len(buffer), buffer.is_ready(5), buffer.is_ready(6)) == (5, True, False)
    buffer.clear()
    assert (len(buffer), buffer.is_ready(1)) == (0, False)
    buffer.add((np.ones(7), 0, 0.0, np.ones(7), False))  # another shape
    assert len(buffer) == 1


def test_sums_over_steps_end_with_episodes() -> None:
    buffer = ExperienceBuffer(100, n_step=3, gamma=0.5, seed=0)
    for t in range(4):
        buffer.add(experience(t, t == 3))
    for t in range(10, 12):
        buffer.add(experience(t, False, t == 11))
    buffer.add(experience(20))
    found = {int(s[0]): (r, int(n[0]), d) for s, _, r, n, d in [*buffer.sample(6), *buffer.sample(6)]}
    t = buffer.sample_batch(6)
    assert len(buffer) == 6  # step 20 still waits
    expected = {
        0: (0 + 0.5 + 0.5, 3, False),
        1: (1 + 1 + 0.75, 4, True),
        2: (2 + 1.5, 4, True),
        3: (3, 4, True),
        10: (10 + 5.5, 12, False),
        11: (11, 12, False),
    }
    assert all(expected[state] == value for state, value in found.items())
    discounts = dict(zip(t.transitions.states[:, 0].tolist(), t.transitions.discounts.tolist(), strict=True))
    right = {0.0: 0.125, 1.0: 0.0, 2.0: 0.0, 3.0: 0.0, 10.0: 0.25, 11.0: 0.5}
    assert all(right[state] == discount for state, discount in discounts.items())


def test_a_step_that_does_not_follow_begins_anew() -> None:
    buffer = ExperienceBuffer(10, n_step=2, seed=0)
    for t in (0, 1, 5, 6):
        buffer.add(experience(t))
    assert {int(state[0]) for _ in range(20) for state, *_ in buffer.sample(2)} == {0, 5}


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.booleans())
def test_streams_are_what_each_would_be_alone(seed: int, n: int, everybody: bool) -> None:
    """Several streams at once, with ends of their own, against one buffer per stream."""
    rng, streams, steps = np.random.default_rng(seed), 3, 25
    together = ExperienceBuffer(1000, n_step=n, gamma=0.9)
    alone = [ExperienceBuffer(1000, n_step=n, gamma=0.9) for _ in range(streams)]
    now = rng.normal(size=(streams, 2)).astype(np.float32)
    together.begin(now)
    for _ in range(steps):
        actions, rewards = rng.integers(4, size=streams), rng.normal(size=streams)
        ended = np.full(streams, rng.random() < 0.2) if everybody else rng.random(streams) < 0.2
        terminated = ended & (rng.random(streams) < 0.5)
        after, finals = (rng.normal(size=(streams, 2)).astype(np.float32) for _ in range(2))
        together.add_steps(
            actions, rewards, after, terminated=terminated, ended=ended, final_observations=finals[ended]
        )
        for s in range(streams):
            last = finals[s] if ended[s] else after[s]
            alone[s].add(
                (now[s], actions[s], rewards[s], last, terminated[s], ended[s] and not terminated[s])
            )
        now = after
    expected = sorted(row for buffer in alone for row in rows_of(buffer))
    assert rows_of(together) == expected


def rows_of(buffer: ExperienceBuffer) -> list[tuple[float, ...]]:
    """Return everything in a buffer, sorted."""
    if not len(buffer):
        return []
    assert buffer._memory is not None
    t = buffer._memory.take(np.arange(len(buffer)))
    columns = (*t.states.T, t.actions, t.rewards, *t.next_states.T, t.discounts)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def test_who_is_away_adds_nothing() -> None:
    buffer = ExperienceBuffer(10)
    both, none = np.ones(2, bool), np.zeros(2, bool)
    buffer.begin(np.array([[0.0], [10.0]]))
    for t, active, present in ((0, both, ~none & [True, False]), (1, both & [True, False], both)):
        buffer.add_steps(
            np.zeros(2, int),
            np.ones(2),
            np.array([[t + 1.0], [t + 11.0]]),
            terminated=none,
            ended=none,
            active=active,
            present=present,
        )
    expected = [(0, 0, 1, 1, 0.99), (1, 0, 1, 2, 0.99), (10, 0, 1, 12, 0.99)]
    np.testing.assert_allclose(rows_of(buffer), expected, rtol=1e-6)


# Priorities


def test_priorities_decide_how_often_and_weights_make_up_for_it() -> None:
    buffer = filled(4, max_size=8, prioritized=True, alpha=1.0, beta=1.0)
    first = buffer.sample_batch(4)
    assert first.weights is not None
    assert first.weights.tolist() == [1.0] * 4  # never learned from: all alike
    buffer.update_priorities(np.arange(4), np.array([-1.0, 2.0, 3.0, 4.0]))
    counts, last = np.zeros(4), None
    for _ in range(500):
        last = buffer.sample_batch(4)
        counts += np.bincount(last.places, minlength=4)
    np.testing.assert_allclose(counts / counts.sum(), [0.1, 0.2, 0.3, 0.4], atol=0.03)
    assert last is not None
    assert last.weights is not None
    chances = np.array([0.1, 0.2, 0.3, 0.4])[last.places]
    np.testing.assert_allclose(last.weights, chances.min() / chances, rtol=1e-5)
    buffer.add(experience(4))  # as urgent as the most urgent one was
    assert buffer._tree is not None
    assert buffer._tree.get(np.array([4, 5])).tolist() == pytest.approx([4.0, 0.0], abs=1e-5)


def test_what_is_overwritten_loses_its_priority() -> None:
    buffer = filled(3, max_size=3, prioritized=True)
    buffer.update_priorities(np.array([0]), np.array([100.0]))
    for t in range(3, 6):
        buffer.add(experience(t))
    assert buffer._tree is not None
    assert len(set(buffer._tree.get(np.arange(3)).tolist())) == 1


# Memory


@pytest.mark.parametrize("prioritized", [False, True])
def test_a_million_transitions_of_64_features_stay_under_330_mib(prioritized: bool) -> None:
    """Counted, not filled: 320 streams of episodes of 200 steps need no more room than is there at first."""
    buffer = ExperienceBuffer(1_000_000, n_step=3, prioritized=prioritized)
    buffer.begin(np.zeros((320, 64), np.float32))
    assert 244 * MIB < buffer.nbytes < 330 * MIB


def test_room_suffices_for_episodes_of_usual_length() -> None:
    buffer = ExperienceBuffer(4000, n_step=3)
    buffer.begin(np.zeros((20, 8), np.float32))
    before = buffer.nbytes
    none, rows = np.zeros(20, bool), np.zeros((20, 8), np.float32)
    for t in range(1, 401):
        ended = none if t % 20 else ~none
        finals = rows if ended.any() else None
        buffer.add_steps(
            np.zeros(20, int), np.zeros(20), rows, terminated=none, ended=ended, final_observations=finals
        )
    assert len(buffer) == 4000
    assert buffer.nbytes == before


def test_on_a_disk_it_is_the_same(tmp_path: Path) -> None:
    in_memory, on_disk = (
        filled(90, max_size=40, n_step=2),
        filled(90, max_size=40, n_step=2, directory=tmp_path),
    )
    for one, other in zip(in_memory.sample(20), on_disk.sample(20), strict=True):
        assert [np.asarray(part).tolist() for part in one] == [np.asarray(part).tolist() for part in other]
    assert list(tmp_path.iterdir()) == []


# Bad input


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda b: b.add((1, 2, 3)), r"experience must be \(state, action, .*got 3 entries"),
        (lambda b: b.add((np.ones(3), 0, 0.0, np.ones(3), False)), r"must have shape \(2,\), got \(3,\)"),
        (lambda b: b.add((np.ones(2), 0, np.nan, np.ones(2), False)), "must be finite, got reward nan"),
        (lambda b: b.sample(4), "batch_size must be from 1 to the 3 transitions that there are, got 4"),
        (lambda b: b.sample(0), "batch_size must be from 1 to the 3"),
        (lambda b: b.update_priorities(np.zeros(1, int), np.ones(1)), "prioritized must be True"),
        (lambda b: b.begin(np.ones((2, 3))), "observations must have shape"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(call: Any, match: str) -> None:
    buffer = filled(3)
    with pytest.raises(ExperienceError, match=match):
        call(buffer)
    assert len(buffer) == 3
    buffer.add(experience(3))
    assert {int(state[0]) for _ in range(30) for state, *_ in buffer.sample(4)} == {0, 1, 2, 3}


def test_steps_need_a_beginning_and_as_many_rows() -> None:
    buffer, none = ExperienceBuffer(5), np.zeros(2, bool)
    arguments = (np.zeros(2, int), np.zeros(2), np.zeros((2, 1)))
    with pytest.raises(ExperienceError, match="streams that begin was called with, 0, got"):
        buffer.add_steps(*arguments, terminated=none, ended=none)
    buffer.begin(np.zeros((3, 1)))
    with pytest.raises(ExperienceError, match=r"begin was called with, 3, got \[2\]"):
        buffer.add_steps(*arguments, terminated=none, ended=none)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_size": 0}, "max_size must be a whole number of at least 1, got 0"),
        ({"n_step": 0}, "n_step must be a whole number of at least 1, got 0"),
        ({"gamma": 2.0}, "gamma must be .* at most 1, got 2.0"),
        ({"beta": -0.5}, "beta must be .* at least 0"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        ExperienceBuffer(**options)
