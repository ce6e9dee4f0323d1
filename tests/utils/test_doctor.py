"""``doctor`` finds what would fail, and says how to mend it."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from camac_dra.utils import doctor
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.doctor import Check, Status, format_checks, has_failures, run_doctor


def test_this_machine_can_run_the_tests() -> None:
    checks = run_doctor(start_ray=False)
    assert not has_failures(checks), format_checks(checks)
    assert {check.name for check in checks} >= {
        "python",
        "packages",
        "cores",
        "gpu",
        "shared memory",
        "output",
    }


@pytest.mark.slow
def test_ray_starts() -> None:
    assert doctor.check_ray() == Check("ray", Status.OK, "starts and runs a task")


def test_ray_that_does_not_start_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_START_RAY", "raise SystemExit('no socket')")
    check = doctor.check_ray()
    assert check.status is Status.FAILURE
    assert check.found == "does not start: no socket"
    assert "logs" in check.remedy


def test_ray_that_hangs_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_START_RAY", "import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "RAY_SECONDS", 0.2)
    check = doctor.check_ray()
    assert check.status is Status.FAILURE
    assert check.found == "did not start within 0.2 s"


def test_python_that_is_too_old_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    check = doctor.check_python()
    assert check.status is Status.FAILURE
    assert "install Python 3.11 to 3.14" in check.remedy


def test_package_that_cannot_be_imported_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.import_module

    def broken(name: str) -> ModuleType:
        if name == "h5py":
            raise OSError("libhdf5.so: cannot open shared object file")
        return original(name)

    monkeypatch.setattr(importlib, "import_module", broken)
    check = doctor.check_packages()
    assert check.status is Status.FAILURE
    assert check.found == "cannot be imported: h5py (OSError: libhdf5.so: cannot open shared object file)"
    assert check.remedy == "pip install -r requirements.txt"


def test_another_ray_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TESTED_RAY", "2.0.0")
    check = doctor.check_packages()
    assert check.status is Status.FAILURE
    assert "relies on Ray 2.0.0" in check.remedy


@pytest.mark.parametrize(
    ("cores", "workers", "threads", "status"),
    [
        (2, 0, 1, Status.OK),
        (2, 2, 1, Status.OK),
        (2, 0, 2, Status.OK),
        (2, 0, 4, Status.WARNING),
        (2, 2, 2, Status.WARNING),
        (2, 4, 1, Status.WARNING),
        (16, 8, 1, Status.OK),
    ],
)
def test_more_threads_than_cores_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, threads: int, status: Status
) -> None:
    monkeypatch.setattr(doctor, "available_cores", lambda: cores)
    check = doctor.check_cores(workers, threads)
    assert check.status is status
    assert bool(check.remedy) == (status is not Status.OK)


def test_omp_threads_beyond_the_cores_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert doctor.check_cores(0, 1).remedy == "export OMP_NUM_THREADS=1"


def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "memory_bytes", lambda: 2**30)
    assert doctor.check_memory().found == "1.0 GiB, 4.0 GiB are comfortable"
    monkeypatch.setattr(doctor, "memory_bytes", lambda: None)
    assert doctor.check_memory().status is Status.OK


def test_gpus_are_named_and_drivers_without_a_gpu_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(doctor, "gpu_names", lambda: ["Card"])
    assert doctor.check_gpu() == Check("gpu", Status.OK, "Card")
    monkeypatch.setattr(doctor, "gpu_names", list)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert doctor.check_gpu().status is Status.WARNING
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert doctor.check_gpu() == Check("gpu", Status.OK, "none; runs use the CPU")


def test_gpus_that_learners_ask_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "gpu_names", lambda: ["Card"])
    assert doctor.check_gpu(1.0).status is Status.OK
    check = doctor.check_gpu(2.0)
    assert check.status is Status.FAILURE
    assert check.found == "Card; training.num_gpus asks for 2"
    assert check.remedy.startswith("--training.num_gpus 0")


def test_learners_need_cores_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_cores", lambda: 4)
    assert doctor.check_cores(3, 1, learners=2).status is Status.OK
    check = doctor.check_cores(3, 1, learners=3)
    assert check.status is Status.WARNING
    assert check.remedy.endswith("--training.num_learners 0")


def test_threads_that_learn_need_cores_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_cores", lambda: 2)
    assert doctor.check_cores(1, 1, learner_threads=2).status is Status.OK
    check = doctor.check_cores(2, 1, learner_threads=2)
    assert check.status is Status.WARNING
    assert check.found.endswith("1 torch threads each, 2 to learn with")
    assert check.remedy.endswith("--training.learner_threads 1")


def test_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_shared_memory(tmp_path / "missing").status is Status.WARNING
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=64 * 2**20))
    check = doctor.check_shared_memory(tmp_path)
    assert check.status is Status.WARNING
    assert check.found == f"{tmp_path}: 0.1 GiB free"
    assert "--shm-size=2g" in check.remedy
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert doctor.check_shared_memory(tmp_path).status is Status.FAILURE


def test_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a" / "b"
    assert doctor.check_output(folder).status is Status.OK
    assert not (tmp_path / "a").exists(), "looking changes nothing"
    (tmp_path / "file").touch()
    check = doctor.check_output(tmp_path / "file" / "runs")
    assert check.status is Status.FAILURE
    assert "cannot be written" in check.found
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    assert doctor.check_output(folder).status is Status.WARNING


def test_output_folder_of_the_configuration_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = build_config({"training": {"output_dir": str(tmp_path / "file")}})
    checks = {check.name: check for check in run_doctor(config, start_ray=False)}
    assert checks["output"].status is Status.FAILURE


def test_temporary_folder_whose_path_is_too_long_for_sockets(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    check = doctor.check_temporary_folder(long)
    assert check.status is Status.FAILURE
    assert "Ray's sockets allow 38" in check.found
    assert check.remedy == "export RAY_TMPDIR=/tmp"


def test_few_open_files_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
    check = doctor.check_open_files()
    assert (check.status, check.remedy) == (Status.WARNING, "ulimit -n 4096")


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, "nothing that leads Ray elsewhere"),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, "RAY_ADDRESS=10.0.0.1:6379: Ray joins that cluster"),
        ({"http_proxy": "http://proxy"}, "http_proxy set: Ray's own connections may go through the proxy"),
        ({"http_proxy": "http://proxy", "no_proxy": "127.0.0.1"}, "nothing that leads Ray elsewhere"),
    ],
)
def test_surroundings(monkeypatch: pytest.MonkeyPatch, variables: dict[str, Any], found: str) -> None:
    for name in ("RAY_ADDRESS", "http_proxy", "HTTP_PROXY", "grpc_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert doctor.check_surroundings().found.startswith(found)


def test_report_puts_remedies_under_what_they_mend() -> None:
    checks = [Check("one", Status.OK, "fine"), Check("second", Status.FAILURE, "broken", "mend it")]
    assert format_checks(checks).splitlines() == [
        "ok       one     fine",
        "failure  second  broken",
        "                 -> mend it",
        "1 to mend, 0 to consider, of 2 checks",
    ]
    assert has_failures(checks)
    assert format_checks(checks[:1]).splitlines()[-1] == "all 1 checks are fine"
