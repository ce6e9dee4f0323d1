"""Ray is started where sampling needs it, and is not where it does not; failures are said plainly."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from camac_dra.training import ray_session as module
from camac_dra.training.ray_session import ray_session
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.ray_settings import SURROUNDINGS


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Pretend that Ray does not run; return what it is started with."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(module.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(module.ray, "init", lambda **options: calls.append(options))
    monkeypatch.setattr(module.ray, "shutdown", lambda: calls.append({"shutdown": True}))
    return calls


def test_without_workers_ray_is_not_started(started: list[dict[str, Any]]) -> None:
    with ray_session(0):
        pass
    assert started == []


def test_workers_get_a_ray_with_room_for_each_of_them(started: list[dict[str, Any]]) -> None:
    with ray_session(64):
        assert len(started) == 1
    assert (started[0]["address"], started[0]["num_cpus"]) == ("local", 65)
    assert started[0]["include_dashboard"] is False
    assert started[1] == {"shutdown": True}
    assert all(os.environ[name] for name in SURROUNDINGS)


def test_a_ray_that_runs_already_is_used_and_left(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.ray, "is_initialized", lambda: True)
    with ray_session(2):
        pass
    assert started == []


def test_ray_is_left_when_something_fails(started: list[dict[str, Any]]) -> None:
    with pytest.raises(KeyError, match="broken"), ray_session(1):
        raise KeyError("broken")
    assert started[-1] == {"shutdown": True}


def test_a_ray_that_does_not_start_is_a_message(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**options: Any) -> None:
        raise Exception("The current node timed out during startup.\nMore.")

    monkeypatch.setattr(module.ray, "init", fail)
    with (
        pytest.raises(
            ConfigurationError, match=r"need Ray, which did not start here: The current node timed out"
        ),
        ray_session(1),
    ):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_an_address_where_nobody_answers_is_a_message(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    def fail(**options: Any) -> None:
        raise ValueError(f"Invalid address format: {options['address']}")

    monkeypatch.setattr(module.ray, "init", fail)
    with (
        pytest.raises(
            ConfigurationError, match=f"--address: must be where a Ray cluster answers .*'{address}'"
        ),
        ray_session(0, address),
    ):
        pass


def test_the_contract_with_rllib_that_running_without_ray_leans_on() -> None:
    """The constructor of the group of env runners asks nothing of Ray but to put its configuration."""
    source = Path(module.env_runner_group.__file__).read_text(encoding="utf-8")
    constructor = source.partition("    def __init__(")[2].partition("\n    def ")[0]
    assert re.findall(r"(?<!from )(?<![@\w.])ray\.(\w+)", constructor) == ["put"]
