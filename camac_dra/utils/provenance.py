"""What made a run: commit, versions, seeds, hash of the configuration, command, machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from camac_dra import __version__
from camac_dra.utils.config_loader import as_portable_dict
from camac_dra.utils.schema import Config

PACKAGES = ("ray", "torch", "numpy", "scipy", "pandas", "pydantic", "gymnasium", "pettingzoo", "networkx")
GIT_SECONDS = 10.0


def collect_provenance(
    config: Config, seeds: Mapping[str, int] | None = None, command: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the record as plain data that JSON can hold; nothing in it depends on the network.

    Args:
        config: the whole configuration of the run.
        seeds: by purpose; None takes those of the configuration.
        command: the command line; None takes this process's.
    """
    if seeds is None:
        training = config.training
        seeds = {
            "environment": config.environment.seed,
            "training": training.seed,
            "evaluation": training.evaluation_seed,
        }
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([sys.executable, *sys.argv] if command is None else command),
        "commit": commit_of(Path(__file__).resolve().parent),
        "versions": {"camac_dra": __version__, "python": platform.python_version(), **_package_versions()},
        "seeds": dict(seeds),
        "config_sha256": config_hash(config),
        "machine": _machine(),
    }


def config_hash(config: Config) -> str:
    """Return the SHA-256 of a configuration in canonical form: the same settings give the same hash.

    Canonical: every setting, defaults included, as JSON with sorted keys and no spaces, and the resources in
    their order, because draws depend on it. Where results are written (``training.output_dir``,
    ``training.name``) is left out: it does not change them.
    """
    data = as_portable_dict(config)
    data["resources"] = config.environment.resource_ids
    for name in ("output_dir", "name"):
        del data["training"][name]
    return hash_of(data)


def hash_of(data: Any) -> str:
    """Return the SHA-256 of plain data as JSON with sorted keys and no spaces."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def commit_of(folder: Path) -> dict[str, Any]:
    """Return the git commit of the code in a folder, and whether its tracked files differ from it.

    ``hash`` is None, and ``reason`` says why, where there is no git or the folder is not tracked (a package
    installed inside somebody else's repository does not have that one's commit).
    """
    try:
        if not _git(folder, "ls-files", "--", "."):
            return {"hash": None, "dirty": None, "reason": "the code is not tracked by git"}
        top = _git(folder, "rev-parse", "--show-toplevel")
        return {
            "hash": _git(folder, "rev-parse", "HEAD"),
            "dirty": bool(_git(Path(top), "status", "--porcelain", "--untracked-files=no")),
        }
    except FileNotFoundError:
        return {"hash": None, "dirty": None, "reason": "git is not installed"}
    except subprocess.TimeoutExpired:
        return {"hash": None, "dirty": None, "reason": f"git gave no answer within {GIT_SECONDS:g} s"}
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or "git failed").strip().splitlines()[0]
        return {"hash": None, "dirty": None, "reason": reason}


def _git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=GIT_SECONDS,
        check=True,
        env={**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
    )
    return result.stdout.strip()


def _package_versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _machine() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": available_cores(),
        "memory_bytes": memory_bytes(),
        "gpus": gpu_names(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """Return the cores this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Return the machine's memory, or None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def gpu_names() -> list[str]:
    """Return the names of the GPUs that torch sees."""
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
