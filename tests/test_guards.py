"""The guards of the test suite work: each is shown a fault and must see it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import warnings
import pytest

def test_good():
    pass

def test_warns():
    warnings.warn("look out", UserWarning)

@pytest.mark.performance
def test_performance():
    raise AssertionError("must not run unless asked for")

@pytest.mark.mispelled
def test_unknown_mark():
    pass
"""

LEAKS = """
kept = []

class Leaky:
    def ping(self):
        return 1

def test_tidy(ray_cluster):
    actor = ray_cluster.remote(Leaky).remote()
    assert ray_cluster.get(actor.ping.remote()) == 1

def test_leaks(ray_cluster):
    kept.append(ray_cluster.remote(Leaky).remote())
    assert ray_cluster.get(kept[0].ping.remote()) == 1
"""


def run_pytest(root: Path, folder: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``source`` as a test file under copies of the suite's own conftest and settings."""
    (folder / "tests").mkdir()
    shutil.copy(root / "tests" / "conftest.py", folder / "tests")
    shutil.copy(root / "pyproject.toml", folder)
    (folder / "tests" / "test_fault.py").write_text(source)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_warnings_fail_and_benchmarks_wait_to_be_asked_for(root: Path, tmp_path: Path) -> None:
    source = FAULTS.replace("@pytest.mark.mispelled", "")
    result = run_pytest(root, tmp_path, source)
    assert result.returncode == 1, result.stdout
    assert "1 failed, 2 passed, 1 skipped" in result.stdout
    assert "UserWarning: look out" in result.stdout


def test_benchmarks_run_when_asked_for(root: Path, tmp_path: Path) -> None:
    result = run_pytest(root, tmp_path, FAULTS.replace("@pytest.mark.mispelled", ""), "--benchmark")
    assert "must not run unless asked for" in result.stdout
    assert "2 failed, 2 passed" in result.stdout


def test_unknown_markers_are_refused(root: Path, tmp_path: Path) -> None:
    result = run_pytest(root, tmp_path, FAULTS)
    assert result.returncode == 2, result.stdout
    assert "'mispelled' not found in `markers`" in result.stdout


def test_configuration_that_does_not_exist_ends_the_run(root: Path, tmp_path: Path) -> None:
    result = run_pytest(root, tmp_path, "def test_one(config_path): pass", "--config", "nowhere.yaml")
    assert result.returncode == 4
    assert "--config nowhere.yaml: no such file" in result.stdout + result.stderr


@pytest.mark.slow
def test_leaked_actor_fails_the_test_that_leaked_it(root: Path, tmp_path: Path) -> None:
    result = run_pytest(root, tmp_path, LEAKS)
    assert result.returncode == 1, result.stdout
    assert "2 passed, 1 error" in result.stdout
    assert "test_leaks left 1 Ray actors alive: Leaky" in result.stdout


@pytest.mark.slow
def test_ray_left_running_fails_the_run(root: Path, tmp_path: Path) -> None:
    source = (
        "import ray\ndef test_one(): ray.init(num_cpus=1, include_dashboard=False, configure_logging=False)"
    )
    result = run_pytest(root, tmp_path, source)
    assert result.returncode == 1, result.stdout
    assert "started Ray by itself" in result.stdout
