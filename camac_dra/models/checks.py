"""Checks of what models are built from and fed with, each with one message."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from camac_dra.utils.errors import ConfigurationError, ModelError


def is_whole(value: Any) -> bool:
    """Whether it is an integer, NumPy's too, which True and False are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """Return ``value``, or raise ``ConfigurationError`` unless it is an integer of at least ``least``."""
    if not is_whole(value) or value < least:
        raise ConfigurationError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def sizes(name: str, value: Sequence[int]) -> tuple[int, ...]:
    """Return layer sizes as a tuple, or raise ``ConfigurationError``; none at all are allowed."""
    if isinstance(value, str) or not all(is_whole(n) and n >= 1 for n in value):
        raise ConfigurationError(f"{name} must be whole numbers of at least 1, got {value!r}")
    return tuple(int(n) for n in value)


def number(name: str, value: Any, least: float, most: float = math.inf, *, above: bool = False) -> float:
    """Return a finite number between the bounds, or raise ``ConfigurationError``.

    With ``above`` the lower bound itself is refused.
    """
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not (least < value if above else least <= value) or value > most:
        lower = f"above {least:g}" if above else f"of at least {least:g}"
        upper = "" if most == math.inf else f" and at most {most:g}"
        raise ConfigurationError(f"{name} must be a finite number {lower}{upper}, got {value!r}")
    return value


def last_axis(name: str, tensor: torch.Tensor, size: int) -> torch.Tensor:
    """Return the tensor, or raise ``ModelError`` unless its last axis has ``size`` entries."""
    if tensor.ndim == 0 or tensor.shape[-1] != size:
        raise ModelError(
            f"{name} must have {size} features in the last axis, got shape {tuple(tensor.shape)}"
        )
    return tensor


def same_mask(mask: torch.Tensor, shape: tuple[int, ...], name: str = "action_mask") -> torch.Tensor:
    """Return a mask as booleans, or raise ``ModelError`` unless it broadcasts to ``shape``."""
    try:
        return mask.bool().expand(shape)
    except RuntimeError:
        raise ModelError(f"{name} must fit shape {tuple(shape)}, got {tuple(mask.shape)}") from None


def finite(observations: np.ndarray, owners: Sequence[str | None] | None = None, *, by_row: bool) -> None:
    """Refuse observations (n, *shape) that are not finite, on which no decision could be based.

    With ``by_row`` those of shape (E, F + 1) are rows with a mask in the last column: what stands in rows
    that are masked does not matter.

    Args:
        observations: of any shape beyond the first axis.
        owners: (n,) whose each is, None where that is not known; None: nobody's in particular.
        by_row: whether rows can be masked.

    Raises:
        ModelError: it names the first number that is not finite, and whose it is.
    """
    wrong = ~np.isfinite(observations)
    if not wrong.any():
        return
    if by_row and observations.ndim == 3:
        wrong &= ~(observations[..., -1:] <= 0.5)  # a mask that is not a number masks nothing
        if not wrong.any():
            return
    first, *place = (int(index) for index in np.argwhere(wrong)[0])
    value = observations[(first, *place)]
    if owners is not None:
        whose = "" if owners[first] is None else f" of {owners[first]!r}"
    else:
        whose = "" if len(observations) == 1 else f" in row {first}"
    *rows, feature = place
    where = f" of row {', '.join(map(str, rows))}" if rows else ""
    raise ModelError(f"observation{whose} must be finite, got {value} in feature {feature}{where}")
