"""Array env runners as Ray actors."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.array_env_runner import ArrayEnvRunner
from camac_dra.training.ppo import ArrayPPO
from camac_dra.training.ray_session import build_algorithm
from camac_dra.training.replay_settings import DQNSettings, ReplaySettings, SACSettings
from camac_dra.training.settings import PPOSettings
from tests.training.toy_environment import ToyVectorEnvironment

pytestmark = pytest.mark.ray


def make(folder: Path, **settings: Any) -> ArrayPPO:
    defaults = {
        "num_workers": 2,
        "num_envs": 3,
        "fragment_length": 10,
        "batch_size": 64,
        "hidden_sizes": (16,),
    }
    config = build_algorithm_config(
        partial(ToyVectorEnvironment, absent=True),
        PPOSettings(**{**defaults, "normalize_observations": True, **settings}),
    )
    return build_algorithm(config, folder)


def of_runners(algorithm: ArrayPPO, what: Any) -> list[Any]:
    return algorithm.env_runner_group.foreach_env_runner(what, local_env_runner=False)


def policy_weights(runner: ArrayEnvRunner) -> dict[str, np.ndarray]:
    return runner.module.get_state()["shared"]


def weights_of(algorithm: ArrayPPO) -> dict[str, torch.Tensor]:
    return algorithm.learner.get_learning_state()["weights"]["shared"]


def assert_actors_have_the_learners_weights(algorithm: ArrayPPO) -> None:
    learned = algorithm.learner.module["shared"].get_state(inference_only=True)
    assert learned["observation_scaler.scale"].std() > 0
    for weights in of_runners(algorithm, policy_weights):
        assert weights.keys() == learned.keys()
        assert all(np.array_equal(weights[name], value) for name, value in learned.items())


def test_two_actors_sample_resume_and_are_replaced(ray_cluster: Any, tmp_path: Path) -> None:
    algorithm = make(tmp_path)
    try:
        result = algorithm.train()
        assert algorithm.counters.env_steps == result["env_runners"]["num_env_steps_sampled"] == 60
        assert of_runners(algorithm, lambda runner: torch.get_num_threads()) == [1, 1]
        assert_actors_have_the_learners_weights(algorithm)
        resume(algorithm)
        replace(algorithm)
        report(algorithm)
    finally:
        algorithm.stop()


def resume(algorithm: ArrayPPO) -> None:
    """A state goes on as the run that it was taken from did."""
    state = algorithm.get_training_state()
    assert sorted(state["env_runners"]) == [1, 2]
    algorithm.train()
    expected = {name: tensor.clone() for name, tensor in weights_of(algorithm).items()}
    algorithm.set_training_state(state)
    algorithm.train()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(algorithm).items())


def replace(algorithm: ArrayPPO) -> None:
    """A killed actor is missed in one iteration and comes back, to sample something new."""
    group = algorithm.env_runner_group
    seeds = of_runners(algorithm, lambda runner: runner._env_seed)
    os.kill(of_runners(algorithm, lambda runner: os.getpid())[0], signal.SIGKILL)
    before = algorithm.counters.env_steps
    algorithm.train()
    assert algorithm.counters.env_steps == before + 30
    deadline = time.monotonic() + 120
    while group.num_healthy_remote_env_runners() < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
        algorithm.restore_env_runners(group)
    assert group.num_remote_worker_restarts() == 1
    algorithm.train()
    assert algorithm.counters.env_steps == before + 90
    assert_actors_have_the_learners_weights(algorithm)
    # With its first seed it would sample its first episodes again.
    assert len({*seeds, *of_runners(algorithm, lambda runner: runner._env_seed)}) == 3


def report(algorithm: ArrayPPO) -> None:
    """What an environment raises is raised here, and sampling goes on when it is mended."""

    def break_or_mend(runner: ArrayEnvRunner) -> None:
        step = type(runner.env).step
        runner.env.step = None if runner.env.step == step.__get__(runner.env) else step.__get__(runner.env)

    of_runners(algorithm, break_or_mend)
    with pytest.raises(RuntimeError, match="'NoneType' object is not callable"):
        algorithm.train()
    of_runners(algorithm, break_or_mend)
    algorithm.train()


@pytest.mark.parametrize("kind", [DQNSettings, SACSettings])
def test_what_actors_sample_is_replayed(ray_cluster: Any, tmp_path: Path, kind: type[ReplaySettings]) -> None:
    """Streams of both actors go on over fragments, so that nothing but the last steps waits."""
    space = spaces.Discrete(3) if kind is DQNSettings else spaces.Box(-1, 1, (2,), np.float32)
    settings = kind(num_workers=2, num_envs=3, fragment_length=5, batch_size=32, hidden_sizes=(16,), n_step=3)
    factory = partial(ToyVectorEnvironment, action_space=space, length=100)
    algorithm = build_algorithm(build_algorithm_config(factory, settings), tmp_path)
    try:
        for _ in range(4):
            algorithm.train()
        assert algorithm.counters.agent_steps == 4 * 2 * 5 * 3 * 3
        assert len(algorithm.buffers["shared"]) == 2 * 3 * 3 * (4 * 5 - 2)
        learned = algorithm.learner.module["shared"].get_state(inference_only=True)
        assert not any(name.startswith(("target", "critics")) for name in learned)
        for weights in of_runners(algorithm, policy_weights):
            assert weights.keys() == learned.keys()
            assert all(np.array_equal(weights[name], value) for name, value in learned.items())
    finally:
        algorithm.stop()
