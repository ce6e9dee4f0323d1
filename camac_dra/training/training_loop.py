"""The training loop: iterate, evaluate, keep checkpoints, write down, until done, stopped or diverged."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from enum import Enum
from typing import Any

import torch

from camac_dra.training.array_algorithm import ArrayAlgorithm
from camac_dra.training.checkpoints import Checkpoint
from camac_dra.training.environments import total_env_steps
from camac_dra.training.history import History, iteration_row
from camac_dra.training.policy import TrainedPolicy
from camac_dra.training.progress import Display
from camac_dra.training.random_state import get_global_generators, set_global_generators
from camac_dra.training.run_directory import RunDirectory
from camac_dra.training.stopping import StopRequest
from camac_dra.utils.config_loader import as_yaml
from camac_dra.utils.errors import ConfigurationError, ModelError, TrainingDivergedError
from camac_dra.utils.event_writer import EventWriter
from camac_dra.utils.schema import Config

# Held-out measures of a policy: ``avg_reward``, ``score`` (what is maximised) and whatever else is worth
# knowing.
Evaluator = Callable[[TrainedPolicy], dict[str, Any]]
IDLE_SECONDS = 1.0  # between attempts while every env runner is down


class Status(Enum):
    """How a training ended, or that it has not."""

    TRAINING = "training"
    COMPLETE = "complete"
    STOPPED_EARLY = "stopped early"
    OUT_OF_TIME = "out of time"
    INTERRUPTED = "interrupted"
    DIVERGED = "diverged"
    FAILED = "failed"


class TrainingLoop:
    """Trains until ``num_episodes`` are through, the time is up, the return no longer rises,
    or a signal comes.

    Attributes:
        history: what happened so far.
        signal_number: of the signal that ended ``run``, None where none did.
        on_evaluation: called with every evaluation, once it is written down.
    """

    def __init__(
        self,
        config: Config,
        algorithm: ArrayAlgorithm,
        evaluator: Evaluator,
        run: RunDirectory,
        environment: dict[str, Any],
        display: Display,
    ) -> None:
        self.config = config
        self.algorithm = algorithm
        self.history = History()
        self.signal_number: int | None = None
        self.on_evaluation: Callable[[dict[str, Any]], None] = lambda evaluation: None
        self._evaluator = evaluator
        self._run = run
        self._environment = environment
        self._display = display
        self._total = total_env_steps(config)
        self._events: EventWriter | None = None
        self._session_start, self._seconds_before = time.monotonic(), 0.0
        self._remark = ""
        self._status = Status.TRAINING

    # State

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint, as if the training had never stopped.

        Raises:
            CheckpointError: it does not fit this algorithm.
        """
        state = dict(checkpoint.state["algorithm"])
        state["learner"] = {
            **state["learner"],
            "weights": checkpoint.weights,
            "optimizers": checkpoint.optimizers,
        }
        self.algorithm.set_training_state(state)
        self.history = History.from_metrics(checkpoint.metrics)
        set_global_generators(checkpoint.state["global_generators"])

    def snapshot(self) -> Checkpoint:
        """Return what a checkpoint of this moment holds."""
        state = self.algorithm.get_training_state()
        learner = dict(state["learner"])
        weights, optimizers = learner.pop("weights"), learner.pop("optimizers")
        return Checkpoint(
            weights=weights,
            optimizers=optimizers,
            state={
                "algorithm": {**state, "learner": learner},
                "global_generators": get_global_generators(),
            },
            config=as_yaml(self.config),
            metrics=self.history.to_metrics(),
            environment=self._environment,
            iteration=self.algorithm.counters.iterations,
            env_steps=self.algorithm.counters.env_steps,
            score=self._score_now(),
        )

    def _write_metrics(self, status: Status) -> None:
        self._status = status
        self._run.write_metrics({"status": status.value, **self.history.to_metrics()})

    def write_final(self, evaluation: dict[str, Any]) -> None:
        """Write ``metrics.json`` anew with the evaluation at the end in place of the last one on the way."""
        metrics = {"status": self._status.value, **self.history.to_metrics(), "evaluation": evaluation}
        self._run.write_metrics(metrics)

    def _score_now(self) -> float | None:
        """Return the score of these very weights, None where they were not evaluated."""
        last = self.history.evaluations[-1] if self.history.evaluations else None
        current = last is not None and last["iteration"] == self.algorithm.counters.iterations
        return last["score"] if current and last is not None else None

    # Running

    def run(self) -> Status:
        """Train to the end, with checkpoints on the way and one at the end; write ``metrics.json``.

        Raises:
            TrainingDivergedError: a loss is not finite; the message names the last good checkpoint.
            ConfigurationError: what the user wrote fails on the way, such as a reward function that returns
                NaN; or `ModelError`, a model. The message names the last good checkpoint too.
            OutputError: something cannot be written; the last good checkpoint stays.
        """
        self._session_start, self._seconds_before = time.monotonic(), self.history.seconds
        counters = self.algorithm.counters
        self._events = EventWriter(
            self._run.path, purge_step=counters.env_steps + 1 if counters.iterations else None
        )
        self._run.checkpoints.save(self.snapshot())  # so that there is one whatever comes
        self._display.begin(self._title(), counters.env_steps, self._total)
        try:
            with StopRequest(self._acknowledge) as stop:
                status = self._train(stop)
                self.signal_number = stop.signal_number
                evaluates = status is not Status.INTERRUPTED and self._score_now() is None
                if evaluates:
                    self._evaluate()
                self._run.checkpoints.save(self.snapshot())
                self._write_metrics(status)
                if evaluates:
                    self.on_evaluation(self.history.evaluations[-1])
        except TrainingDivergedError as error:
            self._write_metrics(Status.DIVERGED)
            raise self._diverged(error) from error
        except (ConfigurationError, ModelError) as error:
            self._write_metrics(Status.FAILED)
            raise self._failed(error) from error
        finally:
            self._display.end()
            self._events.close()
        return status

    def _train(self, stop: StopRequest) -> Status:
        while True:
            status = self._why_stop(stop)
            if status is not None:
                return status
            if not self._iterate():
                time.sleep(IDLE_SECONDS)
                continue
            training, iteration = self.config.training, self.algorithm.counters.iterations
            due = iteration % training.checkpoint_interval == 0
            interval = training.evaluation_interval
            evaluates = interval is not None and iteration % interval == 0
            if evaluates:
                due = self._evaluate() or due
            if due:
                self._run.checkpoints.save(self.snapshot())
            if due or evaluates:
                self._write_metrics(Status.TRAINING)
            if evaluates:
                self.on_evaluation(self.history.evaluations[-1])

    def _why_stop(self, stop: StopRequest) -> Status | None:
        training, counters = self.config.training, self.algorithm.counters
        if counters.env_steps >= self._total:
            return Status.COMPLETE
        if stop:
            return Status.INTERRUPTED
        if training.time_limit is not None and self._seconds() >= training.time_limit:
            return Status.OUT_OF_TIME
        if training.early_stopping and self._episodes_without_rise() >= training.early_stopping_patience:
            return Status.STOPPED_EARLY
        return None

    def _episodes_without_rise(self) -> int:
        """Return the training episodes between the best evaluation and the latest one."""
        evaluations = self.history.evaluations
        if not evaluations:
            return 0
        best = max(evaluations, key=lambda e: e["score"])  # the earliest of equals
        return int(evaluations[-1]["episodes"] - best["episodes"])

    def _iterate(self) -> bool:
        """Train one iteration and write it down; return False where every env runner was down."""
        before, started = asdict(self.algorithm.counters), time.monotonic()
        result = self.algorithm.train()
        self._refuse_wild_weights()
        counters, episodes = asdict(self.algorithm.counters), self.algorithm.episodes
        if counters["iterations"] == before["iterations"]:
            return False
        rate = (counters["agent_steps"] - before["agent_steps"]) / (time.monotonic() - started)
        row = iteration_row(result, counters, episodes)
        self.history.add_iteration(row, episodes, rate)
        self.history.seconds = self._seconds()
        assert self._events is not None
        scalars = {name: value for name, value in row.items() if name not in counters}
        self._events.add_scalars(
            {f"training/{name}": value for name, value in scalars.items()}
            | {"timing/agent_steps_per_second": rate},
            counters["env_steps"],
        )
        if "reward" in row:
            self._remark = f"reward {row['reward']:.4g}"
        self._display.update(counters["env_steps"], rate, self._seconds_left(), self._remarks())
        return True

    def _refuse_wild_weights(self) -> None:
        """Raise where the optimiser's last step led out of the finite numbers, which no loss has seen yet."""
        for policy, module in self.algorithm.learner.module.items():
            for name, parameter in module.unwrapped().named_parameters():
                if not torch.isfinite(parameter).all():
                    raise TrainingDivergedError(f"weights of policy {policy!r} must be finite: {name} is not")

    def _evaluate(self) -> bool:
        """Evaluate on held-out episodes; return whether this is the best policy so far."""
        measures = self._evaluator(TrainedPolicy.from_algorithm(self.algorithm))
        counters = self.algorithm.counters
        best = max((evaluation["score"] for evaluation in self.history.evaluations), default=None)
        self.history.evaluations.append(
            {
                "iteration": counters.iterations,
                "env_steps": counters.env_steps,
                "episodes": counters.episodes,
                **measures,
            }
        )
        assert self._events is not None
        self._events.add_scalars(
            {f"evaluation/{name}": value for name, value in measures.items() if isinstance(value, float)},
            counters.env_steps,
        )
        return best is None or measures["score"] > best

    # Words and times

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._session_start

    def _seconds_left(self) -> float:
        """Return what is left by the pace of the whole training, or less where the time limit comes first."""
        done = self.algorithm.counters.env_steps
        left = self._seconds() * (self._total - done) / max(done, 1)
        limit = self.config.training.time_limit
        return left if limit is None else min(left, limit - self._seconds())

    def _remarks(self) -> str:
        if not self.history.evaluations:
            return self._remark
        return f"{self._remark}  held-out {self.history.evaluations[-1]['score']:.4g}".strip()

    def _title(self) -> str:
        environment, training = self.config.environment, self.config.training
        where = "in this process" if not training.num_workers else f"in {training.num_workers} processes"
        what = f"on {environment.num_resources} resources"
        if environment.factory is not None:
            what = f"of {environment.factory}"
        return (
            f"Training {len(self._environment['agents'])} agents {what}, "
            f"{training.num_envs} copies {where}, {training.num_episodes} episodes of "
            f"{environment.max_episode_length} steps"
        )

    def _acknowledge(self) -> None:
        self._display.say("Stopping after this iteration, with a checkpoint. Once more stops at once.")

    def _diverged(self, error: TrainingDivergedError) -> TrainingDivergedError:
        return TrainingDivergedError(
            f"training diverged in iteration {self.history.iterations + 1}: {error}; {self._kept()}. "
            "Try a lower model.learning_rate or training.grad_clip"
        )

    def _failed(self, error: ConfigurationError | ModelError) -> ConfigurationError | ModelError:
        cause = getattr(error, "cause", error)  # Ray wraps what is raised in another process
        return type(cause)(
            f"{cause}; training failed in iteration {self.history.iterations + 1}, {self._kept()}. "
            f"Mend it, then go on: python -m camac_dra.run resume {self._run.path}"
        )

    def _kept(self) -> str:
        best, latest = self._run.checkpoints.best(), self._run.checkpoints.latest()
        kept = f"the last good checkpoint is {latest}"
        return kept if best is None or best.path == latest else f"{kept}, the best one {best.path}"
