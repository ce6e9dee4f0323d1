"""The journal: what was synced is there again, what was cut off was never there, what is settled is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from camac_dra.coordination.bus.journal import Journal
from camac_dra.coordination.bus.journal_file import JournalFile
from camac_dra.coordination.bus.payloads import decode, encode, encode_many, unpack_block
from camac_dra.utils.errors import JournalError

KEY = ("a", "life")
SENDER = """
import os, signal, sys
from camac_dra.coordination import MessageBus
bus = MessageBus(backend="local", journal=sys.argv[1])
bus.register("a"); bus.register("b")
for n in range(100):
    assert bus.send("a", "b", {"n": n})
assert [bus.receive("b")["n"] for _ in range(10)] == list(range(10))
bus.stats()
assert bus.send_many("a", [("b", {"n": n}) for n in range(100, 200)]) == [True] * 100
os.kill(os.getpid(), signal.SIGKILL)
"""


def payloads(*numbers: int) -> tuple[bytes, ...]:
    return tuple(encode({"n": number}, 1000) for number in numbers)  # type: ignore[misc]


def recovered(folder: Path) -> dict[str, list[int]]:
    """Return what a new journal in the folder takes over, by recipient; keep it there."""
    journal = Journal(folder)
    found = {}
    for recipient, stream in journal.recover():
        blocks = [unpack_block(run.block) for run in stream.to_send]
        found[recipient] = [decode(payload)["n"] for block in blocks for payload in block]
        assert stream.outstanding == len(found[recipient])
    journal.close()
    return found


def test_synced_messages_are_there_again_until_they_are_settled(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.recover() == []
    journal.add("b", KEY, 1, 3, payloads(1, 2, 3))
    journal.add("c", KEY, 1, 1, payloads(7))
    journal.add("b", KEY, 4, 1, payloads(4))
    journal.settle("b", KEY, 2)
    journal.settle("c", KEY, 1)
    journal.sync()
    journal.close()
    for _ in range(2):
        assert recovered(tmp_path) == {"b": [3, 4]}


def test_settled_files_are_deleted(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.recover()
    journal.add("b", KEY, 1, 1, payloads(1))
    journal.settle("b", KEY, 1)
    journal.sync()
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_files_of_living_processes_are_left_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.recover()
    journal.add("b", KEY, 1, 1, payloads(1))
    journal.sync()
    assert recovered(tmp_path) == {}
    journal.close()
    assert recovered(tmp_path) == {"b": [1]}


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_record_that_was_cut_off_ends_the_file(tmp_path: Path, cut: int) -> None:
    journal = Journal(tmp_path)
    journal.recover()
    for number in (1, 2):
        journal.add("b", KEY, number, 1, payloads(number))
        journal.sync()
    journal.close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-cut])
    assert recovered(tmp_path) == {"b": [1]}


def test_a_damaged_record_ends_the_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.recover()
    for number in (1, 2):
        journal.add("b", KEY, number, 1, payloads(number))
        journal.sync()
    journal.close()
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[-3] ^= 0xFF
    path.write_bytes(data)
    assert recovered(tmp_path) == {"b": [1]}


def block(*numbers: int) -> bytes:
    (batch,) = encode_many([("b", {"n": number}) for number in numbers], 1000)
    assert batch.block is not None
    return batch.block


@pytest.mark.parametrize("cut", [1, 30, 60])
def test_a_batch_that_was_cut_off_was_never_there(tmp_path: Path, cut: int) -> None:
    journal = Journal(tmp_path)
    journal.recover()
    journal.add("b", KEY, 1, 3, block(1, 2, 3))
    journal.settle("b", KEY, 2)
    journal.sync()
    journal.add("b", KEY, 4, 2, block(4, 5))
    journal.sync()
    journal.close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-cut])
    for _ in range(2):
        assert recovered(tmp_path) == {"b": [3]}, "settled in the middle of a batch"


def test_one_write_is_for_all_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.recover()
    written, write = [], JournalFile.write
    monkeypatch.setattr(JournalFile, "write", lambda *given: (written.append(given[1]), write(*given)))
    with journal._disk:  # a write that takes its time
        threads = [threading.Thread(target=journal.sync) for _ in range(8)]
        for number, thread in enumerate(threads, 1):
            journal.add("b", KEY, number, 1, payloads(number))
            thread.start()
    for thread in threads:
        thread.join(10.0)
        assert not thread.is_alive()
    journal.close()
    assert [len(added) for added in written if added] == [8]
    assert recovered(tmp_path) == {"b": list(range(1, 9))}


def test_a_write_that_a_signal_interrupts_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    journal.recover()
    write = os.write

    def interrupted(handle: int, data: memoryview) -> int:
        monkeypatch.undo()
        write(handle, data[: len(data) // 2])
        raise KeyboardInterrupt("by hand")

    journal.add("b", KEY, 1, 2, block(1, 2))
    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt, match="by hand"):
        journal.sync()
    journal.add("b", KEY, 3, 2, block(3, 4))
    journal.sync()
    journal.close()
    assert recovered(tmp_path) == {"b": [1, 2, 3, 4]}


def test_who_waited_for_a_write_that_was_interrupted_writes_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    journal.recover()

    def interrupted(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt("by hand")

    with ThreadPoolExecutor(2) as pool:
        with journal._disk:
            journal.add("b", KEY, 1, 2, block(1, 2))
            leader = pool.submit(journal.sync)
            while not journal._group.led:
                time.sleep(0.001)
            follower = pool.submit(journal.sync)
            time.sleep(0.05)
            monkeypatch.setattr(JournalFile, "write", interrupted)
        with pytest.raises(KeyboardInterrupt, match="by hand"):
            leader.result(10.0)
        follower.result(10.0)
    assert not journal._added
    journal.close()
    assert recovered(tmp_path) == {"b": [1, 2]}


def test_a_disk_that_fails_is_said_to_everybody_who_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    journal.recover()

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(JournalFile, "write", full)
    with ThreadPoolExecutor(4) as pool:
        with journal._disk:
            waiting = [pool.submit(journal.sync) for _ in range(4)]
            journal.add("b", KEY, 1, 1, payloads(1))
        for future in waiting:
            with pytest.raises(JournalError, match=r"journal: .* cannot be written: disk full"):
                future.result(10.0)
    with pytest.raises(JournalError, match="disk full"):
        journal.sync()
    journal.close()


def test_nothing_is_written_after_the_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.recover()
    journal.close()
    with pytest.raises(JournalError, match="cannot be written: it was closed"):
        journal.sync()


def test_a_killed_process_loses_nothing_that_was_admitted(root: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SENDER, str(tmp_path)], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    found = recovered(tmp_path)["b"]
    assert found[-190:] == list(range(10, 200))
    assert found == list(range(found[0], 200)), "marks may be lost with the process, messages not"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match=r"journal: must be a folder that can be written, got .*file"):
        Journal(tmp_path / "file")
