"""Runs of dqn and sac by the command line, and their checkpoints wherever policies are used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.policy_loading import load_policy
from camac_dra.run import main
from camac_dra.training.checkpoints import read_checkpoint
from camac_dra.training.experiment import Experiment, Options
from camac_dra.training.policy import TrainedPolicy
from camac_dra.training.training_loop import Status
from camac_dra.utils.config_loader import build_config
from tests.training.small_runs import SignalAfter, assert_same_training, metrics_of, resume, train

KINDS = {
    "dqn": {"model.type": "dqn"},
    "dqn of components": {"model.type": "dqn", "environment.action_type": "multi_discrete"},
    "sac": {"model.type": "sac", "environment.action_type": "continuous"},
}


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what commands set in the environment."""
    for name in ("RAY_ENABLE_AUTO_CONNECT", "RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, os.environ.get(name, "0"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_line_trains_and_evaluates(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    chosen = [part for name, value in KINDS[kind].items() for part in (f"--{name}", value)]
    given = ["--config", str(root / "rllib_configs" / "test.yaml"), *chosen, "--quiet"]
    assert main([*given, "--training.output_dir", str(tmp_path), "--training.name", "run"]) == 0
    curves = metrics_of(tmp_path / "run")["curves"]
    assert {"loss", "td_error", "q_value", "gradient_norm", "learning_rate"} <= set(curves)
    assert ("epsilon" in curves) == (KINDS[kind]["model.type"] == "dqn")
    capsys.readouterr()
    arguments = ["--checkpoint", str(tmp_path / "run"), "--heuristics", "fair_share", "--episodes", "1"]
    assert main(["evaluate", *arguments]) == 0
    assert "trained" in capsys.readouterr().out
    assert_decides_alike_everywhere(tmp_path / "run")


def assert_decides_alike_everywhere(run: Path) -> None:
    """Compare the trained policy, the one without RLlib, and the one that travels to other processes."""
    trained, loaded = TrainedPolicy.load(run), load_policy(run)
    env = VectorEnvironment(loaded.config.environment, num_envs=1, seed=3)
    observations = env.reset()
    for _ in range(3):
        actions = trained.actions(observations)
        assert np.array_equal(loaded.act_many(observations[0]), actions[0])
        assert np.array_equal(trained.spec().build().act(observations), actions)
        observations = env.step(actions).observations


@pytest.mark.parametrize("kind", ["dqn", "sac"])
def test_resuming_with_what_was_remembered_is_as_if_it_had_not_stopped(
    root: Path, tmp_path: Path, kind: str
) -> None:
    def config(name: str, **more: Any) -> Any:
        options = {**KINDS[kind], "training.output_dir": str(tmp_path), "training.name": name, **more}
        return build_config(root / "rllib_configs" / "test.yaml", options)

    _, whole = train(config("whole", **{"training.checkpoint_replay": True}))
    display = SignalAfter(2)
    started = Experiment.start(
        config("cut", **{"training.checkpoint_replay": True}), Options(display=display)
    )
    with started as experiment:
        assert experiment.train() is Status.INTERRUPTED
        cut = experiment.run.path
    assert resume(cut) == (Status.COMPLETE, cut)
    assert_same_training(whole, cut)


def test_a_run_says_that_what_was_remembered_is_not_kept(root: Path, tmp_path: Path) -> None:
    options = {**KINDS["dqn"], "training.output_dir": str(tmp_path), "training.name": "run"}
    display = SignalAfter(2)
    started = Experiment.start(
        build_config(root / "rllib_configs" / "test.yaml", options), Options(display=display)
    )
    with started as experiment:
        experiment.train()
        path = experiment.run.path
    newest = sorted((path / "checkpoints").iterdir())[-1]
    assert read_checkpoint(newest).state["algorithm"]["replay"] is None
    with Experiment.resume(path, {}, Options(display=display)) as experiment:
        assert any("replay begins empty (training.checkpoint_replay: true" in text for text in display.said)
        assert experiment.train() is Status.COMPLETE
