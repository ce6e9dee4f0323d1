"""A Gymnasium environment as one with a single agent: ends, cuts, seeds and states stay what they are."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import numpy as np

from camac_dra.environment.foreign import ForeignVectorEnvironment
from camac_dra.environment.single_agent import SingleAgentParallelEnv


def cartpole(num_envs: int, **options: int) -> ForeignVectorEnvironment:
    return ForeignVectorEnvironment(partial(SingleAgentParallelEnv, "CartPole-v1", **options), num_envs, 3)


def test_episodes_are_those_of_gymnasium() -> None:
    env = cartpole(1)
    observations = env.reset(3)
    plain = gym.make("CartPole-v1")
    expected, _ = plain.reset(seed=int(np.random.default_rng(3).integers(2**31)))
    np.testing.assert_array_equal(observations[0, 0], expected)
    steps = 0
    while True:
        steps += 1
        expected, reward, terminated, truncated, _ = plain.step(1)
        result = env.step(np.ones((1, 1), int))
        assert result.rewards[0, 0] == reward
        assert (result.terminated[0, 0], result.truncated[0]) == (terminated, truncated)
        if terminated:
            break
        np.testing.assert_array_equal(result.observations[0, 0], expected)
    assert result.done.all()
    np.testing.assert_array_equal(result.final_observations[0, 0], expected)
    expected_measures = {"reward": float(steps), "return_per_agent": float(steps), "steps": float(steps)}
    assert result.episodes == [expected_measures]


def test_a_time_limit_truncates_and_does_not_terminate() -> None:
    env = cartpole(2, max_episode_steps=5)
    env.reset(0)
    for step in range(5):
        result = env.step(np.full((2, 1), step % 2))
    assert result.truncated.all()
    assert result.done.all()
    assert not result.terminated.any()


def test_it_goes_on_from_its_state() -> None:
    one, two = cartpole(2), cartpole(2)
    one.reset(1)
    for step in range(7):
        one.step(np.full((2, 1), step % 2))
    two.set_state(one.get_state())
    actions = np.array([[0], [1]])
    np.testing.assert_array_equal(one.step(actions).observations, two.step(actions).observations)
