"""What happened in a training, as ``metrics.json`` holds it: the specification's
lists, curves, evaluations, times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from camac_dra.training.callbacks import RESOLUTIONS, RESULTS, mean_measures
from camac_dra.training.metrics_tracker import RECENT_EPISODES
from camac_dra.utils.errors import CheckpointError

LOSSES = {  # our name: RLlib's, in its learner results
    "loss": "total_loss",
    "policy_loss": "policy_loss",
    "value_loss": "vf_loss",
    "entropy": "entropy",
    "explained_variance": "vf_explained_var",
    "kl_from_sampling": "kl_from_sampling",
    "gradient_norm": "gradient_norm",
    "q_value": "qf_mean",
    "td_error": "td_error_mean",
    "epsilon": "epsilon",
    "temperature": "temperature",
    "learning_rate": "default_optimizer_learning_rate",
}
LAG = "off_policy_lag"  # updates between the weights that sampled and those that learned, on average
Row = dict[str, float]


@dataclass
class History:
    """Grows by one row per iteration; everything in it but ``seconds`` is the same whenever the
    seed is the same.

    ``curves`` has a list per quantity, all as long as there were iterations; None stands where a quantity had
    no value (measures of episodes, in iterations in which none ended).
    """

    episode_rewards: list[float] = field(default_factory=list)  # team reward of every finished episode
    episode_losses: list[float | None] = field(
        default_factory=list
    )  # loss of the iteration in which it ended
    successes: list[float] = field(default_factory=list)  # success rates of the recent episodes
    curves: dict[str, list[float | None]] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0  # of training, over all sessions
    agent_steps_per_second: list[float] = field(default_factory=list)

    @property
    def iterations(self) -> int:
        """Rows so far."""
        return len(self.curves.get("iteration", ()))

    def add_iteration(self, row: Row, episodes: Sequence[Mapping[str, float]], rate: float) -> None:
        """Add what `iteration_row` made of an iteration, the episodes that ended in it,
        and its agent steps/s.
        """
        before = self.iterations
        for name in dict.fromkeys([*self.curves, *row]):
            self.curves.setdefault(name, [None] * before).append(row.get(name))
        self.episode_rewards.extend(float(episode["reward"]) for episode in episodes)
        self.episode_losses.extend([row.get("loss")] * len(episodes))
        self.successes.extend(
            float(episode["success_rate"]) for episode in episodes if "success_rate" in episode
        )
        del self.successes[:-RECENT_EPISODES]
        self.agent_steps_per_second.append(rate)

    def to_metrics(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``: ``training`` and ``evaluation`` as specified, and more."""
        last = self.evaluations[-1] if self.evaluations else {}
        return {
            "training": {
                "episode_rewards": self.episode_rewards,
                "episode_losses": self.episode_losses,
                "success_rate": float(np.mean(self.successes)) if self.successes else None,
                "recent_successes": self.successes,
            },
            "evaluation": {name: last.get(name) for name in ("avg_reward", "std_reward", "success_rate")},
            "curves": self.curves,
            "evaluations": self.evaluations,
            "timing": {"seconds": self.seconds, "agent_steps_per_second": self.agent_steps_per_second},
        }

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> History:
        """Return the history that `to_metrics` described.

        Raises:
            CheckpointError: something is missing.
        """
        try:
            training, timing = metrics["training"], metrics["timing"]
            return cls(
                episode_rewards=list(training["episode_rewards"]),
                episode_losses=list(training["episode_losses"]),
                successes=list(training["recent_successes"]),
                curves={name: list(column) for name, column in metrics["curves"].items()},
                evaluations=list(metrics["evaluations"]),
                seconds=float(timing["seconds"]),
                agent_steps_per_second=list(timing["agent_steps_per_second"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"metrics.json of the checkpoint is damaged: {error!r}") from None


def iteration_row(
    result: Mapping[str, Any], counters: Mapping[str, int], episodes: Sequence[Mapping[str, float]]
) -> Row:
    """Return the numbers of one iteration: counters, losses (mean over
    policies), measures, resolved conflicts.
    """
    row: Row = {
        "iteration": counters["iterations"],
        **{k: v for k, v in counters.items() if k != "iterations"},
    }
    policies = [
        losses for name, losses in result.get("learners", {}).items() if not name.startswith("__all_")
    ]
    for name, theirs in LOSSES.items():
        values = [float(losses[theirs]) for losses in policies if theirs in losses]
        if values and np.isfinite(values).all():
            row[name] = float(np.mean(values))
    if result.get(LAG):  # where sampling does not overlap with learning there is none
        row[LAG] = float(result[LAG])
    row.update(mean_measures(episodes))
    if episodes:
        resolved = result.get("env_runners", {}).get(RESULTS, {}).get(RESOLUTIONS, {})
        row.update({f"{RESOLUTIONS}/{mechanism}": float(count) for mechanism, count in resolved.items()})
    return row
