"""What may be different when a run goes on, and what must be the same."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from camac_dra.training.checkpoint_store import FOLDER, find_checkpoint
from camac_dra.training.checkpoints import (
    Checkpoint,
    check_environment,
    read_checkpoint,
    read_manifest,
)
from camac_dra.training.environments import algorithm_settings, prove
from camac_dra.training.learning_scheduler import learning_rate_schedule
from camac_dra.training.policy import saved_config
from camac_dra.training.run_directory import CONFIG, RunDirectory, run_of
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.file_handler import StrPath
from camac_dra.utils.schema import Config

# How long and how the training goes on, not what it is about: the state belongs to that.
CHANGEABLE = (
    *("environment.reward_fn", "model.learning_rate", "model.gamma", "model.target_update_freq"),
    "model.target_update_rate",
    *(
        f"training.{name}"
        for name in (
            *("num_learners", "num_gpus", "learner_threads"),
            *(
                "num_episodes",
                "time_limit",
                "num_workers",
                "overlap",
                "torch_threads",
                "batch_size",
                "num_epochs",
            ),
            *("learning_rate_schedule", "gae_lambda", "clip_param", "value_clip", "value_loss_coeff"),
            *("entropy_coeff", "entropy_coeff_end", "grad_clip", "evaluation_interval", "early_stopping"),
            *("early_stopping_patience", "checkpoint_interval", "keep_checkpoints", "output_dir", "name"),
            *("learning_starts", "checkpoint_replay", "epsilon_start", "epsilon_end", "epsilon_decay"),
        )
    ),
)
# Which held-out episodes scores are of, and the options of ``evaluate`` for them.
JUDGING = {"training.evaluation_episodes": "--episodes", "training.evaluation_seed": "--seed"}
RATE_SETTINGS = ("learning_rate", "learning_rate_schedule", "total_env_steps")


def take_up(
    path: StrPath, overrides: Mapping[str, Any]
) -> tuple[RunDirectory, bool, Checkpoint, str, Config]:
    """Return the run's folder, whether it is new, the checkpoint to go on from, its
    path, and the configuration.

    Of a run, it is the latest checkpoint. The run's folder is used again; for a checkpoint that lies
    elsewhere a new one is made. The folder is locked first, so that nobody else changes what is read.

    Raises:
        CheckpointError: there is none, it is damaged, or another process works on the run.
        ConfigurationError: a setting cannot be changed, or is wrong.
        OutputError: the folder cannot be written.
    """
    _refuse_other_episodes(path, overrides)
    _refuse_other_problem(overrides)
    home = _home(path)
    run = None if home is None else RunDirectory.open(home)
    try:
        folder = find_checkpoint(path, prefer_best=False)
        checkpoint = read_checkpoint(folder)
        config = saved_config(checkpoint.config, f"{folder}/{CONFIG}", overrides)
        check_environment(read_manifest(folder), prove(config))
        _set_learning_rate(checkpoint, config)
        if run is None:
            return RunDirectory.create(config), True, checkpoint, str(folder), config
        run.checkpoints.keep = config.training.keep_checkpoints
        return run, False, checkpoint, str(folder), config
    except BaseException:
        if run is not None:
            run.close()
        raise


def _home(path: StrPath) -> Path | None:
    """Return the folder of the run that a path means, None for a checkpoint that lies elsewhere."""
    given = Path(path)
    if (given / CONFIG).is_file() and (given / FOLDER).is_dir():
        return given
    return run_of(given)


def _refuse_other_episodes(path: StrPath, overrides: Mapping[str, Any]) -> None:
    """Refuse to judge the rest of a run on other episodes, and say how to judge all of it on them."""
    given = {name: option for name, option in JUDGING.items() if name in overrides}
    if given:
        words = ("evaluate", "--checkpoint", path)
        options = [word for name, option in given.items() for word in (option, overrides[name])]
        raise ConfigurationError(
            f"--{', --'.join(given)}: cannot be changed when a run is resumed: the best checkpoint and early "
            "stopping compare the scores of all evaluations, which must be of the same episodes; to judge "
            f"the run on others: python -m camac_dra.run {shlex.join(map(str, [*words, *options]))}"
        )


def _refuse_other_problem(overrides: Mapping[str, Any]) -> None:
    for name in overrides:
        if name not in CHANGEABLE:
            raise ConfigurationError(
                f"--{name}: cannot be changed when a run is resumed, since its state belongs to the old "
                f"value; start a new run, or change one of {', '.join(sorted(CHANGEABLE))}"
            )


def _set_learning_rate(checkpoint: Checkpoint, config: Config) -> None:
    """Give the optimisers the learning rate of now where settings that it depends on are changed.

    RLlib's schedule would do so only after the next iteration; a constant rate would stay what it was.
    """
    before, now = checkpoint.state["algorithm"]["settings"], algorithm_settings(config).to_dict()
    if all(before[name] == now[name] for name in RATE_SETTINGS):
        return
    schedule = learning_rate_schedule(
        now["learning_rate_schedule"], now["learning_rate"], now["total_env_steps"]
    )
    for state in checkpoint.optimizers.values():
        for group in state["param_groups"]:
            group["lr"] = schedule.value(checkpoint.env_steps)
