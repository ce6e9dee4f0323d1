"""Somebody else's environments are trained on, judged, gone on with and refused like our own."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camac_dra.environment import VectorEnvironment
from camac_dra.environment.foreign_factory import ForeignFactory
from camac_dra.models import load_policy
from camac_dra.run import main
from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.array_env_runner import ArrayEnvRunner
from camac_dra.training.environments import algorithm_settings, prove, vector_factory
from camac_dra.training.experiment import Experiment, Options
from camac_dra.training.foreign_evaluation import RandomActions, play_baseline, play_policy
from camac_dra.training.policy import TrainedPolicy
from camac_dra.training.train_batch import policy_columns
from camac_dra.training.training_loop import Status
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import CapabilityError, ConfigurationError
from camac_dra.utils.schema import Config
from tests.training.foreign_environments import HERE, Signals, tells_the_truth
from tests.training.small_runs import SignalAfter, assert_same_training, event_steps, resume, train

SPREAD = "mpe2.simple_spread_v3.parallel_env"


def foreign(folder: Path, factory: str = f"{HERE}.Signals", length: int = 5, **settings: Any) -> Config:
    """Return a configuration of 4 copies and 4 iterations of 2 episodes each."""
    data = {
        "environment": {"factory": factory, "max_episode_length": length},
        "model": {"hidden_sizes": [16]},
        "training": {
            "num_episodes": 32,
            "num_envs": 4,
            "fragment_length": 2 * length,
            "batch_size": 32,
            "num_epochs": 2,
            "evaluation_interval": 2,
            "evaluation_episodes": 3,
            "checkpoint_interval": 2,
            "output_dir": str(folder),
        },
    }
    return build_config(data, {name.replace("__", "."): value for name, value in settings.items()})


# What others wrote

PURSUIT = {"max_cycles": 20, "x_size": 6, "y_size": 6, "n_evaders": 4, "n_pursuers": 3}
KNIGHTS = "pettingzoo.butterfly.knights_archers_zombies.knights_archers_zombies.parallel_env"


@pytest.mark.parametrize(
    ("factory", "length", "settings", "agents", "row", "actions"),
    [
        (SPREAD, 25, {}, 3, (18,), "Discrete(5)"),
        (SPREAD, 25, {"factory_options": {"continuous_actions": True}}, 3, (18,), "Box(0.0, 1.0, (5,)"),
        ("mpe2.simple_reference_v3.parallel_env", 25, {"agent_indicator": True}, 2, (23,), "Discrete(50)"),
        ("mpe2.simple_speaker_listener_v4.parallel_env", 25, {}, 2, (11,), "Discrete(5)"),
        (
            "mpe2.simple_speaker_listener_v4.parallel_env",
            25,
            {"factory_options": {"continuous_actions": True}},
            2,
            (11,),
            "Box(-1.0, 1.0, (5,)",
        ),
        ("mpe2.simple_adversary_v3.parallel_env", 25, {"policies": "by_group"}, 3, (10,), "Discrete(5)"),
        ("pettingzoo.sisl.pursuit.pursuit.parallel_env", 20, {"factory_options": PURSUIT}, 3, (7, 7, 3), "("),
        (
            "pettingzoo.make",
            8,
            {"factory_options": {"env_type": "parallel", "id": "sisl/pursuit-v5", "n_pursuers": 2}},
            2,
            (7, 7, 3),
            "Discrete(5)",
        ),
        (KNIGHTS, 30, {"factory_options": {"max_zombies": 6, "spawn_delay": 2}}, 4, (23, 5), "Discrete(6)"),
    ],
)
def test_environments_that_others_wrote_are_trained_on(
    tmp_path: Path,
    factory: str,
    length: int,
    settings: dict[str, Any],
    agents: int,
    row: tuple[int, ...],
    actions: str,
) -> None:
    section = {"policies": "training"}
    given = {f"{section.get(name, 'environment')}__{name}": value for name, value in settings.items()}
    config = foreign(tmp_path, factory, length, training__num_episodes=16, **given)
    with Experiment.start(config) as experiment:
        assert experiment.train() is Status.COMPLETE
        verdict = experiment.judge([])
        run = experiment.run.path
        policy = load_policy(run)
    assert [played.name for played in verdict.rows] == ["trained", "random"]
    assert all(np.isfinite(played.returns).all() for played in verdict.rows)
    assert verdict.rows[0].returns.shape == (3, agents)
    assert policy.observation_space.shape == row
    assert actions in str(policy.action_space)
    assert policy.action_space.contains(policy.act(np.zeros(row, np.float32), policy.agent_ids[0]))
    assert {"training/return_per_agent", "training/loss", "evaluation/score"} <= event_steps(run).keys()
    comparison = json.loads((run / "comparison.json").read_text())
    assert comparison["rows"][0]["name"] == "trained"
    assert "return per agent" in (run / "comparison.txt").read_text()


def test_agents_that_fall_leave_the_batch() -> None:
    config = foreign(
        Path("unused"), KNIGHTS, 200, environment__factory_options={"max_zombies": 6, "spawn_delay": 2}
    )
    settings = algorithm_settings(config)
    runner = ArrayEnvRunner(config=build_algorithm_config(vector_factory(config.environment), settings))
    fragment = runner.sample()
    runner.stop()
    died = fragment.terminated.sum(axis=(0, 1))  # (N,)
    assert died.any()
    assert not fragment.active.all()
    assert fragment.agent_steps == fragment.active.sum()
    columns = policy_columns([fragment], None, valued(config, 0.0), gamma=0.9, gae_lambda=0.9)
    assert columns is not None
    assert len(columns["actions"]) == fragment.active.sum()


def valued(config: Config, value: float) -> Any:
    """Return a policy whose critic says ``value`` everywhere."""
    algorithm = build_algorithm_config(vector_factory(config.environment), algorithm_settings(config))
    module = algorithm.rl_module_spec.build()["shared"].unwrapped()
    torch.nn.init.zeros_(module.value.output.weight)
    torch.nn.init.constant_(module.value.output.bias, value)
    return module


# Agents that differ, and leave


def test_agents_that_differ_and_leave_learn_the_best_there_is(tmp_path: Path) -> None:
    config = foreign(
        tmp_path,
        training__num_episodes=2000,
        training__num_envs=16,
        training__fragment_length=25,
        training__num_epochs=6,
        training__batch_size=128,
        training__evaluation_interval=None,
        training__evaluation_episodes=50,
        model__learning_rate=1e-2,
        environment__baselines=[f"{HERE}.tells_the_truth"],
    )
    with Experiment.start(config) as experiment:
        experiment.train()
        trained, drawn, truth = experiment.judge([]).rows
    assert truth.returns.tolist() == [[5.0, 2.0]] * 50
    assert truth.steps.tolist() == [5] * 50
    assert trained.per_agent.mean() > 3.4  # of 3.5
    assert drawn.per_agent.mean() < 2.0


def test_what_ends_is_worth_nothing_more_and_what_is_cut_off_is_bootstrapped() -> None:
    """Values are 10 everywhere, and lambda is 0: a target is the reward and what is expected after it."""
    config = foreign(
        Path("unused"),
        training__num_envs=1,
        training__fragment_length=5,
        training__normalize_returns=False,
    )
    settings = algorithm_settings(config)
    runner = ArrayEnvRunner(config=build_algorithm_config(vector_factory(config.environment), settings))
    fragment = runner.sample()
    runner.stop()
    assert fragment.active[:, 0].tolist() == [[True, True]] * 2 + [[True, False]] * 3
    for agent, after in ((0, [9.0] * 5), (1, [9.0, 0.0])):  # stayer is cut off at the end, leaver ends
        columns = policy_columns(
            [fragment], np.array([agent]), valued(config, 10.0), gamma=0.9, gae_lambda=0.0
        )
        assert columns is not None
        earned = fragment.rewards[: len(after), 0, agent]
        assert columns["value_targets"].tolist() == pytest.approx([*(earned + after)])


def test_only_possible_actions_are_taken_and_learned(tmp_path: Path) -> None:
    config = foreign(
        tmp_path,
        f"{HERE}.Forbidding",
        training__num_episodes=800,
        training__num_envs=16,
        training__evaluation_episodes=20,
        training__evaluation_interval=None,
        model__learning_rate=1e-2,
    )
    with Experiment.start(config) as experiment:
        experiment.train()  # the environment raises where an action is impossible
        trained, drawn = experiment.judge([]).rows
        policy = load_policy(experiment.run.path)
    assert trained.per_agent.mean() > drawn.per_agent.mean() + 1.0
    for mask in np.eye(3, dtype=bool):
        assert mask[policy.act(np.zeros(3, np.float32), action_mask=mask)]


def test_networks_with_memory_begin_each_episode_with_none(tmp_path: Path) -> None:
    config = foreign(tmp_path, model__recurrent_size=8, training__num_episodes=8)
    _, run = train(config)
    policy = TrainedPolicy.load(run)
    factory = ForeignFactory.of(config.environment)
    first, again = (play_policy(policy, factory, 40, 0).returns for _ in range(2))
    assert np.array_equal(first, again)


def test_per_agent_policies_and_remote_runners(tmp_path: Path, ray_cluster: Any) -> None:
    config = foreign(tmp_path, training__policies="per_agent", training__num_workers=1)
    status, run = train(config)
    assert status is Status.COMPLETE
    assert load_policy(run).act(np.zeros(4, np.float32), "leaver") in (0, 1, 2)


# Judging


class Constant:
    """Does always the same, in place of a trained policy."""

    name = "constant"

    def begin(self, env: Any) -> None:
        pass

    def actions_in(self, env: Any) -> np.ndarray:
        return np.ones(env.observations.shape[:2], np.int64)


@pytest.mark.parametrize("episodes", [1, 5, 33])
def test_policies_and_baselines_play_the_same_episodes(episodes: int) -> None:
    factory = ForeignFactory(f"{HERE}.Signals", {"length": 9}, max_episode_length=7)
    ours = play_policy(Constant(), factory, episodes, 4)
    theirs = play_baseline("ones", lambda env, seen: dict.fromkeys(env.agents, 1), factory, episodes, 4)
    assert np.array_equal(ours.returns, theirs.returns)
    assert ours.steps.tolist() == theirs.steps.tolist() == [7] * episodes
    assert ours.agent_ids == theirs.agent_ids
    if episodes > 1:
        assert len(np.unique(ours.returns[:, 0])) > 1
    drawn = [play_baseline("r", RandomActions(s), factory, episodes, 4).returns for s in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    with pytest.raises(ConfigurationError, match="num_episodes must be at least 1, got 0"):
        play_policy(Constant(), factory, 0, 0)


def test_agents_that_never_came_count_for_nothing() -> None:
    class Lonely(Signals):
        def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
            super().reset(seed)
            self.agents = ["stayer"]
            return self._draw(), {}

    class Made(ForeignFactory):
        def make(self) -> Any:
            return Lonely()

    factory = Made("unused")
    truth = play_baseline("truth", tells_the_truth, factory, 2, 0)
    assert truth.per_agent.tolist() == truth.reward.tolist() == [5.0, 5.0]
    ours = play_policy(Constant(), factory, 2, 0)
    assert np.isnan(ours.returns[:, 1]).all()
    assert np.isfinite(ours.per_agent).all()


def test_the_commands_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "signals.json"
    data = json.loads(json.dumps(foreign(tmp_path / "runs", training__name="run").model_dump()))
    config.write_text(json.dumps(data))
    assert main(["validate", str(config)]) == 0
    assert main(["--config", str(config), "--environment.factory_options.length", "4", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "stayer" in out
    assert "random" in out
    run = str(tmp_path / "runs" / "run")
    record = tmp_path / "record.json"
    command = ["evaluate", "--checkpoint", run, "--episodes", "2", "--json", str(record)]
    assert main(command) == 0
    assert json.loads(record.read_text())["num_episodes"] == 2
    assert json.loads(record.read_text())["rows"][0]["steps"] == 4.0
    assert main([*command, "--heuristics", "greedy"]) == 2
    assert "environment.baselines are compared with" in capsys.readouterr().err
    assert main(["deploy", "--checkpoint", run]) == 2
    assert "deploy works on the allocation problem" in capsys.readouterr().err
    other = ["evaluate", "--checkpoint", run, "--environment.agent_indicator", "true"]
    assert main(other) == 2
    assert "belongs to another environment" in capsys.readouterr().err


# Going on


def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    config = {"factory": SPREAD, "length": 25, "training__num_episodes": 64, "training__fragment_length": 20}
    _, whole = train(foreign(tmp_path, training__name="whole", **config))
    status, stopped = train(foreign(tmp_path, training__name="stopped", **config), SignalAfter(3))
    assert status is Status.INTERRUPTED
    status, resumed = resume(stopped)
    assert status is Status.COMPLETE
    assert_same_training(whole, resumed)


def test_episodes_that_cannot_be_restored_begin_anew_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = foreign(
        tmp_path,
        environment__factory_options={"careless": True},
        training__fragment_length=3,
        training__num_episodes=20,
    )
    status, stopped = train(config, SignalAfter(2))
    assert status is Status.INTERRUPTED
    with caplog.at_level(logging.WARNING):
        status, _ = resume(stopped)
    assert status is Status.COMPLETE
    assert "Running episodes begin anew: the environment must do the same under the same seed" in caplog.text


def test_a_policy_is_loaded_without_importing_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = train(foreign(tmp_path, training__num_episodes=8))
    monkeypatch.setattr(ForeignFactory, "__call__", lambda *args, **kwargs: pytest.fail("imported"))
    policy = load_policy(run)
    assert policy.agent_ids == ["stayer", "leaver"]
    assert policy.act(np.zeros(4, np.float32)) in (0, 1, 2)


# Refusals


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("no_such_package.maker", {}, "must be the dotted path of a function that can be imported"),
        (f"{HERE}.nobody", {}, "has no attribute 'nobody'"),
        (f"{HERE}.NOT_CALLABLE", {}, "must be callable, got int"),
        (HERE, {}, f"got the module '{HERE}': name what in it makes the environment, {HERE}.MAKER"),
        ("mpe2.simple_spread_v3", {}, "the environment, mpe2.simple_spread_v3.parallel_env$"),
        (f"{HERE}.no_environment", {}, r"must be a ParallelEnv .* got int without reset"),
        (
            f"{HERE}.no_environment",
            {"wrong": 1},
            r"no_environment\(wrong=1\) must return an environment, but",
        ),
        (f"{HERE}.Turns", {}, "got Turns, an AECEnv, .*wrap it with .*aec_to_parallel"),
        ("mpe2.simple_spread_v3.env", {}, "or name its parallel_env"),
        ("gymnasium.spaces.Discrete", {"n": 2}, "must be a ParallelEnv"),
    ],
)
def test_factories_that_make_no_parallel_environment_are_refused(
    tmp_path: Path, path: str, options: dict[str, Any], message: str
) -> None:
    config = foreign(tmp_path, path, environment__factory_options=options)
    with pytest.raises(ConfigurationError, match=message) as raised:
        Experiment.start(config, Options())
    assert str(raised.value).startswith("environment.factory: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["def make(:", "raise RuntimeError('no key')"])
def test_a_module_that_raises_when_imported_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "broken_factories.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    message = (
        r"^environment\.factory: must be .* got 'broken_factories\.make' \((SyntaxError|RuntimeError: no)"
    )
    with pytest.raises(ConfigurationError, match=message):
        prove(foreign(tmp_path, "broken_factories.make"))


def test_sizes_of_the_model_must_be_those_of_the_environment(tmp_path: Path) -> None:
    prove(foreign(tmp_path, model__state_size=4, model__action_size=3))
    with pytest.raises(ConfigurationError, match=r"model\.state_size: must be 4, as the environment has"):
        prove(foreign(tmp_path, model__state_size=64))


def test_ours_is_not_built_from_a_section_that_names_another(tmp_path: Path) -> None:
    config = foreign(tmp_path)
    with pytest.raises(ConfigurationError, match="must be null for the allocation problem, got"):
        VectorEnvironment(config.environment)
    with pytest.raises(ConfigurationError, match="must be a dotted path, got null"):
        ForeignFactory.of(Config().environment)
    from camac_dra.training.deploy import Request, deploy

    with pytest.raises(CapabilityError, match="deploy works on the allocation problem"):
        deploy(config, Request("unused"))
