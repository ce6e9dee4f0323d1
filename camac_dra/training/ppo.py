"""PPO over array fragments: RLlib's algorithm, learner group and env runner group around
an array-only hot path.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo.ppo import PPO
from ray.rllib.core.columns import Columns
from ray.rllib.utils.metrics import LEARNER_RESULTS

from camac_dra.models.normalization import RunningMoments
from camac_dra.training.array_algorithm import ArrayAlgorithm
from camac_dra.training.fragments import Fragment
from camac_dra.training.ppo_learner import ArrayPPOConfig, ArrayPPOLearner
from camac_dra.training.rllib_bridge import train_batch
from camac_dra.training.settings import PPOSettings
from camac_dra.training.train_batch import PolicyColumns, counted, policy_columns

RETURN_MEMORY = 20  # iterations after which returns are forgotten by the critic's units


class ArrayPPO(ArrayAlgorithm, PPO):
    """PPO that estimates values and advantages for the whole train batch of an iteration at once."""

    config: ArrayPPOConfig
    learner: ArrayPPOLearner
    settings: PPOSettings
    learns_elsewhere = True

    @classmethod
    def get_default_config(cls) -> AlgorithmConfig:
        """Return the configuration class; ``build_algorithm_config`` fills it."""
        return ArrayPPOConfig(algo_class=cls)

    def setup(self, config: AlgorithmConfig) -> None:
        """Build env runners and learner; set torch's threads in this process."""
        super().setup(config)
        self._return_moments = {mid: RunningMoments.empty(1) for mid in self.config.module_ids}

    def _learn(self, fragments: list[Fragment]) -> None:
        """Turn fragments into a train batch, update on it, and renew the normalisers."""
        with self.learner.own_threads():
            columns = self._columns(fragments)
        env_steps = sum(fragment.env_steps for fragment in fragments)
        if columns:
            results = self.update_learners(
                train_batch(columns, env_steps),
                env_steps,
                num_epochs=self.settings.num_epochs,
                minibatch_size=self.settings.minibatch_size,
            )
            self.metrics.aggregate(results, key=LEARNER_RESULTS)
        self._renew_observation_moments(fragments)

    def _columns(self, fragments: list[Fragment]) -> dict[str, PolicyColumns]:
        """Return the columns of every policy whose agents took part."""
        assignment = np.asarray(self.config.agent_modules)
        columns: dict[str, PolicyColumns] = {}
        for index, module_id in enumerate(self.config.module_ids):
            found = policy_columns(
                fragments,
                None if len(self.config.module_ids) == 1 else np.flatnonzero(assignment == index),
                self.learner.actor_critic(module_id),
                gamma=self.settings.gamma,
                gae_lambda=self.settings.gae_lambda,
            )
            if found is not None:
                columns[module_id] = found
        if self.settings.normalize_returns:
            for module_id, found in columns.items():
                self._normalize_targets(module_id, found)
        return columns

    def _normalize_targets(self, module_id: str, columns: PolicyColumns) -> None:
        """Adopt the new returns into the critic's units, then express the targets in them."""
        targets = columns[Columns.VALUE_TARGETS]
        rows = counted(columns, Columns.VALUE_TARGETS)
        moments = self._return_moments[module_id].merge(
            RunningMoments.of(rows.reshape(-1, 1)), max_count=RETURN_MEMORY * rows.numel()
        )
        self._return_moments[module_id] = moments
        self.learner.set_return_moments(module_id, moments)
        columns[Columns.VALUE_TARGETS] = self.learner.normalized_targets(module_id, targets)

    def _own_state(self) -> dict[str, Any]:
        return {"return_moments": {mid: m.get_state() for mid, m in self._return_moments.items()}}

    def _set_own_state(self, state: dict[str, Any]) -> None:
        self._return_moments = {
            mid: RunningMoments.from_state(moments) for mid, moments in state["return_moments"].items()
        }
