"""The record of what made a run."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from camac_dra.utils.config_loader import as_dict, build_config
from camac_dra.utils.provenance import collect_provenance, commit_of, config_hash, hash_of
from camac_dra.utils.schema import Config


def git(folder: Path, *arguments: str) -> str:
    identity = {
        f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    result = subprocess.run(
        ["git", "-c", "commit.gpgsign=false", *arguments],
        cwd=folder,
        env={**os.environ, **identity},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.strip()


def test_record_has_everything_and_json_can_hold_it() -> None:
    record = collect_provenance(Config(), command=["python", "-m", "camac_dra.run", "--training.name", "a b"])
    assert json.loads(json.dumps(record)) == record
    assert record["command"] == "python -m camac_dra.run --training.name 'a b'"
    assert record["seeds"] == {"environment": 0, "training": 0, "evaluation": 1_000_000}
    assert record["config_sha256"] == config_hash(Config())
    assert {"camac_dra", "python", "ray", "torch", "numpy"} <= set(record["versions"])
    assert all(record["versions"].values())
    assert record["machine"]["cores"] >= 1
    assert record["machine"]["memory_bytes"] > 0
    assert record["time"].endswith("+00:00")


def test_seeds_are_those_that_were_given() -> None:
    assert collect_provenance(Config(), seeds={"policy": 3})["seeds"] == {"policy": 3}


def test_hash_depends_on_settings_and_on_nothing_else() -> None:
    plain = config_hash(Config())
    assert config_hash(build_config(as_dict(Config()))) == plain
    assert config_hash(build_config({"training": {"output_dir": "elsewhere", "name": "x"}})) == plain
    assert config_hash(build_config({"training": {"seed": 1}})) != plain
    assert config_hash(build_config({"environment": {"num_agents": 10.0}})) == plain
    assert len(plain) == 64
    limits = {"cpu": 1.0, "memory": 2.0}
    turned = dict(reversed(limits.items()))
    one, other = (build_config({"environment": {"resource_limits": given}}) for given in (limits, turned))
    assert config_hash(one) != config_hash(other), "draws depend on the order of the resources"


def test_hash_is_blind_to_the_order_of_keys() -> None:
    assert hash_of({"a": 1, "b": [2]}) == hash_of({"b": [2], "a": 1}) != hash_of({"a": 1, "b": [3]})


def test_commit_and_dirt_are_seen(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    package = tmp_path / "package"
    package.mkdir()
    (package / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit_of(package) == {"hash": head, "dirty": False}
    (tmp_path / "untracked").touch()
    assert commit_of(package)["dirty"] is False
    (package / "code.py").write_text("x = 2\n")
    assert commit_of(package) == {"hash": head, "dirty": True}


def test_code_inside_somebody_elses_repository_has_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("venv\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "code.py").touch()
    assert commit_of(tmp_path / "venv") == {
        "hash": None,
        "dirty": None,
        "reason": "the code is not tracked by git",
    }


def test_no_repository_and_no_git_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    commit = commit_of(tmp_path)
    assert commit["hash"] is None
    assert "not a git repository" in commit["reason"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(tmp_path)["reason"] == "git is not installed"
