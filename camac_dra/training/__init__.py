"""Training: RLlib's PPO on arrays, runs with checkpoints and exact resume, evaluation; the specification's
`Trainer` and its parts.

Everything is imported when it is first asked for: RLlib takes seconds to load, and replay needs none of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camac_dra.training.episode_manager import EpisodeManager
    from camac_dra.training.experience_buffer import ExperienceBuffer
    from camac_dra.training.learning_scheduler import LearningScheduler
    from camac_dra.training.metrics_tracker import MetricsTracker
    from camac_dra.training.optimizer import Optimizer
    from camac_dra.training.trainer import Trainer

_PLACES = {
    "EpisodeManager": "episode_manager",
    "ExperienceBuffer": "experience_buffer",
    "LearningScheduler": "learning_scheduler",
    "MetricsTracker": "metrics_tracker",
    "Optimizer": "optimizer",
    "Trainer": "trainer",
}

__all__ = [
    "EpisodeManager",
    "ExperienceBuffer",
    "LearningScheduler",
    "MetricsTracker",
    "Optimizer",
    "Trainer",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
