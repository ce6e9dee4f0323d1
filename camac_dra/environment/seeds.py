"""What may be a seed, said in the same words by every face of the environment, and what is drawn from one."""

from __future__ import annotations

from typing import Any

import numpy as np

from camac_dra.utils.errors import ConfigurationError

# New ones go to the end: those before draw what they drew.
STREAMS = ("exogenous", "mechanism", "communication", "preference")


def generators(seed: int) -> dict[str, np.random.Generator]:
    """Return a generator for each of `STREAMS`, none of which depends on what is drawn from the others."""
    children = np.random.SeedSequence(seed).spawn(len(STREAMS))
    return {name: np.random.default_rng(child) for name, child in zip(STREAMS, children, strict=True)}


def checked_seed(seed: Any) -> int:
    """Return a seed as an int.

    Raises:
        ConfigurationError: it is negative or no whole number.
    """
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool) and seed >= 0:
        return int(seed)
    raise ConfigurationError(f"seed must be a whole number of at least 0, got {seed!r}")
