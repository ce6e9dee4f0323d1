"""Trade-offs between objectives: one policy per compromise, or one that does what it is told, as points.

A **sweep** trains a policy for each of several weights of the objectives; a **conditioned** policy is trained
once, on weights drawn per episode and shown to it, and is then told each of them in turn (Abels et al. 2019;
Yang, Sun and Narasimhan 2019). All play the same held-out episodes, as heuristics do, so that every policy
becomes a point, and the quality of a set of points is its hypervolume (Zitzler and Thiele 1999).

Axes: E episodes, O objectives in the order of `OBJECTIVES`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from camac_dra.coordination.agreements import agreement_for
from camac_dra.environment.oracle import record_episodes
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.heuristics import HEURISTICS
from camac_dra.training.evaluation import EvaluationResult, evaluate
from camac_dra.training.experiment import Experiment
from camac_dra.training.kept_settings import differing_settings, kept_settings
from camac_dra.training.policy import TrainedPolicy
from camac_dra.training.run_directory import METRICS
from camac_dra.training.training_loop import Status
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.file_handler import atomic_write_text
from camac_dra.utils.schema import Config
from camac_dra.utils.schema.environment import EnvironmentConfig
from camac_dra.utils.schema.objectives import OBJECTIVES, SAMPLED
from camac_dra.utils.validation import validated

STUDY, RUNS, POINTS = "study.json", "runs", "points"
SWEEP, CONDITIONED = "sweep", "conditioned"
_SHOWN = (
    *(f"objective_{name}" for name in OBJECTIVES),
    "efficiency",
    "jain",
    "cost",
    "lost_share",
    "success_rate",
)
_BEYOND = 0.1  # of what the worst lacks to the ideal: where the reference is
_DONE = (Status.COMPLETE.value, Status.OUT_OF_TIME.value, Status.STOPPED_EARLY.value)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Point:
    """What one policy reached, as means over the held-out episodes."""

    method: str  # sweep, conditioned, or the name of a heuristic
    objectives: tuple[float, ...]  # (O,) sums over steps and agents
    measures: dict[str, float]
    decides: str  # alone, together or centrally
    seed: int | None = None  # of the training
    weights: tuple[float, ...] | None = None  # (O,) that it was trained for, or told


@dataclass(frozen=True)
class Box:
    """Between which values objectives lie that are counted: from the reference point to the ideal one.

    The ideal is out of reach: all demand served at once, nothing paid, perfect fairness. The reference lies
    beyond the worst that any heuristic does in each objective, by a tenth of what that lacks to the ideal, so
    that the worst counts too. Neither depends on any trained policy.
    """

    reference: np.ndarray  # (O,)
    ideal: np.ndarray  # (O,)

    def within(self, points: np.ndarray) -> np.ndarray:
        """Return points (P, O) on the scale from 0, the reference, to 1, the ideal."""
        return (points - self.reference) / (self.ideal - self.reference)


class ParetoStudy:
    """Trains, evaluates and remembers in a folder: what is there already is not done again.

    ::

        DIR/study.json        the configuration that all of it belongs to
            runs/NAME/        a run per policy, as `camac_dra.run` writes it
            points/NAME.json  what that policy reached
    """

    def __init__(self, config: Config, folder: Path, say: Say = lambda text: None) -> None:
        """Take up a study, or begin one.

        Args:
            config: the problem, with reward_function ``weighted`` and weights ``sampled``; how long to train.
            folder: where all of it is kept.
            say: is told what is being done.

        Raises:
            ConfigurationError: the problem has no weights to vary, or the folder has a study of another one.
        """
        if config.environment.objective_weights != SAMPLED:
            raise ConfigurationError(
                "environment.objective_weights: must be 'sampled' for a study of trade-offs, with "
                f"reward_function 'weighted', got {config.environment.objective_weights!r}"
            )
        self.config, self.folder, self._say = config, folder, say
        self._refuse_another_study()

    def sweep(self, weights: Iterable[Sequence[float]], seeds: Iterable[int]) -> list[Point]:
        """Train and evaluate one policy for each of the ``weights`` (O,) and each seed."""
        grid = [(seed, tuple(map(float, w))) for seed in seeds for w in weights]
        return [self._swept(seed, w) for seed, w in grid]

    def conditioned(
        self, weights: Iterable[Sequence[float]], seeds: Iterable[int], longer: int = 1
    ) -> list[Point]:
        """Train one policy per seed, on ``longer`` times the episodes; evaluate it under all ``weights``."""
        told, points = [tuple(map(float, w)) for w in weights], []
        for seed in seeds:
            name = f"{CONDITIONED}_x{longer}_seed{seed}"
            changes: dict[str, dict[str, Any]] = {
                "training": {"num_episodes": longer * self.config.training.num_episodes}
            }
            limit = self.config.training.time_limit
            if limit is not None:
                changes["training"]["time_limit"] = longer * limit
            config, policy = self._changed(changes, name, seed), None
            for w in told:
                file = f"{name}_{_label(w)}"
                if (known := self._known(file)) is None:
                    policy = policy or self._trained(config)
                    played = self._play(policy, config.environment, w)
                    known = self._keep(file, _point(CONDITIONED, played, seed, w))
                points.append(known)
        return points

    def heuristics(self, names: Iterable[str]) -> list[Point]:
        """Evaluate heuristics, which have no weights to go by."""
        points = []
        for name in names:
            if (known := self._known(f"heuristic_{name}")) is None:
                self._say(f"Evaluating {name}")
                played = self._play(HEURISTICS[name](), self.config.environment)
                known = self._keep(f"heuristic_{name}", _point(name, played))
            points.append(known)
        return points

    def box(self, heuristics: Sequence[Point]) -> Box:
        """Return between which values points count, by what these heuristics reach."""
        training = self.config.training
        problem = self.config.environment.held_out()
        known = record_episodes(problem, training.evaluation_episodes, training.evaluation_seed)
        share = VectorEnvironment(problem).constraints.fair_share * problem.num_resources  # (N, R)
        demand = (known.arrivals / share).sum(axis=(0, 3))  # (E, N)
        worth = float((demand * known.weights).sum(axis=1).mean())
        ideal, worst = np.array([worth, 0.0, 0.0]), np.array([p.objectives for p in heuristics]).min(axis=0)
        return Box(worst - _BEYOND * (ideal - worst), ideal)

    # One policy

    def _swept(self, seed: int, weights: tuple[float, ...]) -> Point:
        name = f"{SWEEP}_{_label(weights)}_seed{seed}"
        known = self._known(name)
        if known is not None:
            return known
        fixed = {
            "objective_weights": dict(zip(OBJECTIVES, weights, strict=True)),
            "objective_concentration": None,
        }
        config = self._changed({"environment": fixed}, name, seed)
        played = self._play(self._trained(config), config.environment)
        return self._keep(name, _point(SWEEP, played, seed, weights))

    def _trained(self, config: Config) -> TrainedPolicy:
        """Return the best policy of a run, which is trained, or trained to its end, where that is needed."""
        path = Path(config.training.output_dir) / str(config.training.name)
        if _status(path) not in _DONE:
            self._say(f"{'Going on with' if path.exists() else 'Training'} {path.name}")
            begun = Experiment.resume(path) if path.exists() else Experiment.start(config)
            with begun as experiment:
                if experiment.train() is Status.INTERRUPTED:
                    raise KeyboardInterrupt
        return TrainedPolicy.load(path)

    def _play(
        self, policy: Any, environment: EnvironmentConfig, preference: Sequence[float] | None = None
    ) -> EvaluationResult:
        """Play the held-out episodes; what is drawn in them does not depend on any weights."""
        training, problem = self.config.training, environment.held_out()
        agreement = agreement_for(self.config.coordination, problem)
        episodes, seed = training.evaluation_episodes, training.evaluation_seed
        return evaluate(policy, problem, episodes, seed, agreement, preference)

    def _changed(self, changes: Mapping[str, Mapping[str, Any]], name: str, seed: int) -> Config:
        own = {"name": name, "seed": seed, "output_dir": str(self.folder / RUNS)}
        data = self.config.model_dump()
        for section, values in {**changes, "training": {**changes.get("training", {}), **own}}.items():
            data[section].update(values)
        return validated(data)

    # The folder

    def _refuse_another_study(self) -> None:
        data = kept_settings(self.config, ("name", "output_dir", "seed"))
        path = self.folder / STUDY
        if not path.exists():
            self._write(path, data)
            return
        differing = differing_settings(json.loads(path.read_text(encoding="utf-8")), data)
        if differing:
            raise ConfigurationError(
                f"{self.folder}: has a study of another configuration, which differs in "
                f"{', '.join(differing)}: choose another folder"
            )

    def _known(self, name: str) -> Point | None:
        path = self.folder / POINTS / f"{name}.json"
        if not path.exists():
            return None
        data = json.loads(path.read_text(encoding="utf-8"))
        weights = data["weights"]
        return Point(
            **{
                **data,
                "objectives": tuple(data["objectives"]),
                "weights": None if weights is None else tuple(weights),
            }
        )

    def _keep(self, name: str, point: Point) -> Point:
        self._write(self.folder / POINTS / f"{name}.json", asdict(point))
        return point

    @staticmethod
    def _write(path: Path, data: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, json.dumps(data, indent=2) + "\n")


def _point(
    method: str, played: EvaluationResult, seed: int | None = None, weights: tuple[float, ...] | None = None
) -> Point:
    measures = {name: float(played.episodes[name].mean()) for name in _SHOWN}
    objectives = tuple(measures[f"objective_{name}"] for name in OBJECTIVES)
    return Point(method, objectives, measures, played.decides, seed, weights)


def _label(weights: Sequence[float]) -> str:
    """Return weights as part of a file's name: ``0.5-0.25-0.25``."""
    return "-".join(f"{weight:.4g}" for weight in weights)


def _status(run: Path) -> str | None:
    """Return how a run's training ended, None where it has not."""
    try:
        status: str = json.loads((run / METRICS).read_text(encoding="utf-8"))["status"]
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return status
