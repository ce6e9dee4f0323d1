"""Read and write configuration files: YAML by the rules of version 1.2, or JSON; duplicate keys are refused.

PyYAML follows YAML 1.1, where ``1e-3`` is a string, ``no`` is false, ``010`` is eight and ``2019-05-01`` is a
date. Here ``1e-3`` is a number, and the others are what they look like.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from camac_dra.utils.errors import ConfigurationError, did_you_mean
from camac_dra.utils.validation import Origin, shown

MOST_BYTES = 4 * 2**20
MOST_NODES = 200_000  # with aliases expanded: a small file can stand for billions
DEEPEST = 50

_RESOLVERS = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("tag:yaml.org,2002:merge", r"<<", ["<"]),
)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars; mappings with a key given twice are refused."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML copies it on the first addition)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that is there already, instead of letting the last one win."""
        first: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in first:
                problem = f"{key.value!r} is given twice, first in line {first[key.value]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                first[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """Leading zeros are no octal notation, as YAML 1.2 has it; underscores may group digits."""
        text = str(self.construct_scalar(node)).replace("_", "")
        return int(text, 0) if re.match("0[xo]", text) else int(text, 10)


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would take for something else than a string."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal objects out in full."""
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Escape what cannot be printed, line breaks of all kinds among it."""
        style = None if text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)
_Dumper.add_representer(str, _Dumper.represent_text)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)


def read_config_file(path: str | Path) -> tuple[dict[str, Any], Origin]:
    """Return the mapping in a ``.yaml``, ``.yml`` or ``.json`` file, and where in it each setting stands.

    Raises:
        ConfigurationError: the file cannot be read, is empty, malformed (file and line are named), has a key
            twice, or holds something else than a mapping.
    """
    path = Path(path)
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        raise ConfigurationError(
            f"{path}: a configuration file must end in .yaml, .yml or .json, got {path.name!r}"
        )
    text = _read_text(path)
    if not text.strip():
        raise ConfigurationError(f"{path}: the file is empty; it must hold a mapping of sections")
    places: dict[str, str] = {}
    if path.suffix.lower() == ".json":
        data = _parse_json(text, str(path))
    else:
        data = parse_yaml(text, str(path), places)
    if data is None:
        raise ConfigurationError(f"{path}: the file has only comments; it must hold a mapping of sections")
    if not isinstance(data, dict):
        raise ConfigurationError(
            f"{path}: must hold a mapping of sections at its top level, got {shown(data)}"
        )
    return data, Origin(str(path), places)


def parse_yaml(text: str, name: str, places: dict[str, str] | None = None) -> Any:
    """Return what a YAML text stands for; ``places`` gets the line of each setting by its dotted path.

    Raises:
        ConfigurationError: malformed, a key given twice, or nested or repeated beyond all reason.
    """
    loader: Any = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        for count, (path, line) in enumerate(_walk(node, "", 0)):
            if count > MOST_NODES:
                raise ConfigurationError(f"{name}: must have at most {MOST_NODES} entries, aliases included")
            if places is not None:
                places.setdefault(path, f"line {line}")
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigurationError(f"{name}{where}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{name}: not valid YAML: {error}") from None
    except RecursionError:
        raise ConfigurationError(f"{name}: must be nested at most {DEEPEST} levels deep") from None
    finally:
        if loader is not None:
            loader.dispose()


def dump_yaml(data: Any) -> str:
    """Return plain data as YAML that ``parse_yaml`` reads back to the same data; keys keep their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def inline_yaml(value: Any) -> str:
    """Return one value as YAML on one line."""
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _walk(node: yaml.Node, path: str, depth: int) -> Iterator[tuple[str, int]]:
    if depth > DEEPEST:
        raise RecursionError
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = f"{path}.{key.value}" if path else str(key.value)
            yield below, key.start_mark.line + 1
            yield from _walk(value, below, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield f"{path}.{i}", value.start_mark.line + 1
            yield from _walk(value, f"{path}.{i}", depth + 1)


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        folder = path.parent
        others = [str(folder / other.name) for other in folder.iterdir()] if folder.is_dir() else []
        raise ConfigurationError(f"{path}: no such file.{did_you_mean(str(path), others)}") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MOST_BYTES:
        raise ConfigurationError(
            f"{path}: must have at most {MOST_BYTES} bytes, got {len(raw)}: is it a data file?"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigurationError(
            f"{path}, line {line}: must be text in UTF-8, got byte {raw[error.start]:#04x}"
        ) from None


def _parse_json(text: str, name: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ConfigurationError(f"{name}: not valid JSON: {twice!r} is given twice in one mapping")
        return mapping

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ConfigurationError(f"{name}, {where}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise ConfigurationError(f"{name}: must be nested at most {DEEPEST} levels deep") from None
