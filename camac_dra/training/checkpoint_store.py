"""The checkpoints of one run: which is the latest, which the best, which are no longer needed."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

from camac_dra.models.checkpoint_files import (
    FOLDER,
    CheckpointFolder,
    find_checkpoint,
    folder_name,
    iteration_of,
    read_manifest,
)
from camac_dra.training.checkpoints import Checkpoint, write_checkpoint
from camac_dra.utils.errors import OutputError
from camac_dra.utils.file_handler import PARTIAL, REPLACED, StrPath, recover_directory

__all__ = ["FOLDER", "CheckpointStore", "find_checkpoint"]


class CheckpointStore(CheckpointFolder):
    """A folder of checkpoints, of which the ``keep`` latest and the best are kept."""

    def __init__(self, folder: StrPath, keep: int) -> None:
        super().__init__(folder)
        self.keep = keep

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, remove those no longer needed, and return its folder.

        One of the same iteration is replaced only where it was not evaluated yet and this one was: they hold
        the same state.

        Raises:
            OutputError: it cannot be written; those that were there are.
        """
        path = self.folder / folder_name(checkpoint.iteration)
        exists = path.exists()
        if not exists or (checkpoint.score is not None and read_manifest(path).score is None):
            write_checkpoint(path, checkpoint, replace=exists)
        self.prune()
        return path

    def recover(self) -> None:
        """Bring back a checkpoint that a crash left renamed aside while it was being replaced."""
        for aside in self.folder.glob(f".*{REPLACED}"):
            recover_directory(self.folder / aside.name.removeprefix(".").removesuffix(REPLACED))

    def prune(self) -> None:
        """Remove all but the latest ``keep`` and the best, and what crashes left half-written."""
        paths = self.paths()
        best = self.best()
        kept = {*paths[-self.keep :], *([] if best is None else [best.path])}
        leftovers = [path for path in self.folder.glob(f".*{PARTIAL}") if path.is_dir()]
        for path in [*leftovers, *(path for path in paths if path not in kept)]:
            try:
                shutil.rmtree(path)
            except OSError as error:
                raise OutputError(f"{path}: an old checkpoint cannot be removed: {error.strerror}") from error

    def set_aside_after(self, iteration: int) -> list[Path]:
        """Move checkpoints later than ``iteration`` into a folder of their own; return where they are now."""
        later = [path for path in self.paths() if (iteration_of(path) or 0) > iteration]
        if not later:
            return []
        aside = self.folder / f"abandoned_{datetime.now():%Y%m%d_%H%M%S_%f}"
        try:
            aside.mkdir()
            return [path.rename(aside / path.name) for path in later]
        except OSError as error:
            raise OutputError(
                f"{aside}: later checkpoints cannot be moved there: {error.strerror}"
            ) from error
