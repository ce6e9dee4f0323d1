"""Each thing that a network or critic is there for is learned where it is needed, and only with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.policy import TrainedPolicy
from camac_dra.training.ray_session import build_algorithm
from camac_dra.training.settings import PPOSettings
from experiments.games.matrix_games import two_step_game
from tests.training.tiny_tasks import CueTask, ForbiddenActionTask, MarkedNeighbourTask

EPISODES = 512  # at once, after training
COMMON = {
    "num_envs": 64,
    "hidden_sizes": (32,),
    "activation": "tanh",
    "learning_rate": 3e-3,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "normalize_returns": True,
    "entropy_coeff_end": 0.0,
}


@pytest.fixture
def learn(tmp_path: Path) -> Any:
    """Train from scratch and return the policy, and the environment that was sampled."""

    def run(factory: Callable[[int, int], Any], **settings: Any) -> tuple[TrainedPolicy, Any]:
        given = PPOSettings(**{**COMMON, **settings})
        algorithm = build_algorithm(build_algorithm_config(factory, given), tmp_path)
        while algorithm.counters.env_steps < given.total_env_steps:
            algorithm.train()
        policy, sampled = TrainedPolicy.from_algorithm(algorithm), algorithm.env_runner_group
        algorithm.stop()
        return policy, sampled.local_env_runner.env

    return run


def play(policy: TrainedPolicy, env: Any) -> np.ndarray:
    """Return the returns (B,) of an episode that all copies begin together, without exploring."""
    observations = env.reset(99)
    policy.begin(env)
    while True:
        result = env.step(policy.actions(observations))
        observations = result.observations
        if result.done.all():
            return np.array([episode["reward"] for episode in result.episodes])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_central_critic_finds_the_best_of_the_two_step_game(learn: Any, seed: int) -> None:
    policy, _ = learn(
        two_step_game,
        seed=seed,
        critic="centralized",
        fragment_length=4,
        batch_size=512,
        entropy_coeff=0.5,
        total_env_steps=10_240,
    )
    np.testing.assert_array_equal(play(policy, two_step_game(1, 0)), [8.0])


@pytest.mark.parametrize(("recurrent_size", "low", "high"), [(16, 0.95, 1.0), (None, 0.4, 0.6)])
def test_memory_is_needed_and_suffices_for_a_cue_of_the_past(
    learn: Any, recurrent_size: int | None, low: float, high: float
) -> None:
    policy, _ = learn(
        CueTask,
        recurrent_size=recurrent_size,
        fragment_length=10,
        batch_size=320,
        entropy_coeff=0.02,
        total_env_steps=38_400,
    )
    assert low <= play(policy, CueTask(EPISODES, 0)).mean() <= high


@pytest.mark.parametrize("kind", ["attention", "gnn"])
def test_attention_finds_the_marked_neighbour_and_not_what_is_masked(learn: Any, kind: str) -> None:
    options = {"num_heads": 2} | ({"width": 16} if kind == "attention" else {})
    policy, _ = learn(
        MarkedNeighbourTask,
        network_kind=kind,
        network_options=options,
        fragment_length=8,
        batch_size=256,
        entropy_coeff=0.02,
        total_env_steps=30_720,
    )
    assert play(policy, MarkedNeighbourTask(EPISODES, 0)).mean() > 0.95


def test_what_is_impossible_is_never_done_and_the_best_of_the_rest_is_learned(learn: Any) -> None:
    policy, sampled = learn(
        ForbiddenActionTask, fragment_length=4, batch_size=256, entropy_coeff=0.05, total_env_steps=7_680
    )
    assert sampled.taken == 0
    env = ForbiddenActionTask(EPISODES, 0)
    env.reset(99)
    best = env.best
    earned = env.step(policy.actions_in(env)).rewards[:, 0]
    np.testing.assert_array_equal(earned, best)
    assert env.taken == 0
