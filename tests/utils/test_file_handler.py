"""Files and folders are there in full or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from camac_dra.utils.errors import OutputError
from camac_dra.utils.file_handler import (
    atomic_directory,
    atomic_write_bytes,
    atomic_write_text,
    recover_directory,
    writable_directory,
)


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def failing(code: int) -> Callable[..., None]:
    def fail(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_text_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.txt"
    atomic_write_text(path, "Zürich\n")
    assert path.read_bytes() == "Zürich\n".encode()
    atomic_write_bytes(path, b"second")
    assert contents(tmp_path) == {"deep/er/file.txt": "second"}


def test_permissions_are_those_of_the_old_file_or_the_usual_ones(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_write_text(path, "one")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    path.chmod(0o600)
    atomic_write_text(path, "two")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_links_are_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("one")
    link.symlink_to(target)
    atomic_write_text(link, "two")
    assert link.is_symlink()
    assert target.read_text() == "two"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, r"file: cannot be written, the disk is full .*: free space or write elsewhere"),
        (errno.EDQUOT, r"file: cannot be written, the disk is full"),
        (errno.EACCES, r"file: cannot be written, permission is missing .*: choose another place"),
        (errno.EROFS, r"file: cannot be written, permission is missing"),
        (errno.EIO, r"file: cannot be written: Input/output error"),
    ],
)
def test_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", failing(code))
    with pytest.raises(OutputError, match=message):
        atomic_write_text(path, "new")
    assert contents(tmp_path) == {"file": "old"}


def test_old_file_is_not_touched_before_the_renaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(Path, "replace", failing(errno.EIO))
    with pytest.raises(OutputError, match="file: cannot be written: Input/output error"):
        atomic_write_text(path, "new")
    assert contents(tmp_path) == {"file": "old"}


def test_place_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/below: cannot be written: "):
        atomic_write_text(tmp_path / "file" / "below", "text")
    with pytest.raises(OutputError, match="cannot be written: Is a directory"):
        atomic_write_text(tmp_path, "text")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_disk_that_fills_up_in_the_middle_leaves_the_old_file(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    program = (
        "import resource, signal, sys; from camac_dra.utils.file_handler import *; "
        "from camac_dra.utils.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: atomic_write_bytes(sys.argv[1], bytes(100_000))\n"
        "except OutputError as error: print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(path)], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert "file: cannot be written, the disk is full" in result.stdout, result.stderr
    assert contents(tmp_path) == {"file": "old"}


def test_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "one"
    with atomic_directory(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "weights").write_text("w")
        (folder / "config").write_text("c")
        assert not path.exists()
    assert contents(tmp_path) == {"checkpoints/one/config": "c", "checkpoints/one/sub/weights": "w"}
    assert os.access(path, os.R_OK | os.X_OK)
    assert path.stat().st_mode == path.parent.stat().st_mode


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), KeyboardInterrupt(), FileNotFoundError(2, "x", "input.csv")]
)
def test_error_inside_leaves_nothing_and_is_passed_on(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error), match=r"no|x|^$"):
        with atomic_directory(tmp_path / "one") as folder:
            (folder / "half").write_text("half")
            raise error
    assert list(tmp_path.iterdir()) == []


def test_full_disk_inside_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="one: cannot be written, the disk is full"):
        with atomic_directory(tmp_path / "one"):
            failing(errno.ENOSPC)()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_at_the_end_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="one: cannot be written, the disk is full"):
        with atomic_directory(tmp_path / "one") as folder:
            (folder / "file").write_text("text")
            monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "best"
    for text, replace in (("one", False), ("two", True)):
        with atomic_directory(path, replace=replace) as folder:
            (folder / text).write_text(text)
    assert contents(tmp_path) == {"best/two": "two"}
    with pytest.raises(OutputError, match="best: must not exist yet, or be a folder that is to be replaced"):
        with atomic_directory(path):
            pass
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file: must not exist yet"):
        with atomic_directory(tmp_path / "file", replace=True):
            pass
    assert contents(tmp_path) == {"best/two": "two", "file": ""}


def test_renaming_that_fails_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "best"
    with atomic_directory(path) as folder:
        (folder / "one").write_text("one")
    rename = Path.rename

    def fail_for_the_new_one(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(errno.EIO, "Input/output error", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(OutputError, match="best: cannot be written: Input/output error"):
        with atomic_directory(path, replace=True):
            pass
    assert contents(tmp_path) == {"best/one": "one"}


@pytest.mark.parametrize("finished", [False, True])
def test_crash_between_the_renamings_is_mended(tmp_path: Path, finished: bool) -> None:
    old = tmp_path / ".best.replaced"
    old.mkdir()
    (old / "one").write_text("one")
    if finished:  # the new folder is in place, only the old one was not removed yet
        (tmp_path / "best").mkdir()
        (tmp_path / "best" / "two").write_text("two")
    recover_directory(tmp_path / "best")
    assert contents(tmp_path) == ({"best/two": "two"} if finished else {"best/one": "one"})


def test_writable_directory_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = writable_directory(tmp_path / "a" / "b")
    assert folder.is_dir()
    assert list(folder.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file: cannot be written"):
        writable_directory(tmp_path / "file")
