"""PPO for a model that somebody holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.base import BaseModel
from camac_dra.training.algorithm_learner import POLICY, AlgorithmLearner
from camac_dra.training.environments import algorithm_settings
from camac_dra.training.held_models import held_model
from camac_dra.training.settings import PPOSettings
from camac_dra.training.stretches import Stretch
from camac_dra.utils.schema import Config


class ActorCritic(AlgorithmLearner):
    """Learns with `ArrayPPO`. Sizes, activation and normalisation are the model's; all else is as the
    configuration says.
    """

    figures = ("policy_loss", "value_loss", "entropy", "explained_variance", "learning_rate")
    _normalisers = ("observation_moments", "return_moments")

    def __init__(
        self, config: Config, model: BaseModel, factory: Callable[[int, int], VectorEnvironment]
    ) -> None:
        """Prepare to train the model.

        Raises:
            ConfigurationError: the configuration wants several policies.
        """
        super().__init__(config, model, factory)
        self._held = held_model(model)

    def _settings(self, stretch: Stretch) -> PPOSettings:
        own = algorithm_settings(self._config)
        assert isinstance(own, PPOSettings)
        return dataclasses.replace(own, **self._held.settings(), **self._played(own, stretch))

    def _moments(self) -> dict[str, Any]:
        return self._held.moments(POLICY)

    def _weights(self, fresh: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self._held.into({**fresh, **self._carried.get("critic", {})})

    def _take(self, learner: dict[str, Any]) -> dict[str, Any]:
        return {"critic": self._held.take(learner["weights"][POLICY])}
