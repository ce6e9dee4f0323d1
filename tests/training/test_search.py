"""A tiny hyperparameter search from beginning to end, and trials that go on where they were."""

from __future__ import annotations

import csv
import importlib.util
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune

from camac_dra.training import search
from camac_dra.training.search import Search, run_trial
from camac_dra.training.search_space import read_space
from camac_dra.utils.config_loader import as_yaml, build_config
from camac_dra.utils.errors import ConfigurationError, OutputError

SPACE = "model.learning_rate: {grid: [1e-3, 3e-3]}\ntraining.num_epochs: {randint: [1, 2]}\n"


@pytest.fixture
def space(tmp_path: Path, small: Any) -> dict[str, Any]:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return read_space(path, small())


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_search_finds_a_configuration_that_runs(
    ray_cluster: Any, small: Any, space: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "search"
    config = small(training__num_episodes=16)
    found = Search(config, space, folder, samples=1).run(resume=False)
    assert sorted(trial.settings["model.learning_rate"] for trial in found) == [1e-3, 3e-3]
    assert all(trial.env_steps > 0 for trial in found)
    scores = [trial.score for trial in found]
    assert scores == sorted(scores, reverse=True)
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert [row["trial"] for row in rows] == [trial.name for trial in found]
    best = build_config(folder / "best.yaml")
    assert best.model.learning_rate == found[0].settings["model.learning_rate"]
    assert best.training.name is None
    assert best.training.output_dir == config.training.output_dir
    with pytest.raises(ConfigurationError, match=r"there is a search in .* already"):
        Search(config, space, folder, samples=1).run(resume=False)
    assert Search(config, space, folder, samples=1).run(resume=True) == found


def test_there_must_be_a_search_to_resume(small: Any, space: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--resume: there is no search in"):
        Search(small(), space, tmp_path / "search", samples=1).run(resume=True)


class Interrupted:
    """What Tune is to a search that is interrupted right after its beginning."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fit(self) -> None:
        (self.folder / "tune").mkdir(parents=True)
        raise KeyboardInterrupt("the machine went down")


def test_a_search_is_resumed_as_it_was_begun(
    small: Any, space: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "search"
    monkeypatch.setattr(Search, "_tuner", lambda *_, resume: Interrupted(folder))
    with pytest.raises(KeyboardInterrupt, match="the machine went down"):
        Search(small(), space, folder, samples=1).run(resume=False)
    narrower = {"model.learning_rate": space["model.learning_rate"]}
    for config, drawn, samples, message in (
        (small(), space, 2, r"differs in --samples \(1, got 2\): give"),
        (small(), narrower, 1, "differs in the space of training.num_epochs: give"),
        (small(model__gamma=0.5), space, 1, "differs in model.gamma: give"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            Search(config, drawn, folder, samples).run(resume=True)
    monkeypatch.setattr(Search, "_tuner", lambda *_, resume: SimpleNamespace(fit=lambda: 1 / 0))
    with pytest.raises(ZeroDivisionError, match="division"):
        Search(small(training__output_dir="elsewhere"), space, folder, samples=1).run(resume=True)
    (folder / "search.json").unlink()
    with pytest.raises(ConfigurationError, match=r"has no search.json to say what was searched"):
        Search(small(), space, folder, samples=1).run(resume=True)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_search_whose_trials_all_fail_says_why(ray_cluster: Any, small: Any, tmp_path: Path) -> None:
    impossible = {"model.type": tune.grid_search(["sac"])}  # `read_space` would refuse it
    message = r"no trial was evaluated; .*; the first error: .*'sac' needs continuous actions"
    with pytest.raises(OutputError, match=message):
        Search(small(), impossible, tmp_path / "search", samples=1).run(resume=False)


def test_a_trial_that_was_interrupted_goes_on(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[int] = []

    def tell(figures: dict[str, Any]) -> None:
        reported.append(figures["env_steps"])
        if len(reported) == 2:
            raise KeyboardInterrupt("the machine went down")

    monkeypatch.setattr(search.tune, "get_context", lambda: SimpleNamespace(get_trial_id=lambda: "t1"))
    monkeypatch.setattr(search.tune, "report", tell)
    config, folder = as_yaml(small()), str(tmp_path / "trials")
    with pytest.raises(KeyboardInterrupt, match="the machine went down"):
        run_trial({"model.learning_rate": 2e-3}, config=config, folder=folder)
    assert reported == [160, 320]
    run_trial({"model.learning_rate": 2e-3}, config=config, folder=folder)
    assert reported == [160, 320, 480]
    assert build_config(tmp_path / "trials" / "t1" / "config.yaml").model.learning_rate == 2e-3


def test_the_command_line_refuses_what_is_wrong(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("tune_script", root / "experiments" / "tune.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec.loader.exec_module(script)
    space = str(root / "experiments" / "spaces" / "default.yaml")
    assert script.main(["--space", space, "--samples", "0"]) == 2
    assert "--samples: must be at least 1, got 0" in capsys.readouterr().err
    assert script.main(["--space", space, "--training.num_epoch", "3"]) == 2
    assert "training.num_epoch" in capsys.readouterr().err
