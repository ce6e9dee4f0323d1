"""How much each objective counts in each copy: fixed by the configuration, or drawn per episode.

A policy that sees the drawn weights learns to act for all of them at once (Abels et al. 2019; Yang, Sun and
Narasimhan 2019), and then does what it is told by whatever weights it is shown.

Axes, always in this order: B parallel copies, O objectives in the order of `OBJECTIVES`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema.environment import EnvironmentConfig
from camac_dra.utils.schema.objectives import (
    OBJECTIVES,
    SAMPLED,
    ObjectiveScales,
    ObjectiveWeights,
    checked_weights,
)

_UNIFORM = 1.0


class Preferences:
    """The weights of the objectives in B copies.

    Attributes:
        now: (B, O) the weights of the running episodes, None where the problem has one objective. Drawn
            weights add up to 1; those of the configuration are as they were given.
        scales: (O,) what a unit of each weight is worth.
        shown: whether agents see the weights: where they differ from episode to episode.
    """

    def __init__(self, config: EnvironmentConfig, num_envs: int) -> None:
        """Prepare for ``num_envs`` copies."""
        self._num_envs = num_envs
        self._fixed: np.ndarray | None = None  # (O,) what every copy gets instead of drawn weights
        self._concentration = config.objective_concentration or _UNIFORM
        self.shown = config.objective_weights == SAMPLED
        scales = config.objective_scales or ObjectiveScales()
        self.scales = np.array([getattr(scales, name) for name in OBJECTIVES])
        self.now: np.ndarray | None = None
        if isinstance(config.objective_weights, ObjectiveWeights):
            given = [getattr(config.objective_weights, name) for name in OBJECTIVES]
            self.now = np.tile(np.array(given), (num_envs, 1))

    @property
    def num_features(self) -> int:
        """How many features of an observation they take."""
        return len(OBJECTIVES) if self.shown else 0

    def fix(self, weights: Mapping[str, float] | Sequence[float] | None) -> None:
        """See `VectorEnvironment.set_preference`."""
        if not self.shown:
            raise ConfigurationError(
                "preference: acts only with environment.objective_weights 'sampled', where agents see it: "
                "train with that, or set environment.objective_weights"
            )
        if weights is None:
            self._fixed = None
            return
        values = np.array(checked_weights(weights, "preference"))  # (O,)
        self._fixed = values / values.sum()

    def begin(self, rng: np.random.Generator) -> None:
        """Draw the weights of new episodes where they are drawn."""
        if not self.shown:
            return
        if self._fixed is not None:
            self.now = np.tile(self._fixed, (self._num_envs, 1))
            return
        self.now = rng.dirichlet([self._concentration] * len(OBJECTIVES), size=self._num_envs)

    def factors(self) -> np.ndarray:
        """Return what an objective's unit is worth (B, O, 1) in the running episodes."""
        assert self.now is not None
        return (self.now * self.scales)[..., None]
