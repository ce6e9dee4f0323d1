"""The same job on a Ray cluster of two nodes, and what the launcher is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TRAIN = ROOT / "experiments" / "train.py"
CONFIG = ROOT / "rllib_configs" / "test.yaml"


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Two raylets on loopback addresses of their own; only the second one has room for env runners."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # what an installation on every node is otherwise
    from ray.cluster_utils import Cluster

    head = {
        "node_ip_address": "127.0.0.2",
        "num_cpus": 0,
        "include_dashboard": False,
        "object_store_memory": 10**8,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(node_ip_address="127.0.0.3", num_cpus=2, object_store_memory=10**8)
        yield cluster.address
    finally:
        cluster.shutdown()


def _train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.run(
        [
            sys.executable,
            str(TRAIN),
            *arguments,
            "--training.name",
            "job",
            "--training.output_dir",
            str(folder),
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_trains_on_a_cluster_of_two_nodes(two_nodes: str, tmp_path: Path) -> None:
    done = _train(tmp_path, "--address", two_nodes, "--num_workers", "2", "--config", str(CONFIG))
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "job" / "metrics.json").read_text())
    assert metrics["status"] == "complete"
    assert metrics["training"]["episode_rewards"]
    assert (tmp_path / "job" / "comparison.json").exists()


@pytest.mark.timeout(120)
def test_an_address_where_nobody_answers_is_refused(tmp_path: Path) -> None:
    done = _train(tmp_path, "--address", "127.0.0.9:1", "--num_workers", "1", "--config", str(CONFIG))
    assert done.returncode == 2
    assert "--address: must be where a Ray cluster answers" in done.stderr
    assert "127.0.0.9:1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "job").exists()


def test_a_configuration_is_found_where_the_project_lies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(TRAIN.parent))
    import train

    monkeypatch.chdir(tmp_path)
    there = str(CONFIG)
    assert train.with_found_config(["--config", "rllib_configs/test.yaml"]) == ["--config", there]
    assert train.with_found_config(["--config=rllib_configs/test.yaml"]) == [f"--config={there}"]
    assert train.with_found_config(["--config", "nowhere.yaml"]) == ["--config", "nowhere.yaml"]
    (tmp_path / "rllib_configs").mkdir()
    (tmp_path / "rllib_configs" / "test.yaml").write_text("{}")
    assert train.with_found_config(["--config", "rllib_configs/test.yaml"])[1] == "rllib_configs/test.yaml"


def test_the_launcher_accepts_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster" / "local.yaml").read_text())
    validate_config(prepare_config(config))
    assert {"rllib_configs", "camac_dra", "Makefile"} <= {
        path.name for path in ROOT.iterdir()
    }  # what is synchronised
