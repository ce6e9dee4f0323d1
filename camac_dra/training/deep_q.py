"""Q-learning for a `DQNAgent` that somebody holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import torch

from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.dqn_agent import DQNAgent
from camac_dra.training.algorithm_learner import POLICY, AlgorithmLearner
from camac_dra.training.array_algorithm import ArrayAlgorithm
from camac_dra.training.dqn import ArrayDQN
from camac_dra.training.environments import algorithm_settings
from camac_dra.training.experience_buffer import ExperienceBuffer
from camac_dra.training.replay_memory import check_replay_fits, transition_bytes
from camac_dra.training.replay_settings import DQNSettings
from camac_dra.training.stretches import Stretch
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema import Config


class DeepQ(AlgorithmLearner):
    """Learns with `ArrayDQN`, with what it remembers in a buffer that stays from stretch to stretch.

    Sizes, activation, double, dueling and n steps are the agent's. Where the configuration leaves them open,
    so are ``target_update_freq``, ``replay_buffer_size``, ``epsilon_start``, ``epsilon_end`` and
    ``epsilon_decay``; all else is as the configuration says.
    """

    _normalisers = ("observation_moments", "target_moments")
    _model: DQNAgent

    def __init__(
        self,
        config: Config,
        agent: DQNAgent,
        factory: Callable[[int, int], VectorEnvironment],
        buffer: ExperienceBuffer | None,
    ) -> None:
        """``buffer`` holds what is replayed; None: a uniform one in memory.

        Raises:
            ConfigurationError: the buffer sums over other steps than the agent or discounts otherwise,
                does not fit into memory, or the configuration wants several policies.
        """
        super().__init__(config, agent, factory)
        self.buffer = self._make_buffer() if buffer is None else buffer
        for name, has, needs in (
            ("n_step", self.buffer.n_step, agent.n_step),
            ("gamma", self.buffer.gamma, config.model.gamma),
        ):
            if has != needs:
                raise ConfigurationError(f"{name} of the buffer must be {needs}, as in training, got {has}")

    def _make_buffer(self) -> ExperienceBuffer:
        training, agent = self._config.training, self._model
        size = _first(training.replay_buffer_size, agent.replay_buffer_size)
        check_replay_fits(size, transition_bytes(agent.input_size))
        return ExperienceBuffer(
            size,
            n_step=agent.n_step,
            gamma=self._config.model.gamma,
            seed=training.seed,
        )

    def _settings(self, stretch: Stretch) -> DQNSettings:
        agent, training, own = self._model, self._config.training, algorithm_settings(self._config)
        assert isinstance(own, DQNSettings)
        return dataclasses.replace(
            own,
            hidden_sizes=agent.online.hidden_sizes,
            activation=cast(Any, agent.online.activation),
            double=agent.double_q,
            dueling=agent.online.dueling,
            n_step=agent.n_step,
            normalize_observations=False,
            normalize_returns=False,
            prioritized=self.buffer.prioritized,
            target_update_freq=_first(self._config.model.target_update_freq, agent.target_update_freq),
            epsilon_start=_first(training.epsilon_start, agent.epsilon_start),
            epsilon_end=_first(training.epsilon_end, agent.epsilon_end),
            epsilon_decay=_first(training.epsilon_decay, agent.epsilon_decay),
            **self._played(own, stretch),
        )

    def _moments(self) -> dict[str, Any]:
        return {}  # an agent scales nothing

    def _prepare(self, algorithm: ArrayAlgorithm) -> None:
        assert isinstance(algorithm, ArrayDQN)
        algorithm.learner.updates = self._model.updates
        algorithm.buffers[POLICY] = self.buffer

    def _figures_before(self) -> dict[str, float]:
        self._model.epsilon = self._algorithm.epsilon
        return {
            "epsilon": self._algorithm.epsilon,
            "learning_rate": self._algorithm.learner.learning_rate(POLICY),
        }

    def _weights(self, fresh: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**fresh, **self._model.state_dict()}

    def _take(self, learner: dict[str, Any]) -> dict[str, Any]:
        agent, weights = self._model, learner["weights"][POLICY]
        agent.load_state_dict({name: weights[name] for name in agent.state_dict()})
        agent.updates, agent.epsilon = learner["updates"], self._algorithm.epsilon
        return {}

    def set_state(self, optimizers: dict[str, Any], state: dict[str, Any]) -> None:
        """Go on from there in the next stretch, with nothing remembered."""
        super().set_state(optimizers, state)
        self._model.updates = int(state["learner"]["updates"]) if state else 0
        self.buffer.clear()


def _first(given: float | None, otherwise: float) -> Any:
    return otherwise if given is None else given
