"""Trained policies for benchmarks: one seed, from its configuration to its best checkpoint."""

from __future__ import annotations

from typing import Any

from camac_dra.training.checkpoints import read_checkpoint
from camac_dra.training.experiment import Experiment
from camac_dra.training.policy import TrainedPolicy
from camac_dra.utils.schema import Config


def train(config: Config) -> tuple[TrainedPolicy, dict[str, Any]]:
    """Train one seed and return its best policy, and what it took."""
    with Experiment.start(config) as experiment:
        status = experiment.train()
        policy = TrainedPolicy.from_weights(config, read_checkpoint(experiment.best_checkpoint()).weights)
        counters, seconds = experiment.algorithm.counters, experiment.loop.history.seconds
    return policy, {
        "seed": config.training.seed,
        "status": status.value,
        "seconds": seconds,
        "episodes": counters.episodes,
        "agent_steps": counters.agent_steps,
    }
