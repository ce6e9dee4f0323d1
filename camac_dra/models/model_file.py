"""The file of one model: its class, the arguments of its constructor, its weights, and a digest of it all.

It is what ``torch.save`` writes of plain values and tensors, and is read with ``weights_only``: nothing in it
is run, and nothing is imported because it names it.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from camac_dra import __version__
from camac_dra.models.plain_files import digest, load_tensors
from camac_dra.utils.errors import CheckpointError, ModelError
from camac_dra.utils.file_handler import StrPath, atomic_write_bytes

FORMAT = "camac-dra model"
VERSION = 1
MOST_SHOWN = 3  # entries of a long list that a message shows


@dataclass(frozen=True)
class ModelFile:
    """What the file of a model holds; ``path`` is where it was read."""

    path: str
    class_path: str  # module.Class
    config: dict[str, Any]  # arguments of its constructor
    weights: dict[str, torch.Tensor]
    training: dict[str, Any]  # what learning goes on from; empty for models that do not learn by themselves


def write_model_file(path: StrPath, content: ModelFile) -> None:
    """Write a model; afterwards the file has all of it on the disk, or is as it was.

    Raises:
        OutputError: it cannot be written there, or the disk is full.
        ModelError: the configuration holds something else than plain values.
    """
    _require_plain(content.config, f"{content.class_path}: get_config")
    record: dict[str, Any] = {
        "class": content.class_path,
        "config": content.config,
        "weights": OrderedDict((name, t.detach().cpu()) for name, t in content.weights.items()),
        "training": content.training,
    }
    header = {"format": FORMAT, "version": VERSION, "made_by": f"camac-dra {__version__}"}
    buffer = io.BytesIO()
    torch.save({**header, "sha256": digest(list(record.items())), **record}, buffer)
    atomic_write_bytes(path, buffer.getvalue())


def _require_plain(value: Any, name: str) -> None:
    if value is None or type(value) in (bool, int, float, str):
        return
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        for key, item in value.items():
            _require_plain(item, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _require_plain(item, f"{name}[{i}]")
    else:
        raise ModelError(
            f"{name} must consist of numbers, strings, lists and dicts, got {type(value).__name__}"
        )


def read_model_file(path: StrPath) -> ModelFile:
    """Return what a model's file holds.

    Raises:
        CheckpointError: there is none, it is foreign, of another version, truncated or changed, or it holds
            anything else than tensors and plain values.
    """
    record = load_tensors(_read(path), str(path))
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CheckpointError(f"{path}: must be a model that BaseModel.save wrote, got something else")
    if record.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: must be of model version {VERSION}, got {record.get('version')!r} "
            f"(made by {record.get('made_by')}, this is camac-dra {__version__})"
        )
    try:
        parts = {name: record[name] for name in ("class", "config", "weights", "training")}
        intact = record["sha256"] == digest(list(parts.items()))
    except KeyError as error:
        raise CheckpointError(f"{path}: is damaged: {error} is missing") from None
    if not intact:
        raise CheckpointError(f"{path}: is damaged: its SHA-256 is not the one that was written with it")
    return ModelFile(str(path), parts["class"], parts["config"], dict(parts["weights"]), parts["training"])


def _read(path: StrPath) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such model file") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path}: must be a model file, got a folder") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


def check_weights(name: str, expected: Mapping[str, torch.Tensor], got: Mapping[str, Any]) -> None:
    """Compare names and shapes of weights before any is copied.

    Raises:
        CheckpointError: they differ; the message names what, in a few examples.
    """
    missing = [key for key in expected if key not in got]
    foreign = [key for key in got if key not in expected]
    shapes = [
        f"{key} must have shape {tuple(expected[key].shape)}, got {tuple(got[key].shape)}"
        for key in expected
        if key in got and expected[key].shape != got[key].shape
    ]
    problems = [
        *([f"missing {_few(missing)}"] if missing else []),
        *([f"not known {_few(foreign)}"] if foreign else []),
        *([_few(shapes, "; ")] if shapes else []),
    ]
    if problems:
        raise CheckpointError(f"{name}: the weights do not fit this network: {'; '.join(problems)}")


def _few(entries: list[str], separator: str = ", ") -> str:
    more = len(entries) - MOST_SHOWN
    return separator.join(entries[:MOST_SHOWN]) + (f"{separator}and {more} more" if more > 0 else "")
