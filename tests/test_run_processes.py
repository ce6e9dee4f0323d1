"""The command line in processes of its own: whole jobs, signals, ``kill -9``, a full disk."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from camac_dra.models.heuristics import HEURISTICS
from camac_dra.training.checkpoints import read_checkpoint
from camac_dra.training.experiment import Experiment
from camac_dra.utils.config_loader import build_config
from tests.training.small_runs import assert_same_training, metrics_of

SECONDS = 120.0  # within which a command must have got somewhere, on the slowest machine
TINY = {
    "environment.max_episode_length": "5",
    "training.num_envs": "2",
    "training.fragment_length": "5",
    "training.num_episodes": "4",
    "training.evaluation_episodes": "1",
}


@pytest.fixture
def small(root: Path) -> str:
    return str(root / "rllib_configs" / "test.yaml")


def settings(values: dict[str, str]) -> list[str]:
    return [token for name, value in values.items() for token in (f"--{name}", value)]


def command(root: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "camac_dra.run", *arguments]


def surroundings(root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root)}


def run(
    root: Path, folder: Path, *arguments: str, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(root, *arguments),
        cwd=folder,
        env=surroundings(root),
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
        preexec_fn=before,
    )


def begin(root: Path, folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(root, *arguments),
        cwd=folder,
        env={**surroundings(root), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_checkpoint(process: subprocess.Popen[str], run_folder: Path, iteration: int) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        found = [int(path.name[-6:]) for path in (run_folder / "checkpoints").glob("iteration_*")]
        if found and max(found) >= iteration:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    pytest.fail(f"no checkpoint of iteration {iteration} within {SECONDS} s")


def test_it_trains_compares_and_says_where_everything_is_without_starting_ray(
    root: Path, tmp_path: Path
) -> None:
    """From a folder without configurations, as an installed package is used."""
    script = (
        "import sys, ray; from camac_dra.run import main; code = main(sys.argv[1:]);"
        "assert not ray.is_initialized(); sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, "--training.name", "mine", *settings(TINY)],
        cwd=tmp_path,
        env=surroundings(root),
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
    )
    assert result.returncode == 0, result.stderr
    out = result.stdout
    for name in ("trained", "random", "greedy", "fair_share", "myopic", "receding_horizon"):
        assert re.search(rf"^│ {name} +│", out, re.MULTILINE), out
    assert "The clairvoyant optimum is" in out
    mine = Path("runs") / "mine"
    assert f"Run:         {mine}\n" in out
    assert f"--logdir {mine}\n" in out
    assert re.search(rf"Best policy: {mine}/checkpoints/iteration_00000\d\n", out)
    assert f"evaluate --checkpoint {mine}\n" in out
    assert "100.0%" in result.stderr
    assert "Traceback" not in result.stderr
    assert "WARNING" not in result.stderr
    written = {path.name for path in (tmp_path / mine).iterdir() if not path.name.startswith(("events", "."))}
    assert written == {
        "checkpoints",
        "comparison.json",
        "comparison.txt",
        "config.yaml",
        "metrics.json",
        "provenance.json",
    }
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    metrics = json.loads((tmp_path / mine / "metrics.json").read_text())
    assert metrics["status"] == "complete"
    evaluation = metrics["evaluation"]
    assert {"avg_reward", "std_reward", "success_rate", "share_of_oracle", "checkpoint"} <= evaluation.keys()
    assert (tmp_path / mine / "comparison.txt").read_text() in out


@pytest.mark.slow
def test_a_run_killed_in_mid_training_resumes_to_the_same_bits(
    root: Path, tmp_path: Path, small: str
) -> None:
    """Killed with ``kill -9``; metrics, weights, optimisers, environments and
    generators are compared exactly.
    """
    iterations = 100  # enough for the killing to come in time on a busy machine
    options = {
        "training.num_episodes": 4 * iterations,
        "training.checkpoint_interval": 2,
        "training.evaluation_interval": 20,
        "training.output_dir": str(tmp_path),
    }
    process = begin(
        root,
        tmp_path,
        *("--config", small, "--quiet", "--training.name", "killed"),
        *settings({name: str(value) for name, value in options.items()}),
        PYTHONHASHSEED="7",
    )
    wait_for_checkpoint(process, tmp_path / "killed", 4)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(metrics_of(tmp_path / "killed")["curves"]["iteration"]) < iterations
    resumed = run(root, tmp_path, "resume", str(tmp_path / "killed"), "--quiet")
    assert resumed.returncode == 0, resumed.stderr
    with Experiment.start(build_config(small, {**options, "training.name": "whole"})) as experiment:
        experiment.train()
        experiment.judge(list(HEURISTICS))
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert_same_training(killed, whole)
    assert metrics_of(killed)["curves"]["iteration"] == list(range(1, iterations + 1))
    rows = [json.loads((path / "comparison.json").read_text())["rows"] for path in (killed, whole)]
    assert [row["measures"] for row in rows[0]] == [row["measures"] for row in rows[1]]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_ctrl_c_and_sigterm_save_a_checkpoint_and_exit_cleanly(
    root: Path, tmp_path: Path, small: str, number: int, code: int
) -> None:
    arguments = ["--config", small, "--training.num_episodes", "100000", "--training.name", "r"]
    process = begin(root, tmp_path, *arguments)
    path = tmp_path / "runs" / "r"
    wait_for_checkpoint(process, path, 2)
    process.send_signal(number)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert "Stopping after this iteration, with a checkpoint" in err
    metrics = json.loads((path / "metrics.json").read_text())
    latest = sorted((path / "checkpoints").iterdir())[-1]
    assert metrics["status"] == "interrupted"
    assert read_checkpoint(latest).iteration == metrics["curves"]["iteration"][-1]
    assert f"Stopped with a checkpoint in {latest.relative_to(tmp_path)}" in out
    assert "camac_dra.run resume runs/r" in out


def test_a_full_disk_ends_with_a_message_and_the_last_checkpoint(
    root: Path, tmp_path: Path, small: str
) -> None:
    """The system refuses files beyond a size that growing metrics reach, as a full disk does."""
    most = 100_000  # bytes; a checkpoint's largest file has about half of that at the start

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    result = run(
        root,
        tmp_path,
        *("--config", small, "--training.num_episodes", "100000", "--training.name", "r"),
        *("--training.output_dir", str(tmp_path / "runs")),
        before=limit,
    )
    assert result.returncode == 2, result.stderr
    assert re.search(r"error: .*cannot be written", result.stderr)
    assert "Traceback" not in result.stderr
    checkpoints = sorted((tmp_path / "runs" / "r" / "checkpoints").iterdir())
    assert [path.name for path in checkpoints if path.name.startswith(".")] == []
    read_checkpoint(checkpoints[-1])


def test_no_traceback_in_a_process_of_its_own(root: Path, tmp_path: Path) -> None:
    result = run(root, tmp_path, "--environment.num_agents", "-1")
    assert result.returncode == 2
    assert result.stderr.startswith("error: Invalid configuration: environment.num_agents: must be")
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_workers_sample_in_a_ray_of_the_command_s_own(root: Path, tmp_path: Path, small: str) -> None:
    script = (
        "import sys, ray; from camac_dra.run import main; code = main(sys.argv[1:]);"
        "assert not ray.is_initialized(); sys.exit(code)"
    )
    arguments = [
        "--config",
        small,
        "--num_workers",
        "2",
        "--training.name",
        "r",
        "--training.num_episodes",
        "16",
    ]
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path,
        env=surroundings(root),
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
    )
    assert result.returncode == 0, result.stderr
    assert "in 2 processes" in result.stderr
    assert "Traceback" not in result.stderr
    metrics = json.loads((tmp_path / "runs" / "r" / "metrics.json").read_text())
    assert metrics["curves"]["env_steps"] == [160, 320]
