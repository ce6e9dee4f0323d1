"""The schema, its comments and the configurations that come with the package say the same."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from camac_dra.utils.__main__ import HEADER
from camac_dra.utils.config_file import parse_yaml, read_config_file
from camac_dra.utils.config_loader import as_dict, build_config
from camac_dra.utils.schema import Config, CoordinationConfig, EnvironmentConfig
from camac_dra.utils.schema.catalog import brief_of, entry_settings, json_schema, nearest, rule_of, settings
from camac_dra.utils.schema.commented import commented_yaml

# SPEC's configuration guide, setting by setting.
GUIDE = {
    "environment": "num_agents num_resources max_episode_length resource_limits topology reward_function "
    "observation_type",
    "model": "type state_size action_size learning_rate gamma target_update_freq hidden_sizes activation",
    "training": "num_episodes batch_size replay_buffer_size epsilon_start epsilon_end epsilon_decay "
    "optimizer early_stopping early_stopping_patience",
    "coordination": "protocol message_timeout sync_interval conflict_resolver max_queue_size",
}


def keys_of(data: Any, prefix: str = "") -> Iterator[str]:
    """Yield the paths of all keys in nested mappings."""
    for key, value in data.items() if isinstance(data, dict) else ():
        yield f"{prefix}{key}"
        yield from keys_of(value, f"{prefix}{key}.")


def test_default_file_loads_to_the_defaults_of_the_schema(root: Path) -> None:
    assert build_config(root / "rllib_configs" / "default.yaml") == Config()


def test_default_file_names_every_setting(root: Path) -> None:
    data, _ = read_config_file(root / "rllib_configs" / "default.yaml")
    assert set(keys_of(data)) == set(keys_of(as_dict(Config())))


def test_default_file_is_what_the_schema_writes(root: Path) -> None:
    written = (root / "rllib_configs" / "default.yaml").read_text()
    assert written == commented_yaml(Config(), HEADER), "run: make configs"


def test_schema_file_is_what_the_schema_writes(root: Path) -> None:
    written = parse_yaml((root / "rllib_configs" / "schema.json").read_text(), "schema.json")
    assert written == json_schema(), "run: make configs"


def test_every_setting_has_a_comment_above_it(root: Path) -> None:
    lines = (root / "rllib_configs" / "default.yaml").read_text().splitlines()
    entries = set(Config().environment.resource_limits)
    for above, line in pairwise(lines):
        name = line.strip().partition(":")[0]
        if line.strip() and not line.lstrip().startswith("#") and name not in entries:
            assert above.lstrip().startswith("#"), line


def test_sections_that_are_left_out_are_outlined_in_comments() -> None:
    text = commented_yaml(Config(), HEADER)
    left_out = [
        path for path, s in settings().items() if s.is_section and f"{path.rpartition('.')[2]}: null" in text
    ]
    assert left_out
    for path in left_out:
        for inside in [path for path in settings() if path.startswith(f"{path}.")]:
            assert f"{inside.rpartition('.')[2]}: {settings()[inside].description[:10]}" in text
    for entry in entry_settings("environment.constraints.groups"):
        assert f"#   {entry.path.rpartition('.')[2]}: " in text


def test_every_setting_has_a_description() -> None:
    for definition in [json_schema(), *json_schema()["$defs"].values()]:
        for name, field in definition["properties"].items():
            assert field.get("description"), f"{definition['title']}.{name}"


def test_every_rule_can_be_said_in_words() -> None:
    for setting in settings().values():
        assert setting.rule
        assert setting.brief


def test_every_option_of_the_guide_is_there() -> None:
    for section, names in GUIDE.items():
        for name in names.split():
            assert f"{section}.{name}" in settings()


def test_normalised_returns_are_said_to_be_value_targets() -> None:
    assert settings()["training.normalize_returns"].description.startswith("PopArt on value targets: ")


def test_rules_read_well() -> None:
    known = settings()
    assert known["environment.num_agents"].rule == "a whole number of at least 1"
    assert known["environment.backlog_limit"].rule == "a number above 0 or null"
    assert known["environment.message_loss"].rule == "a number from 0 to 1"
    assert known["environment.dynamics.synthetic.yield_low"].rule == "a number above 0 and at most 1"
    assert known["environment.weights"].rule == "null or a list, each entry a number above 0"
    assert known["model.activation"].rule == "one of relu, elu, tanh"
    assert known["training.early_stopping"].rule == "true or false"
    assert known["environment.agent_prefix"].rule == "a string that is not empty"
    assert known["environment.dynamics.synthetic.yield_low"].brief == "> 0 and <= 1"
    assert known["environment.seed"].brief == "whole 0 to 4294967295"
    assert rule_of({"const": 3}) == "3"
    assert brief_of({"type": "number"}) == "number"


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("training.gamma", " Did you mean 'model.gamma'?"),
        ("environment.topolgy", " Did you mean 'environment.topology'?"),
        ("num_agents", " Did you mean 'environment.num_agents'?"),
        ("enviroment", " Did you mean 'environment'?"),
        ("model.seed", " Did you mean 'environment.topology_options.seed' or"),
        ("environment.burst_sise", " Did you mean 'environment.dynamics.synthetic.burst_size'?"),
        ("coordination.xyz", " Known here: protocol, objective, rounds,"),
        ("environment.xyz", ""),
    ],
)
def test_unknown_names_get_the_nearest_known_path(path: str, answer: str) -> None:
    found = nearest(path)
    assert found.startswith(answer)
    assert bool(found) == bool(answer)


def test_whole_numbers_may_be_written_as_floats_and_nothing_else() -> None:
    config = EnvironmentConfig.model_validate({"num_agents": 2e1, "weights": None})
    assert config.num_agents == 20
    assert type(config.num_agents) is int
    for wrong in (20.5, True, "20", float("inf")):
        with pytest.raises(ValidationError, match="num_agents"):
            EnvironmentConfig.model_validate({"num_agents": wrong})


def test_sections_left_empty_have_their_defaults() -> None:
    assert Config.model_validate({"environment": None, "coordination": None}) == Config()
    assert Config.model_validate({"environment": {"dynamics": {"replay": None}}}) == Config()


def test_sections_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().environment.num_agents = 3  # type: ignore[misc]


def test_defaults_are_not_shared() -> None:
    Config().environment.resource_limits["gpu"] = 1.0
    assert "gpu" not in Config().environment.resource_limits


def test_conflict_resolver_is_another_name_of_the_mechanism() -> None:
    assert (
        Config.model_validate({"coordination": {"conflict_resolver": "drf"}}).environment.mechanism == "drf"
    )
    empty = {"environment": None, "coordination": {"conflict_resolver": "drf"}}
    assert Config.model_validate(empty).environment.mechanism == "drf"
    with pytest.raises(ValidationError, match=r"'drf' contradicts environment\.mechanism 'proportional'"):
        Config(environment=EnvironmentConfig(), coordination=CoordinationConfig(conflict_resolver="drf"))


@pytest.mark.parametrize(
    ("given", "credit"),
    [
        ({}, "marginal"),
        ({"reward_function": "hybrid"}, "team"),
        ({"mechanism": "weighted_random"}, "team"),
        ({"reward_fn": "package.module.reward"}, "individual"),
        ({"reward_function": "fairness", "credit": "individual"}, "individual"),
    ],
)
def test_default_credit_is_one_that_is_defined(given: dict[str, Any], credit: str) -> None:
    assert EnvironmentConfig.model_validate(given).credit == credit


def test_names_of_agents_and_resources() -> None:
    config = EnvironmentConfig(num_agents=2, agent_prefix="iot_node", num_resources=5)
    assert config.agent_ids == ["iot_node_0", "iot_node_1"]
    assert config.resource_ids == ["cpu", "memory", "bandwidth", "resource_3", "resource_4"]
