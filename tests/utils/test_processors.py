"""How processes and threads share the processors."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from camac_dra.utils.processors import FEW_SPINS, SPINS, wait_briefly, yield_processor

linux = pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="only Linux has such a policy")


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


@linux
def test_a_process_that_yields_has_the_policy_for_that() -> None:
    code = (
        "import os; from camac_dra.utils.processors import yield_processor as f; "
        "print(f(), f(), os.sched_getscheduler(0) == os.SCHED_IDLE)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]


def test_where_the_system_refuses_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse, raising=False)
    assert not yield_processor()
    monkeypatch.delattr(os, "SCHED_IDLE", raising=False)
    assert not yield_processor()
