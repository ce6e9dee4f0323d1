"""Every kind of network, critic and assignment of policies trains, resumes to the bit, acts as saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camac_dra.models.policy_loading import load_policy
from camac_dra.training.critics import fragment_values
from camac_dra.training.environments import EnvironmentFactory
from camac_dra.training.evaluation import evaluate
from camac_dra.training.experiment import Experiment
from camac_dra.training.policy import TrainedPolicy
from camac_dra.training.train_batch import counted
from camac_dra.training.training_loop import Status
from camac_dra.utils.errors import ConfigurationError, ModelError
from camac_dra.utils.schema import Config
from tests.training.small_runs import SignalAfter, assert_same_training, resume, train

CUSTOM = "tests.training.custom_model.CustomModel"
GRAPH = {"observation_type": "graph", "topology": "ring"}
LEAVING = {"kind": "synthetic", "synthetic": {"leave_probability": 0.2, "join_probability": 0.3}}

KINDS: dict[str, dict[str, Any]] = {
    "policy_gradient": {"model": {"type": "policy_gradient"}},
    "attention": {"model": {"type": "attention", "num_heads": 2}, "environment": GRAPH},
    "gnn": {"model": {"type": "gnn", "num_heads": 2}, "environment": GRAPH},
    "gnn_mean": {"model": {"type": "gnn", "aggregation": "mean"}, "environment": GRAPH},
    "communication": {
        "model": {"type": "communication", "message_size": 3, "num_heads": 2},
        "environment": {**GRAPH, "message_delay": 1.0, "message_loss": 0.2},
    },
    "communication_centralized": {
        "model": {"type": "communication"},
        "environment": GRAPH,
        "training": {"critic": "centralized"},
    },
    "gru": {"model": {"recurrent_size": 6}},
    "gru_centralized": {"model": {"recurrent_size": 6}, "training": {"critic": "centralized"}},
    "custom": {"model": {"type": CUSTOM, "options": {"bias": 0.5}}},
    "centralized": {"training": {"critic": "centralized"}},
    "attention_centralized": {
        "model": {"type": "attention"},
        "environment": GRAPH,
        "training": {"critic": "centralized"},
    },
    "per_agent_gnn": {
        "model": {"type": "gnn"},
        "environment": GRAPH,
        "training": {"policies": "per_agent"},
    },
    "by_group": {
        "environment": {
            "constraints": {
                "groups": [
                    {"name": "left", "agents": [0], "limits": {"cpu": 40.0}},
                    {"name": "right", "agents": [1, 2, 3], "limits": {"cpu": 90.0}},
                ]
            }
        },
        "training": {"policies": "by_group"},
    },
}


def config_of(kind: str, folder: Path, **training: Any) -> Config:
    sections = KINDS[kind]
    environment = {
        "num_agents": 4,
        "num_resources": 2,
        "resource_limits": {"cpu": 100.0},
        "max_episode_length": 12,
        "observation_size": 1,
        "action_size": 4,
        **sections.get("environment", {}),
    }
    model = {"hidden_sizes": [8], **sections.get("model", {})}
    given = {
        "num_episodes": 24,
        "num_envs": 4,
        "fragment_length": 8,
        "batch_size": 64,
        "evaluation_interval": None,
        "evaluation_episodes": 2,
        "checkpoint_interval": 2,
        "keep_checkpoints": 20,
        "output_dir": str(folder),
        **sections.get("training", {}),
        **training,
    }
    return Config.model_validate({"environment": environment, "model": model, "training": given})


@pytest.mark.parametrize("kind", list(KINDS))
def test_it_trains_and_goes_on_to_the_bit(kind: str, tmp_path: Path) -> None:
    status, whole = train(config_of(kind, tmp_path, name="whole"))
    assert status is Status.COMPLETE
    before = TrainedPolicy.load(whole / "checkpoints" / "iteration_000000")
    after = TrainedPolicy.load(whole)
    assert any(
        not torch.equal(one, two)
        for first, second in zip(before._modules, after._modules, strict=True)
        for one, two in zip(first.policy.parameters(), second.policy.parameters(), strict=True)
    )
    status, stopped = train(config_of(kind, tmp_path, name="stopped"), SignalAfter(4))
    assert status is Status.INTERRUPTED
    assert resume(stopped)[0] is Status.COMPLETE
    assert_same_training(whole, stopped)


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_is_loaded_acts_as_what_was_trained(kind: str, tmp_path: Path) -> None:
    config = config_of(kind, tmp_path)
    _, run = train(config)
    trained, loaded = TrainedPolicy.load(run), load_policy(run)
    env = EnvironmentFactory(config.environment)(1, 5)
    observations = env.reset(5)
    trained.begin(env)
    for _ in range(4):  # what is remembered grows
        actions = trained.actions(observations)
        np.testing.assert_array_equal(loaded.act_many(observations[0]), actions[0])
        observations = env.step(actions).observations
    first = evaluate(trained, config, 2, 7).efficiency
    np.testing.assert_array_equal(first, evaluate(TrainedPolicy.load(run), config, 2, 7).efficiency)


@pytest.mark.parametrize("kind", ["attention", "gru", "gru_centralized", "by_group"])
def test_absent_agents_stay_out_of_batches(kind: str, tmp_path: Path) -> None:
    plain = config_of(kind, tmp_path, num_episodes=8).model_dump()
    config = Config.model_validate({**plain, "environment": {**plain["environment"], "dynamics": LEAVING}})
    with Experiment.start(config) as experiment:
        algorithm = experiment.algorithm
        fragment = algorithm.env_runner_group.local_env_runner.sample()
        columns = algorithm._columns([fragment])
        assert fragment.agent_steps < fragment.active.size
        rows = [counted(found, "advantages") for found in columns.values()]
        assert sum(len(one) for one in rows) == fragment.agent_steps
        assert all(abs(float(one.mean())) < 1e-5 for one in rows)
        assert experiment.train() is Status.COMPLETE


@pytest.mark.parametrize("kind", list(KINDS))
def test_learning_sees_what_sampling_saw(kind: str, tmp_path: Path) -> None:
    """The log-probabilities that the learner computes are those with which the actions were drawn."""
    with Experiment.start(config_of(kind, tmp_path)) as experiment:
        algorithm = experiment.algorithm
        runner = algorithm.env_runner_group.local_env_runner
        runner.sample()  # the second fragment begins in mid-episode, with something remembered
        for module_id, columns in algorithm._columns([runner.sample()]).items():
            module = algorithm.learner.actor_critic(module_id)
            with torch.no_grad():
                outputs = module.forward_train(columns)
            rows = module.counted(columns)
            distribution = module.head.distribution(outputs["action_dist_inputs"].t())
            torch.testing.assert_close(
                distribution.log_prob(rows["actions"]), rows["action_logp"], rtol=1e-4, atol=1e-5
            )
            values = module.in_returns(module.compute_values(rows, embeddings=outputs["embeddings"]))
            assert values.shape == rows["advantages"].shape


def naive_values(module: Any, fragment: Any) -> np.ndarray:
    """Values (T + 1, B, N) by stepping every agent of every copy by itself."""
    steps, copies, agents = fragment.observations.shape[:3]
    values = np.zeros((steps, copies, agents), np.float32)
    for copy in range(copies):
        for agent in range(agents):
            memory = torch.from_numpy(fragment.memory[copy, agent][None])
            for t in range(steps):
                if t and fragment.done[t - 1, copy]:
                    memory = torch.zeros_like(memory)
                row = torch.from_numpy(fragment.observations[t, copy, agent][None])
                memory = module.step(row, memory)[1]
                values[t, copy, agent] = module.in_returns(module.value(memory)[:, 0])
    return values


def test_values_of_what_is_remembered_are_those_of_stepping(tmp_path: Path) -> None:
    with Experiment.start(config_of("gru", tmp_path, num_episodes=8)) as experiment:
        assert experiment.train() is Status.COMPLETE
        algorithm = experiment.algorithm
        runner = algorithm.env_runner_group.local_env_runner
        runner.sample()
        fragment = runner.sample()  # an episode ends in it
        assert fragment.done.any()
        assert np.abs(fragment.memory).max() > 0
        module = algorithm.learner.actor_critic("shared")
        values, finals = fragment_values(module, fragment, slice(None))
        with torch.no_grad():
            expected = naive_values(module, fragment)
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
        assert finals.shape == (int(fragment.done.sum()), 4)


@pytest.mark.parametrize("kind", ["policy_gradient", "attention", "gru"])
def test_training_that_goes_on_does_not_change_a_policy(kind: str, tmp_path: Path) -> None:
    with Experiment.start(config_of(kind, tmp_path)) as experiment:
        policy = TrainedPolicy.from_algorithm(experiment.algorithm)
        network = policy._modules[0].policy
        before = [parameter.clone() for parameter in network.parameters()]
        experiment.algorithm.train()
        own = experiment.algorithm.learner.actor_critic("shared").policy
        assert all(torch.equal(one, two) for one, two in zip(network.parameters(), before, strict=True))
        assert not all(torch.equal(one, two) for one, two in zip(own.parameters(), before, strict=True))


def test_a_policy_for_each_group_is_shared_by_its_members(tmp_path: Path) -> None:
    with Experiment.start(config_of("by_group", tmp_path, num_episodes=4)) as experiment:
        config = experiment.algorithm.config
        assert config.module_ids == ["left", "right"]
        assert config.agent_modules == [0, 1, 1, 1]


def test_groups_are_needed_for_policies_by_group(tmp_path: Path) -> None:
    config = config_of("centralized", tmp_path, policies="by_group", critic="local")
    message = (
        r"'by_group' needs agents of several groups, got 4 agents .*environment\.constraints\.num_groups make"
    )
    with pytest.raises(ConfigurationError, match=message):
        Experiment.start(config)
    assert not list(tmp_path.iterdir())


WRONG = {
    "WrongShape": (ModelError, r"model\.type: WrongShape must map observations of shape .* to \(2, 4\), got"),
    "Raises": (ModelError, r"Raises must map .* to \(2, 4\), but raised KeyError: 'nothing here'"),
    "NoTensor": (ModelError, r"NoTensor must map .* to \(2, 4\) float32, got NoneType"),
    "Unbuildable": (ModelError, r"must take the sizes .*, but raised RuntimeError: no weights today"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_a_model_that_does_not_work_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    config = config_of("policy_gradient", tmp_path)
    model = config.model.model_copy(update={"type": f"tests.training.custom_model.{name}"})
    with pytest.raises(WRONG[name][0], match=WRONG[name][1]):
        Experiment.start(config.model_copy(update={"model": model}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"width": 3}, {"input_size": 3}])
def test_options_that_a_model_does_not_take_are_refused_by_name(
    options: dict[str, Any], tmp_path: Path
) -> None:
    config = config_of("custom", tmp_path)
    model = config.model.model_copy(update={"options": options})
    with pytest.raises(
        ConfigurationError, match=r"model\.options: (must not have input_size|options of Custom)"
    ):
        Experiment.start(config.model_copy(update={"model": model}))


def test_a_model_may_have_layers_that_it_does_not_use(tmp_path: Path) -> None:
    config = config_of("policy_gradient", tmp_path, num_episodes=4)
    model = config.model.model_copy(update={"type": "tests.training.custom_model.Spare"})
    with Experiment.start(config.model_copy(update={"model": model})) as experiment:
        assert experiment.train() is Status.COMPLETE


def test_whose_memory_it_is_must_be_said(tmp_path: Path) -> None:
    config = config_of("gru", tmp_path, num_episodes=4)
    _, run = train(config)
    policy = load_policy(run)
    observation = np.zeros(policy.observation_space.shape, np.float32)
    with pytest.raises(
        ModelError, match=r"agent_id must be one of the 4 agents \(agent_0, \.\.\.\), got None"
    ):
        policy.act(observation)
    assert policy.act(observation, "agent_1") in range(4)


def test_a_model_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = config_of("custom", tmp_path)
    wrong = config.model.model_copy(update={"type": "tests.training.custom_model.Missing"})
    with pytest.raises(ConfigurationError, match=r"model\.type: 'tests.*Missing' cannot be imported"):
        Experiment.start(config.model_copy(update={"model": wrong}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["centralized", "gnn", "gru", "communication"])
def test_training_on_does_not_change_a_policy_taken_before(kind: str, tmp_path: Path) -> None:
    config = config_of(kind, tmp_path)
    observations = EnvironmentFactory(config.environment)(16, 5).reset(5)
    with Experiment.start(config) as experiment:
        policy = TrainedPolicy.from_algorithm(experiment.algorithm)
        before = [value.clone() for value in policy.spec().weights[0].values()]
        experiment.algorithm.train()
        for one, two in zip(before, policy.spec().weights[0].values(), strict=True):
            assert torch.equal(one, two)
        assert policy.actions(observations).shape == (16, 4)
