"""Write files and folders so that whoever looks finds the old or the new, never half of one.

Everything is written aside in the same folder, forced to the disk (fsync), and renamed. A crash leaves at
most a leftover whose name begins with a dot and ends in ``.partial``.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from camac_dra.utils.errors import OutputError

PARTIAL = ".partial"
REPLACED = ".replaced"
StrPath = str | os.PathLike[str]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def atomic_write_text(path: StrPath, text: str) -> None:
    """Write text in UTF-8; afterwards the file has all of it, or is as it was.

    Raises:
        OutputError: it cannot be written there, or the disk is full.
    """
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_bytes(path: StrPath, data: bytes) -> None:
    """Write bytes; afterwards the file has all of them on the disk, or is as it was.

    Missing folders above it are made. An existing file keeps its permissions; one that is a link is written
    to where it points.

    Raises:
        OutputError: it cannot be written there, or the disk is full.
    """
    target = Path(os.path.realpath(path))
    with _output_errors(path):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=PARTIAL, dir=target.parent)
        aside = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.chmod(target.stat().st_mode & 0o7777 if target.exists() else 0o666 & ~_umask())
            aside.replace(target)
            _sync_folder(target.parent)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


@contextmanager
def atomic_directory(path: StrPath, *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder to fill; when the block ends without an error, it becomes ``path``.

    All files in it are forced to the disk before the renaming. An error in the block, Ctrl-C too, removes it
    and leaves ``path`` as it was. With ``replace`` an existing folder is first renamed aside; a crash just
    between the two renamings leaves it there, and ``recover_directory`` brings it back.

    Raises:
        OutputError: it cannot be written, the disk is full, or ``path`` exists and is not to be replaced.
    """
    target = Path(os.path.abspath(path))
    with _output_errors(path):
        recover_directory(target)
        if os.path.lexists(target) and not (replace and target.is_dir()):
            raise OutputError(f"{path}: must not exist yet, or be a folder that is to be replaced")
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=PARTIAL, dir=target.parent))
    try:
        yield aside
        with _output_errors(path):
            aside.chmod(0o777 & ~_umask())
            _sync_tree(aside)
            _swap(aside, target)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, OutputError) or not _is_inside(error, aside):
            raise
        raise _output_error(path, error) from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def recover_directory(path: StrPath) -> None:
    """Undo what a crash in the middle of replacing a folder left: bring the old one back, or remove it."""
    target = Path(os.path.abspath(path))
    old = _replaced(target)
    if not old.is_dir():
        return
    if target.exists():
        shutil.rmtree(old)
    else:
        old.rename(target)


def writable_directory(path: StrPath) -> Path:
    """Make the folder if need be, prove by writing that it can be written, and return it.

    Raises:
        OutputError: it cannot be made or written, or the disk is full.
    """
    folder = Path(path)
    with _output_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".probe.", suffix=PARTIAL, dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    return folder


def _replaced(target: Path) -> Path:
    return target.with_name(f".{target.name}{REPLACED}")


def _swap(aside: Path, target: Path) -> None:
    old = _replaced(target)
    if target.exists():
        target.rename(old)
    try:
        aside.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    _sync_folder(target.parent)
    if old.exists():
        shutil.rmtree(old)


def _sync_tree(folder: Path) -> None:
    for place, _, files in os.walk(folder):
        for name in files:
            descriptor = os.open(os.path.join(place, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        _sync_folder(Path(place))


def _sync_folder(folder: Path) -> None:
    """Force the folder's own entries to the disk, where the system can (Windows cannot)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _output_errors(path: StrPath) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise _output_error(path, error) from error


def _is_inside(error: OSError, folder: Path) -> bool:
    """Tell an error of writing into the folder from another of the block, such as a missing input."""
    name = error.filename
    return error.errno in _FULL or (isinstance(name, str) and Path(name).is_relative_to(folder))


def _output_error(path: StrPath, error: OSError) -> OutputError:
    if error.errno in _FULL:
        return OutputError(
            f"{path}: cannot be written, the disk is full ({error.strerror}): free space or write elsewhere"
        )
    if error.errno in _FORBIDDEN:
        return OutputError(
            f"{path}: cannot be written, permission is missing ({error.strerror}): choose another place"
        )
    return OutputError(f"{path}: cannot be written: {error.strerror or error}")
