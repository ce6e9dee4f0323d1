"""One file of a journal: records, each with its length and CRC-32 before it.

A record is a pickle of (admitted messages, marks up to which streams are settled). It is written and synced
by one call, so that a process waits for the disk once. A record that a crash has cut off or damaged ends its
file: nothing after it was ever said to be admitted.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from camac_dra.coordination.bus.wire import Key

_HEADER = struct.Struct("<II")  # length, CRC-32
_SLICE = (
    4096  # zlib lets go of the interpreter for more than 5 KiB: getting it back takes longer than the sum
)

Added: TypeAlias = tuple[str, Key, int, int, Any]
"""(recipient, stream, first sequence number, how many, their payloads or packed block)"""
Settled: TypeAlias = tuple[str, Key, int]
"""(recipient, stream, mark)"""
Record: TypeAlias = tuple[list[Added], list[Settled]]


class JournalFile:
    """A file of this process, locked, and up to where each stream is in it."""

    def __init__(self, path: Path) -> None:
        """Create it, and see to it that a crash does not forget its name."""
        self.path = path
        self.size = 0
        self.torn = False  # by a signal that came in the middle of a record: nothing may follow
        self.last: dict[tuple[str, Key], int] = {}
        self._handle = _open_locked(path, os.O_CREAT | os.O_APPEND | os.O_DSYNC)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def write(self, added: list[Added], settled: list[Settled]) -> None:
        """Write a record; it is on the disk when this returns."""
        data = pickle.dumps((added, settled), 5)
        view = memoryview(_HEADER.pack(len(data), _checksum(data)) + data)
        self.size += len(view)
        self.torn = True
        while view:
            view = view[os.write(self._handle, view) :]
        self.torn = False
        for recipient, key, first, count, _ in added:
            self.last[recipient, key] = first + count - 1

    def close(self) -> None:
        """Leave it for whoever comes next."""
        os.close(self._handle)

    def end(self) -> None:
        """Delete it."""
        self.path.unlink(missing_ok=True)
        os.close(self._handle)


class DeadFile:
    """A file of a dead process, locked by this one."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path, self._handle = path, handle
        self.records = list(_records(path.read_bytes()))

    def end(self) -> None:
        """Delete it."""
        self._path.unlink(missing_ok=True)
        os.close(self._handle)


def take_over(path: Path) -> DeadFile | None:
    """Return a file whose process is dead, or None where it lives."""
    try:
        return DeadFile(path, _open_locked(path, 0))
    except (BlockingIOError, FileNotFoundError):
        return None


def _open_locked(path: Path, flags: int) -> int:
    handle = os.open(path, os.O_RDWR | flags, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _checksum(data: bytes) -> int:
    view, checksum = memoryview(data), 0
    for start in range(0, len(view), _SLICE):
        checksum = zlib.crc32(view[start : start + _SLICE], checksum)
    return checksum


def _records(data: bytes) -> Iterator[Record]:
    position = 0
    while position + _HEADER.size <= len(data):
        length, checksum = _HEADER.unpack_from(data, position)
        record = data[position + _HEADER.size : position + _HEADER.size + length]
        if len(record) < length or zlib.crc32(record) != checksum:
            return
        yield pickle.loads(record)
        position += _HEADER.size + length
