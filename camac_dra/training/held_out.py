"""How good a policy is during training: its measures on held-out episodes, always the same ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.training.callbacks import mean_measures
from camac_dra.training.policy import TrainedPolicy
from camac_dra.utils.schema import Config


class HeldOutEvaluation:
    """Plays the same episodes of the full problem (no curriculum) with every policy it is given.

    The best policy is chosen by it, so neither its seed nor its data are those of the comparison at the end: the
    highest of many scores on one set of episodes is too high for them. It plays the training problem's own days or
    traces, the comparison those that were kept apart.
    """

    def __init__(self, config: Config) -> None:
        training = config.training
        self.seed = selection_seed(config)
        self._objective = objective(config)
        self._env = VectorEnvironment(
            config.environment, num_envs=training.evaluation_episodes, seed=self.seed, autoreset=False
        )

    def __call__(self, policy: TrainedPolicy) -> dict[str, Any]:
        """Return ``avg_reward`` and ``std_reward`` over episodes, ``score``, and means of all measures."""
        observations = self._env.reset(seed=self.seed)  # (B, N, *shape)
        while True:
            result = self._env.step(policy.actions(observations))
            if result.done.all():
                break
            observations = result.observations
        rewards = np.array([episode["reward"] for episode in result.episodes])  # (B,)
        scores = np.array([episode[self._objective] for episode in result.episodes])  # (B,)
        return {
            "avg_reward": float(rewards.mean()),
            "std_reward": float(rewards.std()),
            "score": float(scores.mean()),
            **mean_measures(result.episodes),
        }


def selection_seed(config: Config) -> int:
    """Return the seed of the episodes on which the best policy is chosen."""
    return config.training.evaluation_seed + 1


def objective(config: Config) -> str:
    """Return the measure that training is to raise: the team's efficiency, or the reward where that is
    another.
    """
    environment = config.environment
    plain = environment.reward_function == "efficiency" and environment.reward_fn is None
    return "efficiency" if plain else "reward"
