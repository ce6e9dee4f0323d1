"""One training run from configuration to files: set up, train, resume."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from camac_dra.training.callbacks import CURRICULUM, CurriculumCallback, MeasuresCallback, apply_curriculum
from camac_dra.training.checkpoint_store import find_checkpoint
from camac_dra.training.checkpoints import (
    Checkpoint,
    check_environment,
    environment_fingerprint,
    read_checkpoint,
    read_manifest,
)
from camac_dra.training.curriculum import Curriculum
from camac_dra.training.environments import (
    EnvironmentFactory,
    check_sizes,
    ppo_settings,
    total_env_steps,
)
from camac_dra.training.held_out import HeldOutEvaluation, selection_seed
from camac_dra.training.policy import saved_config
from camac_dra.training.ppo import ArrayPPO, build_algorithm_config
from camac_dra.training.progress import Display, QuietDisplay
from camac_dra.training.random_state import seed_global_generators
from camac_dra.training.ray_session import build_algorithm
from camac_dra.training.run_directory import RunDirectory, run_of
from camac_dra.training.training_loop import Status, TrainingLoop
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.file_handler import StrPath
from camac_dra.utils.provenance import collect_provenance
from camac_dra.utils.schema import Config

# What may be changed when a run is resumed: how long and how it goes on, not what it is about.
CHANGEABLE = (
    *("environment.reward_fn", "model.learning_rate", "model.gamma"),
    *(
        f"training.{name}"
        for name in (
            *("num_episodes", "time_limit", "num_workers", "torch_threads", "batch_size", "num_epochs"),
            *("learning_rate_schedule", "gae_lambda", "clip_param", "value_clip", "value_loss_coeff"),
            *("entropy_coeff", "entropy_coeff_end", "grad_clip", "evaluation_interval", "early_stopping"),
            *("early_stopping_patience", "checkpoint_interval", "keep_checkpoints", "output_dir", "name"),
        )
    ),
)
RATE_SETTINGS = ("learning_rate", "learning_rate_schedule", "total_env_steps")


class Experiment:
    """A run: its folder, its algorithm, its training loop. Make one with `start` or `resume`; close it.

    Needs Ray to run where ``training.num_workers`` is above 0: see `ray_session`.
    """

    def __init__(
        self,
        config: Config,
        run: RunDirectory,
        callbacks: Sequence[type] = (),
        display: Display | None = None,
    ) -> None:
        self.config = config
        self.run = run
        factory = EnvironmentFactory(config.environment)
        probe = factory(1, config.training.seed)
        environment = environment_fingerprint(probe)
        probe.close()
        seed_global_generators(config.training.seed)
        self.algorithm = _build_algorithm(config, factory, callbacks, run.path)
        self.loop = TrainingLoop(
            config, self.algorithm, HeldOutEvaluation(config), run, environment, display or QuietDisplay()
        )

    @classmethod
    def start(
        cls,
        config: Config,
        *,
        callbacks: Sequence[type] = (),
        display: Display | None = None,
        command: Sequence[str] | None = None,
    ) -> Experiment:
        """Begin a new run in a folder of its own.

        Args:
            config: the whole configuration.
            callbacks: RLlib callback classes besides ours.
            display: what shows the progress; None: nothing.
            command: the command line for the records; None: this process's.

        Raises:
            ConfigurationError, TraceError: something about the problem or the network is wrong; no folder is
            left. CapabilityError: a callback waits for RLlib's episodes, which array sampling does not make.
            OutputError: the folder cannot be written, or the disk is full.
        """
        _prove(config)
        run = RunDirectory.create(config)
        try:
            run.write_config(config)
            run.add_provenance(_provenance(config, command))
            return cls(config, run, callbacks, display)
        except BaseException:
            run.close()
            shutil.rmtree(run.path, ignore_errors=True)
            raise

    @classmethod
    def resume(
        cls,
        path: StrPath,
        overrides: Mapping[str, Any] | None = None,
        *,
        callbacks: Sequence[type] = (),
        display: Display | None = None,
        command: Sequence[str] | None = None,
    ) -> Experiment:
        """Go on from a checkpoint, or from the latest of a run.

        The run's folder is used again, and later checkpoints in it are set aside. A checkpoint that lies
        elsewhere starts a new folder. ``overrides`` are by dotted path; those of `CHANGEABLE` can be made.

        Raises:
            CheckpointError: there is none, it is damaged, or does not fit.
            ConfigurationError: a setting cannot be changed, or is wrong.
            OutputError: the folder cannot be written.
        """
        folder = find_checkpoint(path, prefer_best=False)
        checkpoint = read_checkpoint(folder)
        _refuse_other_problem(overrides or {})
        config = saved_config(checkpoint.config, str(folder), overrides)
        _prove(config)
        check_environment(
            read_manifest(folder), environment_fingerprint(EnvironmentFactory(config.environment)(1, 0))
        )
        home = run_of(folder)
        keep = config.training.keep_checkpoints
        run = RunDirectory.create(config) if home is None else RunDirectory.open(home, keep)
        try:
            experiment = cls(config, run, callbacks, display)
            experiment._take_up(_with_learning_rate(checkpoint, config))
            experiment._set_aside_later(checkpoint.iteration, display)
            run.write_config(config)
            run.add_provenance(_provenance(config, command) | {"resumed_from": str(folder)})
        except BaseException:
            run.close()
            raise
        return experiment

    def _take_up(self, checkpoint: Checkpoint) -> None:
        self.loop.restore(checkpoint)
        apply_curriculum(self.algorithm)

    def _set_aside_later(self, iteration: int, display: Display | None) -> None:
        moved = self.run.checkpoints.set_aside_after(iteration)
        if moved and display is not None:
            display.say(f"Set aside {len(moved)} later checkpoints in {moved[0].parent}")

    def train(self) -> Status:
        """Train to the end; see `TrainingLoop.run`."""
        return self.loop.run()

    def best_checkpoint(self) -> Path:
        """Return the folder of the best checkpoint, or of the latest where none was evaluated."""
        return find_checkpoint(self.run.path, prefer_best=True)

    def close(self) -> None:
        """Stop the algorithm and let go of the folder."""
        self.algorithm.stop()
        self.run.close()

    def __enter__(self) -> Experiment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _prove(config: Config) -> None:
    """Build the environment once and compare sizes, before anything is written or started."""
    env = EnvironmentFactory(config.environment)(1, config.training.seed)
    check_sizes(config, env)
    env.close()


def _provenance(config: Config, command: Sequence[str] | None) -> dict[str, Any]:
    training = config.training
    seeds = {
        "training": training.seed,
        "evaluation": training.evaluation_seed,
        "selection": selection_seed(config),
    }
    return collect_provenance(config, seeds, command)


def _build_algorithm(
    config: Config, factory: EnvironmentFactory, callbacks: Sequence[type], folder: Path
) -> ArrayPPO:
    curriculum = Curriculum.from_config(config, total_env_steps(config))
    ours = [MeasuresCallback, *([] if curriculum is None else [CurriculumCallback])]
    algorithm_config = build_algorithm_config(factory, ppo_settings(config), callbacks=[*ours, *callbacks])
    if curriculum is not None:
        algorithm_config.env_config[CURRICULUM] = curriculum
    return build_algorithm(algorithm_config, folder)


def _refuse_other_problem(overrides: Mapping[str, Any]) -> None:
    for name in overrides:
        if name not in CHANGEABLE:
            raise ConfigurationError(
                f"--{name}: cannot be changed when a run is resumed, since its state belongs to the old "
                f"value; start a new run, or change one of {', '.join(sorted(CHANGEABLE))}"
            )


def _with_learning_rate(checkpoint: Checkpoint, config: Config) -> Checkpoint:
    """Give the optimisers the learning rate of now where settings that it depends on are changed.

    RLlib's schedule would do so only after the next iteration; a constant rate would stay what it was.
    """
    before, now = checkpoint.state["algorithm"]["settings"], ppo_settings(config).to_dict()
    if any(before[name] != now[name] for name in RATE_SETTINGS):
        share_left = 1.0
        if now["learning_rate_schedule"] == "linear":
            share_left = max(0.0, 1.0 - checkpoint.env_steps / now["total_env_steps"])
        for state in checkpoint.optimizers.values():
            for group in state["param_groups"]:
                group["lr"] = now["learning_rate"] * share_left
    return checkpoint
