"""Accept the ``environment`` section of a configuration in any of its forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from camac_dra.utils.schema import Config, EnvironmentConfig
from camac_dra.utils.validation import validated


def environment_section(config: EnvironmentConfig | Config | Mapping[str, Any]) -> EnvironmentConfig:
    """Return the validated ``environment`` section of a section, a whole configuration, or a dict of either.

    Raises:
        ConfigurationError: a setting is unknown, of the wrong type, out of range or contradictory.
    """
    if isinstance(config, EnvironmentConfig):
        return config
    if isinstance(config, Config):
        return config.environment
    whole = config if "environment" in config else {"environment": config}
    return validated(whole).environment
