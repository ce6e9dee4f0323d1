"""Sampling one fragment ahead of the learner, in Ray actors."""

from __future__ import annotations

import io
import logging
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from camac_dra.training.fragments import Fragment
from camac_dra.training.overlap import FragmentsAhead
from camac_dra.training.ppo import ArrayPPO
from camac_dra.training.settings import PPOSettings
from camac_dra.utils.errors import ConfigurationError
from tests.training.small_runs import assert_equal_states
from tests.training.test_remote_sampling import make, of_runners


def test_only_other_processes_sample_meanwhile() -> None:
    with pytest.raises(ConfigurationError, match="overlap must be false where num_workers is 0, got True"):
        PPOSettings(overlap=True)


class Group:
    """Stands in for RLlib's group of env runners: answers with fragments of given weights."""

    def __init__(self, *numbers: int) -> None:
        empty = np.zeros((0,), np.float32)
        self.answers: list[Any] = [
            (Fragment(*[empty] * 8, None, worker_index=i, weights_number=n), {"of": i})
            for i, n in enumerate(numbers)
        ]

    def foreach_env_runner_async(self, *args: Any, **kwargs: Any) -> int:
        return len(self.answers)

    def fetch_ready_async_reqs(self, **kwargs: Any) -> list[tuple[int, Any]]:
        return list(reversed(list(enumerate(self.answers))))


def test_what_older_weights_sampled_is_thrown_away(caplog: pytest.LogCaptureFixture) -> None:
    ahead = FragmentsAhead(Group(4, 2, 3), timeout=1.0)
    ahead.ask(SimpleNamespace())
    assert ahead.on_the_way
    with caplog.at_level(logging.WARNING):
        fragments, metrics = ahead.take(updates=4)
    assert [fragment.worker_index for fragment in fragments] == [0, 2]
    assert metrics == [{"of": 0}, {"of": 2}]
    assert "fragment of env runner 1: its weights are 2 updates old, 1 are allowed" in caplog.text
    assert not ahead.on_the_way


def test_what_an_environment_raises_is_raised() -> None:
    group = Group(1)
    group.answers.append(RuntimeError("broken"))
    ahead = FragmentsAhead(group, timeout=1.0)
    ahead.ask(SimpleNamespace())
    with pytest.raises(RuntimeError, match="broken"):
        ahead.take(updates=1)


def learning_state(algorithm: ArrayPPO) -> dict[str, Any]:
    return algorithm.learner.get_learning_state()


def lags(algorithm: ArrayPPO, iterations: int) -> list[float]:
    found = []
    for _ in range(iterations):
        result = algorithm.train()
        assert result["off_policy_lag"] == algorithm.off_policy_lag
        found.append(algorithm.off_policy_lag)
    return found


@pytest.mark.ray
def test_sampling_is_one_update_behind_resumes_and_outlives_its_actors(
    ray_cluster: Any, tmp_path: Path
) -> None:
    algorithm = make(tmp_path, overlap=True)
    try:
        assert lags(algorithm, 3) == [0.0, 1.0, 1.0]
        assert algorithm.counters.env_steps == 180
        resume(algorithm, tmp_path)
        replace(algorithm)
    finally:
        algorithm.stop()


def resume(algorithm: ArrayPPO, folder: Path) -> None:
    """What was on the way is sampled again with the weights that it had, here and in new processes."""
    file = io.BytesIO()
    torch.save(algorithm.get_training_state(), file)
    assert lags(algorithm, 2) == [1.0, 1.0]
    expected = learning_state(algorithm)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    algorithm.set_training_state(state)
    assert lags(algorithm, 2) == [1.0, 1.0]
    assert_equal_states(learning_state(algorithm), expected)
    other = make(folder, overlap=True)
    try:
        other.set_training_state(state)
        assert lags(other, 2) == [1.0, 1.0]
        assert_equal_states(learning_state(other), expected)
    finally:
        other.stop()


def replace(algorithm: ArrayPPO) -> None:
    """A killed actor's fragment is missing, and it comes back with the weights of that time."""
    group = algorithm.env_runner_group
    before = algorithm.counters.env_steps
    os.kill(of_runners(algorithm, lambda runner: os.getpid())[0], signal.SIGKILL)
    while group.num_healthy_remote_env_runners() == 2:  # its fragment may have been ready already
        algorithm.train()
    gone = algorithm.counters.env_steps
    assert before < gone
    algorithm.train()
    deadline = time.monotonic() + 120
    while group.num_healthy_remote_env_runners() < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
        algorithm.restore_env_runners(group)
    algorithm.train()  # asks both
    before = algorithm.counters.env_steps
    assert lags(algorithm, 1) == [1.0]
    assert algorithm.counters.env_steps == before + 60
