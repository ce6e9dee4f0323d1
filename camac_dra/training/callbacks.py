"""RLlib callbacks: measures of allocation in RLlib's results, and the curriculum in all env runners.

Array sampling makes no RLlib episodes, so ``on_episode_*`` callbacks would never fire: a configuration that
has some is refused with ``CapabilityError`` when the algorithm is built. ``on_sample_end`` gets the fragment
instead, with the measures of the episodes that ended in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from camac_dra.training.curriculum import Curriculum

if TYPE_CHECKING:
    from camac_dra.training.array_algorithm import ArrayAlgorithm
    from camac_dra.training.fragments import Fragment

RESULTS = "allocation"  # key below ``env_runners`` in RLlib's results
RESOLUTIONS = "resolutions"  # below that: conflicts resolved since the last result, by mechanism
MEASURES = (
    "reward",
    "return_per_agent",
    "steps",
    "efficiency",
    "success_rate",
    "jain",
    "utilisation",
    "conflict_rate",
    "lost_share",
    "lost",
    "cost",
    "objective_service",
    "objective_cost",
    "objective_fairness",
)
CURRICULUM = "curriculum"  # key in ``env_config``


def mean_measures(episodes: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each known measure over the episodes that have it; empty where there are none."""
    episodes = list(episodes)
    columns = {name: [episode[name] for episode in episodes if name in episode] for name in MEASURES}
    return {name: float(np.mean(column)) for name, column in columns.items() if column}


class MeasuresCallback(RLlibCallback):
    """Logs the means of the measures of the episodes that ended, and the conflicts
    that each mechanism resolved.

    They are in ``result["env_runners"]["allocation"]``; Tune and its loggers see them there. A conflict is a
    group and resource over its capacity in one step; those of an episode count for the mechanism in force at
    its end.
    """

    def on_sample_end(
        self,
        *,
        env_runner: Any = None,
        metrics_logger: MetricsLogger | None = None,
        samples: Any,
        **kwargs: Any,
    ) -> None:
        """Log what ``samples``, a ``Fragment``, says."""
        fragment: Fragment = samples
        if metrics_logger is None or not fragment.episodes:
            return
        for name, value in mean_measures(fragment.episodes).items():
            metrics_logger.log_value((RESULTS, name), value, window=1)
        env: Any = env_runner.env
        if "conflict_rate" in fragment.episodes[0] and hasattr(env, "mechanism"):
            cells = int(np.isfinite(env.dynamics.nominal_capacity).sum()) * env.episode_length
            conflicts = sum(round(episode["conflict_rate"] * cells) for episode in fragment.episodes)
            metrics_logger.log_value((RESULTS, RESOLUTIONS, env.mechanism), conflicts, reduce="sum")


class CurriculumCallback(RLlibCallback):
    """Switches the mechanism and anneals the contention in all env runners, by how far the training has come.

    The plan is ``env_config["curriculum"]``. It acts from the first step of the next fragment on, in env
    runners that Ray restarted too.
    """

    def on_algorithm_init(self, *, algorithm: Any, **kwargs: Any) -> None:
        """Begin with what is in force at the start."""
        apply_curriculum(algorithm)

    def on_train_result(self, *, algorithm: Any, **kwargs: Any) -> None:
        """Go on to what is in force after this iteration."""
        apply_curriculum(algorithm)

    def on_env_runners_recreated(
        self,
        *,
        algorithm: Any,
        env_runner_group: Any,
        env_runner_indices: list[int],
        **kwargs: Any,
    ) -> None:
        """Bring restarted env runners up to date."""
        apply_curriculum(algorithm, env_runner_indices)


def apply_curriculum(algorithm: ArrayAlgorithm, indices: list[int] | None = None) -> None:
    """Put into force in the env runners (all, or those with these indices) what the curriculum says now."""
    plan: Curriculum | None = algorithm.config.env_config.get(CURRICULUM)
    if plan is None:
        return
    mechanism, contention = plan.at(algorithm.counters.env_steps)

    def change(runner: Any) -> None:
        env = runner.env
        if env is not None:
            env.set_mechanism(mechanism)
            env.set_contention(contention)

    group: Any = algorithm.env_runner_group
    group.foreach_env_runner(change, remote_worker_ids=indices, local_env_runner=indices is None)
