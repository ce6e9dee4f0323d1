"""A checkpoint comes back as it was saved, or is refused with the reason; the last good one always stays."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.training.checkpoint_store import CheckpointStore, find_checkpoint
from camac_dra.training.checkpoints import (
    CONFIG,
    FILES,
    MANIFEST,
    STATE,
    WEIGHTS,
    Checkpoint,
    check_environment,
    environment_fingerprint,
    json_bytes,
    read_checkpoint,
    read_manifest,
    write_checkpoint,
)
from camac_dra.utils import file_handler
from camac_dra.utils.errors import CheckpointError, OutputError

ENVIRONMENT = {"num_agents": 2, "num_resources": 1, "resource_limits": {"cpu": 10.0}}


def make_checkpoint(iteration: int = 7, score: float | None = 1.5, rows: int = 3) -> Checkpoint:
    generator = torch.Generator().manual_seed(iteration)
    return Checkpoint(
        weights={"shared": {"layer": torch.rand(rows, 2, generator=generator)}},
        optimizers={
            "shared_default": {"state": {0: {"step": torch.tensor(4.0)}}, "param_groups": [{"lr": 0.5}]}
        },
        state={"clock": 3, "rng": generator.get_state(), "drawn": np.arange(3.0), "names": ["a", None, True]},
        config="environment: {}\n",
        metrics={"training": {"episode_rewards": [0.1, 1 / 3], "episode_losses": [float("nan"), 2.0]}},
        environment=environment_fingerprint(VectorEnvironment(ENVIRONMENT)),
        iteration=iteration,
        env_steps=iteration * 100,
        score=score,
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "iteration_000007"
    write_checkpoint(path, make_checkpoint())
    return path


def test_what_was_saved_comes_back(saved: Path) -> None:
    loaded, original = read_checkpoint(saved), make_checkpoint()
    assert torch.equal(loaded.weights["shared"]["layer"], original.weights["shared"]["layer"])
    assert loaded.optimizers["shared_default"]["param_groups"] == [{"lr": 0.5}]
    assert loaded.optimizers["shared_default"]["state"][0]["step"] == 4.0
    assert torch.equal(loaded.state["rng"], original.state["rng"])
    assert torch.equal(loaded.state["drawn"], torch.arange(3.0, dtype=torch.float64))
    assert loaded.state["names"] == ["a", None, True]
    assert (loaded.iteration, loaded.env_steps, loaded.score) == (7, 700, 1.5)
    assert loaded.config == original.config
    assert loaded.metrics["training"] == {"episode_rewards": [0.1, 1 / 3], "episode_losses": [None, 2.0]}
    assert loaded.environment == original.environment


def test_files_are_the_specified_ones_and_what_resuming_needs(saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {
        "model_weights.pt",
        "optimizer_state.pt",
        "config.yaml",
        "metrics.json",
        "training_state.pt",
        "manifest.json",
    }
    weights = torch.load(saved / WEIGHTS, weights_only=True)
    assert list(weights) == ["shared"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "must have .* bytes, got .*: it is truncated"),
        (extend, "must have .* bytes, got .*: it is not the file that was written"),
        (flip, "is damaged: its SHA-256 is not that of the manifest"),
        (Path.unlink, "is missing"),
    ],
)
def test_damage_to_any_file_is_seen(
    saved: Path, name: str, damage: Callable[[Path], None], message: str
) -> None:
    damage(saved / name)
    with pytest.raises(CheckpointError, match=f"{name}.*{message}"):
        read_checkpoint(saved)


def rewrite_manifest(saved: Path, **changes: Any) -> None:
    record = json.loads((saved / MANIFEST).read_text())
    (saved / MANIFEST).write_text(json.dumps({**record, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, r"must be of checkpoint version 1, got 99 \(made by camac-dra 0"),
        ({"format": "other"}, "is not a checkpoint of this project: manifest.json is foreign"),
        ({"files": {}}, "manifest.json does not list model_weights.pt"),
        ({"files": []}, "manifest.json is damaged"),
        ({"iteration": "many"}, "manifest.json is damaged"),
    ],
)
def test_other_versions_and_foreign_manifests_are_refused(
    saved: Path, changes: dict[str, Any], message: str
) -> None:
    rewrite_manifest(saved, **changes)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(saved)


def test_folders_without_a_readable_manifest_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such checkpoint; must be a folder"):
        read_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"config.yaml: no such checkpoint, but a file"):
        read_checkpoint(saved / CONFIG)
    truncate(saved / MANIFEST)
    truncate(saved / MANIFEST)
    with pytest.raises(CheckpointError, match=r"manifest.json: is damaged"):
        read_checkpoint(saved)
    (saved / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"an incomplete one: manifest.json is missing"):
        read_checkpoint(saved)


class Malice:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_checkpoint_never_runs(saved: Path, tmp_path: Path) -> None:
    """Even with a manifest that fits: whoever can put code into a file can write a manifest too."""
    data = pickle.dumps(Malice(tmp_path / "code_ran"))
    (saved / STATE).write_bytes(data)
    record = json.loads((saved / MANIFEST).read_text())
    record["files"][STATE] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (saved / MANIFEST).write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"training_state.pt: holds more than plain tensors"):
        read_checkpoint(saved)
    assert not (tmp_path / "code_ran").exists()


def test_states_that_are_not_plain_are_not_saved(tmp_path: Path) -> None:
    checkpoint = replace(make_checkpoint(), state={"inner": {"thing": object()}})
    with pytest.raises(CheckpointError, match=r"state.inner.thing must consist of numbers.*got object"):
        write_checkpoint(tmp_path / "iteration_000007", checkpoint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_agents": 3}, r"agents: the checkpoint has 2 \(agent_0, agent_1\), the environment 3 \("),
        ({"agent_prefix": "cell"}, r"agents: the checkpoint has 2 \(agent_0, agent_1\), the environment 2"),
        ({"resource_limits": {"memory": 1.0}}, r"resources: the checkpoint has 1 \(cpu\), the environment 1"),
        (
            {"observation_size": 80},
            r"observation space: the checkpoint has Box.*64.*, the environment Box.*80",
        ),
        (
            {"action_size": 5},
            r"action space: the checkpoint has Discrete\(10\), the environment Discrete\(5\)",
        ),
    ],
)
def test_another_environment_is_refused(saved: Path, changes: dict[str, Any], message: str) -> None:
    other = environment_fingerprint(VectorEnvironment({**ENVIRONMENT, **changes}))
    with pytest.raises(CheckpointError, match=f"belongs to another environment: .*{message}"):
        check_environment(read_manifest(saved), other)


def test_the_same_environment_is_not_refused(saved: Path) -> None:
    check_environment(
        read_manifest(saved), environment_fingerprint(VectorEnvironment({**ENVIRONMENT, "contention": 0.0}))
    )


# Writing


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the system refuse to write beyond ``size`` bytes of a file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=1)
    good = store.save(make_checkpoint(1))
    big = make_checkpoint(2, rows=50_000)
    with largest_file(100_000), pytest.raises(OutputError, match=r"iteration_000002: .*the disk is full"):
        store.save(big)
    assert [path.name for path in store.folder.iterdir()] == ["iteration_000001"]
    assert read_checkpoint(good).iteration == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EACCES, "permission is missing"),
        (errno.EIO, "Input/output"),
    ],
)
def test_a_failing_disk_leaves_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(make_checkpoint(1))

    def fail(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(file_handler.os, "fsync", fail)
    with pytest.raises(OutputError, match=message):
        store.save(make_checkpoint(2))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["iteration_000001"]


def test_interrupted_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(file_handler.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        write_checkpoint(tmp_path / "iteration_000001", make_checkpoint())
    assert list(tmp_path.iterdir()) == []


# The checkpoints of a run


def names(store: CheckpointStore) -> list[str]:
    return [path.name for path in store.paths()]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scores=st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1, max_size=7),
    keep=st.integers(1, 3),
)
def test_the_latest_and_the_best_are_kept(
    tmp_path_factory: pytest.TempPathFactory, scores: list[int | None], keep: int
) -> None:
    store = CheckpointStore(tmp_path_factory.mktemp("store"), keep)
    for iteration, score in enumerate(scores):
        store.save(make_checkpoint(iteration, None if score is None else float(score)))
    known = [(score, -iteration) for iteration, score in enumerate(scores) if score is not None]
    kept = set(range(len(scores))[-keep:]) | ({-max(known)[1]} if known else set())
    assert names(store) == [f"iteration_{iteration:06d}" for iteration in sorted(kept)]
    best = store.best()
    assert (None if best is None else best.iteration) == (-max(known)[1] if known else None)
    latest = store.latest()
    assert latest is not None
    assert latest.name == f"iteration_{len(scores) - 1:06d}"


def test_evaluating_later_adds_the_score(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    path = store.save(make_checkpoint(1, score=None))
    before = path.stat().st_ino
    store.save(make_checkpoint(1, score=None))
    assert path.stat().st_ino == before
    store.save(make_checkpoint(1, score=0.5))
    assert read_manifest(path).score == 0.5
    store.save(make_checkpoint(1, score=0.7))
    assert read_manifest(path).score == 0.5
    assert names(store) == ["iteration_000001"]


def test_leftovers_of_crashes_are_removed_or_brought_back(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    path = store.save(make_checkpoint(1))
    (tmp_path / ".iteration_000002.xyz.partial").mkdir()
    path.rename(tmp_path / ".iteration_000001.replaced")
    store.recover()
    store.prune()
    assert [path.name for path in tmp_path.iterdir()] == ["iteration_000001"]


def test_damaged_checkpoints_are_never_the_best(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    store.save(make_checkpoint(1, score=1.0))
    flawed = store.save(make_checkpoint(2, score=9.0))
    (flawed / MANIFEST).write_text("{")
    best = store.best()
    assert best is not None
    assert best.iteration == 1


def test_later_checkpoints_are_set_aside_not_lost(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=5)
    for iteration in (1, 2, 3):
        store.save(make_checkpoint(iteration))
    moved = store.set_aside_after(1)
    assert names(store) == ["iteration_000001"]
    assert [read_checkpoint(path).iteration for path in moved] == [2, 3]
    assert store.set_aside_after(1) == []


def test_runs_and_checkpoints_are_found(tmp_path: Path) -> None:
    run = tmp_path / "run"
    store = CheckpointStore(run / "checkpoints", keep=5)
    with pytest.raises(CheckpointError, match="run: no such run or checkpoint"):
        find_checkpoint(run, prefer_best=True)
    run.mkdir()
    with pytest.raises(CheckpointError, match=r"is neither a checkpoint .* nor a run"):
        find_checkpoint(run, prefer_best=True)
    first, second, third = (store.save(make_checkpoint(i, s)) for i, s in ((1, 1.0), (2, 2.0), (3, None)))
    assert find_checkpoint(run, prefer_best=True) == second
    assert find_checkpoint(run, prefer_best=False) == third
    assert find_checkpoint(run / "checkpoints", prefer_best=False) == third
    assert find_checkpoint(first, prefer_best=True) == first


def test_numbers_that_json_lacks_become_null() -> None:
    data = {"a": [1.0, float("inf")], "b": {"c": float("nan"), "d": []}, "e": [{"f": 1}], "g": {}}
    text = json_bytes(data).decode()
    assert json.loads(text) == {"a": [1.0, None], "b": {"c": None, "d": []}, "e": [{"f": 1}], "g": {}}
    assert '"a": [1.0, null]' in text
