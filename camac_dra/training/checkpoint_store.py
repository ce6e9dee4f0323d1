"""The checkpoints of one run: which is the latest, which the best, which are no longer needed."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

from camac_dra.training.checkpoints import (
    MANIFEST,
    Checkpoint,
    Manifest,
    folder_name,
    iteration_of,
    read_manifest,
    write_checkpoint,
)
from camac_dra.utils.errors import CheckpointError, OutputError
from camac_dra.utils.file_handler import PARTIAL, REPLACED, StrPath, recover_directory

FOLDER = "checkpoints"  # in a run's folder


class CheckpointStore:
    """A folder of checkpoints, of which the ``keep`` latest and the best are kept.

    The best one has the highest score, the earliest of equals.
    """

    def __init__(self, folder: StrPath, keep: int) -> None:
        self.folder = Path(folder)
        self.keep = keep

    def manifests(self) -> list[Manifest]:
        """Return what the checkpoints say about themselves, earliest first; damaged ones are left out."""
        found = []
        for path in self.paths():
            try:
                found.append(read_manifest(path))
            except CheckpointError:
                continue
        return found

    def paths(self) -> list[Path]:
        """Return the folders of all checkpoints, earliest first, damaged ones too."""
        if not self.folder.is_dir():
            return []
        numbered = [(iteration_of(path), path) for path in self.folder.iterdir() if path.is_dir()]
        return [path for number, path in sorted((n, p) for n, p in numbered if n is not None)]

    def latest(self) -> Path | None:
        """Return the folder of the latest checkpoint, None where there is none."""
        paths = self.paths()
        return paths[-1] if paths else None

    def best(self) -> Manifest | None:
        """Return the checkpoint of the highest score, None where none was evaluated."""
        scored = [manifest for manifest in self.manifests() if manifest.score is not None]
        return max(scored, key=lambda m: (m.score, -m.iteration), default=None)

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


def find_checkpoint(path: StrPath, *, prefer_best: bool) -> Path:
    """Return the folder of a checkpoint, given that folder, a run's folder, or the run's checkpoints.

    Of a run, it is the best one where ``prefer_best`` and one was evaluated, else the latest.

    Raises:
        CheckpointError: there is none.
    """
    given = Path(path)
    if not given.exists():
        raise CheckpointError(f"{path}: no such run or checkpoint")
    if (given / MANIFEST).exists():
        return given
    folder = given / FOLDER if (given / FOLDER).is_dir() else given
    store = CheckpointStore(folder, keep=1)
    best = store.best() if prefer_best else None
    found = store.latest() if best is None else best.path
    if found is None:
        raise CheckpointError(
            f"{path}: is neither a checkpoint ({MANIFEST} is missing) nor a run that has some "
            f"({FOLDER}/{folder_name(0)} or later ones)"
        )
    return found
