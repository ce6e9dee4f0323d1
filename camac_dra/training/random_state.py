"""The global random generators of Python, NumPy and torch, for users' functions: ours draw from their own."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed_global_generators(seed: int) -> None:
    """Make what a user's reward function or callback draws the same in every run of this seed."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (for users' functions)
    torch.manual_seed(seed)


def get_global_generators() -> dict[str, Any]:
    """Return their states as plain values and a tensor."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "python": [version, list(words), gauss],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            position,
            has_gauss,
            cached,
        ],
        "torch": torch.get_rng_state(),
    }


def set_global_generators(state: dict[str, Any]) -> None:
    """Continue from what `get_global_generators` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
