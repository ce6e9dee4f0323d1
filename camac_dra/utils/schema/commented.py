"""A whole configuration as YAML in which every setting has a comment: meaning, unit, choices.

``rllib_configs/default.yaml`` is written by this, so that comments, defaults and checks have one source.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

from camac_dra.utils.config_file import inline_yaml
from camac_dra.utils.schema import Config
from camac_dra.utils.schema.catalog import Setting, entry_settings, settings

WIDTH = 100
LONGEST_KEPT = 70  # rules up to this length stay on one line


def commented_yaml(config: Config, header: str) -> str:
    """Return the configuration as YAML, each setting under a comment; ``header`` is the file's own."""
    lines = list(_comment(header, ""))
    for name in type(config).model_fields:
        lines += ["", *_setting(settings()[name], getattr(config, name))]
    return "\n".join(lines) + "\n"


def _setting(setting: Setting, value: Any) -> Iterator[str]:
    depth = setting.path.count(".")
    indent, name = "  " * depth, setting.path.rpartition(".")[2]
    if setting.is_section and value is not None:
        yield from _comment(setting.description, indent)
        yield f"{indent}{name}:"
        for child in _children(setting.path):
            yield from _setting(child, getattr(value, child.path.rpartition(".")[2]))
        return
    yield from _comment(f"{setting.description} [{setting.brief}]", indent)
    inside = _children(setting.path) if setting.is_section else entry_settings(setting.path)
    yield from (f"{indent}#   {line}" for line in _outline(inside))
    if isinstance(value, dict) and value:
        yield f"{indent}{name}:"
        yield from (f"{indent}  {key}: {inline_yaml(entry)}" for key, entry in value.items())
    else:
        yield f"{indent}{name}: {inline_yaml(value)}"


def _outline(inside: list[Setting]) -> Iterator[str]:
    """Say which settings a section has that is left out here, or each entry of a list of sections."""
    for child in inside:
        text = f"{child.path.rpartition('.')[2]}: {child.description} [{child.brief}]"
        yield from _wrap(text, WIDTH - 12, "  ")
        if child.is_section:
            yield from (f"  {line}" for line in _outline(_children(child.path)))


def _children(path: str) -> list[Setting]:
    return [setting for setting in settings().values() if setting.path.rpartition(".")[0] == path]


def _comment(text: str, indent: str) -> Iterator[str]:
    for paragraph in text.split("\n"):
        for line in _wrap(paragraph, WIDTH - len(indent) - 2) or [""]:
            yield f"{indent}# {line}".rstrip()


def _wrap(text: str, width: int, hanging: str = "") -> list[str]:
    """Break lines between words, but not inside a short rule at the end."""
    kept = re.sub(rf"\[[^\]]{{,{LONGEST_KEPT}}}\]$", lambda rule: rule[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(
        kept, width, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace("\0", " ") for line in lines]
