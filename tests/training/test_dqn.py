"""Q-learning over arrays: target networks, exploration, learning of small problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from camac_dra.training.replay_algorithm import ReplayAlgorithm
from camac_dra.training.replay_settings import DQNSettings, ReplaySettings, SACSettings
from tests.training.cart_pole import CartPoles
from tests.training.replay_algorithms import Make, making


@pytest.fixture
def make(tmp_path: Path):
    yield from making(tmp_path)


# The target network


def test_the_target_network_is_copied_every_so_many_updates(make: Make) -> None:
    algorithm = make(target_update_freq=4, batch_size=40, num_epochs=1, learning_rate=0.01)
    module = algorithm.learner.module["shared"].unwrapped()
    for updates in (3, 6, 9, 12):  # 120 rows in an iteration: three updates
        algorithm.train()
        assert algorithm.learner.updates == updates
        assert same(module.online, module.target) == (updates % 4 == 0)


def test_the_target_network_moves_by_a_share(make: Make) -> None:
    algorithm = make()
    module = algorithm.learner.module["shared"].unwrapped()
    with torch.no_grad():
        for online, target in zip(module.online.parameters(), module.target.parameters(), strict=True):
            online.fill_(1.0)
            target.fill_(0.0)
    algorithm.learner.update_targets(0.25)
    algorithm.learner.update_targets(0.25)
    assert all((p == 1 - 0.75**2).all() for p in module.target.parameters())


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


# Exploration


def test_env_runners_explore_as_the_schedule_says(make: Make) -> None:
    algorithm = make(num_envs=64, fragment_length=4, epsilon_start=1.0, epsilon_end=0.0, epsilon_steps=256)
    shares = []
    for _ in range(2):
        assert algorithm.env_runner.policy.head.epsilon.item() == algorithm.epsilon
        fragment = algorithm.env_runner.sample()
        rows = torch.from_numpy(fragment.observations[:-1].reshape(-1, 7).copy())
        best = algorithm.env_runner.module["shared"].policy(rows).argmax(0).numpy()
        shares.append((fragment.actions.reshape(-1) == best).mean())
        algorithm.train()
    assert shares[0] == pytest.approx(1 / 3, abs=0.06)  # of 768 uniform actions
    assert shares[1] == 1.0


# Learning


@pytest.mark.parametrize(
    ("kind", "environment", "settings"),
    [
        (DQNSettings, {"absent": True, "terminate": True}, {"normalize_returns": True}),
        (DQNSettings, {"action_space": spaces.MultiDiscrete([3, 5])}, {"policies": "per_agent"}),
        (SACSettings, {"absent": True}, {"normalize_returns": True}),
    ],
)
def test_it_learns(
    make: Make, kind: type[ReplaySettings], environment: dict[str, Any], settings: dict[str, Any]
) -> None:
    algorithm = make(
        environment,
        kind,
        num_envs=16,
        fragment_length=20,
        learning_rate=3e-3,
        batch_size=128,
        num_epochs=4,
        n_step=3,
        gamma=0.8,
        normalize_observations=True,
        **({"epsilon_steps": 2000} if kind is DQNSettings else {}),
        **settings,
    )
    distances = [np.mean([e["distance"] for e in trained(algorithm).episodes]) for _ in range(20)]
    assert np.mean(distances[-3:]) < 0.75 * distances[0]  # measured 0.09 to 0.58 over 3 seeds


def trained(algorithm: ReplayAlgorithm) -> ReplayAlgorithm:
    algorithm.train()
    return algorithm


def test_it_solves_cart_pole(make: Make) -> None:
    """500 steps are the most there are; 475 is what counts as solved."""
    algorithm = make(
        factory=CartPoles,
        num_envs=8,
        fragment_length=16,
        hidden_sizes=(64, 64),
        activation="tanh",
        batch_size=128,
        num_epochs=8,
        gamma=0.99,
        n_step=3,
        learning_rate=2e-3,
        target_update_freq=1,
        target_update_rate=0.02,
        epsilon_end=0.02,
        epsilon_steps=8_000,
        replay_buffer_size=20_000,
        grad_clip=10.0,
    )
    best = 0.0
    for iteration in range(400):
        algorithm.train()
        if iteration >= 100 and iteration % 10 == 0:
            best = max(best, mean_length(algorithm))
            if best >= 475:
                break
    assert best >= 475


def mean_length(algorithm: Any, copies: int = 20) -> float:
    """Return the mean length of episodes of the greedy policy."""
    env = CartPoles(copies, 12345)
    observations, lengths, over = env.reset(), np.zeros(copies), np.zeros(copies, bool)
    policy = algorithm.learner.module["shared"].unwrapped().policy
    for _ in range(500):
        actions = policy(torch.from_numpy(observations[:, 0])).argmax(0).numpy()
        result = env.step(actions[:, None])
        lengths += ~over
        over |= result.done
        observations = result.observations
    return float(lengths.mean())
