"""How good a policy is during training: its measures on held-out episodes, always the same ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from camac_dra.training.evaluation import evaluate
from camac_dra.training.foreign_evaluation import foreign_measures
from camac_dra.utils.schema import Config

if TYPE_CHECKING:
    from camac_dra.training.policy import TrainedPolicy


def held_out_measures(config: Config, policy: TrainedPolicy) -> dict[str, Any]:
    """Return ``avg_reward`` and ``std_reward`` over episodes, ``score``, and means of all measures.

    The best policy is chosen by the score, so neither seed nor data are those of the comparison at the end:
    the highest of many scores on one set of episodes is too high for them. The days or traces are the
    training's own; the comparison has those that were kept apart. There is no curriculum.
    """
    training = config.training
    if config.environment.factory is not None:
        return foreign_measures(config, policy, selection_seed(config))
    result = evaluate(policy, config, training.evaluation_episodes, selection_seed(config))
    reward = result.episodes["reward"]  # (E,)
    return {
        "avg_reward": float(reward.mean()),
        "std_reward": float(reward.std()),
        "score": float(result.episodes[objective(config)].mean()),
        **{name: float(values.mean()) for name, values in result.episodes.items()},
    }


def selection_seed(config: Config) -> int:
    """Return the seed of the episodes on which the best policy is chosen."""
    return config.training.evaluation_seed + 1


def objective(config: Config) -> str:
    """Return the measure that training is to raise: the efficiency, or the reward where that is another."""
    environment = config.environment
    plain = environment.reward_function == "efficiency" and environment.reward_fn is None
    return "efficiency" if plain else "reward"
