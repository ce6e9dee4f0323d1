"""Objectives that are weighed against each other, as ``environment.reward_function: weighted`` does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from camac_dra.utils.errors import ConfigurationError, did_you_mean
from camac_dra.utils.schema.base import NonNegative, Positive, Section

SAMPLED: Literal["sampled"] = "sampled"


class ObjectiveWeights(Section):
    """How much each objective counts; the names and their order are those of all arrays of objectives."""

    service: NonNegative = Field(
        0.0, description="weight * served, less the costs of holding and of losing, in fair shares"
    )
    cost: NonNegative = Field(0.0, description="what was granted at its price, in fair shares, negative")
    fairness: NonNegative = Field(0.0, description="change of Jain's index of the agents' service ratios")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Something must count."""
        if not any(vars(self).values()):
            yield (
                "service",
                f"one of {', '.join(OBJECTIVES)} must be above 0, got 0 for all: nothing would be rewarded",
            )


class ObjectiveScales(Section):
    """What one unit of weight is worth in each objective."""

    service: Positive = Field(1.0, description="factor on the service objective")
    cost: Positive = Field(1.0, description="factor on the cost objective")
    fairness: Positive = Field(1.0, description="factor on the fairness objective")


# The order of the last axis of every array of objectives (B, N, O).
OBJECTIVES: tuple[str, ...] = tuple(ObjectiveWeights.model_fields)

# Settings of the environment under which rewards are sums of what each resource brings by itself.
SUM_OVER_RESOURCES: dict[str, str | None] = {
    "reward_function": "efficiency",
    "reward_fn": None,
    "coupling": "additive",
}


def checked_weights(weights: Mapping[str, float] | Sequence[float], name: str = "weights") -> list[float]:
    """Return weights, by name or in the order of `OBJECTIVES`, as a list in that order; left out is 0.

    Raises:
        ConfigurationError: an objective is unknown, a weight is negative or not finite, or all are zero.
    """
    if isinstance(weights, Mapping):
        for objective in weights:
            if objective not in OBJECTIVES:
                known, hint = ", ".join(OBJECTIVES), did_you_mean(str(objective), OBJECTIVES)
                raise ConfigurationError(f"{name}: must be of {known}, got {objective!r}.{hint}")
        values: list[Any] = [weights.get(objective, 0.0) for objective in OBJECTIVES]
    else:
        values = list(weights)
    if len(values) != len(OBJECTIVES):
        raise ConfigurationError(
            f"{name}: must be {len(OBJECTIVES)} numbers ({', '.join(OBJECTIVES)}), got {len(values)}"
        )
    for objective, value in zip(OBJECTIVES, values, strict=True):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0.0 <= value < math.inf:
            raise ConfigurationError(f"{name}.{objective}: must be a finite number from 0, got {value!r}")
    if not any(values):
        raise ConfigurationError(f"{name}: one of {', '.join(OBJECTIVES)} must be above 0, got 0 for all")
    return [float(value) for value in values]
