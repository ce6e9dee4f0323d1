"""Small runs that several files of tests use."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from camac_dra.utils.config_loader import build_config
from camac_dra.utils.schema import Config

EPISODES = 24  # 6 iterations of 4 episodes each


@pytest.fixture
def small(root: Path, tmp_path: Path) -> Any:
    """Make small configurations that write into a folder of the test."""

    def make(**overrides: Any) -> Config:
        values = {"training.num_episodes": EPISODES, "training.output_dir": str(tmp_path / "runs")}
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        return build_config(root / "rllib_configs" / "test.yaml", {**values, **dotted})

    return make


@pytest.fixture(scope="session")
def finished_once(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    values = {"training.num_episodes": EPISODES, "training.output_dir": str(folder)}
    from camac_dra.training.training_loop import Status  # RLlib takes seconds to load
    from tests.training.small_runs import train

    status, run = train(build_config(root / "rllib_configs" / "test.yaml", values))
    assert status is Status.COMPLETE
    return run


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Path:
    """Return the folder of a finished run that the test may change."""
    return Path(shutil.copytree(finished_once, tmp_path / "runs" / "finished"))
