"""The repository keeps its own promises: locked versions, commands, package data, readable files."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import camac_dra
from camac_dra.utils.doctor import PYTHONS, TESTED_RAY

LINE_LIMIT = 400  # files are read by people
# Without what an outer make (`make test`) tells an inner one.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


def locked(path: Path) -> dict[str, Requirement]:
    """Return the requirements of a lock file by canonical name, those of files it includes too."""
    found: dict[str, Requirement] = {}
    for line in path.read_text().splitlines():
        line = line.strip()
        if line.startswith("-r "):
            found |= locked(path.parent / line[3:])
        elif line and not line.startswith("#"):
            requirement = Requirement(line)
            found[canonicalize_name(requirement.name)] = requirement
    return found


def tracked_files(root: Path) -> list[Path]:
    """Return what git tracks, or, without git, what the packages and tests have."""
    try:
        listing = subprocess.run(
            ["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True
        ).stdout
        return [root / name for name in listing.splitlines() if (root / name).is_file()]
    except (OSError, subprocess.CalledProcessError):
        return [path for folder in ("camac_dra", "tests") for path in (root / folder).rglob("*.py")]


@pytest.fixture(scope="module")
def metadata(root: Path, tmp_path_factory: pytest.TempPathFactory) -> importlib.metadata.Distribution:
    """Return what setup.py says of the package."""
    folder = tmp_path_factory.mktemp("metadata")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(folder)]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return importlib.metadata.PathDistribution(folder / "camac_dra.egg-info")


def test_every_requirement_is_locked_to_one_version(root: Path) -> None:
    for name, requirement in locked(root / "requirements-dev.txt").items():
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", f"{name}: {requirement}"
        assert "*" not in specifier.version
        assert requirement.url is None, "no addresses"


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_lock_names_no_places(root: Path, name: str) -> None:
    text = (root / name).read_text()
    assert not re.search(r"https?:|file:|--index|--find|-e |\+", text)


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_lock_has_everything_that_locked_packages_need(root: Path, name: str) -> None:
    """Follow the installed packages' own requirements: each must be locked, and in a version that fits."""
    lock = locked(root / name)
    missing, misfit = [], []
    for requirement in lock.values():
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        for text in importlib.metadata.requires(requirement.name) or ():
            needed = Requirement(text)
            extras = requirement.extras or {""}
            if needed.marker and not any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                continue
            found = lock.get(canonicalize_name(needed.name))
            if found is None:
                missing.append(f"{requirement.name} needs {needed}")
            elif not needed.specifier.contains(next(iter(found.specifier)).version, prereleases=True):
                misfit.append(f"{requirement.name} needs {needed}, locked is {found}")
    # torch's build for CUDA brings libraries of its own, which a build for the CPU must not bring.
    missing = [line for line in missing if not re.match(r"torch needs (nvidia|cuda|triton)", line)]
    assert missing == []
    assert misfit == []


def test_installed_versions_are_the_locked_ones(root: Path) -> None:
    differing = {}
    for name, requirement in locked(root / "requirements-dev.txt").items():
        if requirement.marker is None or requirement.marker.evaluate():
            installed = importlib.metadata.version(name)
            if not requirement.specifier.contains(Version(installed).public):
                differing[name] = f"{installed}, locked {requirement.specifier}"
    assert differing == {}, "run: make distclean test"


def test_ranges_of_the_package_hold_the_locked_versions(
    root: Path, metadata: importlib.metadata.Distribution
) -> None:
    lock = locked(root / "requirements-dev.txt")
    for text in metadata.requires or ():
        requirement = Requirement(text)
        version = next(iter(lock[canonicalize_name(requirement.name)].specifier)).version
        assert requirement.specifier.contains(version), f"{requirement} does not hold {version}"


def test_metadata_say_what_is_promised(metadata: importlib.metadata.Distribution) -> None:
    assert metadata.version == camac_dra.__version__
    assert {"test", "dev", "pettingzoo"} == set(metadata.metadata.get_all("Provides-Extra") or ())
    assert metadata.metadata["License"] == "MIT"
    pythons = SpecifierSet(metadata.metadata["Requires-Python"])
    for bound in PYTHONS:
        assert pythons.contains(".".join(map(str, bound)))
    assert not pythons.contains("3.10.9")
    assert not pythons.contains("3.15.0")


def test_doctor_knows_the_locked_ray(root: Path) -> None:
    assert str(locked(root / "requirements.txt")["ray"].specifier) == f"=={TESTED_RAY}"


def test_torch_is_pinned_without_a_build(root: Path) -> None:
    assert "torch==2.13.0" in (root / "requirements.txt").read_text().splitlines()


def test_package_is_typed(root: Path) -> None:
    assert (root / "camac_dra" / "py.typed").is_file()


def test_make_alone_lists_every_command(root: Path) -> None:
    result = subprocess.run(["make"], cwd=root, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    for command in (
        "run",
        "test",
        "check",
        "format",
        "clean",
        "bench",
        "lint",
        "layers",
        "doctor",
        "install",
    ):
        assert re.search(rf"^  make {command} +\S", result.stdout, re.MULTILINE), command


def test_make_refuses_an_old_python(root: Path, tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    command = ["make", "install", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    result = subprocess.run(command, cwd=root, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "is not a Python from 3.11 to 3.14" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_readme_has_the_two_commands(root: Path) -> None:
    text = (root / "README.md").read_text()
    assert re.search(r"^make run\b", text, re.MULTILINE)
    assert re.search(r"^make test\b", text, re.MULTILINE)


def test_continuous_integration_calls_the_readmes_command(root: Path) -> None:
    script = root / ".ci" / "run"
    assert script.stat().st_mode & 0o111, "must be executable"
    text = script.read_text()
    assert "make test VENV=" in text
    assert "make lint VENV=" in text
    assert "make install-dev VENV=" in text
    syntax = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, timeout=60)
    assert syntax.returncode == 0, syntax.stderr


@pytest.mark.parametrize(
    ("failing", "code"),
    [("install-dev", 1), ("lint", 2), ("test", 2), ("nothing", 0)],
)
def test_continuous_integration_fails_when_a_part_fails(
    root: Path, tmp_path: Path, failing: str, code: int
) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_bytes((root / ".ci" / "run").read_bytes())
    targets = [
        f"{name}:\n\t@echo {name}; test {name} != {failing}\n" for name in ("install-dev", "lint", "test")
    ]
    (tmp_path / "Makefile").write_text("\n".join(targets))
    command = ["bash", str(tmp_path / ".ci" / "run")]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert result.returncode == code
    parts = result.stdout.split()
    assert parts == (["install-dev"] if failing == "install-dev" else ["install-dev", "lint", "test"])


def test_tools_are_told_the_line_length_once(root: Path) -> None:
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    assert settings["tool"]["ruff"]["line-length"] == 110
    assert settings["tool"]["pytest"]["ini_options"]["filterwarnings"][0] == "error"


def test_text_files_end_lines_as_unix_does_and_do_not_name_this_folder(root: Path) -> None:
    suffixes = (".py", ".toml", ".txt", ".md", ".yaml", ".yml", ".json", "")
    carriage_returns, names_this_folder, unended = [], [], []
    for path in tracked_files(root):
        if path.suffix in suffixes and "data" not in path.relative_to(root).parts:  # data stay as they came
            content = path.read_bytes()
            carriage_returns += [path] if b"\r" in content else []
            names_this_folder += [path] if str(root).encode() in content else []
            unended += [path] if content and not content.endswith(b"\n") else []
    assert (carriage_returns, names_this_folder, unended) == ([], [], [])


def test_files_stay_readable(root: Path) -> None:
    long = {
        str(path.relative_to(root)): lines
        for path in (root / "camac_dra").rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > LINE_LIMIT
    }
    assert long == {}, "split them"


def test_configurations_are_yaml_that_other_tools_read(root: Path) -> None:
    for path in (root / "rllib_configs").glob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text()), dict), path


def test_changelog_and_license(root: Path) -> None:
    assert f"## {camac_dra.__version__}" in (root / "CHANGELOG.md").read_text()
    license_text = (root / "LICENSE").read_text()
    assert license_text.startswith("MIT License\n\nCopyright (c) 2024 Mudd Sair Sharif and contributors")
