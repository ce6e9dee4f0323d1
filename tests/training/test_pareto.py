"""Studies of trade-offs: what is trained, evaluated, kept, taken up again and written."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camac_dra.training import pareto
from camac_dra.training.evaluation import evaluate
from camac_dra.training.experiment import Experiment
from camac_dra.training.pareto import CONDITIONED, SWEEP, ParetoStudy
from camac_dra.training.policy import TrainedPolicy
from camac_dra.utils.command_line import run_command
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema import Config
from camac_dra.utils.schema.objectives import ObjectiveWeights

SETTINGS: dict[str, Any] = {
    "environment.reward_function": "weighted",
    "environment.objective_weights": "sampled",
    "environment.objective_scales": {"fairness": 20.0},
    "training.num_episodes": 8,
    "training.evaluation_interval": None,
}
WEIGHTS = [(1.0, 0.0, 0.0), (0.2, 0.5, 0.3)]


def config(root: Path, **changes: Any) -> Config:
    return build_config(str(root / "rllib_configs" / "test.yaml"), SETTINGS | changes)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the runs that are begun from now on."""
    names: list[str] = []
    start = Experiment.start

    def noted(config: Config, *args: Any) -> Experiment:
        names.append(str(config.training.name))
        return start(config, *args)

    monkeypatch.setattr(pareto.Experiment, "start", noted)
    return names


def test_a_sweep_trains_a_policy_for_each_weight(root: Path, tmp_path: Path, trained: list[str]) -> None:
    study = ParetoStudy(config(root), tmp_path)
    points = study.sweep(WEIGHTS, [0])
    assert [(point.method, point.weights, point.seed) for point in points] == [(SWEEP, w, 0) for w in WEIGHTS]
    assert trained == ["sweep_1-0-0_seed0", "sweep_0.2-0.5-0.3_seed0"]
    for point in points:
        assert point.objectives == tuple(
            point.measures[f"objective_{name}"] for name in ("service", "cost", "fairness")
        )
    run = build_config(str(tmp_path / "runs" / trained[1] / "config.yaml"))
    weights = {"service": 0.2, "cost": 0.5, "fairness": 0.3}
    assert run.environment.objective_weights == ObjectiveWeights(**weights)
    again = ParetoStudy(config(root), tmp_path)
    assert again.sweep(WEIGHTS, [0]) == points, "nothing is trained twice"
    assert len(trained) == 2
    assert len(again.sweep(WEIGHTS[:1], [0, 1])) == 2
    assert trained[2:] == ["sweep_1-0-0_seed1"]


def test_a_conditioned_policy_is_trained_once_and_told_each_weight(
    root: Path, tmp_path: Path, trained: list[str]
) -> None:
    settings = config(root)
    points = ParetoStudy(settings, tmp_path).conditioned(WEIGHTS, [3], longer=2)
    assert trained == ["conditioned_x2_seed3"]
    assert [(point.method, point.weights) for point in points] == [(CONDITIONED, w) for w in WEIGHTS]
    folder = tmp_path / "runs" / trained[0]
    assert build_config(str(folder / "config.yaml")).training.num_episodes == 16
    training, policy = settings.training, TrainedPolicy.load(folder)
    for point in points:
        played = evaluate(
            policy,
            settings.environment,
            training.evaluation_episodes,
            training.evaluation_seed,
            preference=point.weights,
        )
        assert point.objectives[0] == pytest.approx(played.episodes["objective_service"].mean())
    assert ParetoStudy(settings, tmp_path).conditioned(WEIGHTS[::-1], [3], longer=2) == points[::-1]
    assert len(trained) == 1


def test_an_interrupted_training_goes_on(root: Path, tmp_path: Path, trained: list[str]) -> None:
    study = ParetoStudy(config(root), tmp_path / "whole")
    (whole,) = study.sweep(WEIGHTS[1:], [0])
    cut = ParetoStudy(config(root), tmp_path / "cut")
    run = tmp_path / "cut" / "runs" / trained[0]
    changed = build_config(
        str(tmp_path / "whole" / "runs" / trained[0] / "config.yaml"),
        {"training.output_dir": str(run.parent), "training.num_episodes": 8},
    )
    with Experiment.start(changed) as experiment:  # ends after one of two iterations
        experiment.loop._total //= 2
        experiment.train()
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | {"status": "interrupted"}))
    begun = len(trained)
    (resumed,) = cut.sweep(WEIGHTS[1:], [0])
    assert len(trained) == begun, "resumed, not begun anew"
    assert resumed == whole


def test_heuristics_meet_the_episodes_of_all_the_others(root: Path, tmp_path: Path) -> None:
    study = ParetoStudy(config(root), tmp_path)
    points = study.heuristics(["greedy", "fair_share"])
    assert [point.method for point in points] == ["greedy", "fair_share"]
    assert study.heuristics(["greedy", "fair_share"]) == points
    box = study.box(points)
    worst = np.min([point.objectives for point in points], axis=0)
    np.testing.assert_allclose(box.within(worst), [1 / 11] * 3)
    scaled = box.within(np.array([point.objectives for point in points]))
    assert (scaled >= 0.0).all()
    assert (scaled <= 1.0).all()
    assert box.ideal[1:].tolist() == [0.0, 0.0]


def test_a_folder_has_one_study(root: Path, tmp_path: Path) -> None:
    ParetoStudy(config(root), tmp_path)
    ParetoStudy(config(root, **{"training.seed": 7}), tmp_path)  # seeds are given to each run
    with pytest.raises(
        ConfigurationError, match=r"another configuration, which differs in model.gamma: choose"
    ):
        ParetoStudy(config(root, **{"model.gamma": 0.5}), tmp_path)


def test_a_problem_without_weights_to_vary_has_no_trade_offs(root: Path, tmp_path: Path) -> None:
    plain = build_config(str(root / "rllib_configs" / "test.yaml"))
    with pytest.raises(ConfigurationError, match=r"objective_weights: must be 'sampled' for a study"):
        ParetoStudy(plain, tmp_path)


def test_evaluation_refuses_a_preference_that_nobody_sees(root: Path) -> None:
    from camac_dra.models.heuristics import HEURISTICS

    with pytest.raises(ConfigurationError, match=r"preference: acts only with"):
        evaluate(HEURISTICS["greedy"](), {}, 1, 0, preference=WEIGHTS[0])


def run_script(root: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    script = root / "experiments" / "pareto.py"
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    return run_command(runpy.run_path(str(script))["main"])


def test_the_script_writes_the_front_and_its_hypervolume(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = build_config(str(root / "rllib_configs" / "test.yaml"), SETTINGS)
    path = tmp_path / "small.json"
    path.write_text(
        json.dumps({"environment": small.environment.model_dump(), "model": {"hidden_sizes": [8]}})
    )
    folder = tmp_path / "study"
    arguments = ["--config", str(path), "--quick", "--output", str(folder), "--weights", "3"]
    arguments += [
        "--training.num_episodes",
        "4",
        "--training.num_envs",
        "4",
        "--training.fragment_length",
        "20",
    ]
    assert run_script(root, monkeypatch, *arguments) == 0
    printed = capsys.readouterr().out
    assert "Training sweep_1-0-0_seed0" in printed
    assert "conditioned        hypervolume" in printed
    figures = json.loads((folder / "pareto.json").read_text())
    assert len(figures["points"]) >= 6
    assert set(figures["front"]) == {i for i, p in enumerate(figures["points"]) if not p["dominated"]}
    assert len(figures["reference"]) == len(figures["ideal"]) == 3
    volume = figures["hypervolume"]
    for kind in ("sweep", "conditioned", "heuristics"):
        assert 0.0 <= volume[kind]["mean"] <= volume["all together"]["mean"] <= 1.0
    picture = (folder / "pareto.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert run_script(root, monkeypatch, *arguments) == 0
    assert "Training" not in capsys.readouterr().out, "what is there is not done again"


def test_the_script_explains_what_is_wrong(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--output", str(tmp_path), "--weight", "-1", "0", "2"]
    assert run_script(root, monkeypatch, *arguments) == 2
    assert "--weight.service: must be a finite number from 0, got -1.0" in capsys.readouterr().err
    folder = tmp_path / "study"
    with pytest.raises(SystemExit, match="2"):
        run_script(root, monkeypatch, "--quick", "--output", str(folder), "--seeds", "0", "-1")
    assert "--seeds: must be from 0 to 4294967295, got -1" in capsys.readouterr().err
    assert not folder.exists()
