"""Checkpoints: folders of plain state files with a manifest that says what they are and proves them whole.

::

    iteration_000120/
      model_weights.pt      weights by policy
      optimizer_state.pt    optimiser states
      training_state.pt     what exact resume needs besides: environments, generators, normalisers, counters
      config.yaml           configuration
      metrics.json          metrics up to here
      manifest.json         format version, SHA-256 of every file, the environment it belongs to

A checkpoint is written aside, forced to the disk and renamed, so whatever has the name is whole. Nothing in
it is unpickled: tensors are read with ``torch.load(weights_only=True)``, after their hashes were compared.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from camac_dra import __version__
from camac_dra.training.plain_state import plain
from camac_dra.utils.errors import CheckpointError
from camac_dra.utils.file_handler import StrPath, atomic_directory

FORMAT = "camac-dra checkpoint"
VERSION = 1
WEIGHTS, OPTIMIZER, STATE = "model_weights.pt", "optimizer_state.pt", "training_state.pt"
CONFIG, METRICS, MANIFEST = "config.yaml", "metrics.json", "manifest.json"
FILES = (WEIGHTS, OPTIMIZER, STATE, CONFIG, METRICS)
LARGEST_MANIFEST = 64 * 2**20
MOST_SHOWN = 3  # entries of a long list that a message shows


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    ``environment`` is what `environment_fingerprint` returned; ``score`` is the mean of what is maximised
    over the held-out episodes of an evaluation of these very weights, None where there was none.
    """

    weights: dict[str, dict[str, torch.Tensor]]
    optimizers: dict[str, Any]
    state: dict[str, Any]
    config: str
    metrics: dict[str, Any]
    environment: dict[str, Any]
    iteration: int
    env_steps: int
    score: float | None = None


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says about itself."""

    path: Path
    iteration: int
    env_steps: int
    score: float | None
    environment: dict[str, Any]
    files: dict[str, tuple[int, str]]  # size in bytes and SHA-256 by name


def environment_fingerprint(env: Any) -> dict[str, Any]:
    """Return what a policy needs its environment to have: agents, resources and spaces, as plain data."""
    return {
        "agents": list(env.agent_ids),
        "resources": list(getattr(env, "resource_ids", [])),
        "observation_space": str(env.single_observation_space),
        "action_space": str(env.single_action_space),
    }


def check_environment(manifest: Manifest, fingerprint: Mapping[str, Any]) -> None:
    """Compare the environment a checkpoint belongs to with the one it is to be used in.

    Raises:
        CheckpointError: they differ; the message has both.
    """
    differing = [
        f"{name.replace('_', ' ')}: the checkpoint has {_short(manifest.environment.get(name))}, "
        f"the environment {_short(value)}"
        for name, value in fingerprint.items()
        if manifest.environment.get(name) != value
    ]
    if differing:
        raise CheckpointError(f"{manifest.path}: belongs to another environment: {'; '.join(differing)}")


def _short(value: Any) -> str:
    if not isinstance(value, list):
        return "nothing" if value is None else str(value)
    shown = ", ".join(str(entry) for entry in value[:MOST_SHOWN])
    return f"{len(value)} ({shown}{', ...' if len(value) > MOST_SHOWN else ''})"


# Writing


def write_checkpoint(path: StrPath, checkpoint: Checkpoint, *, replace: bool = False) -> None:
    """Write a checkpoint as the folder ``path``; afterwards it is there whole, or all is as it was.

    A folder that is there already is an error, or is replaced.

    Raises:
        OutputError: it cannot be written there, or the disk is full.
        CheckpointError: a state holds something else than numbers, strings, arrays and containers.
    """
    contents = {
        WEIGHTS: _tensors(checkpoint.weights, "weights"),
        OPTIMIZER: _tensors(checkpoint.optimizers, "optimizers"),
        STATE: _tensors(checkpoint.state, "state"),
        CONFIG: checkpoint.config.encode(),
        METRICS: json_bytes(checkpoint.metrics),
    }
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "made_by": f"camac-dra {__version__}",
        "iteration": checkpoint.iteration,
        "env_steps": checkpoint.env_steps,
        "score": checkpoint.score,
        "environment": checkpoint.environment,
        "files": {name: {"bytes": len(data), "sha256": _hash(data)} for name, data in contents.items()},
    }
    with atomic_directory(path, replace=replace) as aside:
        for name, data in {**contents, MANIFEST: json_bytes(manifest)}.items():
            (aside / name).write_bytes(data)


def _tensors(value: Any, name: str) -> bytes:
    buffer = io.BytesIO()
    torch.save(plain(value, name), buffer)
    return buffer.getvalue()


def json_bytes(value: Any) -> bytes:
    """Return plain data as JSON, a line for each entry of a mapping and for each list.

    NaN and infinities, which JSON does not have, become null.
    """
    return (_json(value, "\n") + "\n").encode()


def _json(value: Any, newline: str) -> str:
    if isinstance(value, Mapping) and value:
        deeper = f"{newline}  "
        entries = [f"{json.dumps(str(key))}: {_json(entry, deeper)}" for key, entry in value.items()]
        return "{" + deeper + f",{deeper}".join(entries) + newline + "}"
    if isinstance(value, list | tuple) and any(isinstance(entry, Mapping) for entry in value):
        deeper = f"{newline}  "
        return "[" + deeper + f",{deeper}".join(_json(entry, deeper) for entry in value) + newline + "]"
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Reading


def read_manifest(path: StrPath) -> Manifest:
    """Return what the checkpoint in the folder ``path`` says about itself; its files are not looked at yet.

    Raises:
        CheckpointError: there is none, it is foreign, damaged, or of another version.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(
            f"{path}: no such checkpoint" + (", but a file" if folder.exists() else "") + "; must be a folder"
        )
    record = _read_json(folder, MANIFEST, "is not a checkpoint, or an incomplete one")
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not a checkpoint of this project: {MANIFEST} is foreign")
    if record.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: must be of checkpoint version {VERSION}, got {record.get('version')!r} "
            f"(made by {record.get('made_by')}, this is camac-dra {__version__})"
        )
    try:
        return Manifest(
            path=folder,
            iteration=int(record["iteration"]),
            env_steps=int(record["env_steps"]),
            score=None if record["score"] is None else float(record["score"]),
            environment=dict(record["environment"]),
            files={name: (int(e["bytes"]), str(e["sha256"])) for name, e in record["files"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: {MANIFEST} is damaged: {error!r}") from None


def read_checkpoint(path: StrPath) -> Checkpoint:
    """Return what the checkpoint in the folder ``path`` holds, after comparing size and hash of every file.

    Raises:
        CheckpointError: it is foreign, of another version, truncated, changed, or a file is missing.
    """
    manifest = read_manifest(path)
    data = {name: _verified(manifest, name) for name in FILES}
    try:
        return Checkpoint(
            weights=_load(manifest, WEIGHTS, data[WEIGHTS]),
            optimizers=_load(manifest, OPTIMIZER, data[OPTIMIZER]),
            state=_load(manifest, STATE, data[STATE]),
            config=data[CONFIG].decode(),
            metrics=json.loads(data[METRICS]),
            environment=manifest.environment,
            iteration=manifest.iteration,
            env_steps=manifest.env_steps,
            score=manifest.score,
        )
    except ValueError as error:  # text that is not UTF-8 or JSON
        raise CheckpointError(f"{path}: is damaged: {error}") from None


def _verified(manifest: Manifest, name: str) -> bytes:
    """Return a file's content, which is what was written."""
    if name not in manifest.files:
        raise CheckpointError(f"{manifest.path}: {MANIFEST} does not list {name}")
    size, digest = manifest.files[name]
    try:
        found = (manifest.path / name).stat().st_size
        if found != size:
            raise CheckpointError(
                f"{manifest.path / name}: must have {size} bytes, got {found}: it is "
                + ("truncated" if found < size else "not the file that was written")
            )
        data = (manifest.path / name).read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{manifest.path}: {name} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{manifest.path / name}: cannot be read: {error.strerror}") from None
    if _hash(data) != digest:
        raise CheckpointError(f"{manifest.path / name}: is damaged: its SHA-256 is not that of the manifest")
    return data


def _load(manifest: Manifest, name: str, data: bytes) -> Any:
    """Read tensors and plain values; anything else, code above all, is refused by torch."""
    try:
        return torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:  # noqa: BLE001 (torch raises many kinds for foreign files)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{manifest.path / name}: holds more than plain tensors, or is damaged: {reason}"
        ) from None


def _read_json(folder: Path, name: str, otherwise: str) -> Any:
    path = folder / name
    try:
        if path.stat().st_size > LARGEST_MANIFEST:
            raise CheckpointError(f"{path}: must have at most {LARGEST_MANIFEST} bytes: it is foreign")
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: {otherwise}: {name} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: is damaged: {error}") from None


# Names


def folder_name(iteration: int) -> str:
    """Return the name of a checkpoint's folder."""
    return f"iteration_{iteration:06d}"


def iteration_of(folder: Path) -> int | None:
    """Return the iteration that a folder's name tells, None where it is no checkpoint's name."""
    match = re.fullmatch(r"iteration_(\d{6,})", folder.name)
    return int(match[1]) if match else None
