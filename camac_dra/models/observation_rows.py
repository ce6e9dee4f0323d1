"""Observations by number, each kept once however many transitions have it, in memory or on a disk."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np
import torch

from camac_dra.utils.errors import ExperienceError, OutputError
from camac_dra.utils.file_handler import StrPath

COPIED_AT_ONCE = 65_536  # rows, when the ring grows


class ObservationRows:
    """The latest observations; the one that is appended as the k-th has the number k for ever.

    A ring of ``size`` rows of ``width`` float32, 4 bytes each, which grows by a quarter where more of them
    are still needed. With ``folder`` it is a memory map of a file there, which has no name and is gone with
    the object; its room is reserved at once, so that a full disk is an error and no crash.

    Raises:
        OutputError: the file cannot be made, or the disk has no room for it.
    """

    def __init__(self, size: int, width: int, folder: StrPath | None = None) -> None:
        self.width = width
        self._folder = folder
        self._rows = self._allocate(size)  # (size, width)
        self._appended = 0
        self._first = 0  # number of the oldest row that is still there

    @property
    def nbytes(self) -> int:
        """Bytes that all rows take, in memory or on the disk."""
        return self._rows.nbytes

    def append(self, rows: np.ndarray, oldest: int) -> np.ndarray:
        """Keep rows (k, width) and return their numbers (k,); those from number ``oldest`` on stay too."""
        first, last = self._appended, self._appended + len(rows)
        if last - min(oldest, first) > len(self._rows):
            self._grow(last - min(oldest, first))
        start, size = first % len(self._rows), len(self._rows)
        fitting = min(len(rows), size - start)
        self._rows[start : start + fitting] = rows[:fitting]
        self._rows[: len(rows) - fitting] = rows[fitting:]
        self._appended = last
        self._first = max(self._first, last - size)
        return np.arange(first, last)

    def have(self, numbers: np.ndarray) -> np.ndarray:
        """Return which numbers (k,) bool are still there."""
        return numbers >= self._first

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Return copies of the rows (k, width) with these numbers."""
        return self._rows.take(numbers % len(self._rows), axis=0)

    def get_state(self) -> dict[str, Any]:
        """Return copies of what is there: plain values and a tensor."""
        numbers = np.arange(self._first, self._appended)
        return {"size": len(self._rows), "first": self._first, "rows": torch.from_numpy(self.take(numbers))}

    def set_state(self, state: dict[str, Any]) -> None:
        """Have what `get_state` returned, under the same numbers.

        Raises:
            ExperienceError: the rows have another width.
        """
        rows, self._first = state["rows"].numpy(), int(state["first"])
        if rows.shape[1] != self.width:
            raise ExperienceError(f"rows must have {self.width} features, got {rows.shape[1]}")
        if state["size"] != len(self._rows):
            self._rows = self._allocate(int(state["size"]))
        self._appended = self._first + len(rows)
        self._rows[np.arange(self._first, self._appended) % len(self._rows)] = rows

    def _grow(self, needed: int) -> None:
        old = self._rows
        new = self._allocate(max(needed, len(old) + len(old) // 4))
        for first in range(self._first, self._appended, COPIED_AT_ONCE):
            numbers = np.arange(first, min(first + COPIED_AT_ONCE, self._appended))
            new[numbers % len(new)] = old[numbers % len(old)]
        self._rows = new

    def _allocate(self, size: int) -> np.ndarray:
        shape = (size, self.width)
        if self._folder is None:
            return np.zeros(shape, np.float32)
        try:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                _reserve(file.fileno(), size * self.width * 4)
                return np.asarray(np.memmap(file, np.float32, "r+", shape=shape))
        except OSError as error:
            raise OutputError(
                f"{self._folder}: must be a folder with {size * self.width * 4} bytes of room for "
                f"observations: {error.strerror or error}"
            ) from error


def _reserve(descriptor: int, size: int) -> None:
    """Claim the room on the disk: a map of a file with holes kills the process where the disk is full."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)
