"""DQN and SAC: the same seed, exact resume, divergence, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium import spaces

from camac_dra.training.replay_settings import DQNSettings, ReplaySettings, SACSettings
from camac_dra.utils.errors import CapabilityError, CheckpointError, TrainingDivergedError
from tests.training.replay_algorithms import BOX, EVERYTHING, KINDS, Make, making


@pytest.fixture
def make(tmp_path: Path):
    yield from making(tmp_path)


def weights(algorithm: Any) -> dict[str, torch.Tensor]:
    learned = algorithm.learner.get_learning_state()["weights"]
    return {f"{mid}.{name}": tensor for mid, state in learned.items() for name, tensor in state.items()}


def assert_same_weights(one: Any, two: Any) -> None:
    mine, theirs = weights(one), weights(two)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def curve(algorithm: Any, iterations: int) -> list[tuple[Any, ...]]:
    points = []
    for _ in range(iterations):
        result = algorithm.train()
        losses = {mid: r["total_loss"] for mid, r in result["learners"].items() if mid != "__all_modules__"}
        points.append((result["env_runners"].get("episode_return_mean"), algorithm.episodes, losses))
    return points


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policies", ["shared", "per_agent"])
def test_the_same_seed_gives_the_same_curve(make: Make, kind: type[ReplaySettings], policies: str) -> None:
    environment = {"absent": True, "terminate": True}
    one, two = (make(environment, kind, policies=policies, seed=7, **EVERYTHING) for _ in range(2))
    assert curve(one, 4) == curve(two, 4)
    assert_same_weights(one, two)
    other = make(environment, kind, policies=policies, seed=8, **EVERYTHING)
    assert curve(other, 1) != curve(two, 1)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (DQNSettings, {"policies": "per_agent", **EVERYTHING}),
        (DQNSettings, {"checkpoint_replay": True, "n_step": 1, "replay_buffer_size": 150}),
        (SACSettings, EVERYTHING),
    ],
)
def test_resuming_is_as_if_it_had_not_stopped(
    make: Make, kind: type[ReplaySettings], settings: dict[str, Any]
) -> None:
    environment = {"absent": True}
    whole = make(environment, kind, **settings)
    curve(whole, 3)
    file = io.BytesIO()
    torch.save(whole.get_training_state(), file)
    rest = curve(whole, 4)
    file.seek(0)
    resumed = make(environment, kind, **settings)
    curve(resumed, 1)  # has a past of its own, which must not matter
    resumed.set_training_state(torch.load(file, weights_only=True))
    assert resumed.lost_on_resume() is None
    assert curve(resumed, 4) == rest
    assert_same_weights(whole, resumed)


def test_without_what_is_remembered_a_resumed_training_says_so_and_goes_on(make: Make) -> None:
    algorithm, resumed = make(), make()
    algorithm.train()
    resumed.train()
    resumed.set_training_state(algorithm.get_training_state())
    assert "checkpoint_replay: true" in resumed.lost_on_resume()
    assert_same_weights(algorithm, resumed)
    curve(resumed, 2)
    assert resumed.lost_on_resume() is None


def test_states_that_do_not_fit_are_refused_and_change_nothing(make: Make) -> None:
    algorithm = make(checkpoint_replay=True)
    algorithm.train()
    before, remembered = weights(algorithm), len(algorithm.buffers["shared"])
    for other in (
        make(hidden_sizes=(24,), checkpoint_replay=True),
        make(prioritized=True, checkpoint_replay=True),
    ):
        other.train()
        with pytest.raises(CheckpointError, match="does not fit this algorithm"):
            algorithm.set_training_state(other.get_training_state())
    assert all(torch.equal(value, before[name]) for name, value in weights(algorithm).items())
    assert len(algorithm.buffers["shared"]) == remembered


@pytest.mark.parametrize("kind", KINDS)
def test_rewards_that_are_not_finite_stop_the_training_at_the_last_good_state(
    make: Make, kind: type[ReplaySettings]
) -> None:
    algorithm = make({"poison": 25}, kind, **EVERYTHING)
    for _ in range(2):
        algorithm.train()
    before, counters = weights(algorithm), algorithm.counters
    with pytest.raises(TrainingDivergedError, match="rewards must be finite to be learned from"):
        algorithm.train()
    assert all(torch.equal(value, before[name]) for name, value in weights(algorithm).items())
    assert algorithm.counters is counters


def test_an_update_that_diverges_is_rolled_back(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = make(**{**EVERYTHING, "prioritized": False}, target_update_freq=2)
    algorithm.train()
    before, updates = weights(algorithm), algorithm.learner.updates
    original, calls = algorithm.learner.compute_loss_for_module, []

    def poisoned(**kwargs: Any) -> torch.Tensor:
        calls.append(1)
        return original(**kwargs) * (1.0 if len(calls) < 4 else torch.inf)

    monkeypatch.setattr(algorithm.learner, "compute_loss_for_module", poisoned)
    with pytest.raises(TrainingDivergedError, match="loss of policy 'shared' must be finite"):
        algorithm.train()
    monkeypatch.undo()
    assert all(torch.equal(value, before[name]) for name, value in weights(algorithm).items())
    assert algorithm.learner.updates == updates
    algorithm.train()
    assert algorithm.counters.iterations == 2


# What is refused


@pytest.mark.parametrize(
    ("kind", "environment", "match"),
    [
        (DQNSettings, BOX, "model.type: 'dqn' needs discrete or multi_discrete actions"),
        (SACSettings, {"action_space": spaces.Discrete(3)}, "model.type: 'sac' needs continuous actions"),
    ],
)
def test_other_actions_are_refused_by_name(
    make: Make, kind: type[ReplaySettings], environment: dict[str, Any], match: str
) -> None:
    with pytest.raises(CapabilityError, match=match):
        make(environment, kind)
