"""The configuration of a `Trainer`: what it was given, completed by the environment and the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from camac_dra.environment.environment import Environment
from camac_dra.models.base import BaseModel, class_path
from camac_dra.models.dqn_agent import DQNAgent
from camac_dra.models.policy_network import PolicyNetwork
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.environment_validator import check_model_sizes
from camac_dra.utils.errors import ConfigurationError, ModelError
from camac_dra.utils.schema import Config

KINDS: dict[type[BaseModel], str] = {DQNAgent: "dqn", PolicyNetwork: "actor_critic"}
MOST_SHOWN = 3  # settings that a message names


def trainer_config(env: Environment, model: BaseModel, config: Mapping[str, Any] | Config) -> Config:
    """Return the checked configuration with the environment's section and the model's type.

    Raises:
        ConfigurationError: a setting is wrong, or contradicts the model or the environment.
        ModelError: the model is of a kind that is not trained here.
    """
    kind = next((name for known, name in KINDS.items() if isinstance(model, known)), class_path(type(model)))
    if not isinstance(model, PolicyNetwork) and model.action_size is None:
        raise ModelError(
            f"model must score actions to be trained, got a {type(model).__name__} without: "
            "camac_dra.models.acting.with_action_head(model, action_size) adds what is missing"
        )
    checked = build_config(_completed(env, kind, config))
    if checked.model.type != kind:
        raise ConfigurationError(
            f"model.type must be {kind!r} for a {type(model).__name__}, got {checked.model.type!r}"
        )
    if checked.training.factored_credit:
        raise ConfigurationError(
            "training.factored_credit must be false or null for a Trainer, whose models have one value for "
            "all components of an action, got true"
        )
    check_model_sizes(
        checked.model, env.core.single_observation_space.shape[-1], model.action_size or model.output_size
    )
    _refuse_another_environment(checked, env)
    _refuse_another_agreement(checked, env)
    return checked


def _completed(env: Environment, kind: str, config: Mapping[str, Any] | Config) -> Mapping[str, Any] | Config:
    """Fill in what was left out: the environment section, and the model's type."""
    if isinstance(config, Config):
        return config
    model = config.get("model") or {}
    whole = {"environment": env.core.config, **config}
    return {**whole, "model": {"type": kind, **model}} if isinstance(model, Mapping) else whole


def _refuse_another_environment(config: Config, env: Environment) -> None:
    own, given = env.core.config, config.environment
    if own == given:
        return
    differing = [
        f"{name} {getattr(own, name)!r}, got {getattr(given, name)!r}"
        for name in type(own).model_fields
        if getattr(own, name) != getattr(given, name)
    ]
    more = f" and {len(differing) - MOST_SHOWN} more" if len(differing) > MOST_SHOWN else ""
    raise ConfigurationError(
        "environment must be that of env, or be left out of the configuration: env has "
        f"{'; '.join(differing[:MOST_SHOWN])}{more}"
    )


def _refuse_another_agreement(config: Config, env: Environment) -> None:
    """Training makes its agreement from the configuration, so env's must be that one."""
    agreement = env.core.agreement
    if agreement is not None and config.coordination.protocol == "none":
        raise ConfigurationError(
            "coordination.protocol must name the protocol by which env agrees, got 'none' with a "
            f"{type(agreement).__name__}"
        )
