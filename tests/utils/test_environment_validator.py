"""Names, files and capabilities that a configuration asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from camac_dra.utils import ConfigurationError, EnvironmentValidator
from camac_dra.utils.environment_validator import check_model_sizes
from camac_dra.utils.schema import Config, ModelConfig
from camac_dra.utils.validation import Origin

SPECIFICATION = {  # the configuration guide of the specification, as it stands there
    "environment": {
        "num_agents": 10,
        "num_resources": 5,
        "max_episode_length": 1000,
        "resource_limits": {"cpu": 1000, "memory": 500, "bandwidth": 10000},
        "topology": "random",
        "reward_function": "hybrid",
        "observation_type": "partial",
    },
    "model": {
        "type": "dqn",
        "state_size": 64,
        "action_size": 10,
        "learning_rate": 0.001,
        "gamma": 0.99,
        "target_update_freq": 1000,
        "hidden_sizes": [128, 128],
        "activation": "relu",
    },
    "training": {
        "num_episodes": 100,
        "batch_size": 32,
        "replay_buffer_size": 100000,
        "epsilon_start": 1.0,
        "epsilon_end": 0.01,
        "epsilon_decay": 0.995,
        "optimizer": "adam",
        "early_stopping": True,
        "early_stopping_patience": 20,
    },
    "coordination": {
        "protocol": "distributed_consensus",
        "message_timeout": 5.0,
        "sync_interval": 10,
        "conflict_resolver": "weighted_random",
        "max_queue_size": 1000,
    },
}


def test_valid_configuration_is_returned_typed() -> None:
    assert EnvironmentValidator({}).validate() == Config()
    assert EnvironmentValidator({}).is_valid()
    assert not EnvironmentValidator({"environment": {"num_agents": 0}}).is_valid()


GRAPH = {"observation_type": "graph"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": {"type": "gnn"}}, r"observation_type: must be 'graph' with model\.type 'gnn'.*'partial'"),
        (
            {"model": {"type": "attention", "aggregation": "mean"}, "environment": GRAPH},
            r"model\.aggregation: acts only with type gnn, got mean with 'attention'",
        ),
        (
            {"model": {"type": "gnn", "recurrent_size": 8}, "environment": GRAPH},
            r"model\.recurrent_size: acts only with type actor_critic or policy_gradient, got 8 with 'gnn'",
        ),
        (
            {"model": {"num_heads": 2}},
            r"model\.num_heads: acts only with type attention or gnn or communication",
        ),
        (
            {"model": {"options": {"a": 1}}},
            r"model\.options: must be empty unless type is a class of your own, got",
        ),
        (
            {"model": {"type": "policy_gradient"}, "training": {"num_epochs": 2}},
            r"training\.num_epochs: must be 1 or null with model\.type 'policy_gradient', .* got 2",
        ),
    ],
)
def test_settings_of_one_kind_of_model_act_only_with_it(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EnvironmentValidator(config).validate()


@pytest.mark.parametrize("kind", ["dqnn", "package.", ".Model", "my model.Class"])
def test_unknown_model_is_refused(kind: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"must be one of dqn, .*, or the dotted path of a class, got"
    ):
        EnvironmentValidator({"model": {"type": kind}}).validate()


def test_the_nearest_model_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"got 'dqnn'\. Did you mean 'dqn'\?"):
        EnvironmentValidator({"model": {"type": "dqnn"}}).validate()


def test_guide_of_the_specification_lacks_nothing() -> None:
    assert EnvironmentValidator(SPECIFICATION).validate().model.type == "dqn"


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (
            {"groups": [{"name": "a", "agents": [0, 10], "limits": {}}]},
            r"groups\.0\.agents\.1: .* from 0 to 9, got 10",
        ),
        (
            {"groups": [{"name": "a", "agents": [-1], "limits": {}}]},
            r"groups\.0\.agents\.0: .* from 0 to 9, got -1",
        ),
        (
            {"groups": [{"name": "a", "agents": ["agnt_0"], "limits": {}}]},
            r"must be an agent, agent_0 to agent_9, got 'agnt_0'",
        ),
        (
            {"groups": [{"name": "a", "agents": [0], "limits": {"cpus": 1}}]},
            r"groups\.0\.limits\.cpus: must be a resource, one of cpu, .*, got 'cpus'\. Did you mean 'cpu'\?",
        ),
        ({"agent_limits": {"disk": 1}}, r"agent_limits\.disk: must be a resource, one of .*, got 'disk'"),
        ({"access": {"disk": [0]}}, r"access\.disk: must be a resource"),
        ({"access": {"cpu": [99]}}, r"access\.cpu\.0: must be an agent, from 0 to 9, got 99"),
    ],
)
def test_names_of_agents_and_resources_must_exist(constraints: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EnvironmentValidator({"environment": {"constraints": constraints}}).validate()


def test_names_that_exist_are_accepted() -> None:
    constraints = {
        "groups": [{"name": "a", "agents": [0, "agent_1"], "limits": {"cpu": 5, "resource_4": 1}}],
        "agent_limits": {"resource_3": 1},
        "access": {"cpu": [0, "agent_9"]},
    }
    assert EnvironmentValidator({"environment": {"constraints": constraints}}).is_valid()


def test_files_must_exist(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    replay = {"kind": "replay", "replay": {"demand": str(trace), "price": "builtin:price"}}
    config = {"environment": {"dynamics": replay}}
    with pytest.raises(
        ConfigurationError, match=r"dynamics\.replay\.demand: must be a file, got .*, which is not"
    ):
        EnvironmentValidator(config).validate()
    trace.touch()
    assert EnvironmentValidator(config).is_valid()
    replay["replay"] = {"demand": str(trace), "evaluation": {"demand": "nowhere.csv"}}
    with pytest.raises(
        ConfigurationError, match=r"replay\.evaluation\.demand: must be a file, got 'nowhere\.csv'"
    ):
        EnvironmentValidator(config).validate()


@pytest.mark.parametrize(
    "path", ["reward", "package.", ".reward", "a b.c", "a.1b", "unimportable:__main__.f"]
)
def test_reward_function_must_be_a_dotted_path(path: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"environment\.reward_fn: (must be a dotted path|was __main__\.f)"
    ):
        EnvironmentValidator({"environment": {"reward_fn": path}}).validate()


def test_problems_name_their_place() -> None:
    origin = Origin("a.yaml", {"model.type": "line 7"})
    with pytest.raises(
        ConfigurationError, match=r"Invalid configuration a\.yaml: model\.type: .*\(line 7\)$"
    ):
        EnvironmentValidator({"model": {"type": "gnm"}}, origin).validate()


def test_sizes_of_the_model_must_be_those_of_the_environment() -> None:
    check_model_sizes(ModelConfig(), 70, 10)
    check_model_sizes(ModelConfig(state_size=70, action_size=10), 70, 10)
    with pytest.raises(
        ConfigurationError, match=r"model\.state_size: must be 70, as the environment has, got 64"
    ):
        check_model_sizes(ModelConfig(state_size=64), 70, 10)
    with pytest.raises(ConfigurationError, match=r"\(2 problems\)"):
        check_model_sizes(ModelConfig(state_size=64, action_size=9), 70, 10)
