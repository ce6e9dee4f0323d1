"""States made of plain values and tensors only, which load with ``torch.load(weights_only=True)``."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from camac_dra.utils.errors import CheckpointError


def plain(value: Any, path: str = "state") -> Any:
    """Return ``value`` with arrays as tensors, all copied; containers are kept as dicts, lists and tuples.

    Raises ``CheckpointError`` with the path of anything that is not a number, string,
    None, array or container.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, dict):
        return {key: plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item, f"{path}[{i}]") for i, item in enumerate(value))
    raise CheckpointError(
        f"{path} must consist of numbers, strings, arrays and containers, got {type(value).__name__}"
    )


def arrays_of(value: Any) -> Any:
    """Return ``value`` with tensors as arrays of their own: the inverse of ``plain`` for array states."""
    if isinstance(value, torch.Tensor):
        return value.numpy().copy()
    if isinstance(value, dict):
        return {key: arrays_of(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(arrays_of(item) for item in value)
    return value


def read_only_tensor(array: np.ndarray) -> torch.Tensor:
    """Return a tensor on the array's memory, to which nobody may write: Ray's read-only memory will do."""
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
