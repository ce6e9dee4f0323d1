"""Reading checkpoints, which training writes: which there are, what they say about themselves, their files.

A checkpoint is a folder of plain state files with a manifest, ``manifest.json``, that has their sizes and
hashes. Nothing in it is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camac_dra import __version__
from camac_dra.models.plain_files import load_tensors
from camac_dra.utils.config_file import parse_yaml
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import CheckpointError
from camac_dra.utils.file_handler import StrPath
from camac_dra.utils.schema import EFFECTLESS_WITH, Config

FORMAT = "camac-dra checkpoint"
VERSION = 1
WEIGHTS, OPTIMIZER, STATE = "model_weights.pt", "optimizer_state.pt", "training_state.pt"
CONFIG, METRICS, MANIFEST = "config.yaml", "metrics.json", "manifest.json"
LARGEST_MANIFEST = 64 * 2**20
FOLDER = "checkpoints"  # in a run's folder
RETIRED = ("training.yield_to_learner",)  # settings of earlier versions that changed no result


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says about itself."""

    path: Path
    iteration: int
    env_steps: int
    score: float | None
    environment: dict[str, Any]
    files: dict[str, tuple[int, str]]  # size in bytes and SHA-256 by name


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


def verified(manifest: Manifest, name: str) -> bytes:
    """Return a file's content, which is what was written.

    Raises:
        CheckpointError: it is missing, truncated or changed, or cannot be read.
    """
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
    if hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(f"{manifest.path / name}: is damaged: its SHA-256 is not that of the manifest")
    return data


def read_tensors(manifest: Manifest, name: str) -> Any:
    """Return the tensors and plain values of a checkpoint's file.

    Raises:
        CheckpointError: it is missing, truncated or changed, or holds anything else.
    """
    return load_tensors(verified(manifest, name), str(manifest.path / name))


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


def folder_name(iteration: int) -> str:
    """Return the name of a checkpoint's folder."""
    return f"iteration_{iteration:06d}"


def iteration_of(folder: Path) -> int | None:
    """Return the iteration that a folder's name tells, None where it is no checkpoint's name."""
    match = re.fullmatch(r"iteration_(\d{6,})", folder.name)
    return int(match[1]) if match else None


def saved_config(text: str, name: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the configuration in a checkpoint, with overrides.

    What had no effect on a run, and is refused today, is left at its default.

    Raises:
        CheckpointError: it is no mapping.
        ConfigurationError: a setting is wrong, in this version.
    """
    data = parse_yaml(text, name)
    if not isinstance(data, dict):
        raise CheckpointError(f"{name}: config.yaml must hold a mapping of sections")
    return build_config(_without_effectless(data), overrides)


def _without_effectless(data: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a run without settings that do nothing in it, or exist no more."""
    model, training = data.get("model"), data.get("training")
    if not isinstance(training, dict):
        return data
    kind = model.get("type") if isinstance(model, dict) else None
    left_out = {*RETIRED, *(path for path, kinds in EFFECTLESS_WITH.items() if kind in kinds)}
    kept = {name: value for name, value in training.items() if f"training.{name}" not in left_out}
    return {**data, "training": kept}


class CheckpointFolder:
    """A folder of checkpoints. The best one has the highest score, the earliest of equals."""

    def __init__(self, folder: StrPath) -> None:
        self.folder = Path(folder)

    def manifests(self) -> list[Manifest]:
        """Return what the checkpoints say about themselves, earliest first; damaged ones are left out."""
        found = []
        for path in self.paths():
            try:
                found.append(read_manifest(path))
            except CheckpointError:
                continue
        return found

    def paths(self) -> list[Path]:
        """Return the folders of all checkpoints, earliest first, damaged ones too."""
        if not self.folder.is_dir():
            return []
        numbered = [(iteration_of(path), path) for path in self.folder.iterdir() if path.is_dir()]
        return [path for number, path in sorted((n, p) for n, p in numbered if n is not None)]

    def latest(self) -> Path | None:
        """Return the folder of the latest checkpoint, None where there is none."""
        paths = self.paths()
        return paths[-1] if paths else None

    def best(self) -> Manifest | None:
        """Return the checkpoint of the highest score, None where none was evaluated."""
        scored = [manifest for manifest in self.manifests() if manifest.score is not None]
        return max(scored, key=lambda m: (m.score, -m.iteration), default=None)


def find_checkpoint(path: StrPath, *, prefer_best: bool) -> Path:
    """Return the folder of a checkpoint, given that folder, a run's folder, or the run's checkpoints.

    Of a run, it is the best one where ``prefer_best`` and one was evaluated, else the latest.

    Raises:
        CheckpointError: there is none.
    """
    given = Path(path)
    if not given.exists():
        raise CheckpointError(f"{path}: no such run or checkpoint")
    if (given / MANIFEST).exists():
        return given
    folder = given / FOLDER if (given / FOLDER).is_dir() else given
    store = CheckpointFolder(folder)
    best = store.best() if prefer_best else None
    found = store.latest() if best is None else best.path
    if found is None:
        raise CheckpointError(
            f"{path}: is neither a checkpoint ({MANIFEST} is missing) nor a run that has some "
            f"({FOLDER}/{folder_name(0)} or later ones)"
        )
    return found
