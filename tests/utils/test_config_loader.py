"""``ConfigLoader`` speaks plain dicts; what is saved loads to the same configuration."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camac_dra.utils import ConfigLoader, ConfigurationError
from camac_dra.utils.config_file import parse_yaml
from camac_dra.utils.config_loader import as_dict, as_portable_dict, as_yaml, build_config
from camac_dra.utils.schema import Config

TWO_LEVELS = st.dictionaries(
    st.sampled_from("abc"), st.dictionaries(st.sampled_from("xyz"), st.integers(), max_size=3), max_size=3
)


def module_level_reward(agent_id: str, allocation: Any, resources: Any) -> float:
    return 1.0


@pytest.mark.parametrize("name", ["default.yaml", "test.yaml"])
def test_every_configuration_loads_to_a_plain_dict_that_is_valid(root: Path, name: str) -> None:
    config = ConfigLoader.load_config(root / "rllib_configs" / name)
    assert type(config) is dict
    assert set(config) == {"environment", "model", "training", "coordination"}
    assert all(type(section) is dict for section in config.values())
    assert ConfigLoader.validate_config(config) is True


def test_test_configuration_is_small(config_path: Path) -> None:
    environment = ConfigLoader.load_config(config_path)["environment"]
    steps = environment["num_agents"] * environment["max_episode_length"]
    assert steps <= 1000, "integration tests take a configuration that runs in seconds"


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"environment": {"num_agents": 4}}')
    expected = ConfigLoader.get_default_config()
    expected["environment"]["num_agents"] = 4
    assert ConfigLoader.load_config(str(path)) == expected


def test_python_overrides_of_the_specification() -> None:
    config = ConfigLoader.get_default_config()
    config["environment"]["num_agents"] = 20
    config["training"]["num_episodes"] = 200
    assert ConfigLoader.validate_config(config)
    config["environment"]["num_agents"] = "many"
    with pytest.raises(
        ConfigurationError, match=r"environment\.num_agents: must be a whole number .* got 'many'"
    ):
        ConfigLoader.validate_config(config)
    with pytest.raises(ValueError, match="Invalid configuration"):  # the class that the specification names
        ConfigLoader.validate_config(config)


def test_default_config_is_a_fresh_copy() -> None:
    ConfigLoader.get_default_config()["environment"]["resource_limits"]["cpu"] = 1
    assert ConfigLoader.get_default_config()["environment"]["resource_limits"]["cpu"] == 1000.0


def test_merging_by_hand() -> None:
    base = {"a": {"x": 1, "y": {"z": 2}}, "b": [1, 2], "c": 3}
    override = {"a": {"y": {"w": 4}}, "b": [5], "c": {"d": 6}, "e": None}
    assert ConfigLoader.merge_configs(base, override) == {
        "a": {"x": 1, "y": {"z": 2, "w": 4}},
        "b": [5],
        "c": {"d": 6},
        "e": None,
    }


@given(TWO_LEVELS, TWO_LEVELS, TWO_LEVELS)
def test_merging_is_associative_idempotent_and_has_a_unit(
    one: dict[str, Any], two: dict[str, Any], three: dict[str, Any]
) -> None:
    merge = ConfigLoader.merge_configs
    before = copy.deepcopy((one, two, three))
    assert merge(merge(one, two), three) == merge(one, merge(two, three))
    assert merge(one, {}) == one == merge({}, one) == merge(one, one)
    assert (one, two, three) == before


def test_merged_configuration_shares_nothing_with_its_parts() -> None:
    base = {"a": {"limits": [1]}}
    merged = ConfigLoader.merge_configs(base, {"b": {"limits": [2]}})
    merged["a"]["limits"].append(3)
    assert base == {"a": {"limits": [1]}}


def test_saved_configuration_loads_to_an_equal_one() -> None:
    config = build_config(
        {"environment": {"num_agents": 3, "agent_prefix": "1e3"}, "training": {"name": "no"}}
    )
    assert build_config(parse_yaml(as_yaml(config), "saved")) == config
    assert build_config(as_dict(config)) == config


def test_callable_is_saved_as_its_dotted_path() -> None:
    config = build_config({"environment": {"reward_fn": copy.deepcopy}})
    assert config.environment.reward_fn is copy.deepcopy
    assert as_dict(config)["environment"]["reward_fn"] is copy.deepcopy
    assert as_portable_dict(config)["environment"]["reward_fn"] == "copy.deepcopy"
    assert build_config(parse_yaml(as_yaml(config), "saved")).environment.reward_fn == "copy.deepcopy"


def test_function_of_a_module_is_importable_and_of_a_function_is_not() -> None:
    config = build_config({"environment": {"reward_fn": module_level_reward}})
    path = as_portable_dict(config)["environment"]["reward_fn"]
    assert path == f"{__name__}.module_level_reward"

    def inner(agent_id: str, allocation: Any, resources: Any) -> float:
        return 1.0

    for unimportable in (inner, lambda a, b, c: 1.0):
        text = as_yaml(build_config({"environment": {"reward_fn": unimportable}}))
        with pytest.raises(
            ConfigurationError, match=r"reward_fn: was .*, which cannot be imported: pass the func"
        ):
            build_config(parse_yaml(text, "saved"))


def test_nothing_and_configurations_are_sources_too() -> None:
    assert build_config() == Config()
    assert build_config(Config()) == Config()
    assert build_config(Config(), {"training.seed": 3}).training.seed == 3
