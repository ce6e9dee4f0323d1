"""The folder of a run: ``runs/<name>/``, held by one process at a time.

::

    runs/<name>/ config.yaml        the whole configuration        provenance.json   what made the run
      metrics.json       what happened                  events.out.*      TensorBoard events comparison.json
      the table at the end           comparison.txt    the same, to read checkpoints/
"""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from camac_dra.training.checkpoint_store import FOLDER, CheckpointStore
from camac_dra.training.checkpoints import json_bytes
from camac_dra.utils.config_loader import as_yaml
from camac_dra.utils.errors import CheckpointError, ConfigurationError, OutputError
from camac_dra.utils.file_handler import atomic_write_bytes, atomic_write_text, writable_directory
from camac_dra.utils.schema import Config

CONFIG, PROVENANCE, METRICS, LOCK = "config.yaml", "provenance.json", "metrics.json", ".lock"
COMPARISON, COMPARISON_TEXT = "comparison.json", "comparison.txt"
MOST_NAMES = 1000


class RunDirectory:
    """A run's folder, locked until ``close``."""

    def __init__(self, path: Path, keep_checkpoints: int = 1) -> None:
        self.path = path
        self.checkpoints = CheckpointStore(path / FOLDER, keep_checkpoints)
        self._lock = _lock(path)

    @classmethod
    def create(cls, config: Config) -> RunDirectory:
        """Make the folder of a new run under ``training.output_dir``.

        Raises:
            ConfigurationError: ``training.name`` is no folder's name, or there is a run of that name.
            OutputError: the folder cannot be written, or the disk is full.
        """
        training = config.training
        parent = Path(training.output_dir)
        if training.name is not None and not re.fullmatch(r"[\w][\w.+=@ -]*", training.name):
            raise ConfigurationError(
                "training.name: must be the name of a folder (letters, digits, and . + = @ - inside), "
                f"got {training.name!r}"
            )
        name = training.name or f"{datetime.now():%Y%m%d_%H%M%S}_seed{training.seed}"
        path = _make_folder(parent, name, exact=training.name is not None)
        writable_directory(path)
        return cls(path, training.keep_checkpoints)

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Take up the folder of a run that was begun before.

        Raises:
            OutputError: it cannot be written, or another process is at it.
        """
        writable_directory(path)
        run = cls(path)
        run.checkpoints.recover()
        return run

    def write_config(self, config: Config) -> None:
        """Write ``config.yaml``."""
        atomic_write_text(self.path / CONFIG, as_yaml(config))

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Write ``metrics.json``."""
        self.write_json(METRICS, metrics)

    def write_json(self, name: str, data: Any) -> None:
        """Write plain data as JSON."""
        atomic_write_bytes(self.path / name, json_bytes(data))

    def write_text(self, name: str, text: str) -> None:
        """Write text."""
        atomic_write_text(self.path / name, text)

    def add_provenance(self, record: dict[str, Any]) -> None:
        """Add a record to ``provenance.json``: one for every session that worked on this run."""
        path = self.path / PROVENANCE
        try:
            sessions = json.loads(path.read_text(encoding="utf-8"))["sessions"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            sessions = []
        self.write_json(PROVENANCE, {"sessions": [*sessions, record]})

    def close(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def run_of(checkpoint: Path) -> Path | None:
    """Return the folder of the run whose checkpoint this is, None where it lies elsewhere."""
    folder = checkpoint.resolve().parent
    run = folder.parent
    return run if folder.name == FOLDER and (run / CONFIG).is_file() else None


def _make_folder(parent: Path, name: str, *, exact: bool) -> Path:
    """Make a new folder of that name; where it is ours to choose, add a number to one that is taken."""
    for number in range(1, MOST_NAMES):
        path = parent / (name if number == 1 else f"{name}_{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if path.is_dir() and not exact:
                continue
            if not path.exists() or not path.is_dir():
                raise OutputError(f"{path}: cannot be made, since a file is in its way") from None
            raise ConfigurationError(
                f"training.name: there is a run {name!r} in {parent} already: choose another name, "
                f"or go on with it: resume {path}"
            ) from None
        except OSError as error:
            raise OutputError(
                f"{path}: the run's folder cannot be made: {error.strerror}; "
                "choose another place with --training.output_dir"
            ) from error
        return path
    raise OutputError(f"{parent}: has {MOST_NAMES} runs named {name} already")


def _lock(path: Path) -> IO[str] | None:
    """Hold the folder for this process; the system lets go of it when the process ends, however it ends."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        file = (path / LOCK).open("w")
    except OSError as error:
        raise OutputError(f"{path}: the run's folder cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise CheckpointError(
            f"{path}: another process is working on this run: wait for it, or stop it"
        ) from None
    except OSError:
        pass  # a file system without locks
    return file
