"""A journal of admitted messages, for the case that a sender and the bus die together.

Each process writes files of its own in the journal's folder: what it admitted, and marks up to which a stream
is settled. ``sync`` is a group commit: of the threads that wait for the disk, one writes for all. While it
does, those who come later gather behind the next. A file whose messages are all settled is deleted. A process
that starts takes over the files of processes that are dead (their locks are free).

Guarantee: what ``sync`` returned for is on the disk, as far as the disk keeps what it has synced.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

from camac_dra.coordination.bus.journal_file import Added, DeadFile, JournalFile, Settled, take_over
from camac_dra.coordination.bus.outlet import Stream
from camac_dra.coordination.bus.payloads import Payload, pack_block, unpack_block
from camac_dra.coordination.bus.wire import Key, Run
from camac_dra.utils.errors import JournalError
from camac_dra.utils.file_handler import StrPath

SUFFIX = ".journal"
FILE_BYTES = 32 * 2**20  # after which a new file begins
SYNC_SECONDS = 30.0
TIDY_SECONDS = 1.0  # after which marks are written for which nobody waits


class _Group:
    """Threads that wait for the same write. The first leads: it writes for all."""

    __slots__ = ("done", "led", "written")

    def __init__(self) -> None:
        self.led = self.written = False
        self.done = threading.Event()


class Journal:
    """The journal of one process. ``add`` and ``settle`` are quick; ``sync`` waits for the disk.

    Raises:
        JournalError: the folder cannot be made, or a file cannot be written.
    """

    def __init__(self, folder: StrPath) -> None:
        try:
            self.folder = Path(folder).absolute()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._files = [self._new_file()]
        except (OSError, TypeError) as error:
            raise JournalError(
                f"journal: must be a folder that can be written, got {folder!r}: {error}"
            ) from error
        self._added: deque[Added] = deque()
        self._settled: deque[Settled] = deque()
        self._marks: dict[tuple[str, Key], int] = {}
        self._lock = threading.Lock()  # of the group
        self._group = _Group()  # those who wait for the next write
        self._disk = threading.Lock()  # held by who writes
        self._failed: OSError | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._tidy, name="camac-bus-journal", daemon=True)

    def _new_file(self) -> JournalFile:
        return JournalFile(self.folder / f"{uuid.uuid4().hex}{SUFFIX}")

    # -- taking over ----

    def recover(self) -> list[tuple[str, Stream]]:
        """Return the unsettled streams of dead processes; they are in this journal from now on."""
        logs: dict[tuple[str, Key], dict[int, Payload]] = defaultdict(dict)
        marks: dict[tuple[str, Key], int] = {}
        dead: list[DeadFile] = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            found = take_over(path)
            if found is not None:
                dead.append(found)
                for added, settled in found.records:
                    for recipient, key, first, _, payloads in added:
                        logs[recipient, key].update(enumerate(unpack_block(payloads), first))
                    for recipient, key, mark in settled:
                        marks[recipient, key] = max(marks.get((recipient, key), 0), mark)
        streams = []
        for (recipient, key), log in logs.items():
            left = {number: log[number] for number in sorted(log) if number > marks.get((recipient, key), 0)}
            if left:
                streams.append((recipient, _stream(key, left)))
                self._added.append((recipient, key, next(iter(left)), len(left), list(left.values())))
        self._thread.start()
        if self._added:
            self.sync()
        for found in dead:
            found.end()
        return streams

    # -- the life of a message ----

    def add(self, recipient: str, key: Key, first: int, count: int, payloads: Any) -> None:
        """Note admitted messages, as payloads or as a block; call it in the order of the stream."""
        self._added.append((recipient, key, first, count, payloads))

    def settle(self, recipient: str, key: Key, mark: int) -> None:
        """Note that a stream needs no log up to a mark. It may be lost in a crash: marks weed out the
        doubles.
        """
        self._settled.append((recipient, key, mark))

    def sync(self) -> None:
        """Wait until everything that was added before is on the disk.

        Raises:
            JournalError: it cannot be written, or is not within 30 s.
        """
        deadline = time.monotonic() + SYNC_SECONDS
        while True:
            with self._lock:
                group = self._group
                leads, group.led = not group.led, True
            left = max(deadline - time.monotonic(), 0.0)
            if not leads:
                done = group.done.wait(left)
            elif done := self._disk.acquire(timeout=left):
                try:
                    self._write()
                finally:
                    self._disk.release()
            if self._failed is not None or not done:
                raise JournalError(f"journal: {self.folder} cannot be written: {self._failed or 'no answer'}")
            if leads or group.written:  # else whoever led was interrupted
                return

    def close(self) -> None:
        """Write what is left; keep the files of unsettled messages for whoever comes next."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(SYNC_SECONDS)
        with self._disk:
            self._failed = self._failed or OSError("it was closed")
            for file in self._files:
                if self._is_settled(file):
                    file.end()
                else:
                    file.close()
            self._files.clear()

    # -- writing: by whoever holds the disk ----

    def _tidy(self) -> None:
        while self._failed is None:
            closing = self._closing.wait(TIDY_SECONDS)
            with self._disk:
                self._write()
            if closing:
                return

    def _write(self) -> None:
        """Write what was added. Interrupted by a signal, it forgets nothing: the next write has it too."""
        with self._lock:  # who asks from now on may have added something that is not in this write
            group, self._group = self._group, _Group()
        try:
            if self._failed is None:
                self._commit(_seen(self._added), _seen(self._settled))
                group.written = True
        except OSError as error:
            self._failed = error
        finally:
            group.done.set()

    def _commit(self, added: list[Added], settled: list[Settled]) -> None:
        for recipient, key, mark in settled:
            self._marks[recipient, key] = max(self._marks.get((recipient, key), 0), mark)
        if self._files[-1].torn:
            self._files.append(self._new_file())
        if added or settled:
            self._files[-1].write(added, settled)
            _drop(self._added, len(added))
            _drop(self._settled, len(settled))
        if self._files[-1].size > FILE_BYTES:
            self._files.append(self._new_file())
        if settled:
            for file in [file for file in self._files[:-1] if self._is_settled(file)]:
                file.end()
                self._files.remove(file)

    def _is_settled(self, file: JournalFile) -> bool:
        return all(self._marks.get(name, 0) >= last for name, last in file.last.items())


def _seen(queue: deque[Any]) -> list[Any]:
    """Return what is in a queue that others append to meanwhile."""
    return [queue[index] for index in range(len(queue))]


def _drop(queue: deque[Any], count: int) -> None:
    for _ in range(count):
        queue.popleft()


def _stream(key: Key, log: dict[int, Payload]) -> Stream:
    first, last = next(iter(log)), next(reversed(log))
    stream = Stream(key, settled=first - 1, last=last)
    stream.to_send.append(Run(first, len(log), pack_block(list(log.values()))))
    return stream
