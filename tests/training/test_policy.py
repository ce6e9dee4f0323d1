"""A policy that was saved acts exactly as the one that was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle

from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.training.environments import EnvironmentFactory, algorithm_settings
from camac_dra.training.experiment import Experiment
from camac_dra.training.held_out import held_out_measures
from camac_dra.training.policy import TrainedPolicy
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import CheckpointError
from camac_dra.utils.schema import Config


@pytest.fixture
def config(root: Path, tmp_path: Path) -> Any:
    def make(**overrides: Any) -> Config:
        values = {
            "training.num_episodes": 8,
            "training.output_dir": str(tmp_path / "runs"),
            "model.learning_rate": 0.05,
        }
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        return build_config(root / "rllib_configs" / "test.yaml", {**values, **dotted})

    return make


KINDS: list[dict[str, Any]] = [
    {},
    {"training__policies": "per_agent"},
    {"environment__action_type": "continuous", "model__activation": "relu"},
    {"environment__action_type": "multi_discrete", "training__policies": "per_agent"},
    {"environment__observation_type": "full", "training__normalize_observations": False},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_saved_policy_acts_as_the_trained_one(config: Any, kind: dict[str, Any]) -> None:
    setup = config(**kind)
    with Experiment.start(setup) as experiment:
        experiment.train()
        live = TrainedPolicy.from_algorithm(experiment.algorithm)
        run = experiment.run.path
        observations = np.random.default_rng(0).normal(size=(5, *live_shape(setup))).astype(np.float32)
        runner: Any = experiment.algorithm.env_runner_group.local_env_runner  # type: ignore[union-attr]
        mode, _ = runner.policy.act(torch.from_numpy(observations), None, explore=False)
        expected = runner.policy.head.to_environment(mode)
    saved = TrainedPolicy.load(run / "checkpoints" / "iteration_000002")
    assert np.array_equal(live.actions(observations), expected)
    assert np.array_equal(saved.actions(observations), expected)
    assert held_out_measures(setup, saved) == held_out_measures(setup, live)


def live_shape(setup: Config) -> tuple[int, ...]:
    env = VectorEnvironment(setup.environment)
    return (setup.environment.num_agents, *env.single_observation_space.shape)


def test_training_on_does_not_change_a_policy(config: Any) -> None:
    setup = config()
    with Experiment.start(setup) as experiment:
        policy = TrainedPolicy.from_algorithm(experiment.algorithm)
        observations = np.random.default_rng(0).normal(size=(50, *live_shape(setup))).astype(np.float32)
        before = policy.actions(observations)
        experiment.train()
        after = TrainedPolicy.from_algorithm(experiment.algorithm)
    assert np.array_equal(policy.actions(observations), before)
    assert not np.array_equal(after.actions(observations), before)


def test_requests_are_what_the_actions_mean(config: Any) -> None:
    setup = config()
    with Experiment.start(setup) as experiment:
        policy = TrainedPolicy.from_algorithm(experiment.algorithm)
    env = VectorEnvironment(setup.environment, num_envs=4)
    observations = env.reset(seed=3)
    policy.begin(env)
    requests = policy.requests(env)
    assert requests.shape == (4, 3, 2)
    assert np.array_equal(requests, env.requests_from_actions(policy.actions(observations)))


def test_a_run_gives_its_best_policy_and_a_checkpoint_its_own(config: Any) -> None:
    setup = config(training__evaluation_interval=1, training__checkpoint_interval=1)
    with Experiment.start(setup) as experiment:
        experiment.train()
        store = experiment.run.checkpoints
    best = store.best()
    assert best is not None
    assert best.score == held_out_measures(setup, TrainedPolicy.load(experiment.run.path))["score"]


def test_policies_of_other_environments_and_networks_are_refused(config: Any) -> None:
    setup = config()
    with Experiment.start(setup) as experiment:
        experiment.train()
        run = experiment.run.path
        weights = experiment.algorithm.learner.get_learning_state()["weights"]
    with pytest.raises(CheckpointError, match=r"another environment: agents: the checkpoint has 3 .* 5"):
        TrainedPolicy.load(run, config(environment__num_agents=5, environment__action_size=7).environment)
    with pytest.raises(CheckpointError, match=r"weights of policy 'shared' do not fit the network"):
        TrainedPolicy.from_weights(config(model__hidden_sizes=[8]), weights)
    with pytest.raises(
        CheckpointError, match=r"must be of the policies agent_0, agent_1, agent_2, got shared"
    ):
        TrainedPolicy.from_weights(config(training__policies="per_agent"), weights)
    TrainedPolicy.load(run, config(environment__contention=0.0).environment)


def test_settings_of_the_algorithm_are_those_of_the_configuration(config: Any) -> None:
    settings = algorithm_settings(config(training__num_workers=3, training__value_clip=2.0, model__gamma=0.5))
    assert (settings.total_env_steps, settings.num_workers) == (8 * 20, 3)
    assert (settings.value_clip, settings.gamma, settings.hidden_sizes) == (2.0, 0.5, (16,))


def test_environments_travel_with_a_reward_function_of_any_kind(config: Any) -> None:
    environment = config(environment__credit="team").environment
    factory = EnvironmentFactory(environment.model_copy(update={"reward_fn": lambda *arguments: 0.25}))
    copy = cloudpickle.loads(cloudpickle.dumps(factory))
    env = copy(2, 7)
    env.reset(seed=7)
    assert (env.step(np.zeros((2, 3), np.int64)).rewards == 0.25).all()
