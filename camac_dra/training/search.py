"""Hyperparameter search with Ray Tune: trials are runs, ASHA stops those that fall behind.

::

    DIR/trials/<trial>/   a run as any other      DIR/tune/      what Tune resumes from
    DIR/results.csv       a row per trial         DIR/best.yaml  the best trial's configuration
    DIR/search.json       the settings, the space and the number of samples that all of it belongs to
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import PlacementGroupFactory, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import BasicVariantGenerator

from camac_dra.training.environments import total_env_steps
from camac_dra.training.experiment import Experiment
from camac_dra.training.kept_settings import differing_settings, kept_settings
from camac_dra.training.ray_session import quiet_ray
from camac_dra.training.run_directory import CONFIG, METRICS
from camac_dra.training.search_space import described
from camac_dra.utils.config_file import parse_yaml
from camac_dra.utils.config_loader import as_yaml, build_config
from camac_dra.utils.errors import ConfigurationError, OutputError
from camac_dra.utils.file_handler import atomic_write_text
from camac_dra.utils.schema import Config

TRIALS, TUNE, RESULTS, BEST = "trials", "tune", "results.csv", "best.yaml"
SEARCH = "search.json"
SCORE, TIME = "score", "env_steps"
REDUCTION = 3  # ASHA lets one of so many go on at every rung (Li et al. 2020)
FIRST_RUNG = 8  # share of the training, one of so many, after which the first ones are stopped


@dataclass(frozen=True)
class Trial:
    """What one trial came to; the score is None where it was never evaluated."""

    name: str
    score: float | None  # the best on held-out episodes, of all its evaluations
    env_steps: int
    status: str
    settings: dict[str, Any]


class Search:
    """A search in a folder of its own, which an interrupted one is resumed from."""

    def __init__(self, config: Config, space: Mapping[str, Any], folder: Path, samples: int) -> None:
        """Search ``space``, of `read_space`, around ``config``, with so many samples (times grid points)."""
        self._config, self._space, self._folder, self._samples = config, dict(space), folder, samples

    @property
    def processes(self) -> int:
        """Processes of one trial: one for the trial, and those that sample and learn."""
        training = self._config.training
        return 1 + training.num_workers + training.num_learners

    def run(self, *, resume: bool) -> list[Trial]:
        """Run all trials, or those that are left of a search that was interrupted; return all, best first.

        Raises:
            ConfigurationError: there is a search in the folder already, none to resume, or one with other
                settings, another space or another number of samples.
            OutputError: no trial was ever evaluated.
        """
        begun = (self._folder / TUNE).is_dir()
        if resume and not begun:
            raise ConfigurationError(f"--resume: there is no search in {self._folder}")
        if begun and not resume:
            raise ConfigurationError(
                f"--output: there is a search in {self._folder} already: --resume it, or choose another"
            )
        if resume:
            self._refuse_another_search()
        else:
            atomic_write_text(self._folder / SEARCH, json.dumps(self._description(), indent=2) + "\n")
        found = self._tuner(resume=resume).fit()
        return self._report(found.errors)

    def _description(self) -> dict[str, Any]:
        settings = kept_settings(self._config, ("name", "output_dir"))
        return {"samples": self._samples, "space": described(self._space), "settings": settings}

    def _refuse_another_search(self) -> None:
        now = self._description()
        try:
            before = json.loads((self._folder / SEARCH).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigurationError(
                f"--resume: {self._folder} has no {SEARCH} to say what was searched: begin another search"
            ) from None
        spaces = before["space"], now["space"]
        differing = differing_settings(before["settings"], now["settings"])
        differing += [
            f"the space of {name}"
            for name in dict.fromkeys([*spaces[0], *spaces[1]])
            if spaces[0].get(name) != spaces[1].get(name)
        ]
        if before["samples"] != now["samples"]:
            differing.append(f"--samples ({before['samples']}, got {now['samples']})")
        if differing:
            raise ConfigurationError(
                f"--resume: the search in {self._folder} is another one, which differs in "
                f"{', '.join(differing)}: give what it was begun with, or choose another --output"
            )

    def _tuner(self, *, resume: bool) -> Tuner:
        folder = self._folder.resolve()
        work = partial(run_trial, config=as_yaml(self._config), folder=str(folder / TRIALS))
        work.__name__ = "trial"  # type: ignore[attr-defined]  # Tune names it so
        trainable = tune.with_resources(work, self._resources())
        if resume:
            return Tuner.restore(str(folder / TUNE), trainable, resume_errored=True, param_space=self._space)
        longest = total_env_steps(self._config)
        scheduler = ASHAScheduler(
            time_attr=TIME,
            max_t=longest,
            grace_period=max(1, longest // FIRST_RUNG),
            reduction_factor=REDUCTION,
        )
        return Tuner(
            trainable,
            param_space=self._space,
            tune_config=TuneConfig(
                metric=SCORE,
                mode="max",
                num_samples=self._samples,
                scheduler=scheduler,
                search_alg=BasicVariantGenerator(random_state=self._config.training.seed),
            ),
            run_config=RunConfig(name=TUNE, storage_path=str(folder), verbose=0),
        )

    def _resources(self) -> PlacementGroupFactory:
        training = self._config.training
        main = {"CPU": 1.0, **({"GPU": training.num_gpus} if not training.num_learners else {})}
        learner = {"CPU": 1.0, "GPU": training.num_gpus}
        bundles = [main, *[{"CPU": 1.0}] * training.num_workers, *[learner] * training.num_learners]
        return PlacementGroupFactory([{k: v for k, v in bundle.items() if v} for bundle in bundles])

    def _report(self, errors: Sequence[Exception]) -> list[Trial]:
        """Read what the trials wrote; write the table and the best configuration."""
        trials = [self._read(path) for path in sorted((self._folder / TRIALS).glob("*"))]  # none: no folder
        trials.sort(key=lambda trial: (trial.score is None, -(trial.score or 0.0)))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["trial", SCORE, TIME, "status", *self._space])
        for trial in trials:
            known = [trial.settings.get(name) for name in self._space]
            writer.writerow([trial.name, trial.score, trial.env_steps, trial.status, *known])
        atomic_write_text(self._folder / RESULTS, text.getvalue())
        if not trials or trials[0].score is None:
            first = f"; the first error: {_in_short(errors[0])}" if errors else ""
            raise OutputError(f"{self._folder}: no trial was evaluated; look at {self._folder / TUNE}{first}")
        best = build_config(
            self._folder / TRIALS / trials[0].name / CONFIG,
            {"training.name": None, "training.output_dir": self._config.training.output_dir},
        )
        atomic_write_text(self._folder / BEST, as_yaml(best))
        return trials

    def _read(self, path: Path) -> Trial:
        config = build_config(path / CONFIG).model_dump()
        settings = {name: _value(config, name) for name in self._space}
        try:
            metrics = json.loads((path / METRICS).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return Trial(path.name, None, 0, "not begun", settings)
        scores = [evaluation["score"] for evaluation in metrics["evaluations"]]
        steps = (metrics["curves"].get(TIME) or [0])[-1]
        status = metrics["status"]
        if status == "training":  # Tune ends a trial when it hears of the last evaluation, before it is over
            status = "complete" if steps >= total_env_steps(self._config) else "stopped by ASHA"
        return Trial(path.name, max(scores, default=None), int(steps or 0), status, settings)


def run_trial(settings: dict[str, Any], *, config: str, folder: str) -> None:
    """Run one trial in this process, or go on with it, and report every evaluation to Tune."""
    quiet_ray()
    name = tune.get_context().get_trial_id()
    home = Path(folder) / name
    if any(home.glob("checkpoints/*/manifest.json")):
        experiment = Experiment.resume(home)
    else:
        own = {**settings, "training.name": name, "training.output_dir": folder}
        experiment = Experiment.start(build_config(parse_yaml(config, CONFIG), own))
    with experiment:
        experiment.loop.on_evaluation = report
        experiment.train()


def report(evaluation: Mapping[str, Any]) -> None:
    """Tell Tune how good a trial is now; ASHA may end it here."""
    tune.report({SCORE: evaluation["score"], TIME: evaluation[TIME]})


def _in_short(error: Exception) -> str:
    """Return what went wrong in a trial without the traceback that Ray makes part of the message."""
    cause = getattr(error, "cause", None) or error
    return str(cause).strip().rpartition("\n")[2] or type(cause).__name__


def _value(config: Mapping[str, Any], path: str) -> Any:
    found: Any = config
    for name in path.split("."):
        found = found[name]
    return found
