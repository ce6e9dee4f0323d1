"""One training run from configuration to files: set up, train, resume."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.array_algorithm import ArrayAlgorithm
from camac_dra.training.callbacks import CURRICULUM, CurriculumCallback, MeasuresCallback, apply_curriculum
from camac_dra.training.checkpoint_store import find_checkpoint
from camac_dra.training.checkpoints import read_checkpoint
from camac_dra.training.comparison import Verdict
from camac_dra.training.curriculum import Curriculum
from camac_dra.training.environments import algorithm_settings, prove, total_env_steps, training_factory
from camac_dra.training.foreign_comparison import ForeignVerdict
from camac_dra.training.held_out import held_out_measures, selection_seed
from camac_dra.training.judging import judge_problem
from camac_dra.training.policy import TrainedPolicy
from camac_dra.training.progress import Display, QuietDisplay
from camac_dra.training.random_state import seed_global_generators
from camac_dra.training.ray_session import build_algorithm, ray_session
from camac_dra.training.resuming import take_up
from camac_dra.training.run_directory import COMPARISON, COMPARISON_TEXT, RunDirectory
from camac_dra.training.training_loop import Status, TrainingLoop
from camac_dra.utils.file_handler import StrPath
from camac_dra.utils.provenance import collect_provenance
from camac_dra.utils.schema import Config


@dataclass(frozen=True)
class Options:
    """What is about this session and not about the run.

    ``callbacks`` are RLlib callback classes besides ours; ``address`` is that of a Ray cluster to sample on;
    ``command`` is the command line for the records, None meaning this process's.
    """

    display: Display = field(default_factory=QuietDisplay)
    callbacks: Sequence[type] = ()
    address: str | None = None
    command: Sequence[str] | None = None


class Experiment:
    """A run: its folder, its algorithm, its training loop. Make one with `start` or `resume`; close it.

    Ray is started, or connected to, where sampling needs it (see `ray_session`), and left at the end.

    Attributes:
        config: the whole configuration.
        run: the folder.
        algorithm: RLlib's algorithm.
        loop: the training.
    """

    def __init__(
        self, config: Config, run: RunDirectory, environment: dict[str, Any], options: Options
    ) -> None:
        """``environment`` is the fingerprint that checkpoints get."""
        self.config = config
        self.run = run
        workers, learners = config.training.num_workers, config.training.num_learners
        if workers + learners:
            options.display.say(f"Starting {workers} sampling and {learners} learning processes on Ray")
        with ExitStack() as stack:
            stack.enter_context(ray_session(workers + learners, options.address))
            seed_global_generators(config.training.seed)
            self.algorithm = _build_algorithm(config, options.callbacks, run.path)
            stack.callback(self.algorithm.stop)
            self.loop = TrainingLoop(
                config,
                self.algorithm,
                partial(held_out_measures, config),
                run,
                environment,
                options.display,
            )
            self._session = stack.pop_all()

    @classmethod
    def start(cls, config: Config, options: Options | None = None) -> Experiment:
        """Begin a new run in a folder of its own; no folder is left where that fails.

        Raises:
            ConfigurationError: something about the problem or the network is wrong.
            TraceError: so is a file that the problem is made of; or ``TopologyError``.
            CapabilityError: a callback waits for RLlib's episodes, which array sampling does not make.
            OutputError: the folder cannot be written, or the disk is full.
        """
        options = options or Options()
        environment = prove(config)
        run = RunDirectory.create(config)
        try:
            run.write_config(config)
            run.add_provenance(_provenance(config, options))
            return cls(config, run, environment, options)
        except BaseException:
            _abandon(run, is_new=True)
            raise

    @classmethod
    def resume(
        cls, path: StrPath, overrides: Mapping[str, Any] | None = None, options: Options | None = None
    ) -> Experiment:
        """Go on from a checkpoint, or from the latest of a run; later checkpoints of the run are set aside.

        ``overrides`` are values by dotted path; those of `resuming.CHANGEABLE` can be made. See `take_up`
        for the errors.
        """
        options = options or Options()
        run, is_new, checkpoint, source, config = take_up(path, overrides or {})
        try:
            experiment = cls(config, run, checkpoint.environment, options)
        except BaseException:
            _abandon(run, is_new=is_new)
            raise
        try:
            experiment.loop.restore(checkpoint)
            apply_curriculum(experiment.algorithm)
            lost = experiment.algorithm.lost_on_resume()
            if lost is not None:
                options.display.say(lost)
            moved = run.checkpoints.set_aside_after(checkpoint.iteration)
            if moved:
                options.display.say(f"Set aside {len(moved)} later checkpoints in {moved[0].parent}")
            run.write_config(config)
            run.add_provenance(_provenance(config, options) | {"resumed_from": source})
        except BaseException:
            experiment.close()
            raise
        return experiment

    def train(self) -> Status:
        """Train to the end; see `TrainingLoop.run`."""
        return self.loop.run()

    def judge(self, heuristics: Sequence[str]) -> Verdict | ForeignVerdict:
        """Compare the best policy with heuristics and the optimum, or in somebody else's environment with
        random actions and the baselines, and write the result into the run's folder.

        The episodes are those of ``evaluation_seed``, which neither training nor the choice of the best saw.
        """
        best = self.best_checkpoint()
        policy = TrainedPolicy.from_weights(self.config, read_checkpoint(best).weights)
        verdict = judge_problem(policy, self.config, heuristics)
        self.run.write_json(COMPARISON, {"checkpoint": best.name, **verdict.to_dict()})
        self.run.write_text(COMPARISON_TEXT, verdict.text())
        self.loop.write_final({**verdict.evaluation(), "checkpoint": best.name})
        return verdict

    def best_checkpoint(self) -> Path:
        """Return the folder of the best checkpoint, or of the latest where none was evaluated."""
        return find_checkpoint(self.run.path, prefer_best=True)

    def close(self) -> None:
        """Stop the algorithm, leave Ray, and let go of the folder."""
        self._session.close()
        self.run.close()

    def __enter__(self) -> Experiment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _abandon(run: RunDirectory, *, is_new: bool) -> None:
    run.close()
    if is_new:
        shutil.rmtree(run.path, ignore_errors=True)


def _provenance(config: Config, options: Options) -> dict[str, Any]:
    training = config.training
    seeds = {
        "training": training.seed,
        "evaluation": training.evaluation_seed,
        "selection": selection_seed(config),
    }
    return collect_provenance(config, seeds, options.command)


def _build_algorithm(config: Config, callbacks: Sequence[type], folder: Path) -> ArrayAlgorithm:
    curriculum = Curriculum.from_config(config, total_env_steps(config))
    ours = [MeasuresCallback, *([] if curriculum is None else [CurriculumCallback])]
    algorithm_config = build_algorithm_config(
        training_factory(config),
        algorithm_settings(config),
        callbacks=[*ours, *callbacks],
    )
    if curriculum is not None:
        algorithm_config.env_config[CURRICULUM] = curriculum
    return build_algorithm(algorithm_config, folder)
