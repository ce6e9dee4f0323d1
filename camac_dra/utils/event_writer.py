"""TensorBoard events, written at once and in order by this process.

torch's ``SummaryWriter`` writes from a thread, where a full disk ends in a traceback on the screen and a
hanging queue; here it is an ``OutputError`` of the call that could not write.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from camac_dra.utils.errors import OutputError

FILE_VERSION = "brain.Event:2"


class EventWriter:
    """Appends scalars to an event file of its own in ``folder``.

    With ``purge_step``, what earlier files have at that step or later does not count any more: a run that is
    resumed from a checkpoint writes these steps anew, and TensorBoard then shows each once.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        now = time.time()
        self.path = folder / f"events.out.tfevents.{now:017.6f}.{socket.gethostname()}.{os.getpid()}"
        try:
            self._file = self.path.open("xb")
        except OSError as error:
            raise self._error(error) from error
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=now, file_version=FILE_VERSION))
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=now, step=purge_step, session_log=start))
        self.flush()

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write one number per tag at ``step``.

        Raises:
            OutputError: the disk is full or the file cannot be written.
        """
        entries = [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in values.items()]
        if entries:
            self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=entries)))
            self.flush()

    def flush(self) -> None:
        """Hand what was written to the system."""
        try:
            self._file.flush()
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Close the file; what could not be written has been reported already."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _write(self, event: Event) -> None:
        try:
            self._records.write(event.SerializeToString())
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> OutputError:
        return OutputError(f"{self.path}: TensorBoard events cannot be written: {error.strerror or error}")
