"""The README's quick starts run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCKS = re.findall(r"\*\*(.+?)\*\*\n\n```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_there_are_quick_starts() -> None:
    assert len(BLOCKS) >= 5


@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_quick_start_runs(title: str, code: str, root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    # A comment behind a print says what it prints.
    for expected in re.findall(r"^print\(.*\)  # ([\[(].*)$", code, re.MULTILINE):
        assert expected in done.stdout


def test_files_that_the_readme_names_exist(root: Path) -> None:
    named = set(
        re.findall(r"\b(?:rllib_configs|cluster|experiments|docs|camac_dra)/[\w./]+\w", README.read_text())
    )
    assert named
    missing = [name for name in named if not (root / name).exists()]
    assert missing == []
