"""Models that somebody holds, trained by RLlib: the algorithm learns, the model gets the weights."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.base import BaseModel
from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.array_algorithm import ArrayAlgorithm, Counters
from camac_dra.training.callbacks import CURRICULUM, CurriculumCallback, apply_curriculum
from camac_dra.training.curriculum import Curriculum
from camac_dra.training.history import iteration_row
from camac_dra.training.ray_session import build_algorithm, quiet_ray, ray_session
from camac_dra.training.settings import ArraySettings
from camac_dra.training.stretches import Progress, Stretch
from camac_dra.utils.errors import ConfigurationError, TrainingDivergedError
from camac_dra.utils.schema import Config

POLICY = "shared"


class AlgorithmLearner(ABC):
    """Learns with an algorithm that is built anew for every stretch and goes on from the model's weights."""

    figures: tuple[str, ...] = ()  # of an iteration that are worth a curve

    def __init__(
        self, config: Config, model: BaseModel, factory: Callable[[int, int], VectorEnvironment]
    ) -> None:
        """Prepare to train the model.

        Raises:
            ConfigurationError: the configuration wants several policies.
        """
        if config.training.policies != POLICY:
            raise ConfigurationError(
                f"training.policies must be {POLICY!r} where one model is given for all agents, got "
                f"{config.training.policies!r}"
            )
        self._config, self._model, self._factory = config, model, factory
        self._algorithm: Any = None
        self._session = ExitStack()
        self._carried: dict[str, Any] = {}  # learner's and normalisers' states between stretches

    @abstractmethod
    def _settings(self, stretch: Stretch) -> ArraySettings:
        """Return the algorithm's settings: what is learned is as the model says."""

    @abstractmethod
    def _moments(self) -> dict[str, Any]:
        """Return the normalisers' states that the model implies, where none are carried over."""

    @property
    @abstractmethod
    def _normalisers(self) -> tuple[str, ...]:
        """Name the entries of the training state that hold normalisers."""

    def _prepare(self, algorithm: ArrayAlgorithm) -> None:  # noqa: B027 (not all have more)
        """Hand over what else the algorithm goes on with."""

    @abstractmethod
    def _weights(self, fresh: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the model's weights as the algorithm's module has them; ``fresh`` are that one's own."""

    @abstractmethod
    def _take(self, learner: dict[str, Any]) -> dict[str, Any]:
        """Give the model the weights of a learning state; return what else is carried on."""

    def begin(self, stretch: Stretch) -> None:
        """Build the algorithm and give it the model's weights.

        Raises:
            ConfigurationError: a setting is wrong, or sampling processes do not start.
        """
        settings = self._settings(stretch)
        quiet_ray()
        with ExitStack() as session:
            session.enter_context(ray_session(settings.num_workers + settings.num_learners))
            curriculum = Curriculum.from_config(self._config, stretch.total_env_steps)
            config = build_algorithm_config(
                self._factory, settings, callbacks=None if curriculum is None else CurriculumCallback
            )
            if curriculum is not None:
                config.env_config[CURRICULUM] = curriculum
            algorithm = build_algorithm(config, Path(tempfile.gettempdir()))
            session.callback(algorithm.stop)
            self._hand_over(algorithm, stretch)
            apply_curriculum(algorithm)
            self._algorithm, self._session = algorithm, session.pop_all()

    def _played(self, own: ArraySettings, stretch: Stretch) -> dict[str, Any]:
        """Return the settings of how much is played."""
        length = stretch.max_steps or self._config.environment.max_episode_length
        return {
            "seed": stretch.seed,
            "num_envs": -(-stretch.copies // max(1, own.num_workers)),
            "fragment_length": min(own.fragment_length, length),
            "max_episode_steps": stretch.max_steps,
            "total_env_steps": stretch.total_env_steps,
        }

    def _hand_over(self, algorithm: ArrayAlgorithm, stretch: Stretch) -> None:
        """Let the algorithm go on from the model's weights and the last stretch's optimiser."""
        state = algorithm.get_training_state() | {"env_runners": {}}
        learner = {**state["learner"], **self._carried.get("learner", {})}
        for optimizer in learner["optimizers"].values():
            for group in optimizer["param_groups"]:  # RLlib's schedule acts after the first update only
                group["lr"] = stretch.learning_rate(self._config).value(stretch.env_steps)
        learner["weights"] = {POLICY: self._weights(state["learner"]["weights"][POLICY])}
        counters = asdict(Counters(env_steps=stretch.env_steps, episodes=stretch.episodes))
        moments = self._carried.get("moments") or self._moments()
        algorithm.set_training_state({**state, **moments, "learner": learner, "counters": counters})
        self._prepare(algorithm)

    def advance(self) -> Progress:
        """Sample one fragment from every copy and learn from it.

        Raises:
            TrainingDivergedError: a loss or a weight is not finite.
        """
        algorithm = self._algorithm
        before, figures = algorithm.counters.env_steps, self._figures_before()
        result = algorithm.train()
        row = iteration_row(result, asdict(algorithm.counters), algorithm.episodes)
        self._refuse_wild_weights()
        figures |= {name: row[name] for name in self.figures if name in row}
        steps = algorithm.counters.env_steps - before
        return Progress(algorithm.episodes if steps else [], steps, row.get("loss", np.nan), figures)

    def _figures_before(self) -> dict[str, float]:
        """Return figures that hold for the next iteration."""
        return {}

    def _refuse_wild_weights(self) -> None:
        for name, parameter in self._algorithm.learner.module[POLICY].unwrapped().named_parameters():
            if not torch.isfinite(parameter).all():
                raise TrainingDivergedError(
                    f"weights of the policy must be finite: {name} is not; try a lower model.learning_rate"
                )

    def finish(self) -> None:
        """Give the model the weights, and stop the algorithm.

        Raises:
            TrainingDivergedError: a weight is not finite; the model is as it was before the stretch.
        """
        with self._session:
            self._refuse_wild_weights()
            state = self._algorithm.get_training_state()
        learner = state["learner"]
        rest = self._take(learner)
        del learner["weights"]
        moments = {name: state[name] for name in self._normalisers}
        self._carried = {"learner": learner, "moments": moments, **rest}
        self._algorithm = None

    def get_optimizers(self) -> dict[str, Any]:
        """Return the optimiser's state by RLlib's name; empty before the first stretch."""
        return dict(self._carried["learner"]["optimizers"]) if self._carried else {}

    def get_state(self) -> dict[str, Any]:
        """Return the order of minibatches to come and the normalisers; empty before the first stretch."""
        if not self._carried:
            return {}
        rest = {name: value for name, value in self._carried["learner"].items() if name != "optimizers"}
        return {**self._carried, "learner": rest}

    def set_state(self, optimizers: dict[str, Any], state: dict[str, Any]) -> None:
        """Go on from there in the next stretch."""
        self._carried = {}
        if state:
            learner = {**state["learner"], "optimizers": optimizers}
            self._carried = {**state, "learner": learner}
