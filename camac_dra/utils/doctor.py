"""``doctor``: what on this machine would make a run fail or crawl, and how to mend it."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from camac_dra.utils.errors import OutputError
from camac_dra.utils.file_handler import writable_directory
from camac_dra.utils.memory import gib
from camac_dra.utils.provenance import available_cores, gpu_names, memory_bytes
from camac_dra.utils.schema import Config

PYTHONS = ((3, 11), (3, 14))  # oldest and newest
TESTED_RAY = "2.60.0"
MODULES = {  # package: the module to import
    "ray": "ray",
    "torch": "torch",
    "numpy": "numpy",
    "scipy": "scipy.optimize",
    "pandas": "pandas",
    "networkx": "networkx",
    "h5py": "h5py",
    "pydantic": "pydantic",
    "gymnasium": "gymnasium",
    "tensorboard": "tensorboard",
    "matplotlib": "matplotlib",
    "rich": "rich",
}
LEAST_MEMORY = 4 * 2**30
LEAST_SHARED = 512 * 2**20
LEAST_DISK = 2 * 2**30
LEAST_FILES = 1024
LONGEST_TEMPORARY = 38  # of the 107 characters a socket's path may have, Ray's own part takes the rest
RAY_SECONDS = 90.0

_LOGS = "look at the logs under /tmp/ray/session_latest/logs"
_START_RAY = """
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False,
         object_store_memory=100 * 2**20)
print("answer", ray.get(ray.remote(lambda: 41 + 1).remote(), timeout=60))
ray.shutdown()
"""


class Status(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was found, and how to mend it where that is needed."""

    name: str
    status: Status
    found: str
    remedy: str = ""


def run_doctor(config: Config | None = None, *, start_ray: bool = True) -> list[Check]:
    """Look at versions, cores, memory, GPU, torch threads, shared memory, disk, write access and Ray.

    Nothing is changed: Ray is started in a process of its own and ended again.

    Args:
        config: the configuration that is to be run; its output folder, workers and threads are judged.
        start_ray: whether to prove that Ray starts and runs a task (several seconds).
    """
    config = config or Config()
    checks: list[Callable[[], Check]] = [
        check_python,
        check_packages,
        lambda: check_cores(
            config.training.num_workers,
            config.training.torch_threads,
            config.training.num_learners,
            config.training.learner_threads,
        ),
        check_memory,
        lambda: check_gpu(config.training.num_gpus * max(1, config.training.num_learners)),
        check_shared_memory,
        lambda: check_output(Path(config.training.output_dir)),
        check_temporary_folder,
        check_open_files,
        check_surroundings,
    ]
    if start_ray:
        checks.append(check_ray)
    return [check() for check in checks]


def has_failures(checks: Iterable[Check]) -> bool:
    """Return whether a run would fail."""
    return any(check.status is Status.FAILURE for check in checks)


def format_checks(checks: Iterable[Check]) -> str:
    """Return the checks as lines of text, remedies under what they mend, and a closing line."""
    checks = list(checks)
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        lines.append(f"{check.status.value:<8} {check.name:<{width}}  {check.found}")
        if check.remedy:
            lines.append(f"{'':<8} {'':<{width}}  -> {check.remedy}")
    failures = sum(check.status is Status.FAILURE for check in checks)
    warnings = sum(check.status is Status.WARNING for check in checks)
    if failures or warnings:
        lines.append(f"{failures} to mend, {warnings} to consider, of {len(checks)} checks")
    else:
        lines.append(f"all {len(checks)} checks are fine")
    return "\n".join(lines)


def check_python() -> Check:
    """Python must be one that all locked packages support."""
    version = sys.version_info[:2]
    found = f"{platform.python_implementation()} {platform.python_version()} on {platform.platform()}"
    if PYTHONS[0] <= version <= PYTHONS[1]:
        return Check("python", Status.OK, found)
    wanted = " to ".join(".".join(map(str, bound)) for bound in PYTHONS)
    return Check("python", Status.FAILURE, found, f"install Python {wanted}, then: make distclean install")


def check_packages() -> Check:
    """All packages must be there and importable; Ray in the version whose insides are relied on."""
    broken, versions = [], {}
    for package, module in MODULES.items():
        try:
            importlib.import_module(module)
            versions[package] = importlib.metadata.version(package)
        except Exception as error:  # noqa: BLE001 (a broken installation can raise anything)
            broken.append(f"{package} ({type(error).__name__}: {error})")
    if broken:
        found = f"cannot be imported: {'; '.join(broken)}"
        return Check("packages", Status.FAILURE, found, "pip install -r requirements.txt")
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    if versions["ray"] != TESTED_RAY:
        remedy = f"training relies on Ray {TESTED_RAY}: pip install -r requirements.txt"
        return Check("packages", Status.FAILURE, found, remedy)
    return Check("packages", Status.OK, found)


def check_cores(
    workers: int, torch_threads: int, learners: int = 0, learner_threads: int | None = None
) -> Check:
    """Processes times threads should not exceed the cores: else they run many times slower."""
    cores = available_cores()
    to_learn = learner_threads or torch_threads
    wanted = workers * torch_threads + max(1, learners) * to_learn
    learning = f"{learners} learners" if learners else "the learner"
    found = f"{cores} for {workers} sampling processes and {learning}, {torch_threads} torch threads each"
    found += f", {to_learn} to learn with" if to_learn != torch_threads else ""
    if max(torch_threads, to_learn) > cores or (workers + learners > 0 and wanted > cores + 1):
        remedy = f"--training.num_workers {max(0, cores - 1)} --training.torch_threads 1"
        remedy += " --training.num_learners 0" if learners else ""
        remedy += " --training.learner_threads 1" if to_learn > torch_threads else ""
        return Check("cores", Status.WARNING, found, remedy)
    variable = os.environ.get("OMP_NUM_THREADS", "")
    if variable.isdigit() and int(variable) > cores:
        return Check(
            "cores", Status.WARNING, f"OMP_NUM_THREADS={variable} on {cores}", "export OMP_NUM_THREADS=1"
        )
    return Check("cores", Status.OK, found)


def check_memory() -> Check:
    """Ray, torch and the environments need a few GiB."""
    total = memory_bytes()
    if total is None:
        return Check("memory", Status.OK, "the system does not tell")
    if total < LEAST_MEMORY:
        remedy = "fewer --training.num_workers and --training.num_envs"
        return Check("memory", Status.WARNING, f"{gib(total)}, {gib(LEAST_MEMORY)} are comfortable", remedy)
    return Check("memory", Status.OK, gib(total))


def check_gpu(needed: float = 0.0) -> Check:
    """A GPU is optional, unless learners need some; one that torch cannot use is worth knowing about."""
    try:
        names = gpu_names()
    except Exception as error:  # noqa: BLE001 (drivers raise what they like)
        return Check(
            "gpu", Status.WARNING, f"torch failed to look: {error}", "export CUDA_VISIBLE_DEVICES=''"
        )
    if len(names) < needed:
        found = f"{', '.join(names) or 'none'}; training.num_gpus asks for {needed:g}"
        remedy = "--training.num_gpus 0, or --address of a cluster that has them"
        return Check("gpu", Status.FAILURE, found, remedy)
    if names:
        return Check("gpu", Status.OK, ", ".join(names))
    if shutil.which("nvidia-smi") and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        found = "there is an NVIDIA driver, but torch sees no GPU; runs use the CPU"
        return Check("gpu", Status.WARNING, found, "install a CUDA build of torch that fits the driver")
    return Check("gpu", Status.OK, "none; runs use the CPU")


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Check:
    """Ray keeps objects in shared memory; without enough it falls back to the disk and crawls."""
    if not folder.is_dir():
        if sys.platform == "linux":
            return Check("shared memory", Status.WARNING, f"{folder} is missing", "mount a tmpfs there")
        return Check("shared memory", Status.OK, "not needed on this system")
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        return Check("shared memory", Status.FAILURE, f"{folder} cannot be written", f"chmod 1777 {folder}")
    if free < LEAST_SHARED:
        remedy = f"in a container: --shm-size=2g; else: mount -o remount,size=2G {folder}"
        return Check("shared memory", Status.WARNING, f"{folder}: {gib(free)} free", remedy)
    return Check("shared memory", Status.OK, f"{folder}: {gib(free)} free")


def check_output(folder: Path) -> Check:
    """Results must be writable, and the disk must have room for them."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        writable_directory(nearest)
    except OutputError as error:
        return Check(
            "output", Status.FAILURE, str(error), "--training.output_dir DIR, a folder you may write"
        )
    free = shutil.disk_usage(nearest).free
    found = f"{folder.absolute()}: writable, {gib(free)} free"
    if free < LEAST_DISK:
        return Check("output", Status.WARNING, found, "free space, or --training.output_dir on another disk")
    return Check("output", Status.OK, found)


def check_temporary_folder(folder: Path | None = None) -> Check:
    """Ray puts sockets there, whose paths the system limits to 107 characters."""
    folder = folder or Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()))
    try:
        writable_directory(folder)
    except OutputError as error:
        return Check("temporary", Status.FAILURE, str(error), "export RAY_TMPDIR=/tmp")
    if len(str(folder)) > LONGEST_TEMPORARY:
        found = f"{folder} has {len(str(folder))} characters; Ray's sockets allow {LONGEST_TEMPORARY}"
        return Check("temporary", Status.FAILURE, found, "export RAY_TMPDIR=/tmp")
    return Check("temporary", Status.OK, str(folder))


def check_open_files() -> Check:
    """Ray opens many sockets and files."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return Check("open files", Status.OK, "no limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < LEAST_FILES:
        return Check("open files", Status.WARNING, f"at most {soft}", f"ulimit -n {min(65536, hard)}")
    return Check("open files", Status.OK, "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft}")


def check_surroundings() -> Check:
    """Variables that lead Ray elsewhere without a word."""
    address = os.environ.get("RAY_ADDRESS")
    if address:
        found = f"RAY_ADDRESS={address}: Ray joins that cluster instead of starting here"
        return Check("surroundings", Status.WARNING, found, "unset RAY_ADDRESS, if that is not wanted")
    proxies = [name for name in ("http_proxy", "HTTP_PROXY", "grpc_proxy") if os.environ.get(name)]
    exempt = os.environ.get("no_proxy", "") + os.environ.get("NO_PROXY", "")
    if proxies and not ("127.0.0.1" in exempt or "*" in exempt):
        found = f"{', '.join(proxies)} set: Ray's own connections may go through the proxy"
        return Check("surroundings", Status.WARNING, found, "export no_proxy=localhost,127.0.0.1")
    return Check("surroundings", Status.OK, "nothing that leads Ray elsewhere")


def check_ray() -> Check:
    """Start Ray in a process of its own, run a task, end it."""
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
    try:
        result = subprocess.run(
            [sys.executable, "-c", _START_RAY],
            capture_output=True,
            text=True,
            timeout=RAY_SECONDS,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        remedy = f"{_LOGS}; a firewall on loopback is the usual cause"
        return Check("ray", Status.FAILURE, f"did not start within {RAY_SECONDS:g} s", remedy)
    if result.returncode == 0 and "answer 42" in result.stdout:
        return Check("ray", Status.OK, "starts and runs a task")
    last = (result.stderr.strip() or "no message").splitlines()[-1]
    return Check("ray", Status.FAILURE, f"does not start: {last}", _LOGS)
