"""Action spaces as plain data, so that they can be kept in configurations and files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from camac_dra.utils.errors import ConfigurationError

KINDS = ("discrete", "multi_discrete", "continuous")


def describe_space(space: spaces.Space) -> dict[str, Any]:
    """Return a Discrete, MultiDiscrete or Box space as plain data, which `space_of` reads."""
    if isinstance(space, spaces.Discrete):
        return {"kind": "discrete", "size": int(space.n)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": "multi_discrete", "sizes": [int(n) for n in space.nvec]}
    if isinstance(space, spaces.Box):
        return {"kind": "continuous", "low": space.low.tolist(), "high": space.high.tolist()}
    raise ConfigurationError(f"action_space must be a Discrete, MultiDiscrete or Box space, got {space}")


def space_of(description: Mapping[str, Any]) -> spaces.Space:
    """Return the space that `describe_space` described.

    Raises:
        ConfigurationError: it describes none.
    """
    try:
        match description["kind"]:
            case "discrete":
                return spaces.Discrete(description["size"])
            case "multi_discrete":
                return spaces.MultiDiscrete(description["sizes"])
            case "continuous":
                low, high = (np.array(description[name], np.float32) for name in ("low", "high"))
                return spaces.Box(low, high, dtype=np.float32)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise ConfigurationError(
            f"action_space must describe a space, got {description}: {error!r}"
        ) from None
    raise ConfigurationError(
        f"action_space: kind must be one of {', '.join(KINDS)}, got {description['kind']!r}"
    )
