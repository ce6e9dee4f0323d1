"""``ConfigLoader``: configuration files and dicts; and the typed configuration made of them."""

from __future__ import annotations

import copy
import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from camac_dra.utils.config_file import dump_yaml, read_config_file
from camac_dra.utils.environment_validator import UNIMPORTABLE, EnvironmentValidator
from camac_dra.utils.overrides import COMMAND_LINE, apply_overrides
from camac_dra.utils.schema import Config
from camac_dra.utils.validation import Origin, plain

Source = str | os.PathLike[str] | Mapping[str, Any] | Config | None


class ConfigLoader:
    """Configuration file handling; speaks plain dicts."""

    @staticmethod
    def load_config(path: str | os.PathLike[str]) -> dict[str, Any]:
        """Return the configuration in a YAML or JSON file (by its extension), defaults filled in.

        Raises:
            ConfigurationError: the file cannot be read or is malformed, or a setting is wrong.
        """
        return as_dict(build_config(path))

    @staticmethod
    def validate_config(config: Mapping[str, Any]) -> bool:
        """Return True for a valid configuration.

        Raises:
            ConfigurationError: lists every setting that is wrong.
        """
        build_config(config)
        return True

    @staticmethod
    def merge_configs(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``base`` with the values of ``override``; mappings are merged, all else is replaced.

        Neither argument is changed, and the result shares nothing with them.
        """
        merged = dict(base)
        for key, value in override.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = ConfigLoader.merge_configs(merged[key], value) if both else value
        return copy.deepcopy(merged)

    @staticmethod
    def get_default_config() -> dict[str, Any]:
        """Return the default configuration, the same as ``rllib_configs/default.yaml``."""
        return as_dict(Config())


def build_config(source: Source = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the typed, checked configuration of a file, a dict or nothing, with overrides.

    Args:
        source: path of a YAML or JSON file, a dict, or a ``Config``.
        overrides: values by dotted path, as ``parse_overrides`` gives them.

    Raises:
        ConfigurationError: the file cannot be read or is malformed, or settings are wrong; all are listed,
            with file and line.
    """
    data: Any
    origin = Origin()
    if isinstance(source, Config):
        data = source.model_dump() if overrides else source
    elif isinstance(source, str | os.PathLike):
        data, origin = read_config_file(Path(source))
    else:
        data = {} if source is None else source
    if overrides:
        data = apply_overrides(data, overrides)
        places = {path: place for path, place in origin.places.items() if not _is_overridden(path, overrides)}
        origin = Origin(origin.name, {**places, **dict.fromkeys(overrides, COMMAND_LINE)})
    return EnvironmentValidator(data, origin).validate()


def _is_overridden(path: str, overrides: Mapping[str, Any]) -> bool:
    return any(path.startswith(f"{override}.") for override in overrides)


def as_dict(config: Config) -> dict[str, Any]:
    """Return the configuration as a plain dict with every setting in it."""
    return plain(config.model_dump())


def as_portable_dict(config: Config) -> dict[str, Any]:
    """Return the configuration as JSON can hold it: a callable becomes the dotted path it can be imported by.

    One that cannot be imported (a lambda, say) becomes ``unimportable:NAME``, which loading refuses with a
    request to pass the function again.
    """
    data = as_dict(config)
    reward_fn = data["environment"].get("reward_fn")
    if callable(reward_fn):
        data["environment"]["reward_fn"] = _import_path(reward_fn)
    return data


def as_yaml(config: Config) -> str:
    """Return the configuration as YAML text that loads to an equal configuration."""
    return dump_yaml(as_portable_dict(config))


def _import_path(function: Callable[..., Any]) -> str:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if module is None or name is None:
        return f"{UNIMPORTABLE}{type(function).__qualname__}"
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        found = None
    importable = found is function and module != "__main__"
    return f"{module}.{name}" if importable else f"{UNIMPORTABLE}{module}.{name}"
