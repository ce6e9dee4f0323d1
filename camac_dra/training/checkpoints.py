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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from camac_dra import __version__
from camac_dra.environment.foreign import ForeignVectorEnvironment
from camac_dra.models.action_spaces import describe_space
from camac_dra.models.checkpoint_files import (
    CONFIG,
    FORMAT,
    MANIFEST,
    METRICS,
    OPTIMIZER,
    STATE,
    VERSION,
    WEIGHTS,
    Manifest,
    read_manifest,
    read_tensors,
    verified,
)
from camac_dra.training.plain_state import plain
from camac_dra.utils.errors import CheckpointError
from camac_dra.utils.file_handler import StrPath, atomic_directory

FILES = (WEIGHTS, OPTIMIZER, STATE, CONFIG, METRICS)
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


def environment_fingerprint(env: Any) -> dict[str, Any]:
    """Return what a policy needs its environment to have: agents, resources and spaces, as plain data.

    Of somebody else's environment, ``interface`` says so much of the spaces that the policy can act without
    it: loading a policy imports nothing.
    """
    interface = {}
    if isinstance(env, ForeignVectorEnvironment):
        interface["interface"] = {
            "observation_shape": list(env.single_observation_space.shape),
            "action_space": describe_space(env.single_action_space),
        }
    return {
        "agents": list(env.agent_ids),
        "resources": list(getattr(env, "resource_ids", [])),
        "observation_space": str(env.single_observation_space),
        "action_space": str(env.single_action_space),
        **interface,
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


def read_checkpoint(path: StrPath) -> Checkpoint:
    """Return what the checkpoint in the folder ``path`` holds, after comparing size and hash of every file.

    Raises:
        CheckpointError: it is foreign, of another version, truncated, changed, or a file is missing.
    """
    manifest = read_manifest(path)
    try:
        return Checkpoint(
            weights=read_tensors(manifest, WEIGHTS),
            optimizers=read_tensors(manifest, OPTIMIZER),
            state=read_tensors(manifest, STATE),
            config=verified(manifest, CONFIG).decode(),
            metrics=json.loads(verified(manifest, METRICS)),
            environment=manifest.environment,
            iteration=manifest.iteration,
            env_steps=manifest.env_steps,
            score=manifest.score,
        )
    except ValueError as error:  # text that is not UTF-8 or JSON
        raise CheckpointError(f"{path}: is damaged: {error}") from None
