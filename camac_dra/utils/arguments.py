"""Checks of arguments that users give, with the project's errors: name, rule, value got.

Each returns the value; ``error`` is the class to raise. ``name`` comes first in the message, before "must".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")


def check_text(name: str, value: Any, error: type[Exception]) -> str:
    """Return text that is not empty."""
    if isinstance(value, str) and value:
        return value
    raise error(f"{name} must be text that is not empty, got {value!r}")


def check_whole(
    name: str, value: Any, least: int, error: type[Exception], *, optional: str | None = None
) -> Any:
    """Return a whole number from ``least``, or None where it is ``optional`` (which says what None means)."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if (whole and value >= least) or (value is None and optional is not None):
        return value
    none = "" if optional is None else f", or None {optional}".rstrip()
    raise error(f"{name} must be a whole number of at least {least}{none}, got {value!r}")


def check_number(
    name: str, value: Any, error: type[Exception], *, least: float = -math.inf, of: str = "a number"
) -> float:
    """Return a number that is not NaN, from ``least``; ``of`` says of what."""
    if isinstance(value, int | float) and not math.isnan(value) and value >= least:
        return float(value)
    rule = of if least == -math.inf else f"{of} of at least {least:g}"
    raise error(f"{name} must be {rule}, got {value!r}")


def check_kind(name: str, value: Any, kind: type[_T], error: type[Exception]) -> _T:
    """Return an instance of ``kind``."""
    if isinstance(value, kind):
        return value
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    raise error(f"{name} must be {article} {kind.__name__}, got {value!r}")


def check_mapping(name: str, value: Any, error: type[Exception]) -> Mapping[Any, Any]:
    """Return a mapping."""
    if isinstance(value, Mapping):
        return value
    raise error(f"{name} must be a dict, got {value!r}")


def check_list(name: str, value: Any, of: str, error: type[Exception]) -> list[Any]:
    """Return a list of what can be iterated over; text, though it can be, is none. ``of`` says of what."""
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return list(value)
    raise error(f"{name} must be a list of {of}, got {value!r}")


def check_rows(name: str, value: Any, columns: tuple[str, ...], error: type[Exception]) -> list[Any]:
    """Return a list of tuples or lists with one entry for each of ``columns``."""
    of = f"({', '.join(columns)})"
    rows = check_list(name, value, of, error)
    for row in rows:
        if not isinstance(row, tuple | list) or len(row) != len(columns):
            raise error(f"{name} must be a list of {of}, got {row!r} in it")
    return rows
