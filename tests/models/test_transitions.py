"""n-step sums and the memory of transitions, beside slow references that keep everything in lists."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camac_dra.models.observation_rows import ObservationRows
from camac_dra.models.transitions import Completed, NStepSums, TransitionMemory
from camac_dra.utils.errors import OutputError

Found = dict[int, tuple[float, float, int]]  # by number of the first state: sum, discount, number of the last


def n_step_definition(
    rewards: list[float], numbers: list[int], after: int, terminated: bool, n: int, gamma: float
) -> Found:
    """Return what the steps of one episode become; ``numbers`` are of its states, ``after`` of the last."""
    found = {}
    for t in range(len(rewards)):
        steps = min(n, len(rewards) - t)
        total = sum(gamma**k * rewards[t + k] for k in range(steps))
        ends = t + steps == len(rewards)
        found[numbers[t]] = (
            total,
            0.0 if ends and terminated else gamma**steps,
            after if ends else numbers[t + steps],
        )
    return found


@given(
    st.lists(st.floats(-10, 10, allow_nan=False, width=16), min_size=1, max_size=12),
    st.booleans(),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.5, 0.9, 1.0]),
)
def test_sums_are_as_defined(rewards: list[float], terminated: bool, n: int, gamma: float) -> None:
    sums, found = NStepSums(n, gamma), {}
    for t, reward in enumerate(rewards):
        last = t + 1 == len(rewards)
        done = sums.add(
            np.array([t]),
            np.array([7]),
            np.array([reward]),
            terminated=np.array([last and terminated]),
            cut=np.array([last and not terminated]),
        )
        assert set(done.actions.tolist()) <= {7}
        found.update(as_found(done, np.array([t + 1])))
    assert found == {
        first: pytest.approx(expected)
        for first, expected in n_step_definition(
            rewards, list(range(len(rewards))), len(rewards), terminated, n, gamma
        ).items()
    }


def as_found(done: Completed, following: np.ndarray) -> Found:
    rows = zip(
        done.states.tolist(),
        done.rewards.tolist(),
        done.discounts.tolist(),
        following[done.streams].tolist(),
        strict=True,
    )
    return {state: (total, discount, last) for state, total, discount, last in rows}


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4))
def test_streams_do_not_mix_and_absence_takes_no_time(seed: int, n: int, streams: int) -> None:
    """Streams that end, are cut off and stay away as they like are each what they would be alone."""
    rng, steps = np.random.default_rng(seed), 20
    sums = NStepSums(n, 0.9, streams)
    present = rng.random((steps + 1, streams)) < 0.7
    terminated = present[:-1] & (rng.random((steps, streams)) < 0.15)
    cut = ~terminated & (rng.random((steps, streams)) < 0.1)
    cut[-1] = ~terminated[-1]
    rewards = rng.normal(size=(steps, streams))
    numbers = np.arange((steps + 1) * streams).reshape(steps + 1, streams)
    finals = 1_000_000 + numbers  # what was seen last, where an episode ends
    found: Found = {}
    for t in range(steps):
        done = sums.add(
            numbers[t],
            np.zeros(streams, np.int64),
            rewards[t],
            terminated=terminated[t],
            cut=cut[t],
            active=present[t],
            followed=present[t + 1],
        )
        found.update(as_found(done, np.where(terminated[t] | cut[t], finals[t], numbers[t + 1])))
    expected: Found = {}
    for s in range(streams):
        begun = 0
        for t in np.flatnonzero(terminated[:, s] | cut[:, s]):
            taking_part = [k for k in range(begun, t + 1) if present[k, s]]
            expected |= n_step_definition(
                rewards[taking_part, s].tolist(),
                numbers[taking_part, s].tolist(),
                finals[t, s],
                bool(terminated[t, s]),
                n,
                0.9,
            )
            begun = t + 1
    assert found == {first: pytest.approx(value) for first, value in expected.items()}


def steps_of(states: np.ndarray) -> Completed:
    """Return steps that begin with these numbers and carry them as rewards."""
    k = len(states)
    return Completed(np.zeros(k, int), states, states % 5, states.astype(float), np.full(k, 0.5))


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 4))
def test_memory_is_a_queue_whatever_shares_observations(seed: int, capacity: int, width: int) -> None:
    """Runs of transitions that follow each other, and others that do not, of which the latest stay."""
    rng = np.random.default_rng(seed)
    memory = TransitionMemory(capacity, width, margin=4)
    kept: deque[tuple[int, int]] = deque(maxlen=capacity)
    number, table = -1, []
    for _ in range(60):
        follows = rng.random() < 0.5 and number >= 0
        rows = rng.normal(size=(1 if follows else 2, width)).astype(np.float32)
        stored = memory.store(rows)
        table.extend(rows)
        assert stored[-1] == len(table) - 1
        first = number if follows else int(stored[0])
        number = int(stored[-1])
        memory.add(steps_of(np.array([first])), np.array([number]))
        kept.append((first, number))
    assert len(memory) == len(kept)
    held = memory.take(np.arange(len(memory)))
    by_reward = {int(reward): i for i, reward in enumerate(held.rewards)}
    assert set(by_reward) == {first for first, _ in kept}
    for first, last in kept:
        i = by_reward[first]
        np.testing.assert_array_equal(held.states[i], table[first])
        np.testing.assert_array_equal(held.next_states[i], table[last])
        assert held.actions[i] == first % 5


def test_what_follows_each_other_is_stored_once() -> None:
    chain, apart = TransitionMemory(1000, 64), TransitionMemory(1000, 64)
    number = chain.store(np.zeros((1, 64), np.float32))
    for _ in range(3000):
        following = chain.store(np.zeros((1, 64), np.float32))
        chain.add(steps_of(number), following)
        number = following
        pair = apart.store(np.zeros((2, 64), np.float32))
        apart.add(steps_of(pair[:1]), pair[1:])
    assert len(chain) == len(apart) == 1000
    assert chain.nbytes < 1000 * (64 * 4 * 1.1 + 28)
    assert apart.nbytes > 1.6 * chain.nbytes  # so that the bound above can fail


def test_memory_keeps_the_latest_and_their_masks() -> None:
    memory, rng = TransitionMemory(3, 1, 2), np.random.default_rng(0)
    number = memory.store(np.array([[0.0]], np.float32))
    for value in range(5):
        following = memory.store(np.array([[value + 1.0]], np.float32))
        memory.add(steps_of(number), following, np.array([[True, value > 3]]))
        number = following
    rows = memory.latest_and_random(2, 3, rng)
    assert rows.states[:2, 0].tolist() == [4, 3]
    seen = {float(s) for _ in range(50) for s in memory.latest_and_random(1, 3, rng).states[:, 0]}
    assert seen == {2.0, 3.0, 4.0}
    assert rows.next_masks is not None
    assert rows.next_masks[:2].tolist() == [[True, True], [True, False]]
    np.testing.assert_array_equal(rows.next_states, rows.states + 1)
    memory.clear()
    assert len(memory) == 0


def test_transitions_whose_beginning_is_gone_are_left_out() -> None:
    memory = TransitionMemory(4, 1, margin=0)
    early = memory.store(np.zeros((1, 1), np.float32))
    later = memory.store(np.ones((8, 1), np.float32))
    steps = steps_of(np.concatenate([early, later[-2:-1]]))
    assert len(memory.add(steps, later[-1:].repeat(2))) == 1
    assert memory.take(np.arange(1)).states.tolist() == [[1.0]]


@pytest.mark.parametrize("on_disk", [False, True])
def test_rows_keep_their_numbers_when_the_ring_grows(tmp_path: Path, on_disk: bool) -> None:
    rows = ObservationRows(4, 2, tmp_path if on_disk else None)
    table = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    for first in range(0, 30, 3):
        numbers = rows.append(table[first : first + 3], oldest=10)
    assert numbers.tolist() == [27, 28, 29]
    assert rows.have(np.array([0, 10, 29])).tolist() == [False, True, True]
    np.testing.assert_array_equal(rows.take(np.arange(10, 30)), table[10:])
    assert rows.nbytes >= 20 * 2 * 4
    assert list(tmp_path.iterdir()) == []  # the file has no name


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere: must be a folder with 32 bytes of room .*No such file"):
        ObservationRows(4, 2, tmp_path / "nowhere")
