"""A game that is won by talking only: name the colour that your neighbour sees."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from camac_dra.environment.vector_api import StepResult
from camac_dra.models.block_policy import BlockPolicy
from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.ray_session import build_algorithm
from camac_dra.training.rllib_bridge import modules_of
from camac_dra.training.settings import PPOSettings

COLOURS = 4
ITERATIONS = 45  # five of five seeds have learned it all by then, whatever the rounding of products
AGENTS = 3  # agent i is to name what agent i + 1 sees; agent i - 1 is heard too, and is of no use


class Signalling:
    """B copies; a step is a round with new colours; observations are ``graph`` rows (B, N, 3, COLOURS + 3).

    A row is the colour that its agent sees and the agent's number, both one of so many.
    """

    def __init__(self, num_envs: int, seed: int) -> None:
        self.num_envs = num_envs
        self.agent_ids = [f"agent_{i}" for i in range(AGENTS)]
        shape = (3, COLOURS + AGENTS + 1)
        self.single_observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.single_action_space = spaces.Discrete(COLOURS)
        self.present = np.ones((num_envs, AGENTS), bool)
        self.reset(seed)

    def reset(self, seed: int | None = None) -> np.ndarray:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._clock = 0
        return self._draw()

    def _draw(self) -> np.ndarray:
        self.colours = self._rng.integers(COLOURS, size=(self.num_envs, AGENTS))
        number = np.broadcast_to(np.eye(AGENTS), (self.num_envs, AGENTS, AGENTS))
        rows = np.concatenate([np.eye(COLOURS)[self.colours], number, self.present[..., None]], axis=-1)
        agents = np.arange(AGENTS)
        neighbours = np.stack([agents, (agents + 1) % AGENTS, (agents - 1) % AGENTS], axis=1)
        self.observations = rows[:, neighbours].astype(np.float32)
        return self.observations

    @property
    def right(self) -> np.ndarray:
        return np.roll(self.colours, -1, axis=1)

    def step(self, actions: np.ndarray) -> StepResult:
        won = (actions == self.right).astype(float)
        self._clock += 1
        over = np.full(self.num_envs, self._clock % 5 == 0)
        observations = self._draw()
        return StepResult(
            observations=observations,
            rewards=won,
            terminated=np.zeros(won.shape, bool),
            truncated=over,
            active=self.present,
            present=self.present,
            done=over,
            final_observations=observations[over] if over.any() else None,
            episodes=[{"won": float(row.mean())} for row in won] if over.any() else [],
        )

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> BlockPolicy:
    """What was learned: messages are four numbers of four bits."""
    settings = PPOSettings(
        network_kind="communication",
        network_options={"message_size": 4, "message_bits": 4, "width": 32, "num_heads": 2},
        hidden_sizes=(32,),
        num_envs=32,
        fragment_length=10,
        batch_size=240,
        num_epochs=4,
        learning_rate=3e-3,
        gamma=0.0,
        seed=1,
    )
    algorithm = build_algorithm(
        build_algorithm_config(partial(Signalling), settings), Path(tmp_path_factory.mktemp("signalling"))
    )
    for _ in range(ITERATIONS):
        algorithm.train()
    modules = modules_of(algorithm.learner.module, algorithm.config.module_ids)
    made = BlockPolicy(modules, algorithm.config.agent_modules)
    algorithm.stop()
    return made


def share_won(policy: BlockPolicy, change: Any = None) -> float:
    env = Signalling(200, 7)
    shown = env.observations.copy()
    if change is not None:
        change(shown)
    return float((policy.act(shown) == env.right).mean())


def test_agents_learn_to_say_what_they_see(policy: BlockPolicy) -> None:
    assert share_won(policy) > 0.95  # by chance 0.25


def test_without_messages_they_guess(policy: BlockPolicy) -> None:
    def cut(shown: np.ndarray) -> None:
        shown[:, :, 1:, -1] = 0.0

    assert share_won(policy, cut) < 0.5


def test_a_few_bits_from_the_neighbours_are_all_they_need(policy: BlockPolicy) -> None:
    assert policy.listener is not None
    env = Signalling(1, 11)
    won = []
    for _ in range(100):
        rows = env.observations[0, :, 0]  # (N, F + 1): what each sees itself
        said = policy.listener.speak(rows)
        assert said.dtype == np.uint8
        assert said.max() < 16
        around = np.stack([np.roll(said, -1, axis=0), np.roll(said, 1, axis=0)], axis=1)  # (N, 2, C)
        actions = policy.act_on_messages(rows, around, np.ones((AGENTS, 2), bool), range(AGENTS))
        np.testing.assert_array_equal(actions, policy.act(env.observations))
        won.append((actions == env.right).mean())
        env.step(actions)
    assert np.mean(won) > 0.95
