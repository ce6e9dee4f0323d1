"""Episodes begin, are cut off and are counted; cut off they end as the environment itself ends them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.training.episode_manager import EpisodeManager
from camac_dra.utils.errors import ActionError, CapabilityError, ConfigurationError
from tests.training.toy_environment import ToyVectorEnvironment

PROBLEM: dict[str, Any] = {"num_agents": 3, "num_resources": 3, "max_episode_length": 6}
ACTIONS = np.array([[0, 3, 5], [2, 1, 9]])


def managed(max_steps: int | None, **changes: Any) -> EpisodeManager:
    manager = EpisodeManager(VectorEnvironment({**PROBLEM, **changes}, 2, seed=3), max_steps)
    manager.begin(seed=5)
    return manager


def test_returns_and_lengths_are_counted_until_the_end() -> None:
    manager = managed(None)
    rewards = []
    for step in range(1, 8):
        result = manager.step(ACTIONS)
        rewards.append(result.rewards.sum(axis=1))
        assert manager.lengths.tolist() == [step % 6, step % 6]
        assert manager.observations is result.observations
    first, second = manager.take_finished()
    np.testing.assert_allclose([first.reward, second.reward], np.sum(rewards[:6], axis=0))
    assert (first.length, second.length, manager.take_finished()) == (6, 6, [])
    np.testing.assert_allclose(manager.rewards, rewards[6])


def test_cut_episodes_end_as_the_environments_own_do() -> None:
    """An episode of 4 steps, cut or so long by itself, has the same rewards, measures and flags."""
    cut, own = managed(4), managed(None, max_episode_length=4)
    for _ in range(4):
        one, other = cut.step(ACTIONS), own.step(ACTIONS)
        np.testing.assert_array_equal(one.rewards, other.rewards)
        np.testing.assert_array_equal(one.done, other.done)
        np.testing.assert_array_equal(one.truncated, other.truncated)
    assert one.done.all()
    assert not one.terminated.any()
    assert one.episodes == other.episodes
    assert one.final_observations is not None
    assert other.final_observations is not None
    time = np.abs(one.final_observations - other.final_observations).max(axis=(0, 1)) > 1e-6
    assert time.sum() <= 1  # but for the share of the episode that is over, which is another one
    assert cut.take_finished() == own.take_finished()
    assert not np.array_equal(one.observations, one.final_observations)
    assert cut.lengths.tolist() == [0, 0]


def test_a_limit_beyond_the_environments_own_does_nothing() -> None:
    manager = managed(100)
    for _ in range(12):
        manager.step(ACTIONS)
    assert [episode.length for episode in manager.take_finished()] == [6] * 4


def test_it_goes_on_from_its_state() -> None:
    one, two = managed(4), managed(4)
    for _ in range(3):
        one.step(ACTIONS)
    two.env.set_state(one.env.get_state())
    two.set_state(one.get_state())
    for _ in range(5):
        a, b = one.step(ACTIONS), two.step(ACTIONS)
        np.testing.assert_array_equal(a.observations, b.observations)
    assert one.take_finished() == two.take_finished() != []


def test_bad_use_is_refused() -> None:
    env = VectorEnvironment(PROBLEM)
    with pytest.raises(ConfigurationError, match="max_steps must be at least 1, got 0"):
        EpisodeManager(env, 0)
    with pytest.raises(ActionError, match=r"no episode is running; call begin\(\) first"):
        EpisodeManager(env).step(ACTIONS[:1])
    with pytest.raises(CapabilityError, match=r"max_steps needs a VectorEnvironment, .* got Toy"):
        EpisodeManager(ToyVectorEnvironment(2, 0), 3)
