"""Imports run one way, and the check of that sees a violation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LAYERS = ("run", "training", "coordination", "models", "environment", "utils")


def lint_imports(pyproject: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the contract of ``pyproject`` on the package in ``folder``."""
    program = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", program, "--config", str(pyproject), "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def make_package(folder: Path, imports: dict[str, str]) -> None:
    """Write a package with a module for each layer, which imports what ``imports`` says."""
    package = folder / "camac_dra"
    package.mkdir()
    (package / "__init__.py").touch()
    for layer in LAYERS:
        (package / f"{layer}.py").write_text(imports.get(layer, ""))


def test_imports_of_the_package_run_one_way(root: Path) -> None:
    result = lint_imports(root / "pyproject.toml", root)
    assert result.returncode == 0, result.stdout
    assert "1 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(("lower", "upper"), [(b, a) for i, a in enumerate(LAYERS) for b in LAYERS[i + 1 :]])
def test_import_of_a_higher_layer_is_found(root: Path, tmp_path: Path, lower: str, upper: str) -> None:
    make_package(tmp_path, {lower: f"def later():\n    from camac_dra import {upper}\n"})
    result = lint_imports(root / "pyproject.toml", tmp_path)
    assert result.returncode == 1, result.stdout
    assert f"camac_dra.{lower} -> camac_dra.{upper}" in result.stdout


def test_modules_outside_the_layers_are_found(root: Path, tmp_path: Path) -> None:
    make_package(tmp_path, {})
    (tmp_path / "camac_dra" / "helpers.py").touch()
    result = lint_imports(root / "pyproject.toml", tmp_path)
    assert result.returncode == 1
    assert "helpers" in result.stdout
