"""Turn plain data into a typed configuration, or into one error that lists every problem.

A problem reads ``environment.num_agents: must be a whole number of at least 1, got -3 (line 4)``: path, rule,
value, and the place it came from where that is known.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import ValidationError

from camac_dra.utils.errors import ConfigurationError, did_you_mean
from camac_dra.utils.schema import Config, ContradictionError
from camac_dra.utils.schema.catalog import Location, json_schema, nearest, rule_of, section_of, step_into

LONGEST_VALUE = 80
_TAG = re.compile(r"[\[(]")  # in what pydantic calls an alternative of a union that has no plain name


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the setting's path (empty: the whole) and what is wrong with it."""

    path: str
    message: str


@dataclass(frozen=True)
class Origin:
    """Where data came from: the file's name, and the place (line 4, command line) of settings by path."""

    name: str = ""
    places: Mapping[str, str] = field(default_factory=dict)

    def place_of(self, path: str) -> str:
        """Return the place of the setting, or of the innermost section around it that has one."""
        while path:
            if path in self.places:
                return self.places[path]
            path = path.rpartition(".")[0]
        return ""


def validated(data: Any, origin: Origin | None = None) -> Config:
    """Return the typed configuration of plain data, defaults filled in.

    Tuples, NumPy numbers and arrays are taken for the lists and numbers they stand for.

    Raises:
        ConfigurationError: lists every unknown, mistyped, out-of-range or contradictory setting.
    """
    if isinstance(data, Config):
        return data
    if not isinstance(data, Mapping):
        raise invalid([Problem("", f"must be a mapping of sections, got {shown(data)}")], origin)
    plain_data = plain(data)
    try:
        return Config.model_validate(plain_data)
    except ValidationError as error:
        raise invalid(problems_of(error), origin) from None


def plain(value: Any) -> Any:
    """Return the value with mappings as dicts, tuples and arrays as lists, NumPy scalars as Python's."""
    if isinstance(value, Mapping):
        return {plain(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def invalid(problems: Iterable[Problem], origin: Origin | None = None) -> ConfigurationError:
    """Return one error for all problems."""
    problems = list(problems)
    origin = origin or Origin()
    lines = []
    for problem in problems:
        place = origin.place_of(problem.path)
        head = f"{problem.path}: " if problem.path else ""
        lines.append(f"{head}{problem.message}" + (f" ({place})" if place else ""))
    header = f"Invalid configuration {origin.name}".rstrip()
    body = lines[0] if len(lines) == 1 else "\n".join(["", *(f"  {line}" for line in lines)])
    count = f" ({len(lines)} problems)" if len(lines) > 1 else ""
    return ConfigurationError(f"{header}{count}: {body}" if len(lines) == 1 else f"{header}{count}:{body}")


def problems_of(error: ValidationError) -> list[Problem]:
    """Translate what pydantic found; several errors about one value (the kinds of a union) become one."""
    found: dict[str, Problem] = {}
    for detail in error.errors(include_url=False):
        for problem in _translate(detail):
            found.setdefault(problem.path, problem)
    # Where a value may be a section or something else, what is wrong inside the section says it all.
    return [
        problem
        for path, problem in found.items()
        if not path or not any(other.startswith(f"{path}.") for other in found)
    ]


def _translate(detail: Any) -> Iterator[Problem]:
    kind, value = detail["type"], detail["input"]
    names, node = _locate(detail["loc"])
    path = ".".join(names)
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, ContradictionError):
        for below, rule in cause.problems:
            yield Problem(f"{path}.{below}" if path else below, rule)
    elif kind == "extra_forbidden":
        yield Problem(path, f"is not a setting.{nearest(path)}")
    elif kind == "missing":
        yield Problem(path, f"is missing; it must be {rule_of(node)}")
    elif kind == "invalid_key" or (detail["loc"] and detail["loc"][-1] == "[key]"):
        yield Problem(path, f"must be a name, so a string, got {shown(value)}: put it in quotes")
    elif cause is not None or node is None:
        yield Problem(path, f"{detail['msg']}, got {shown(value)}")
    else:
        yield Problem(path, f"must be {rule_of(node)}, got {shown(value)}{_hint(node, value)}")


def _locate(location: Location) -> tuple[list[str], Any]:
    """Return the names on the way to a location, without pydantic's own tags, and the schema's node there."""
    names: list[str] = []
    node: Any = json_schema()
    for i, key in enumerate(location):
        below = step_into(node, key) if node is not None else None
        last = i == len(location) - 1
        if key == "[key]":
            break
        if node is not None and "anyOf" in node and _TAG.search(str(key)):
            continue
        if below is None and not (last and node is not None and section_of(node)):
            continue  # the tag of an alternative of a union, such as 'int' or 'callable'
        names.append(str(key))
        node = below
    return names, node


def _hint(node: Any, value: Any) -> str:
    """Say what may have been meant: a number in quotes, or the nearest of the choices."""
    if not isinstance(value, str):
        return ""
    options = [option for part in (node, *node.get("anyOf", ())) for option in part.get("enum", ())]
    if options:
        near = did_you_mean(value, options)
        return f".{near}" if near else ""
    try:
        float(value)
    except ValueError:
        return ""
    return " (a string: remove the quotes)"


def shown(value: Any) -> str:
    """Return the value as it reads in a configuration, cut where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
