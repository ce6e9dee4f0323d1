"""`deploy` from the command line: the figures of evaluation, a summary, events; clear words for bad input."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from camac_dra import run

SETTINGS = {
    "environment.topology": "ring",
    "environment.max_episode_length": "20",
    "coordination.protocol": "centralized",
    "training.num_episodes": "8",
    "training.evaluation_episodes": "1",
    "training.output_dir": "runs",
    "training.name": "t",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, root: Path):
    folder = tmp_path_factory.mktemp("deploy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = [token for name, value in SETTINGS.items() for token in (f"--{name}", value)]
        assert run.main(["train", "--quiet", "--config", f"{root}/rllib_configs/test.yaml", *settings]) == 0
        yield folder / "runs" / "t"


def figures(path: Path) -> dict:
    return json.loads(path.read_text())


def test_deployed_agents_earn_what_evaluation_says(trained: Path, tmp_path: Path, capsys) -> None:
    seed = ["--seed", "77"]
    evaluated = ["evaluate", "--checkpoint", str(trained), *seed, "--episodes", "1", "--heuristics", "none"]
    assert run.main([*evaluated, "--json", str(tmp_path / "evaluated.json")]) == 0
    deployed = ["deploy", "--quiet", "--checkpoint", str(trained), *seed, "--agents_per_actor", "2"]
    log = ["--log", str(tmp_path / "log"), "--json", str(tmp_path / "deployed.json")]
    capsys.readouterr()
    assert run.main([*deployed, *log]) == 0
    shown = capsys.readouterr().out
    expected = next(row for row in figures(tmp_path / "evaluated.json")["rows"] if row["name"] == "trained")
    got = figures(tmp_path / "deployed.json")
    assert got["episodes"][0]["efficiency"] == expected["measures"]["efficiency"]
    assert (got["rounds"], got["messages"]) == (expected["rounds"], expected["messages"])
    assert got["over_capacity"] == 0
    assert "Latency:" in shown
    assert "Curves:" in shown
    assert list((tmp_path / "log").glob("events.out.*"))


def test_what_agents_learned_to_tell_each_other_goes_over_the_bus(
    tmp_path: Path, root: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = {
        **SETTINGS,
        "coordination.protocol": "none",
        "environment.observation_type": "graph",
        "model.type": "communication",
        "model.message_size": "4",
    }
    settings = [token for name, value in changes.items() for token in (f"--{name}", value)]
    assert run.main(["train", "--quiet", "--config", f"{root}/rllib_configs/test.yaml", *settings]) == 0
    common = ["--checkpoint", "runs/t", "--seed", "77", "--json"]
    assert run.main(["evaluate", *common, "evaluated.json", "--episodes", "1", "--heuristics", "none"]) == 0
    capsys.readouterr()
    assert run.main(["deploy", "--quiet", *common, "deployed.json"]) == 0
    assert "Learned:     6.0 messages, 0.1 KiB per decision; 0.00 not in time" in capsys.readouterr().out
    expected = next(row for row in figures(Path("evaluated.json"))["rows"] if row["name"] == "trained")
    got = figures(Path("deployed.json"))
    assert got["episodes"][0]["efficiency"] == expected["measures"]["efficiency"]
    assert (got["learned_messages"], got["learned_bytes"]) == (6, 96)
    assert (expected["decides"], expected["rounds"], expected["messages"]) == ("together", 1, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chaos", "kill=1"], r"--chaos: must be of kill_agents, .* got 'kill'"),
        (["--agents_per_actor", "0"], "error: --agents_per_actor must be at least 1, got 0"),
        (["--steps", "0"], "--steps: must be at least 1, got 0"),
        (["--protocol", "gosip"], "coordination.protocol"),
        (["--plant", "no.such.thing"], "--plant: must be the dotted path of a function"),
        (["--environment.num_resources", "7"], "belongs to another environment: resources: "),
        (["--address", "localhost:1"], "--address: must be where a Ray cluster answers"),
    ],
)
def test_bad_input_gets_a_message(
    trained: Path, capsys, monkeypatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    assert run.main(["deploy", "--quiet", "--checkpoint", str(trained), *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error


def test_no_checkpoint_gets_a_message(tmp_path: Path, capsys) -> None:
    assert run.main(["deploy", "--checkpoint", str(tmp_path)]) == 2
    assert "checkpoint" in capsys.readouterr().err
