"""PPO for a model that somebody holds: RLlib's algorithm learns, the model gets the weights."""

from __future__ import annotations

import dataclasses
import tempfile
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
from camac_dra.training.array_algorithm import Counters
from camac_dra.training.callbacks import CURRICULUM, CurriculumCallback, apply_curriculum
from camac_dra.training.curriculum import Curriculum
from camac_dra.training.environments import algorithm_settings
from camac_dra.training.held_models import held_model
from camac_dra.training.history import iteration_row
from camac_dra.training.ppo import ArrayPPO
from camac_dra.training.ray_session import build_algorithm, quiet_ray, ray_session
from camac_dra.training.settings import PPOSettings
from camac_dra.training.stretches import Progress, Stretch
from camac_dra.utils.errors import ConfigurationError, TrainingDivergedError
from camac_dra.utils.schema import Config

POLICY = "shared"
FIGURES = ("policy_loss", "value_loss", "entropy", "explained_variance", "learning_rate")


class ActorCritic:
    """Learns with `ArrayPPO`, which is built anew for every stretch and goes on from the model's weights.

    Sizes, activation and normalisation are the model's; all else is as the configuration says.
    """

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
        self._config, self._held, self._factory = config, held_model(model), factory
        self._algorithm: ArrayPPO | None = None
        self._session = ExitStack()
        self._carried: dict[str, Any] = {}  # learner's and normalisers' states between stretches

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

    def _settings(self, stretch: Stretch) -> PPOSettings:
        own = algorithm_settings(self._config)
        copies = -(-stretch.copies // max(1, own.num_workers))
        length = stretch.max_steps or self._config.environment.max_episode_length
        return dataclasses.replace(
            own,
            **self._held.settings(),
            seed=stretch.seed,
            num_envs=copies,
            fragment_length=min(own.fragment_length, length),
            max_episode_steps=stretch.max_steps,
            total_env_steps=stretch.total_env_steps,
        )

    def _hand_over(self, algorithm: ArrayPPO, stretch: Stretch) -> None:
        """Let the algorithm go on from the model's weights and the last stretch's optimiser."""
        state = algorithm.get_training_state() | {"env_runners": {}}
        learner = {**state["learner"], **self._carried.get("learner", {})}
        for optimizer in learner["optimizers"].values():
            for group in optimizer["param_groups"]:  # RLlib's schedule acts after the first update only
                group["lr"] = stretch.learning_rate(self._config).value(stretch.env_steps)
        rest = {**learner["weights"][POLICY], **self._carried.get("critic", {})}
        learner["weights"] = {POLICY: self._held.into(rest)}
        counters = asdict(Counters(env_steps=stretch.env_steps))
        moments = self._carried.get("moments") or self._held.moments(POLICY)
        algorithm.set_training_state({**state, **moments, "learner": learner, "counters": counters})

    def advance(self) -> Progress:
        """Sample one fragment from every copy and learn from it."""
        assert self._algorithm is not None
        algorithm = self._algorithm
        before = algorithm.counters.env_steps
        result = algorithm.train()
        row = iteration_row(result, asdict(algorithm.counters), algorithm.episodes)
        self._refuse_wild_weights()
        figures = {name: row[name] for name in FIGURES if name in row}
        steps = algorithm.counters.env_steps - before
        return Progress(algorithm.episodes if steps else [], steps, row.get("loss", np.nan), figures)

    def _refuse_wild_weights(self) -> None:
        assert self._algorithm is not None
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
        assert self._algorithm is not None
        with self._session:
            self._refuse_wild_weights()
            state = self._algorithm.get_training_state()
        learner = state["learner"]
        critic = self._held.take(learner.pop("weights")[POLICY])
        moments = {name: state[name] for name in ("observation_moments", "return_moments")}
        self._carried = {"learner": learner, "moments": moments, "critic": critic}
        self._algorithm = None

    def get_optimizers(self) -> dict[str, Any]:
        """Return the optimiser's state by RLlib's name; empty before the first stretch."""
        return dict(self._carried["learner"]["optimizers"]) if self._carried else {}

    def get_state(self) -> dict[str, Any]:
        """Return the order of minibatches to come and the normalisers; empty before the first stretch."""
        if not self._carried:
            return {}
        rest = {name: value for name, value in self._carried["learner"].items() if name != "optimizers"}
        return {"learner": rest, "moments": self._carried["moments"], "critic": self._carried["critic"]}

    def set_state(self, optimizers: dict[str, Any], state: dict[str, Any]) -> None:
        """Go on from there in the next stretch."""
        self._carried = {}
        if state:
            learner = {**state["learner"], "optimizers": optimizers}
            self._carried = {**state, "learner": learner}
