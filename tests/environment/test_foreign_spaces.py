"""Agents that differ get rows of one shape, and act in their own spaces all the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from camac_dra.environment.foreign_spaces import CommonSpaces

NAMES = ["a", "b"]
LINE = spaces.Box(-1.0, 1.0, (2,), np.float32)


def rows(common: CommonSpaces, *seen: Any) -> np.ndarray:
    """Return what the agents see, over rubbish that must not show."""
    array = np.zeros((len(seen), *common.observation.shape), np.float32)
    for number, one in enumerate(seen):
        common.write(array[number], number, one)
        assert common.observation.contains(array[number])
    return array


def test_equal_boxes_stay_as_they_are() -> None:
    image = spaces.Box(0, 255, (2, 3), np.uint8)
    common = CommonSpaces(NAMES, [image, image], [spaces.Discrete(2)] * 2)
    assert common.observation == spaces.Box(0.0, 255.0, (2, 3), np.float32)
    seen = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(rows(common, seen, seen + 1), [seen, seen + 1])


def test_shorter_observations_are_padded_with_zeros() -> None:
    wide = spaces.Box(np.full(3, -5.0, np.float32), np.float32([1.0, 2.0, 3.0]))
    common = CommonSpaces(NAMES, [LINE, wide], [spaces.Discrete(2)] * 2)
    assert common.observation.high.tolist() == [1.0, 2.0, 3.0]
    assert common.observation.low.tolist() == [-5.0, -5.0, -5.0]
    got = rows(common, np.array([0.5, -0.5]), np.array([1.0, 2.0, 3.0]))
    assert got.tolist() == [[0.5, -0.5, 0.0], [1.0, 2.0, 3.0]]


def test_other_kinds_are_flattened() -> None:
    mixed = spaces.Dict({"place": spaces.Discrete(3), "speed": LINE})
    common = CommonSpaces(NAMES, [mixed, spaces.MultiBinary(2)], [spaces.Discrete(2)] * 2)
    got = rows(common, {"place": 1, "speed": np.array([0.5, 0.0], np.float32)}, np.array([1, 0]))
    assert got.tolist() == [[0.0, 1.0, 0.0, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]]


def test_the_indicator_says_who_sees() -> None:
    common = CommonSpaces(NAMES, [LINE, spaces.Box(0, 1, (1,))], [spaces.Discrete(2)] * 2, indicator=True)
    got = rows(common, np.array([0.5, 1.0]), np.array([0.25]))
    assert got.tolist() == [[0.5, 1.0, 1.0, 0.0], [0.25, 0.0, 0.0, 1.0]]
    alike = CommonSpaces(NAMES, [LINE, LINE], [spaces.Discrete(2)] * 2, indicator=True)
    assert rows(alike, np.ones(2), np.ones(2)).tolist() == [[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("own", "common_space", "given", "expected"),
    [
        ([spaces.Discrete(3, start=2)] * 2, spaces.Discrete(3), [0, 2], [2, 4]),
        ([spaces.Discrete(2), spaces.Discrete(4, start=-1)], spaces.Discrete(4), [3, 3], [0, 2]),
        ([spaces.Discrete(2), spaces.Discrete(4)], spaces.Discrete(4), [1, 1], [1, 1]),
        (
            [spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([4])],
            spaces.MultiDiscrete([4, 3]),
            [[3, 2], [3, 2]],
            [[0, 2], [3]],
        ),
        (
            [spaces.Box(0.0, 4.0, (1,)), spaces.Box(np.float32([-2.0, 0.0]), np.float32([2.0, 1.0]))],
            spaces.Box(-1.0, 1.0, (2,), np.float32),
            [[1.0, 0.5], [0.0, -1.0]],
            [[4.0], [0.0, 0.0]],
        ),
        ([LINE] * 2, LINE, [[0.5, 1.0], [-1.0, 0.0]], [[0.5, 1.0], [-1.0, 0.0]]),
    ],
)
def test_actions_reach_each_agent_s_own_space(
    own: list[Any], common_space: Any, given: list[Any], expected: list[Any]
) -> None:
    common = CommonSpaces(NAMES, [LINE] * 2, own)
    assert common.action == common_space
    actions = np.array(given, common_space.dtype)
    got = common.to_own(actions)
    for action, wanted, space in zip(got, expected, own, strict=True):
        assert space.contains(action)
        assert np.asarray(action).tolist() == wanted


def test_masks_say_what_each_agent_may_do() -> None:
    common = CommonSpaces(NAMES, [LINE] * 2, [spaces.Discrete(2), spaces.Discrete(3)])
    assert common.masks is not None
    assert common.masks.tolist() == [[True, True, False], [True, True, True]]
    assert CommonSpaces(NAMES, [LINE] * 2, [spaces.Discrete(2)] * 2).masks is None
    own = [spaces.Dict({"observation": LINE, "action_mask": spaces.Box(0, 1, (n,), np.int8)}) for n in (2, 3)]
    masked = CommonSpaces(NAMES, own, [spaces.Discrete(2), spaces.Discrete(3)])
    assert masked.observation == LINE
    mask = np.ones(3, bool)
    for number, given, expected in (
        (0, [0, 1], [False, True, False]),
        (1, [1, 0, 1], [True, False, True]),
        (0, [0, 0], [True, True, False]),
    ):
        seen = {"observation": np.float32([0.5, 1.0]), "action_mask": np.array(given, np.int8)}
        masked.write_mask(mask, number, seen)
        assert mask.tolist() == expected
        row = np.zeros(2, np.float32)
        masked.write(row, number, seen)
        assert row.tolist() == [0.5, 1.0]
