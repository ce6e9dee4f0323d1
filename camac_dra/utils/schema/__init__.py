"""The typed schema of the configuration: four sections, each in a file of its own, and their root."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from camac_dra.utils.schema.base import Section
from camac_dra.utils.schema.coordination import CoordinationConfig
from camac_dra.utils.schema.environment import EnvironmentConfig
from camac_dra.utils.schema.model import KNOWN_MODELS, ModelConfig
from camac_dra.utils.schema.training import TrainingConfig


class Config(Section):
    """A whole configuration: the problem, the network, the training and the coordination."""

    environment: EnvironmentConfig = Field(default_factory=EnvironmentConfig, description="the decision problem")  # type: ignore[arg-type]
    model: ModelConfig = Field(default_factory=ModelConfig, description="the network")  # type: ignore[arg-type]
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="sampling and optimisation")  # type: ignore[arg-type]
    coordination: CoordinationConfig = Field(default_factory=CoordinationConfig, description="agreement")  # type: ignore[arg-type]

    @model_validator(mode="before")
    @classmethod
    def _resolver_is_the_mechanism(cls, data: Any) -> Any:
        """``coordination.conflict_resolver`` is the specification's name for ``environment.mechanism``."""
        if not isinstance(data, dict):
            return data
        coordination, environment = data.get("coordination"), data.get("environment", {})
        if not isinstance(coordination, dict) or not isinstance(environment, dict):
            return data
        resolver = coordination.get("conflict_resolver")
        if resolver is None:
            return data
        if environment.get("mechanism", resolver) != resolver:
            raise ValueError(
                f"coordination.conflict_resolver {resolver!r} contradicts environment.mechanism "
                f"{environment['mechanism']!r}: set one of them, or both alike"
            )
        return {**data, "environment": {**environment, "mechanism": resolver}}


__all__ = [
    "KNOWN_MODELS",
    "Config",
    "CoordinationConfig",
    "EnvironmentConfig",
    "ModelConfig",
    "Section",
    "TrainingConfig",
]
