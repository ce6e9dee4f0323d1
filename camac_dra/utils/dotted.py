"""Functions of the user's own, named in settings by where they can be imported from."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from camac_dra.utils.errors import ConfigurationError


def import_callable(path: str, setting: str) -> Callable[..., Any]:
    """Return the callable at a dotted path such as ``my_package.my_module.my_function``.

    The module is imported: give it only what the user wrote.

    Raises:
        ConfigurationError: the path does not lead to a callable, or its module raises when it is imported;
            ``setting`` is named.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever somebody else's module raises, a SyntaxError of its own included
        raise ConfigurationError(
            f"{setting}: must be the dotted path of a function that can be imported, got {path!r} "
            f"({type(error).__name__}: {error})"
        ) from error
    if not callable(found):
        raise ConfigurationError(f"{setting}: {path!r} must be callable, got {type(found).__name__}")
    result: Callable[..., Any] = found
    return result
