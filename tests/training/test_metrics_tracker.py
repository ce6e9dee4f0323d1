"""Recorded numbers: their summary, their file, and what is no number."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camac_dra.training.metrics_tracker import MetricsTracker
from camac_dra.utils.errors import CheckpointError, ConfigurationError


def tracker() -> MetricsTracker:
    made = MetricsTracker()
    for value in (1, np.float32(2.0), math.nan, 6.0):
        made.record("training/episode_rewards", value)
    made.record("loss", np.array(0.5))
    made.set_value("training/success_rate", 0.3)
    made.set_value("training/success_rate", 0.9)
    return made


def test_the_summary_is_flat_and_leaves_out_what_is_not_finite() -> None:
    summary = tracker().get_summary()
    name = "training/episode_rewards"
    assert summary[f"{name}/mean"] == 3.0
    assert summary[f"{name}/std"] == pytest.approx(math.sqrt(14 / 3))
    assert (summary[f"{name}/min"], summary[f"{name}/max"], summary[f"{name}/last"]) == (1.0, 6.0, 6.0)
    assert (summary[f"{name}/count"], summary["loss/mean"]) == (4.0, 0.5)
    assert summary["training/success_rate"] == 0.9
    assert all(type(value) is float for value in summary.values())


def test_reset_forgets() -> None:
    made = tracker()
    made.reset()
    assert (made.get_summary(), made.series("loss")) == ({}, [])
    made.record("training/success_rate", 1.0)  # may be a series now
    assert made.series("training/success_rate") == [1.0]


def test_json_has_sections_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "results" / "metrics.json"
    tracker().export(path)
    content = json.loads(path.read_text())
    assert content == {
        "training": {"episode_rewards": [1.0, 2.0, None, 6.0], "success_rate": 0.9},
        "loss": [0.5],
    }
    again = MetricsTracker()
    again.load_dict(content)
    assert again.get_summary() == tracker().get_summary()


def test_csv_is_a_table(tmp_path: Path) -> None:
    tracker().export(tmp_path / "metrics.csv")
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "metric,index,value"
    assert lines[1:5] == [f"training/episode_rewards,{i},{v}" for i, v in enumerate([1.0, 2.0, "nan", 6.0])]
    assert lines[-1] == "training/success_rate,,0.9"


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda t: t.record("loss", "high"), "value of the metric 'loss' must be a number, got 'high'"),
        (lambda t: t.record("loss", np.ones(2)), "value of the metric 'loss' must be a number"),
        (lambda t: t.record("loss", True), "value of the metric 'loss' must be a number, got True"),
        (lambda t: t.record("training/success_rate", 1.0), "either a series or a single value, got"),
        (lambda t: t.set_value("loss", 1.0), "either a series or a single value, got 'loss'"),
        (lambda t: t.record("a/b/c", 1.0), "must be NAME or SECTION/NAME"),
        (lambda t: t.export("metrics.xml"), "must end in .json or .csv, got 'metrics.xml'"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(call: Any, match: str) -> None:
    made = tracker()
    with pytest.raises(ConfigurationError, match=match):
        call(made)
    assert made.get_summary() == tracker().get_summary()


def test_foreign_content_is_refused_and_changes_nothing() -> None:
    made = tracker()
    for content in ({"loss": "high"}, {"a": {"b": {"c": [1]}}}, [1]):
        with pytest.raises(CheckpointError, match="metrics must be numbers and lists of them by name"):
            made.load_dict(content)  # type: ignore[arg-type]
    assert made.get_summary() == tracker().get_summary()
