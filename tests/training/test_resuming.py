"""A run goes on as if it had never stopped, and only where it belongs."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camac_dra.run import main
from camac_dra.training.checkpoints import read_checkpoint
from camac_dra.training.experiment import Experiment, Options
from camac_dra.training.training_loop import Status
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import (
    CheckpointError,
    ConfigurationError,
)
from tests.training.small_runs import (
    ITERATIONS,
    SignalAfter,
    assert_same_training,
    event_steps,
    metrics_of,
    resume,
    train,
)


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


@pytest.mark.parametrize(
    ("name", "option"), [("evaluation_episodes", "--episodes 40"), ("evaluation_seed", "--seed 40")]
)
def test_other_held_out_episodes_are_for_evaluate(
    finished: Path, name: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores are compared over a whole run; afterwards, a run is evaluated on whatever is wanted."""
    rule = rf"--training\.{name}: cannot be changed when a run is resumed: the best checkpoint and early"
    with pytest.raises(ConfigurationError, match=rule) as refused:
        Experiment.resume(finished, {f"training.{name}": 40})
    advice = str(refused.value).rpartition(": ")[2]
    assert advice == f"python -m camac_dra.run evaluate --checkpoint {finished} {option}"
    assert main([*advice.split()[3:], "--heuristics", "none"]) == 0
    assert "trained" in capsys.readouterr().out


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
