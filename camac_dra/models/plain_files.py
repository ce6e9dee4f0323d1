"""Reading files of tensors and plain values: code in them is refused, never run."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import torch

from camac_dra.utils.errors import CheckpointError


def load_tensors(data: bytes, name: str) -> Any:
    """Return the tensors, on the CPU, and plain values that ``torch.save`` wrote.

    Raises:
        CheckpointError: it holds anything else, a pickle that would run code above all, or is damaged.
    """
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 (torch raises many kinds for foreign files)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{name}: holds more than plain tensors, or is damaged: {reason}") from None


def digest(value: Any) -> str:
    """Return a SHA-256 of nested containers of tensors and plain values.

    Torch checks no checksum of what it reads; this one sees a flipped bit.
    """
    state = hashlib.sha256()
    _feed(state, value)
    return state.hexdigest()


def _feed(state: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        state.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
        state.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        state.update(f"dict {len(value)};".encode())
        for key, item in value.items():
            _feed(state, key)
            _feed(state, item)
    elif isinstance(value, (list, tuple)):
        state.update(f"{type(value).__name__} {len(value)};".encode())
        for item in value:
            _feed(state, item)
    else:
        state.update(f"{type(value).__name__} {value!r};".encode())
