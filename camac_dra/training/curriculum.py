"""What changes in the training environment while training goes on, as a function of the progress."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from camac_dra.utils.schema import Config


@dataclass(frozen=True)
class Curriculum:
    """Mechanism and contention over a training of ``total_env_steps`` steps.

    ``stages`` switch the mechanism at a share of the training; before the first one, ``mechanism`` is in
    force. ``points`` are a piecewise linear schedule of the contention, constant before the first and after
    the last; without any, ``contention`` stays.
    """

    mechanism: str
    contention: float
    stages: tuple[tuple[float, str], ...]
    points: tuple[tuple[float, float], ...]
    total_env_steps: int

    @classmethod
    def from_config(cls, config: Config, total_env_steps: int) -> Curriculum | None:
        """Return the curriculum of a configuration, None where nothing changes."""
        plan = config.training.curriculum
        if not plan.mechanism and not plan.contention:
            return None
        return cls(
            mechanism=config.environment.mechanism,
            contention=config.environment.contention,
            stages=tuple((stage.progress, stage.mechanism) for stage in plan.mechanism),
            points=tuple((point.progress, point.contention) for point in plan.contention),
            total_env_steps=total_env_steps,
        )

    def at(self, env_steps: int) -> tuple[str, float]:
        """Return the mechanism and the contention in force after ``env_steps`` steps of training."""
        progress = env_steps / self.total_env_steps
        begun = [mechanism for start, mechanism in self.stages if start <= progress]
        if not self.points:
            return (begun[-1] if begun else self.mechanism), self.contention
        starts, values = zip(*self.points, strict=True)
        return (begun[-1] if begun else self.mechanism), float(np.interp(progress, starts, values))
