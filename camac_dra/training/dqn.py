"""DQN over array fragments: RLlib's algorithm, learner group and env runner group around an array replay
buffer.
"""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn.dqn import DQN

from camac_dra.training.dqn_learner import ArrayDQNConfig, ArrayDQNLearner
from camac_dra.training.fragments import Fragment
from camac_dra.training.replay_algorithm import ReplayAlgorithm
from camac_dra.training.replay_settings import DQNSettings


class ArrayDQN(ReplayAlgorithm, DQN):
    """Deep Q-learning (Mnih et al. 2015): epsilon-greedy, double, dueling, over n steps, with replay.

    One forward pass per step decides for all copies and agents. ``epsilon`` is that of the next fragment; it
    travels to the env runners with the weights.
    """

    config: ArrayDQNConfig
    learner: ArrayDQNLearner
    settings: DQNSettings

    @classmethod
    def get_default_config(cls) -> AlgorithmConfig:
        """Return the configuration class; ``build_algorithm_config`` fills it."""
        return ArrayDQNConfig(algo_class=cls)

    def setup(self, config: AlgorithmConfig) -> None:
        """Build env runners, learner and buffers, and begin to explore."""
        super().setup(config)
        self._explore()
        self._send_weights()

    @property
    def epsilon(self) -> float:
        """The share of actions of the next fragment that are drawn uniformly."""
        return self.settings.epsilon(self.counters.env_steps, self.counters.episodes)

    def _explore(self) -> None:
        self.learner.set_epsilon(self.epsilon)

    def _count(self, fragments: list[Fragment]) -> None:
        super()._count(fragments)
        self._explore()

    def _restore_env_runners(
        self, states: dict[int, dict[str, Any]], ahead: dict[str, Any] | None = None
    ) -> None:
        self._explore()
        super()._restore_env_runners(states, ahead)
