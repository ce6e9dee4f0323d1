"""What may be a seed, said in the same words by every face of the environment."""

from __future__ import annotations

from typing import Any

import numpy as np

from camac_dra.utils.errors import ConfigurationError


def checked_seed(seed: Any) -> int:
    """Return a seed as an int.

    Raises:
        ConfigurationError: it is negative or no whole number.
    """
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool) and seed >= 0:
        return int(seed)
    raise ConfigurationError(f"seed must be a whole number of at least 0, got {seed!r}")
