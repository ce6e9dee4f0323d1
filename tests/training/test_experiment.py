"""A run leaves what it promises, stops for the right reasons, and goes on as if it had never stopped."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from camac_dra.training import experiment as experiment_module
from camac_dra.training.checkpoints import read_checkpoint
from camac_dra.training.experiment import Experiment, Options
from camac_dra.training.progress import Display, QuietDisplay
from camac_dra.training.training_loop import Status
from camac_dra.utils import file_handler
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import (
    CheckpointError,
    ConfigurationError,
    OutputError,
    TopologyError,
    TrainingDivergedError,
)
from camac_dra.utils.schema import Config

ITERATIONS = 6  # of 4 episodes each


class SignalAfter(QuietDisplay):
    """Sends this process a signal when an iteration has been shown."""

    def __init__(self, iteration: int, number: int = signal.SIGINT) -> None:
        self._left, self._number = iteration, number
        self.said: list[str] = []

    def update(self, done: int, rate: float, seconds_left: float, remark: str) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._number)

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def small(root: Path, tmp_path: Path) -> Any:
    """Make small configurations that write into a folder of the test."""

    def make(**overrides: Any) -> Config:
        values = {"training.num_episodes": 4 * ITERATIONS, "training.output_dir": str(tmp_path / "runs")}
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        return build_config(root / "rllib_configs" / "test.yaml", {**values, **dotted})

    return make


def train(config: Config, display: Display | None = None) -> tuple[Status, Path]:
    with Experiment.start(config, Options(display=display or QuietDisplay())) as experiment:
        return experiment.train(), experiment.run.path


def resume(path: Path, **overrides: Any) -> tuple[Status, Path]:
    dotted = {name.replace("__", "."): value for name, value in overrides.items()}
    with Experiment.resume(path, dotted) as experiment:
        return experiment.train(), experiment.run.path


def metrics_of(run: Path) -> dict[str, Any]:
    """Return the metrics of a run without what depends on the clock."""
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["timing"]
    return metrics


def assert_equal_states(first: Any, second: Any, path: str = "") -> None:
    """Compare nested states bit by bit."""
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, path
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_equal_states(first[key], second[key], f"{path}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), path
        for i, pair in enumerate(zip(first, second, strict=True)):
            assert_equal_states(*pair, f"{path}[{i}]")
    else:
        assert first == second, path


def assert_same_training(first: Path, second: Path) -> None:
    """Compare metrics and the latest checkpoints of two runs exactly."""
    assert metrics_of(first) == metrics_of(second)
    one, two = (
        read_checkpoint(sorted((run / "checkpoints").glob("iteration_*"))[-1]) for run in (first, second)
    )
    assert one.iteration == two.iteration
    for name in ("weights", "optimizers", "state"):
        assert_equal_states(getattr(one, name), getattr(two, name), name)


def event_steps(run: Path) -> dict[str, list[int]]:
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


# What a run leaves


@pytest.fixture(scope="module")
def finished_once(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    values = {"training.num_episodes": 4 * ITERATIONS, "training.output_dir": str(folder)}
    status, run = train(build_config(root / "rllib_configs" / "test.yaml", values))
    assert status is Status.COMPLETE
    return run


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Path:
    """Return the folder of a finished run that the test may change."""
    return Path(shutil.copytree(finished_once, tmp_path / "runs" / "finished"))


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


# Resuming


@pytest.mark.parametrize(("policies", "number"), [("shared", signal.SIGINT), ("per_agent", signal.SIGTERM)])
def test_a_signal_saves_and_resuming_is_as_if_it_had_not_come(small: Any, policies: str, number: int) -> None:
    options = {"training__policies": policies, "training__optimizer": "rmsprop"}
    _, whole = train(small(training__name="whole", **options))
    display = SignalAfter(3, number)
    with Experiment.start(small(training__name="cut", **options), Options(display=display)) as experiment:
        assert experiment.train() is Status.INTERRUPTED
        assert experiment.loop.signal_number == number
        cut = experiment.run.path
    assert any("Stopping after this iteration" in text for text in display.said)
    assert metrics_of(cut)["status"] == "interrupted"
    assert read_checkpoint(sorted((cut / "checkpoints").iterdir())[-1]).iteration == 3
    status, path = resume(cut)
    assert (status, path) == (Status.COMPLETE, cut)
    assert_same_training(whole, cut)


def test_the_handlers_of_signals_are_put_back(small: Any) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train(small(), SignalAfter(1))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_going_back_sets_later_checkpoints_aside_and_doubles_nothing(small: Any) -> None:
    _, whole = train(small(training__name="whole", training__keep_checkpoints=9))
    _, back = train(small(training__name="back", training__keep_checkpoints=9))
    resume(back / "checkpoints" / "iteration_000002")
    assert_same_training(whole, back)
    (aside,) = (back / "checkpoints").glob("abandoned_*")
    assert sorted(path.name for path in aside.iterdir()) == ["iteration_000004", "iteration_000006"]
    assert event_steps(back) == event_steps(whole)
    assert len(list(back.glob("events.*"))) == 2
    sessions = json.loads((back / "provenance.json").read_text())["sessions"]
    assert sessions[1]["resumed_from"].endswith("iteration_000002")


def test_the_global_generators_go_on_too(small: Any) -> None:
    """A user's reward function may draw from them."""
    options = {"environment__reward_fn": f"{__name__}.noisy_reward", "environment__credit": "team"}
    _, whole = train(small(training__name="whole", **options))
    _, cut = train(small(training__name="cut", **options), SignalAfter(2))
    np.random.random(7)  # noqa: NPY002
    resume(cut)
    assert_same_training(whole, cut)


def test_a_reward_function_that_cannot_be_imported_is_asked_for_again(small: Any) -> None:
    config = small(environment__credit="team")
    lonely = lambda agent_id, allocation, resources: float(allocation.sum())  # noqa: E731
    config = config.model_copy(
        update={"environment": config.environment.model_copy(update={"reward_fn": lonely})}
    )
    _, run = train(config, SignalAfter(2))
    with pytest.raises(
        ConfigurationError, match=r"environment.reward_fn: was .*lambda.*pass the function again"
    ):
        resume(run)
    assert resume(run, environment__reward_fn=lonely)[0] is Status.COMPLETE


def noisy_reward(agent_id: str, allocation: np.ndarray, resources: np.ndarray) -> float:
    return float(np.random.random())  # noqa: NPY002


def test_a_checkpoint_elsewhere_starts_a_run_of_its_own(small: Any, tmp_path: Path) -> None:
    _, run = train(small(training__name="first"), SignalAfter(3))
    moved = (run / "checkpoints" / "iteration_000003").rename(tmp_path / "copied")
    _, second = resume(moved, training__name="second")
    assert second == tmp_path / "runs" / "second"
    assert metrics_of(second)["curves"]["iteration"] == list(range(1, ITERATIONS + 1))


def test_a_finished_run_can_be_prolonged(finished: Path) -> None:
    status, _ = resume(finished, training__num_episodes=4 * (ITERATIONS + 2))
    assert status is Status.COMPLETE
    assert metrics_of(finished)["curves"]["iteration"][-1] == ITERATIONS + 2
    assert build_config(finished / "config.yaml").training.num_episodes == 4 * (ITERATIONS + 2)


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_another_learning_rate_acts_from_the_first_update_on(small: Any, schedule: str) -> None:
    _, run = train(small(training__learning_rate_schedule=schedule), SignalAfter(2))
    with Experiment.resume(run, {"model.learning_rate": 0.5}) as experiment:
        optimizers = experiment.algorithm.learner.get_learning_state()["optimizers"]
        now = [float(group["lr"]) for state in optimizers.values() for group in state["param_groups"]]
        experiment.train()
    expected = [0.5] * 5 if schedule == "constant" else [0.5 * (1 - i / ITERATIONS) for i in range(2, 7)]
    rates = metrics_of(run)["curves"]["learning_rate"]
    assert max(rates[:2]) <= 1e-3
    assert now == [pytest.approx(expected[0])]
    assert rates[2:] == pytest.approx(expected[1:])


def test_what_the_state_belongs_to_cannot_be_changed(finished: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--environment.contention: cannot be changed when a run"):
        Experiment.resume(finished, {"environment.contention": 0.5})
    with pytest.raises(ConfigurationError, match=r"training.num_episodes: must be .*, got 0"):
        Experiment.resume(finished, {"training.num_episodes": 0})


def test_a_checkpoint_of_another_environment_is_refused(finished: Path) -> None:
    checkpoint = finished / "checkpoints" / "iteration_000006"
    record = json.loads((checkpoint / "manifest.json").read_text())
    record["environment"]["resources"] = ["cpu", "coal"]
    (checkpoint / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(
        CheckpointError, match="belongs to another environment: resources: the checkpoint has 2"
    ):
        Experiment.resume(finished)


def test_one_process_at_a_time(finished: Path) -> None:
    with Experiment.resume(finished), pytest.raises(CheckpointError, match="another process is working on"):
        Experiment.resume(finished)
    Experiment.resume(finished).close()


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
