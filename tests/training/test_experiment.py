"""A run leaves what it promises, and stops for the right reasons."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.training import experiment as experiment_module
from camac_dra.training.checkpoints import read_checkpoint
from camac_dra.training.environments import prove
from camac_dra.training.experiment import Experiment
from camac_dra.training.training_loop import Status
from camac_dra.utils import file_handler
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import (
    ConfigurationError,
    OutputError,
    TopologyError,
    TrainingDivergedError,
)
from camac_dra.utils.schema import Config
from tests.training.small_runs import (
    ITERATIONS,
    SignalAfter,
    assert_same_training,
    event_steps,
    metrics_of,
    resume,
    train,
)

# What a run leaves


def test_metrics_have_the_specified_structure_and_the_curves(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    training = metrics["training"]
    assert len(training["episode_rewards"]) == len(training["episode_losses"]) == 4 * ITERATIONS
    assert all(isinstance(value, float) for value in training["episode_rewards"] + training["episode_losses"])
    assert 0.0 <= training["success_rate"] <= 1.0
    assert {"avg_reward", "std_reward", "success_rate"} <= metrics["evaluation"].keys()
    curves = metrics["curves"]
    assert curves["iteration"] == list(range(1, ITERATIONS + 1))
    assert curves["env_steps"] == [80 * i for i in curves["iteration"]]
    assert {len(column) for column in curves.values()} == {ITERATIONS}
    assert {"loss", "jain", "utilisation", "conflict_rate", "lost_share", "success_rate"} <= curves.keys()
    assert sum(curves["resolutions/proportional"]) > 0
    assert [evaluation["iteration"] for evaluation in metrics["evaluations"]] == [2, 4, 6]
    assert metrics["evaluations"][-1]["avg_reward"] == metrics["evaluation"]["avg_reward"]
    assert metrics["status"] == "complete"


def test_a_run_records_what_made_it(finished: Path, small: Any) -> None:
    (session,) = json.loads((finished / "provenance.json").read_text())["sessions"]
    assert session["seeds"] == {"training": 0, "evaluation": 1_000_000, "selection": 1_000_001}
    assert {"commit", "versions", "command", "machine", "config_sha256"} <= session.keys()
    written, given = (config.model_dump() for config in (build_config(finished / "config.yaml"), small()))
    assert written["training"].pop("output_dir") != given["training"].pop("output_dir")
    assert written == given


def test_events_are_there_once_per_step(finished: Path) -> None:
    steps = event_steps(finished)
    assert steps["training/loss"] == [80 * i for i in range(1, ITERATIONS + 1)]
    assert steps["evaluation/score"] == [160, 320, 480]
    assert {
        "training/jain",
        "training/resolutions/proportional",
        "timing/agent_steps_per_second",
    } <= steps.keys()


def test_latest_and_best_checkpoints_are_kept(finished: Path) -> None:
    scores = {e["iteration"]: e["score"] for e in metrics_of(finished)["evaluations"]}
    best = max(scores, key=lambda iteration: (scores[iteration], -iteration))
    kept = {int(path.name.split("_")[1]) for path in (finished / "checkpoints").iterdir()}
    assert kept == {4, 6, best}
    assert read_checkpoint(finished / "checkpoints" / f"iteration_{best:06d}").score == scores[best]


def test_the_same_seed_gives_the_same_run_and_another_one_another(small: Any, finished: Path) -> None:
    _, again = train(small(training__name="again"))
    assert_same_training(finished, again)
    _, other = train(small(training__name="other", training__seed=1))
    assert metrics_of(finished)["training"] != metrics_of(other)["training"]


# Reasons to stop


def test_early_stopping_waits_for_its_patience(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([1.0, 3.0, 2.0, 3.0, 2.5, 9.0])

    def scripted(config: Config, policy: Any) -> dict[str, Any]:
        score = next(scores)
        return {"avg_reward": score, "std_reward": 0.0, "success_rate": 0.0, "score": score}

    monkeypatch.setattr(experiment_module, "held_out_measures", scripted)
    status, run = train(
        small(
            training__early_stopping=True,
            training__early_stopping_patience=12,
            training__evaluation_interval=1,
            training__num_episodes=100,
        )
    )
    assert status is Status.STOPPED_EARLY
    metrics = metrics_of(run)
    assert [evaluation["score"] for evaluation in metrics["evaluations"]] == [1.0, 3.0, 2.0, 3.0, 2.5]
    assert metrics["status"] == "stopped early"
    with Experiment.resume(run) as experiment:
        assert read_checkpoint(experiment.best_checkpoint()).iteration == 2


def test_the_time_limit_counts_over_all_sessions(small: Any) -> None:
    status, run = train(small(training__time_limit=1e-6))
    assert status is Status.OUT_OF_TIME
    assert json.loads((run / "metrics.json").read_text())["timing"]["seconds"] == 0.0
    _, longer = train(small(training__name="longer"), SignalAfter(2))
    seconds = json.loads((longer / "metrics.json").read_text())["timing"]["seconds"]
    status, _ = resume(longer, training__time_limit=seconds)
    assert status is Status.OUT_OF_TIME
    assert metrics_of(longer)["curves"]["iteration"] == [1, 2]


def test_without_evaluations_on_the_way_there_is_one_at_the_end(small: Any) -> None:
    _, run = train(small(training__evaluation_interval=None, training__checkpoint_interval=1))
    assert [evaluation["iteration"] for evaluation in metrics_of(run)["evaluations"]] == [ITERATIONS]
    assert read_checkpoint(run / "checkpoints" / f"iteration_{ITERATIONS:06d}").score is not None


def test_divergence_stops_and_keeps_the_last_good_checkpoint(small: Any) -> None:
    _, run = train(small(model__activation="relu", training__grad_clip=None), SignalAfter(3))
    with pytest.raises(
        TrainingDivergedError,
        match=r"diverged in iteration 4: .*finite.*the last good checkpoint is .*_000003",
    ):
        resume(run, model__learning_rate=1e30)
    assert metrics_of(run)["status"] == "diverged"
    assert metrics_of(run)["curves"]["iteration"] == [1, 2, 3]
    assert read_checkpoint(sorted((run / "checkpoints").iterdir())[-1]).iteration == 3
    assert resume(run, model__learning_rate=1e-4)[0] is Status.COMPLETE


class Failing:
    """A reward function that works for so many calls, then returns NaN or raises."""

    def __init__(self, calls: int, error: Exception | None = None) -> None:
        self._left, self._error = calls, error

    def __call__(self, agent_id: str, allocation: np.ndarray, resources: np.ndarray) -> float:
        self._left -= 1
        if self._left >= 0:
            return 1.0
        if self._error is not None:
            raise self._error
        return math.nan


def rewarded_by(config: Config, reward_fn: Any) -> Config:
    environment = config.environment.model_copy(update={"reward_fn": reward_fn})
    return config.model_copy(update={"environment": environment})


def test_a_reward_that_fails_on_the_way_keeps_the_last_good_checkpoint(small: Any) -> None:
    config = small(environment__credit="team", training__checkpoint_interval=1)
    calls = int(1.5 * 80 * config.environment.num_agents)  # within the second iteration
    with (
        pytest.raises(
            ConfigurationError,
            match=r"reward_fn: .*got nan .*failed in iteration 2, the last good checkpoint is .*_000001\. "
            "Mend it, then go on: python -m camac_dra.run resume ",
        ),
        Experiment.start(rewarded_by(config, Failing(calls))) as experiment,
    ):
        experiment.train()
    run = experiment.run.path
    assert metrics_of(run)["status"] == "failed"
    assert metrics_of(run)["curves"]["iteration"] == [1]
    mended = Failing(10**9)
    assert resume(run, environment__reward_fn=mended)[0] is Status.COMPLETE


@pytest.mark.parametrize(("error", "got"), [(None, "got nan"), (KeyError("cpu"), "raised KeyError: 'cpu'")])
def test_a_reward_that_fails_at_once_leaves_no_folder(
    small: Any, tmp_path: Path, error: Exception | None, got: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"environment.reward_fn: .*{got}"):
        Experiment.start(rewarded_by(small(environment__credit="team"), Failing(0, error)))
    assert not list(tmp_path.iterdir())


def per_unit(agent_id: str, allocation: np.ndarray, resources: np.ndarray) -> float:
    return float(resources.sum()) / float(allocation.sum())


def share_of_own(agent_id: str, allocation: np.ndarray, resources: np.ndarray) -> np.ndarray:
    return allocation / allocation.sum()


@pytest.mark.parametrize(
    ("reward_fn", "what"),
    [(per_unit, "per_unit.* raised ZeroDivisionError"), (share_of_own, "must return a finite number")],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_reward_that_divides_by_what_is_granted_is_only_warned_of(
    small: Any, caplog: pytest.LogCaptureFixture, reward_fn: Any, what: str
) -> None:
    config = rewarded_by(small(environment__credit="team"), reward_fn)
    prove(config)
    [warning] = [record.getMessage() for record in caplog.records]
    assert re.search(f"environment.reward_fn: {what}", warning)
    assert "training ends where an agent is granted nothing" in warning
    env = VectorEnvironment(config.environment, 1)
    env.reset()
    zeros = r"with the allocation \[0\.0, 0\.0\]"
    with pytest.raises(ConfigurationError, match=f"environment.reward_fn: {what}.* {zeros}"):
        env.step(np.zeros((1, config.environment.num_agents), np.int64))


def test_a_reward_that_knows_of_nothing_granted_is_not_warned_of(
    small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    prove(rewarded_by(small(environment__credit="team"), Failing(10**9)))
    assert not caplog.records


def test_weights_that_left_the_finite_numbers_are_never_saved(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step of an iteration has no loss after it that would tell."""
    with Experiment.start(small(training__checkpoint_interval=1)) as experiment:
        train_once = experiment.algorithm.train

        def poisoned() -> Any:
            result = train_once()
            if experiment.algorithm.counters.iterations == 2:
                module: Any = experiment.algorithm.learner.module
                next(module["shared"].unwrapped().parameters()).data[0] = float("inf")
            return result

        monkeypatch.setattr(experiment.algorithm, "train", poisoned)
        with pytest.raises(
            TrainingDivergedError, match=r"iteration 2: weights of policy 'shared' must be finite"
        ):
            experiment.train()
        assert experiment.run.checkpoints.paths()[-1].name == "iteration_000001"


# Where it is written


def test_names_of_runs_are_folders_and_taken_once(small: Any) -> None:
    _, run = train(small(training__name="mine", training__num_episodes=4))
    with pytest.raises(ConfigurationError, match=r"there is a run 'mine' in .* already: .*resume .*mine"):
        Experiment.start(small(training__name="mine"))
    for name in ("../up", "a/b", "", ".hidden"):
        with pytest.raises(ConfigurationError, match=r"training.name: must be the name of a folder"):
            Experiment.start(small(training__name=name))
    assert [path.name for path in run.parent.iterdir()] == ["mine"]


def test_unnamed_runs_of_one_second_get_folders_of_their_own(small: Any) -> None:
    runs = {train(small(training__num_episodes=4))[1] for _ in range(2)}
    assert len(runs) == 2


def test_a_file_in_the_way_is_named(small: Any, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(OutputError, match=r"runs.*the run's folder cannot be made: Not a directory"):
        Experiment.start(small())


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_folders_that_cannot_be_made_are_named(
    small: Any, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(OutputError, match=f"cannot be made: {os.strerror(code)}; choose another place"):
        Experiment.start(small())


def test_a_disk_that_fills_up_stops_the_run_and_keeps_the_last_checkpoint(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment.start(small(training__name="full"))
    original, written = file_handler._sync_tree, []

    def fill(folder: Path) -> None:
        written.append(folder)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(folder)

    monkeypatch.setattr(file_handler, "_sync_tree", fill)
    with (
        experiment,
        pytest.raises(OutputError, match=r"iteration_000004: cannot be written, the disk is full"),
    ):
        experiment.train()
    monkeypatch.undo()
    folders = sorted(path.name for path in (experiment.run.path / "checkpoints").iterdir())
    assert folders == ["iteration_000000", "iteration_000002"]
    assert resume(experiment.run.path)[0] is Status.COMPLETE


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"model__state_size": 99}, ConfigurationError, r"model.state_size: must be 64.*got 99"),
        ({"environment__topology_options": {"file": "x"}}, ConfigurationError, "has no effect with topology"),
        (
            {
                "environment__topology": "graphml",
                "environment__topology_options": {"file": "{tmp}/bad.graphml"},
            },
            TopologyError,
            "bad.graphml",
        ),
    ],
)
def test_what_cannot_be_built_leaves_no_folder(
    small: Any, tmp_path: Path, overrides: dict[str, Any], error: type[Exception], message: str
) -> None:
    (tmp_path / "bad.graphml").write_text("<graphml")
    text = json.dumps(overrides).replace("{tmp}", str(tmp_path))
    with pytest.raises(error, match=message):
        Experiment.start(small(**json.loads(text)))
    assert not (tmp_path / "runs").exists()
