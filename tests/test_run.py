"""The command line, as users meet it: results, exit codes, messages, and nothing half-written."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from camac_dra import run as run_module
from camac_dra.run import main, tensorboard_command
from camac_dra.training.experiment import Experiment
from camac_dra.utils import doctor
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.doctor import Check
from tests.training.small_runs import metrics_of


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what commands set in the environment."""
    for name in ("RAY_ENABLE_AUTO_CONNECT", "RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, os.environ.get(name, "0"))


@pytest.fixture
def small(root: Path) -> str:
    return str(root / "rllib_configs" / "test.yaml")


# The main job


def test_without_arguments_the_default_problem_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    class Begun(Exception):  # noqa: N818
        pass

    def start(config: Any, options: Any) -> None:
        seen["config"] = config
        raise Begun

    monkeypatch.setattr(Experiment, "start", start)
    with pytest.raises(Begun, match=r"^$"):
        main([])
    assert seen["config"] == build_config()


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of the small problem."""
    folder = tmp_path_factory.mktemp("finished")
    arguments = ["--config", str(root / "rllib_configs" / "test.yaml"), "--training.name", "run", "--quiet"]
    assert main([*arguments, "--training.output_dir", str(folder)]) == 0
    return folder / "run"


def test_evaluating_again_gives_the_figures_of_the_end(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "figures.json"
    assert main(["evaluate", "--checkpoint", str(finished), "--json", str(target)]) == 0
    again, before = json.loads(target.read_text()), json.loads((finished / "comparison.json").read_text())
    assert [row["measures"] for row in again["rows"]] == [row["measures"] for row in before["rows"]]
    assert (again["optimum"], again["seed"]) == (before["optimum"], before["seed"])
    captured = capsys.readouterr()
    assert captured.out == (finished / "comparison.txt").read_text()
    assert captured.err == ""


def test_episodes_seed_heuristics_and_problem_can_be_chosen(
    finished: Path, tmp_path: Path, small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "figures.json"
    arguments = ["evaluate", "--checkpoint", str(finished / "checkpoints" / "iteration_000004")]
    arguments += [
        "--episodes",
        "3",
        "--seed",
        "7",
        "--heuristics",
        "greedy, fair_share",
        "--json",
        str(target),
    ]
    assert main(arguments) == 0
    plain = json.loads(target.read_text())
    assert [row["name"] for row in plain["rows"]] == ["trained", "greedy", "fair_share"]
    assert (plain["num_episodes"], plain["seed"]) == (3, 7)
    assert main([*arguments, "--config", small, "--environment.contention", "0"]) == 0
    calm = json.loads(target.read_text())
    assert calm["rows"][1]["measures"]["served"] > plain["rows"][1]["measures"]["served"]
    assert "3 held-out episodes, seed 7" in capsys.readouterr().out


def test_evaluating_without_heuristics_is_quick(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--checkpoint", str(finished), "--heuristics", "none"]) == 0
    assert "greedy" not in capsys.readouterr().out


@pytest.fixture
def stations(tmp_path: Path) -> str:
    """Return a configuration of two charging stations and an episode of training."""
    rows = ["station_id,arrival,departure,amount,estimated_departure"]
    rows += [f"{name},2019-07-01T00:00:00Z,2019-07-01T06:00:00Z,4.0,2019-07-01T05:00:00Z" for name in "ab"]
    (tmp_path / "sessions.csv").write_text("\n".join(rows) + "\n")
    sessions = {"sessions": str(tmp_path / "sessions.csv"), "slot_minutes": 60.0}
    config = {
        "environment": {
            "num_agents": 2,
            "num_resources": 1,
            "resource_limits": {"power": 2.0},
            "max_episode_length": 8,
            "dynamics": {"kind": "sessions", "sessions": sessions},
        },
        "training": {
            "num_episodes": 1,
            "num_envs": 1,
            "fragment_length": 8,
            "evaluation_episodes": 1,
            "output_dir": str(tmp_path),
            "name": "run",
        },
    }
    (tmp_path / "stations.json").write_text(json.dumps(config))
    return str(tmp_path / "stations.json")


def test_charging_heuristics_can_be_named(
    stations: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", stations, "--quiet"]) == 0
    assert "earliest_deadline" in capsys.readouterr().out  # the end of training compares with them, too
    arguments = ["evaluate", "--checkpoint", str(tmp_path / "run"), "--json", str(tmp_path / "figures.json")]
    assert main([*arguments, "--heuristics", "least_laxity,greedy"]) == 0
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["trained", "least_laxity", "greedy"]
    assert rows[1]["measures"]["lost_share"] == pytest.approx(0.0)


def test_charging_heuristics_are_refused_where_there_are_no_sessions(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--checkpoint", str(finished), "--heuristics", "greedy,least_laxity"]) == 2
    message = capsys.readouterr().err
    assert "--heuristics: 'least_laxity' is for sessions with deadlines" in message
    assert "got 'synthetic'" in message
    assert main(["evaluate", "--checkpoint", str(finished), "--heuristics", "leest_laxity"]) == 2
    assert "Did you mean 'least_laxity'?" in capsys.readouterr().err


def test_resuming_prolongs_a_run(
    root: Path, tmp_path: Path, small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", small, "--training.output_dir", str(tmp_path), "--training.name", "r", "--quiet"]
    assert main(arguments) == 0
    assert main(["resume", str(tmp_path / "r"), "--training.num_episodes", "24", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert metrics_of(tmp_path / "r")["curves"]["iteration"] == [1, 2, 3, 4, 5, 6]


def test_divergence_ends_with_1_and_names_the_last_good_checkpoint(
    tmp_path: Path, small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", small, "--training.output_dir", str(tmp_path), "--quiet"]
    code = main([*arguments, "--model.learning_rate", "1e30", "--model.activation", "relu"])
    captured = capsys.readouterr()
    assert code == 1
    assert re.search(
        r"error: training diverged in iteration 1: .*last good checkpoint is .*_000000", captured.err
    )
    assert captured.out == ""


# Bad input


def corrupted(finished: Path, folder: Path, name: str, change: Callable[[bytes], bytes]) -> str:
    """Copy the last checkpoint with one file changed."""
    source, target = finished / "checkpoints" / "iteration_000004", folder / "copy"
    target.mkdir()
    for path in source.iterdir():
        data = path.read_bytes()
        (target / path.name).write_bytes(change(data) if path.name == name else data)
    return str(target)


YAML_ERRORS = [
    ("", "the file is empty"),
    ("environment: [", "not valid YAML"),
    ("environment:\n  num_agent: 3\n", r"environment.num_agent: is not a setting. Did you mean .*num_agents"),
    ("environment:\n  num_agents: -3\n", r"environment.num_agents: must be .* got -3 \(line 2\)"),
    ("environment:\n  resource_limits: {cpu: -1.0}\n", r"resource_limits.cpu: must be .* above 0, got -1"),
    ("environment:\n  resource_limits: {cpu: .nan}\n", r"resource_limits.cpu: must be .*got nan"),
    ("environment:\n  num_resources: 1\n", "num_resources: must be at least the number of resource_limits"),
    ("model:\n  type: sac\n", r"model.type: 'sac' needs continuous actions .*action_type: continuous"),
    (
        "model:\n  type: dqn\nenvironment:\n  action_type: continuous\n",
        r"model.type: 'dqn' needs discrete or multi_discrete actions",
    ),
    ("training:\n  epsilon_end: 0.1\n", r"epsilon_end: acts only with model.type 'dqn', got 0.1 with 'actor"),
    ("coordination:\n  rounds: 3\n", "coordination.rounds: has no effect with protocol 'none', got 3"),
    ("model:\n  state_size: 70\n", r"model.state_size: must be 64, as the environment has, got 70"),
]


@pytest.mark.parametrize("subcommand", ["train", "validate"])
@pytest.mark.parametrize(("text", "message"), YAML_ERRORS)
def test_bad_configurations_get_a_message_and_leave_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    message: str,
    subcommand: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(text)
    arguments = ["validate", "bad.yaml"] if subcommand == "validate" else ["--config", "bad.yaml", "--quiet"]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert re.search(f"^error: .*{message}", captured.err, re.DOTALL), captured.err
    assert captured.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--environment.num_agent", "3"], r"--environment.num_agent: is not a setting. Did you mean"),
        (["--environment.num_agents"], r"--environment.num_agents: needs a value"),
        (
            ["--environment.num_agents", "many"],
            r"environment.num_agents: must be .*got 'many' \(command line\)",
        ),
        (["--num_agents", "3"], r"--num_agents: is not a setting. Did you mean environment.num_agents"),
        (["--num_workers", "-1"], r"training.num_workers: must be .*got -1"),
        (["--num_workers", "1", "--training.num_workers", "2"], "--num_workers: is --training.num_workers"),
        (["--num_gpus", "1", "--training.num_gpus", "0.5"], "--num_gpus: is --training.num_gpus"),
        (["--num_gpus", "2"], r"training.num_gpus: must be .*got 2"),
        (["--num_learners", "-1"], r"training.num_learners: must be .*got -1"),
        (["--training.overlap", "true"], "training.overlap: must be false or null where num_workers is 0"),
        (["stray"], "invalid choice: 'stray'"),
        (["--training.output_dir", "bad.txt/runs"], r"cannot be made: Not a directory; choose another place"),
        (["--training.name", "../up"], "training.name: must be the name of a folder"),
        (["resume", "nowhere"], "nowhere: no such run or checkpoint"),
        (["resume", "."], "is neither a checkpoint"),
        (["evaluate", "--checkpoint", "nowhere"], "nowhere: no such run or checkpoint"),
        (["evaluate"], "the following arguments are required: --checkpoint"),
        (["evaluate", "--checkpoint", ".", "--heuristics", "gredy"], "Did you mean 'greedy'"),
        (["--config", "x.yaml", "--address", "nowhere:1"], r"--address: must be where a Ray cluster answers"),
        (["validate"], "validate: needs a file, as in validate FILE"),
        (["validate", "x.yaml", "--config", "y.yaml"], "takes one file, got 'x.yaml' and --config 'y.yaml'"),
    ],
)
def test_bad_arguments_get_a_message_and_leave_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.txt").write_text("")
    (tmp_path / "x.yaml").write_text("training: {num_episodes: 1}\n")
    if "--address" in arguments:
        monkeypatch.setattr("ray.is_initialized", lambda: False)
    try:
        code = main(arguments)
    except SystemExit as error:  # argparse's own way to say so
        code = int(str(error.code))
    assert code == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err), captured.err
    assert captured.out == ""
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left - {"runs"} == {"bad.txt", "x.yaml"}, left


@pytest.mark.parametrize("subcommand", ["resume", "evaluate"])
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model_weights.pt", lambda data: data[:-10], "model_weights.pt: must have .* it is truncated"),
        (
            "manifest.json",
            lambda data: data.replace(b'"version": 1', b'"version": 2'),
            "of checkpoint version 1",
        ),
        ("manifest.json", lambda data: data.replace(b'"cpu"', b'"oil"'), "belongs to another environment"),
        ("manifest.json", lambda data: b"{}", "is not a checkpoint of this project"),
    ],
)
def test_bad_checkpoints_get_a_message_and_leave_nothing(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    subcommand: str,
    name: str,
    change: Callable[[bytes], bytes],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = corrupted(finished, tmp_path, name, change)
    arguments = ["resume", path, "--quiet"] if subcommand == "resume" else ["evaluate", "--checkpoint", path]
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert re.search(f"^error: .*{message}", captured.err), captured.err
    assert captured.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_another_problem_than_the_policy_s_is_refused(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["--environment.num_agents", "4", "--environment.action_size", "7"]
    assert main(["evaluate", "--checkpoint", str(finished), *changes]) == 2
    assert "belongs to another environment: agents: the checkpoint has 3" in capsys.readouterr().err


def test_a_policy_for_all_plays_with_more_agents(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--environment.num_agents", "4", "--episodes", "2", "--heuristics", "fair_share"]
    assert main(["evaluate", "--checkpoint", str(finished), *few]) == 0
    assert "trained" in capsys.readouterr().out


# The other commands


@pytest.mark.parametrize("option", [[], ["--config"]])
def test_valid_configurations_are_said_to_be(
    small: str, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    assert main(["validate", *option, small]) == 0
    assert capsys.readouterr().out == f"{small}: valid\n"


@pytest.mark.parametrize(("status", "code"), [(doctor.Status.OK, 0), (doctor.Status.FAILURE, 1)])
def test_the_doctor_s_findings_are_shown(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    small: str,
    status: doctor.Status,
    code: int,
) -> None:
    judged = []

    def examine(config: Any) -> list[Check]:
        judged.append(config)
        return [Check("memory", status, "4 GiB", "buy some")]

    monkeypatch.setattr(doctor, "run_doctor", examine)
    assert main(["doctor", "--config", small, "--num_workers", "3"]) == code
    assert "buy some" in capsys.readouterr().out
    assert (judged[0].environment.num_agents, judged[0].training.num_workers) == (3, 3)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_is_there(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    assert re.search("usage: python -m camac_dra.run|camac-dra 0", capsys.readouterr().out)


def test_the_tensorboard_command_works_where_it_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    monkeypatch.setattr(run_module.shutil, "which", lambda name: None)
    monkeypatch.chdir(tmp_path)
    assert tensorboard_command(Path("runs/my run")) == "venv/bin/tensorboard --logdir 'runs/my run'"
    beside = tmp_path / "venv" / "bin" / "tensorboard"
    beside.parent.mkdir(parents=True)
    beside.write_text("")
    monkeypatch.setattr(run_module.shutil, "which", lambda name: str(beside))
    assert tensorboard_command(Path("runs/r")) == "tensorboard --logdir runs/r"
