"""A journal of admitted messages, for the case that a sender and the bus die together.

Each process writes files of its own in the journal's folder: records of admitted messages and of marks up
to which a stream is settled, each with its length and CRC-32. One thread writes what has gathered and syncs
it (group commit); ``sync`` waits for that. A file whose messages are all settled is deleted. A process that
starts takes over the files of processes that are dead (their locks are free); a record that a crash has cut
off ends its file.

Guarantee: what ``sync`` returned for is on the disk, as far as the disk keeps what it has synced.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import struct
import threading
import uuid
import zlib
from collections import defaultdict, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from camac_dra.coordination.bus.outlet import Stream
from camac_dra.coordination.bus.wire import Key, Payload, Run, pack_block
from camac_dra.utils.errors import JournalError
from camac_dra.utils.file_handler import StrPath

SUFFIX = ".journal"
FILE_BYTES = 32 * 2**20  # after which a new file begins
SYNC_SECONDS = 30.0
_HEADER = struct.Struct("<II")  # length, CRC-32

_Added = tuple[str, Key, int, Sequence[Payload]]  # (recipient, stream, first sequence, payloads)
_Settled = tuple[str, Key, int]  # (recipient, stream, mark)


class _File:
    """One file of this process, and up to where each stream is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.last: dict[tuple[str, Key], int] = {}
        self.handle = _open_locked(path, create=True)

    def write(self, added: list[_Added], settled: list[_Settled]) -> None:
        record = pickle.dumps((added, settled), 5)
        data = _HEADER.pack(len(record), zlib.crc32(record)) + record
        view = memoryview(data)
        while view:
            view = view[os.write(self.handle, view) :]
        os.fdatasync(self.handle)
        self.size += len(data)
        for recipient, key, first, payloads in added:
            self.last[recipient, key] = first + len(payloads) - 1

    def end(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self.handle)


class Journal:
    """The journal of one process. ``add`` and ``settle`` are quick; ``sync`` waits for the disk.

    Raises:
        JournalError: the folder cannot be made, or a file cannot be written.
    """

    def __init__(self, folder: StrPath) -> None:
        self.folder = Path(folder).absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._files = [self._new_file()]
        except OSError as error:
            raise JournalError(
                f"journal: must be a folder that can be written, got {folder}: {error}"
            ) from error
        self._added: deque[_Added] = deque()
        self._settled: deque[_Settled] = deque()
        self._marks: dict[tuple[str, Key], int] = {}
        self._condition = threading.Condition()
        self._tickets = 0  # of who asked for a sync
        self._synced = 0
        self._failed: OSError | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._write, name="camac-bus-journal", daemon=True)

    def _new_file(self) -> _File:
        return _File(self.folder / f"{uuid.uuid4().hex}{SUFFIX}")

    # -- taking over ----

    def recover(self) -> list[tuple[str, Stream]]:
        """Return the unsettled streams of dead processes; they are in this journal from now on."""
        logs: dict[tuple[str, Key], dict[int, Payload]] = defaultdict(dict)
        marks: dict[tuple[str, Key], int] = {}
        dead: list[_Dead] = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            found = _take_over(path)
            if found is not None:
                dead.append(found)
                for added, settled in found.records:
                    for recipient, key, first, payloads in added:
                        logs[recipient, key].update(enumerate(payloads, first))
                    for recipient, key, mark in settled:
                        marks[recipient, key] = max(marks.get((recipient, key), 0), mark)
        streams = []
        for (recipient, key), log in logs.items():
            left = {number: log[number] for number in sorted(log) if number > marks.get((recipient, key), 0)}
            if left:
                streams.append((recipient, _stream(key, left)))
                self._added.append((recipient, key, next(iter(left)), tuple(left.values())))
        self._thread.start()
        if self._added:
            self.sync()
        for found in dead:
            found.end()
        return streams

    # -- the life of a message ----

    def add(self, recipient: str, key: Key, first: int, payloads: Sequence[Payload]) -> None:
        """Note admitted messages; call it in the order of the stream."""
        self._added.append((recipient, key, first, payloads))

    def settle(self, recipient: str, key: Key, mark: int) -> None:
        """Note that a stream needs no log up to a mark. It may be lost in a crash: marks weed out the
        doubles.
        """
        self._settled.append((recipient, key, mark))

    def sync(self) -> None:
        """Wait until everything that was added before is on the disk."""
        with self._condition:
            self._tickets += 1
            ticket = self._tickets
            self._condition.notify_all()
            done = self._condition.wait_for(lambda: self._synced >= ticket or self._failed, SYNC_SECONDS)
            if self._failed is not None or not done:
                raise JournalError(f"journal: {self.folder} cannot be written: {self._failed or 'no answer'}")

    def close(self) -> None:
        """Write what is left; keep the files of unsettled messages for whoever comes next."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join(SYNC_SECONDS)
        for file in self._files:
            if self._is_settled(file):
                file.end()
            else:
                os.close(file.handle)

    def _write(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._tickets > self._synced or self._closing, 1.0)
                tickets, closing = self._tickets, self._closing
            try:
                self._commit(_drain(self._added), _drain(self._settled))
            except OSError as error:
                self._failed = error
            with self._condition:
                self._synced = tickets
                self._condition.notify_all()
            if closing or self._failed:
                return

    def _commit(self, added: list[_Added], settled: list[_Settled]) -> None:
        for recipient, key, mark in settled:
            self._marks[recipient, key] = max(self._marks.get((recipient, key), 0), mark)
        if added or settled:
            self._files[-1].write(added, settled)
        if self._files[-1].size > FILE_BYTES:
            self._files.append(self._new_file())
        if settled:
            for file in [file for file in self._files[:-1] if self._is_settled(file)]:
                file.end()
                self._files.remove(file)

    def _is_settled(self, file: _File) -> bool:
        return all(self._marks.get(name, 0) >= last for name, last in file.last.items())


def _drain(queue: deque[Any]) -> list[Any]:
    """Return what is in a queue that others append to meanwhile."""
    return [queue.popleft() for _ in range(len(queue))]


class _Dead:
    """A file of a dead process, locked by this one."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path, self._handle = path, handle
        self.records = list(_records(path.read_bytes()))

    def end(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._handle)


def _open_locked(path: Path, create: bool) -> int:
    flags = os.O_RDWR | (os.O_CREAT | os.O_APPEND if create else 0)
    handle = os.open(path, flags, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _take_over(path: Path) -> _Dead | None:
    try:
        handle = _open_locked(path, create=False)
    except (BlockingIOError, FileNotFoundError):
        return None
    return _Dead(path, handle)


def _records(data: bytes) -> Any:
    position = 0
    while position + _HEADER.size <= len(data):
        length, checksum = _HEADER.unpack_from(data, position)
        record = data[position + _HEADER.size : position + _HEADER.size + length]
        if len(record) < length or zlib.crc32(record) != checksum:
            return  # what a crash has cut off was never said to be admitted
        yield pickle.loads(record)
        position += _HEADER.size + length


def _stream(key: Key, log: dict[int, Payload]) -> Stream:
    first, last = next(iter(log)), next(reversed(log))
    stream = Stream(key, settled=first - 1, last=last)
    stream.to_send.append(Run(first, len(log), pack_block(list(log.values()))))
    return stream
