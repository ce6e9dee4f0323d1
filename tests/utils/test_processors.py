"""How processes and threads share the processors."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from camac_dra.utils import processors
from camac_dra.utils.processors import (
    FEW_SPINS,
    LOWEST,
    SPINS,
    let_others_first,
    processor_is_idle,
    wait_briefly,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux threads have priorities of their own")


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, FEW_SPINS), ({SPINS: "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_waits_are_brief_unless_the_user_says_otherwise(
    given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (SPINS, "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    wait_briefly()
    assert os.environ.get(SPINS) == spins
    monkeypatch.delenv(SPINS, raising=False)


@pytest.mark.parametrize(
    ("load", "idle"),
    [("0.27 0.63 0.89 3/412 9", True), ("0.27 0.63 0.89 4/412 9", False), ("9.27 9.63 9.89 17/412 9", False)],
)
def test_a_processor_is_idle_where_fewer_threads_run_than_there_are(
    load: str, idle: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loadavg").write_text(load)
    monkeypatch.setattr(processors, "LOAD", tmp_path / "loadavg")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert processor_is_idle() == idle


@pytest.mark.parametrize("load", [None, "", "nothing known here today", "0.1 0.1 0.1 many/9 4"])
def test_where_nobody_can_tell_a_processor_is_idle(
    load: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if load is not None:
        (tmp_path / "loadavg").write_text(load)
    monkeypatch.setattr(processors, "LOAD", tmp_path / "loadavg")
    assert processor_is_idle()


def test_other_systems_cannot_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loadavg").write_text("9.27 9.63 9.89 9999/412 9")
    monkeypatch.setattr(processors, "LOAD", tmp_path / "loadavg")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(os, "pread")
    assert processor_is_idle()


@linux
def test_only_the_calling_thread_lets_others_first() -> None:
    def niceness() -> int:
        let_others_first()
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(niceness).result() == LOWEST
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


@linux
def test_where_the_system_refuses_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError

    before = os.getpriority(os.PRIO_PROCESS, 0)
    monkeypatch.setattr(os, "setpriority", refuse)
    let_others_first()
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
