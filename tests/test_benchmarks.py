"""``pytest --benchmark``: every benchmark runs in its quick form and writes its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "experiments" / "benchmarks"
BENCHMARKS = sorted(path.name for path in FOLDER.glob("[a-z]*.py"))
QUICK_SECONDS = 240  # the quick form is promised under a minute on two idle cores


@pytest.mark.performance
@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_runs_in_its_quick_form(root: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "figures.json"
    command = [sys.executable, str(FOLDER / name), "--quick", "--json", str(path)]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=QUICK_SECONDS)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.strip(), "prints a table"
    assert json.loads(path.read_text())
