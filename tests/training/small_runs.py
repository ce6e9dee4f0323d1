"""Runs of the small problem, for tests: begin, stop, go on, compare to the last bit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from camac_dra.training.checkpoints import read_checkpoint
from camac_dra.training.experiment import Experiment, Options
from camac_dra.training.progress import Display, QuietDisplay
from camac_dra.training.training_loop import Status
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
