"""Games with hand-computed payoffs, step by step, and the contract of vector environments."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from camac_dra.utils.errors import ActionError, ConfigurationError
from experiments.games.matrix_games import CommonPayoffGame, climbing_game, penalty_game, two_step_game


def test_the_two_step_game_by_hand() -> None:
    env = two_step_game(6, 0)
    observations = env.reset(0)
    np.testing.assert_array_equal(observations[0], [[1, 0, 0, 1, 0], [1, 0, 0, 0, 1]])  # state, then who
    first = env.step(np.array([[0, 0], [0, 1], [1, 0], [1, 0], [1, 1], [1, 1]]))
    assert (first.rewards == 0).all()
    assert not first.done.any()
    assert not first.terminated.any()
    # The first agent's action alone chose the matrix.
    np.testing.assert_array_equal(first.observations[:, 0, :3].argmax(1), [1, 1, 2, 2, 2, 2])
    second = env.step(np.array([[0, 0], [1, 1], [0, 0], [0, 1], [1, 0], [1, 1]]))
    np.testing.assert_array_equal(second.rewards[:, 0], [7, 7, 0, 1, 1, 8])
    np.testing.assert_array_equal(second.rewards[:, 1], second.rewards[:, 0])
    assert second.terminated.all()
    assert second.done.all()
    assert not second.truncated.any()
    assert [episode["reward"] for episode in second.episodes] == [7, 7, 0, 1, 1, 8]
    np.testing.assert_array_equal(second.observations, observations)  # of the next episode
    assert second.final_observations.shape == (6, 2, 5)


@pytest.mark.parametrize(
    ("make", "rows"),
    [
        (climbing_game, [[11, -30, 0], [-30, 7, 6], [0, 0, 5]]),
        (partial(penalty_game, penalty=-50.0), [[10, 0, -50], [0, 2, 0], [-50, 0, 10]]),
        (penalty_game, [[10, 0, 0], [0, 2, 0], [0, 0, 10]]),
    ],
)
def test_matrices_are_those_of_the_paper(make, rows: list[list[float]]) -> None:
    env = make(9, 0)
    joint = np.array([(one, two) for one in range(3) for two in range(3)])
    result = env.step(joint)
    np.testing.assert_array_equal(result.rewards[:, 0].reshape(3, 3), rows)
    assert result.terminated.all()


def test_a_game_goes_on_from_its_state() -> None:
    one, two = two_step_game(2, 0), two_step_game(2, 1)
    one.step(np.array([[1, 0], [0, 0]]))
    two.set_state(one.get_state())
    actions = np.array([[1, 1], [1, 1]])
    first, second = one.step(actions), two.step(actions)
    np.testing.assert_array_equal(first.rewards, second.rewards)
    np.testing.assert_array_equal(first.rewards[:, 0], [8, 7])
    assert second.episodes == first.episodes


@pytest.mark.parametrize(
    ("actions", "message"),
    [([[0, 1]], r"shape \(2, 2\), got \(1, 2\)"), ([[0, 2], [0, 0]], r"from 0 to 1, got 0 to 2")],
)
def test_actions_that_do_not_fit_are_refused(actions: list[list[int]], message: str) -> None:
    with pytest.raises(ActionError, match=message):
        two_step_game(2, 0).step(np.array(actions))


def test_games_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"penalty must be at most 0, got 1\.0"):
        penalty_game(1, 0, penalty=1.0)
    with pytest.raises(ConfigurationError, match=r"payoffs must have shape \(S, A, A\), got \(1, 2, 3\)"):
        CommonPayoffGame(1, 0, payoffs=np.zeros((1, 2, 3)))
    with pytest.raises(ConfigurationError, match=r"successors must be from 0 to 0, got 1"):
        CommonPayoffGame(1, 0, payoffs=np.zeros((1, 2, 2)), successors=np.ones((1, 2, 2), int))
    with pytest.raises(ConfigurationError, match=r"num_envs must be at least 1, got 0"):
        two_step_game(0, 0)
