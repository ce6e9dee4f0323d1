"""What a trainer asks of its ways of learning: stretches of training, iteration by iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from camac_dra.training.learning_scheduler import LearningScheduler, learning_rate_schedule
from camac_dra.utils.schema import Config


@dataclass(frozen=True)
class Stretch:
    """A part of a training between two looks at the model, played from fresh episodes on.

    Schedules run over ``total_env_steps``, of which ``env_steps`` lie behind.
    """

    copies: int  # of the environment, all together
    max_steps: int | None  # episodes are cut off there; None: the environment's own length
    seed: int
    env_steps: int
    total_env_steps: int
    episodes: int  # behind it, all stretches together

    def learning_rate(self, config: Config) -> LearningScheduler:
        """Return the learning rate over env steps."""
        kind, start = config.training.learning_rate_schedule, config.model.learning_rate
        return learning_rate_schedule(kind, start, self.total_env_steps)


@dataclass(frozen=True)
class Progress:
    """What one iteration brought."""

    episodes: list[dict[str, float]]  # measures of those that ended
    env_steps: int
    loss: float  # mean over the iteration's updates
    figures: dict[str, float]  # what else is worth a curve, such as epsilon


class Learner(Protocol):
    """A way of learning that keeps a model's weights up to date."""

    def begin(self, stretch: Stretch) -> None:
        """Begin a stretch with the weights that the model has now."""
        ...

    def advance(self) -> Progress:
        """Play and learn for one iteration.

        Raises:
            TrainingDivergedError: a loss or a weight is not finite.
        """
        ...

    def finish(self) -> None:
        """End the stretch; the model has its weights, also where `advance` raised."""
        ...

    def get_optimizers(self) -> dict[str, Any]:
        """Return the states of the optimisers: plain values and tensors."""
        ...

    def get_state(self) -> dict[str, Any]:
        """Return what else learning goes on from: plain values and tensors."""
        ...

    def set_state(self, optimizers: dict[str, Any], state: dict[str, Any]) -> None:
        """Go on, from the next stretch, with what `get_optimizers` and `get_state` returned."""
        ...
