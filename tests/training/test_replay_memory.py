"""How much memory replay takes is known, and refused before anything is written where there is less."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from camac_dra.environment.environment import Environment
from camac_dra.models.dqn_agent import DQNAgent
from camac_dra.run import main
from camac_dra.training import replay_memory
from camac_dra.training.environments import prove
from camac_dra.training.experience_buffer import ExperienceBuffer
from camac_dra.training.replay_memory import transition_bytes
from camac_dra.training.trainer import Trainer
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema import Config

HUGE = 10**13


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize(("action_shape", "mask_size"), [((), 0), ((3,), 7)])
def test_the_bytes_of_a_transition_are_those_of_a_buffer(
    action_shape: tuple[int, ...], mask_size: int, *, prioritized: bool
) -> None:
    size, features = 4096, 10
    buffer = ExperienceBuffer(size, prioritized=prioritized, action_shape=action_shape)
    buffer.begin(np.zeros((1, features), np.float32), mask_size=mask_size)
    components = int(np.prod(action_shape))
    expected = size * transition_bytes(features, components, mask_size, prioritized=prioritized)
    assert buffer.nbytes <= expected * 1.01
    assert buffer.nbytes >= expected * (0.8 if prioritized else 0.99)  # priorities are rounded up


@pytest.mark.parametrize("kind", ["dqn", "sac"])
@pytest.mark.parametrize("command", ["train", "validate"])
def test_a_huge_buffer_is_refused_before_anything_is_written(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str
) -> None:
    options = [f"--model.type={kind}", f"--training.replay_buffer_size={HUGE}"]
    options += ["--environment.action_type=continuous"] if kind == "sac" else []
    file = str(root / "rllib_configs" / "test.yaml")
    start = ["validate", file] if command == "validate" else ["--config", file, "--quiet"]
    runs = tmp_path / "runs"
    assert main([*start, *options, "--training.output_dir", str(runs)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: training.replay_buffer_size: 10000000000000 transitions")
    assert "GiB" in said
    assert "Traceback" not in said
    assert not runs.exists()


SMALL = 2**30 // 10


def test_what_would_fit_does(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_memory, "memory_bytes", lambda: SMALL)

    def config(size: int | None) -> Config:
        chosen = {"model.type": "dqn", "training.replay_buffer_size": size}
        return build_config(root / "rllib_configs" / "test.yaml", chosen)

    rule = r"must be at most 80% of this machine's 0\.1 GiB, got 0\.3 GiB: at most (\d+) fit$"
    with pytest.raises(ConfigurationError, match=rule) as refused:
        prove(config(1_000_000))
    fitting = int(str(refused.value).split()[-2])
    prove(config(fitting))
    with pytest.raises(ConfigurationError, match=r"training\.replay_buffer_size"):
        prove(config(fitting + 1))
    monkeypatch.setattr(replay_memory, "memory_bytes", lambda: SMALL // 10)
    with pytest.raises(ConfigurationError, match="200000 transitions"):
        prove(config(None))
    monkeypatch.setattr(replay_memory, "memory_bytes", lambda: None)
    prove(config(1_000_000))  # nobody knows


def test_room_that_a_short_training_never_fills_is_not_counted_for_every_policy(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_memory, "memory_bytes", lambda: SMALL)
    chosen = {"model.type": "dqn", "training.policies": "per_agent", "training.replay_buffer_size": 200_000}
    short = build_config(root / "rllib_configs" / "test.yaml", chosen)
    prove(short)
    with pytest.raises(ConfigurationError, match="200000 transitions for each of 3 policies"):
        prove(build_config(short, {"training.num_episodes": 10_000}))


def test_a_trainer_refuses_what_does_not_fit(root: Path) -> None:
    chosen = {"model.type": "dqn", "training.replay_buffer_size": HUGE}
    config = build_config(root / "rllib_configs" / "test.yaml", chosen)
    env = Environment(config.environment)
    agent = DQNAgent(int(np.prod(env.core.single_observation_space.shape)), config.environment.action_size)
    with pytest.raises(ConfigurationError, match="replay_buffer_size: 10000000000000 transitions"):
        Trainer(env, agent, config)
