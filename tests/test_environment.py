"""The specification's own snippets for the environment, as they are written, with this repository's paths."""

# ruff: noqa: PT009  (the class is the specification's, word for word)

import unittest
from pathlib import Path

import numpy as np
import pytest

from camac_dra.environment import Environment, ResourcePool
from camac_dra.utils import ConfigLoader

DEFAULT = str(Path(__file__).resolve().parent.parent / "rllib_configs" / "default.yaml")


class TestEnvironment(unittest.TestCase):
    def setUp(self) -> None:
        self.config = ConfigLoader.load_config(DEFAULT)
        self.env = Environment(self.config)

    def test_reset(self) -> None:
        obs = self.env.reset()
        self.assertIsInstance(obs, dict)
        self.assertEqual(len(obs), self.config["environment"]["num_agents"])

    def test_step(self) -> None:
        self.env.reset()
        actions = {f"agent_{i}": 0 for i in range(self.config["environment"]["num_agents"])}
        _obs, rewards, _dones, _info = self.env.step(actions)

        self.assertIsInstance(rewards, dict)
        self.assertGreater(len(rewards), 0)

    def test_resource_allocation(self) -> None:
        pool = ResourcePool({"cpu": 100, "memory": 50})
        self.assertTrue(pool.allocate("cpu", 50))
        self.assertEqual(pool.get_available("cpu"), 50)
        self.assertFalse(pool.allocate("cpu", 100))


def test_the_loop_of_the_cloud_example_ends_with_the_episode() -> None:
    config = ConfigLoader.load_config(DEFAULT)
    config["environment"]["max_episode_length"] = 30
    env = Environment(config)
    for _ in range(2):
        obs = env.reset()
        done = False
        episode_reward = 0.0
        steps = 0
        while not done:
            actions = {agent_id: int(env.action_space.sample()) for agent_id in obs}
            obs, rewards, dones, _info = env.step(actions)
            episode_reward += sum(rewards.values())
            done = all(dones.values())
            steps += 1
        assert steps == 30
        assert episode_reward == pytest.approx(env.episode_measures["reward"])


def test_the_loop_of_the_quick_start_perceives_before_it_acts() -> None:
    env = Environment(ConfigLoader.load_config(DEFAULT)["environment"])
    for _ in range(5):
        observations = env.step(None)
        actions = {agent: int(np.argmax(row[:5])) for agent, row in observations.items()}
        next_obs, _rewards, dones, _info = env.step(actions)
        assert not any(dones.values())
        for agent, row in env.step(None).items():
            assert np.array_equal(row, next_obs[agent])


def test_the_custom_reward_of_the_example_is_what_agents_get() -> None:
    def custom_reward(agent_id: str, allocation: np.ndarray, resources: np.ndarray) -> np.ndarray:
        efficiency = allocation / resources
        fairness = 1.0 - np.std([allocation])
        return 0.7 * efficiency + 0.3 * fairness

    config = ConfigLoader.load_config(DEFAULT)
    config["environment"]["reward_fn"] = custom_reward
    config["environment"]["credit"] = "individual"
    env = Environment(config)
    env.reset()
    _obs, rewards, _dones, info = env.step(dict.fromkeys(env.agent_ids, 4))
    for agent, reward in rewards.items():
        expected = custom_reward(agent, info[agent]["granted"], env.resources.as_array("capacity"))
        assert reward == pytest.approx(float(np.mean(expected)))
