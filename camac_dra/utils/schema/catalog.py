"""What the schema knows about each setting, for messages, comments and editors: description, rule, place.

All of it is read from the JSON schema that pydantic makes of the sections, so that it cannot drift from what
is checked.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from camac_dra.utils.schema import Config

Node = dict[str, Any]
Location = tuple[int | str, ...]

MOST_LISTED = 12  # names of a section that a message lists where none is near
_SCALARS = {"boolean": "true or false", "string": "a string", "null": "null"}


@dataclass(frozen=True)
class Setting:
    """One setting: its full path, what it means, and the rule its value follows, in words and in brief."""

    path: str
    description: str
    rule: str
    brief: str
    is_section: bool
    is_optional: bool


@cache
def json_schema() -> Node:
    """Return the JSON schema of a whole configuration, for editors and other tools."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Config.model_json_schema(),
        "title": "CAMAC-DRA configuration",
    }


def resolve(node: Node) -> Node:
    """Follow references; what stands beside one (such as a description) wins."""
    while "$ref" in node:
        target = json_schema()["$defs"][node["$ref"].rsplit("/", 1)[1]]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    return node


def _alternatives(node: Node) -> list[Node]:
    node = resolve(node)
    return [resolve(option) for option in node["anyOf"]] if "anyOf" in node else [node]


def section_of(node: Node) -> Node | None:
    """Return the node itself, or its alternative beside null, where that is a section; else None."""
    return next((option for option in _alternatives(node) if "properties" in option), None)


def rule_of(node: Node) -> str:
    """Say in words which values a node of the schema accepts: ``a whole number of at least 1 or null``."""
    options = _alternatives(node)
    if any(option.get("type") in ("array", "object") for option in options):
        options.sort(key=lambda option: option.get("type") != "null")  # "null or a list, each entry a or b"
    return " or ".join(_rule_of_one(option) for option in options)


def _rule_of_one(node: Node) -> str:
    if "enum" in node:
        return "one of " + ", ".join(str(choice) for choice in node["enum"])
    if "const" in node:
        return str(node["const"])
    kind = node.get("type")
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _bounds(node)
    if kind == "array":
        least, most = node.get("minItems"), node.get("maxItems")
        size = "" if not least else f" of {least}" if least == most else f" of at least {least}"
        return f"a list{size}, each entry {rule_of(node['items'])}"
    if kind == "object":
        if "properties" in node:
            return "a section (a mapping of settings)"
        values = node["additionalProperties"]
        return (
            "a mapping from names"
            if values is True
            else f"a mapping from names, each value {rule_of(values)}"
        )
    if kind == "string" and node.get("minLength"):
        return "a string that is not empty"
    return _SCALARS[str(kind)]


def _bounds(node: Node) -> str:
    low, above, high = node.get("minimum"), node.get("exclusiveMinimum"), node.get("maximum")
    if high is not None:
        return f" above {above} and at most {high}" if above is not None else f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    return f" above {above}" if above is not None else ""


def brief_of(node: Node) -> str:
    """Say the same as ``rule_of`` in a few signs, for comments: ``whole >= 1 or null``."""
    return " or ".join(_brief_of_one(option) for option in _alternatives(node))


def _brief_of_one(node: Node) -> str:
    if "enum" in node:
        return " | ".join(str(choice) for choice in node["enum"])
    if "const" in node:
        return str(node["const"])
    kind = str(node.get("type"))
    if kind in ("integer", "number"):
        return (
            " ".join(part for part in ("whole" if kind == "integer" else "", _signs(node)) if part)
            or "number"
        )
    if kind == "array":
        fixed = (
            f"{node['minItems']} "
            if node.get("minItems") and node["minItems"] == node.get("maxItems")
            else ""
        )
        return f"list of {fixed}({brief_of(node['items'])})"
    if kind == "object":
        if "properties" in node:
            return "section"
        values = node["additionalProperties"]
        return f"mapping of name to ({'anything' if values is True else brief_of(values)})"
    return {"boolean": "true | false", "string": "text"}.get(kind, kind)


def _signs(node: Node) -> str:
    low, above, high = node.get("minimum"), node.get("exclusiveMinimum"), node.get("maximum")
    if low is not None and high is not None:
        return f"{low} to {high}"
    bounds = ((">", above), (">=", low), ("<=", high))
    return " and ".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)


def step_into(node: Node, key: int | str) -> Node | None:
    """Return the node under ``key``, or None where the node has no such place (a tag of a union, say)."""
    for option in _alternatives(node):
        if isinstance(key, int) and "items" in option:
            return resolve(option["items"])
        if "properties" in option:
            return resolve(option["properties"][key]) if key in option["properties"] else None
        if isinstance(option.get("additionalProperties"), dict):
            return resolve(option["additionalProperties"])
    return None


@cache
def settings() -> dict[str, Setting]:
    """Return all settings by their path, sections before what is in them, in the order of the schema."""
    return {setting.path: setting for setting in _walk(json_schema(), "")}


def _walk(node: Node, prefix: str) -> Iterator[Setting]:
    for name, child in node["properties"].items():
        child, path = resolve(child), f"{prefix}{name}"
        section = section_of(child)
        optional = any(option.get("type") == "null" for option in _alternatives(child))
        yield Setting(
            path, child.get("description", ""), rule_of(child), brief_of(child), section is not None, optional
        )
        if section is not None:
            yield from _walk(section, f"{path}.")


def entry_settings(path: str) -> list[Setting]:
    """Return the settings of each entry where the setting at ``path`` is a list of sections, else none."""
    node: Node | None = json_schema()
    for name in path.split("."):
        node = step_into(node, name) if node is not None else None
    entry = step_into(node, 0) if node is not None else None
    section = section_of(entry) if entry is not None else None
    return list(_walk(section, f"{path}.")) if section is not None else []


def nearest(path: str) -> str:
    """Return ``" Did you mean 'x'?"`` with the known path nearest to an unknown one, or an empty string.

    The same name in another section comes first (a setting in the wrong place), then a similar name in the
    same section (a typing error), then a similar name anywhere.
    """
    parent, _, name = path.rpartition(".")
    known = list(settings())
    elsewhere = [other for other in known if other.rpartition(".")[2] == name]
    if elsewhere:
        return f" Did you mean {' or '.join(map(repr, elsewhere))}?"
    siblings = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == parent}
    everywhere = {other.rpartition(".")[2]: other for other in reversed(known)}
    for candidates, cutoff in ((siblings, 0.6), (everywhere, 0.75)):
        near = difflib.get_close_matches(name, candidates, n=1, cutoff=cutoff)
        if near:
            return f" Did you mean {candidates[near[0]]!r}?"
    return f" Known here: {', '.join(siblings)}." if 0 < len(siblings) <= MOST_LISTED else ""
