"""Algorithms with replay for tests: small, without Ray, stopped at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.ray_session import build_algorithm
from camac_dra.training.replay_settings import DQNSettings, ReplaySettings, SACSettings
from tests.training.toy_environment import ToyVectorEnvironment

SMALL: dict[str, Any] = {
    "num_envs": 4,
    "fragment_length": 10,
    "batch_size": 32,
    "num_epochs": 2,
    "hidden_sizes": (16,),
}
EVERYTHING = {
    "normalize_observations": True,
    "normalize_returns": True,
    "learning_rate_schedule": "linear",
    "total_env_steps": 400,
    "prioritized": True,
    "checkpoint_replay": True,
}
BOX = {"action_space": spaces.Box(-1, 1, (2,), np.float32)}
KINDS: dict[type[ReplaySettings], dict[str, Any]] = {DQNSettings: {}, SACSettings: BOX}  # with what is acted


Make = Callable[..., Any]  # takes options of the environment, the kind, the environment's class, settings


def making(folder: Path) -> Iterator[Make]:
    """Yield what makes algorithms, which are stopped afterwards."""
    made: list[Any] = []

    def build(
        environment: dict[str, Any] | None = None,
        kind: type[ReplaySettings] = DQNSettings,
        factory: Any = ToyVectorEnvironment,
        **settings: Any,
    ) -> Any:
        options = {**KINDS[kind], **(environment or {})}
        config = build_algorithm_config(partial(factory, **options), kind(**{**SMALL, **settings}))
        made.append(build_algorithm(config, folder))
        return made[-1]

    yield build
    for algorithm in made:
        algorithm.stop()
