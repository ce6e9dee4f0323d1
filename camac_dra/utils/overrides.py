"""Settings given on the command line: ``--environment.num_agents 20 --training.batch_size=16``."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from camac_dra.utils.config_file import parse_yaml
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema import Config
from camac_dra.utils.schema.catalog import nearest, settings
from camac_dra.utils.validation import plain

COMMAND_LINE = "command line"
_RESOLVER, _MECHANISM = "coordination.conflict_resolver", "environment.mechanism"


def split_settings(tokens: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the command's own arguments, and the settings by dotted name with their values."""
    own: list[str] = []
    settings: list[str] = []
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        name, equals, _ = token.partition("=")
        if not (token.startswith("--") and "." in name):
            own.append(token)
            continue
        settings.append(token)
        if not equals and rest and not rest[0].startswith("--"):
            settings.append(rest.pop(0))
    return own, settings


def parse_overrides(tokens: Sequence[str]) -> dict[str, Any]:
    """Return values by dotted path; each is read as YAML, so ``null``, ``[64, 64]``, ``{cpu: 8}`` work.

    Raises:
        ConfigurationError: a token is no option; an option has no or an unreadable value, names no setting
            that there is, or is given twice.
    """
    found: dict[str, Any] = {}
    rest = list(tokens)
    while rest:
        option = rest.pop(0)
        if not re.match(r"--[^-=]", option):
            raise ConfigurationError(f"command line: must be --section.setting VALUE, got {option!r}")
        name, equals, text = option[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigurationError(f"--{name}: needs a value, as in --{name} VALUE or --{name}=VALUE")
            text = rest.pop(0)
        if name in found:
            raise ConfigurationError(f"--{name}: is given twice")
        _must_be_known(name)
        found[name] = _parse_value(name, text)
    return found


def _must_be_known(name: str) -> None:
    """Accept settings, and what is inside settings that map names to values (``resource_limits.cpu``)."""
    known, path = settings(), name
    while path and path not in known:
        path = path.rpartition(".")[0]
    inside = path != name
    if not path or (inside and (known[path].is_section or "a mapping from names" not in known[path].rule)):
        suggestion = nearest(name).replace("'", "") if path == "" or known[path].is_section else ""
        raise ConfigurationError(f"--{name}: is not a setting.{suggestion}")


def _parse_value(name: str, text: str) -> Any:
    if not text.strip():
        raise ConfigurationError(f"--{name}: needs a value, got {text!r}; write null for none")
    return parse_yaml(text, f"--{name}")


def apply_overrides(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of ``data`` in which each dotted path has the value given for it.

    A value replaces what was there, mappings too; ``environment.resource_limits.cpu`` changes one entry and
    keeps the others, which are the defaults where ``data`` has none. ``coordination.conflict_resolver`` and
    ``environment.mechanism`` are two names of one setting: overriding one takes the other along.

    Raises:
        ConfigurationError: a path leads through something that is not a section.
    """
    result = copy.deepcopy(plain(data))
    for path, value in overrides.items():
        _put(result, path, value)
    for name, other in ((_RESOLVER, _MECHANISM), (_MECHANISM, _RESOLVER)):
        if overrides.get(name) is not None and other not in overrides:
            section, _, key = other.partition(".")
            if isinstance(result.get(section), dict):
                result[section].pop(key, None)
    return result


def _put(data: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    place, walked = data, ""
    for name in parents:
        walked = f"{walked}.{name}".lstrip(".")
        if place.get(name) is None:
            place[name] = _default_mapping(walked)
        place = place[name]
        if not isinstance(place, dict):
            raise ConfigurationError(f"--{path}: {walked} must be a mapping, got {place!r}")
    place[last] = value


def _default_mapping(path: str) -> dict[str, Any]:
    """Return the default entries of a setting that maps names to values, an empty mapping for a section."""
    setting = settings().get(path)
    if setting is None or setting.is_section:
        return {}
    default: Any = Config()
    for name in path.split("."):
        default = getattr(default, name)
    return dict(default or {})
