"""Accept the ``environment`` section of a configuration in any of its forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema import Config, EnvironmentConfig
from camac_dra.utils.validation import validated


def refuse_missing_agreement(
    config: EnvironmentConfig | Config | Mapping[str, Any], agreement: object
) -> None:
    """Refuse a whole configuration that names a protocol where the agreement that carries it out is missing.

    Raises:
        ConfigurationError: ``agreement`` is None, and ``coordination.protocol`` is not ``none``.
    """
    if agreement is not None:
        return
    protocol: Any = "none"
    if isinstance(config, Config):
        protocol = config.coordination.protocol
    elif isinstance(config, Mapping):
        section = config.get("coordination")
        protocol = section.get("protocol", "none") if isinstance(section, Mapping) else "none"
    if protocol != "none":
        raise ConfigurationError(
            f"coordination.protocol: {protocol!r} needs an agreement, got none: pass "
            "agreement=camac_dra.coordination.make_agreement(config), or only the environment section"
        )


def environment_section(config: EnvironmentConfig | Config | Mapping[str, Any]) -> EnvironmentConfig:
    """Return the validated ``environment`` section of a section, a whole configuration, or a dict of either.

    Raises:
        ConfigurationError: a setting is unknown, of the wrong type, out of range or contradictory, or the
            section names somebody else's environment.
    """
    if isinstance(config, EnvironmentConfig):
        section = config
    elif isinstance(config, Config):
        section = config.environment
    else:
        section = validated(config if "environment" in config else {"environment": config}).environment
    if section.factory is not None:
        raise ConfigurationError(
            f"environment.factory: must be null for the allocation problem, got {section.factory!r}"
        )
    return section
