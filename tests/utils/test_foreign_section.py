"""A section that names somebody else's environment holds what acts there, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from camac_dra.utils.config_loader import as_dict, as_yaml, build_config
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.overrides import parse_overrides
from camac_dra.utils.schema import Config

FACTORY = {"factory": "package.module.make", "max_episode_length": 25}


def foreign(section: dict[str, Any] | None = None, **sections: Any) -> Config:
    return build_config({"environment": {**FACTORY, **(section or {})}, **sections})


def test_it_is_written_without_the_allocation_problem_and_read_back(tmp_path: Path) -> None:
    config = foreign(
        {"factory_options": {"n": 3, "nested": {"list": [1, 2.5, None]}}, "agent_indicator": True}
    )
    assert set(as_dict(config)["environment"]) == {
        "factory",
        "factory_options",
        "agent_indicator",
        "baselines",
        "max_episode_length",
    }
    path = tmp_path / "config.yaml"
    path.write_text(as_yaml(config))
    assert build_config(path) == config
    assert build_config(config, {"training.seed": 3}).environment == config.environment
    assert config.environment.held_out() == config.environment


def test_options_can_be_given_on_the_command_line() -> None:
    given = parse_overrides(["--environment.factory_options.n", "4", "--environment.agent_indicator", "true"])
    config = build_config({"environment": FACTORY}, given)
    assert config.environment.factory_options == {"n": 4}
    assert config.environment.agent_indicator


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"num_agents": 10}, r"environment\.num_agents: belongs to the allocation problem"),
        ({"dynamics": {"kind": "synthetic"}}, r"environment\.dynamics: belongs to the allocation problem"),
        ({"seed": 0}, r"environment\.seed: .* no effect with environment\.factory 'package\.module\.make'"),
        ({"factory": "make"}, r"environment\.factory: must be a dotted path such as"),
        ({"factory": "package.module.make()"}, r"must be a dotted path"),
        ({"factory": ""}, r"environment\.factory: must be null or a string|a string that is not empty"),
        ({"baselines": ["best"]}, r"environment\.baselines\.0: must be a dotted path"),
        ({"baselines": ["a.best", "b.best"]}, r"environment\.baselines\.1: must have .* name of its own"),
        ({"baselines": ["a.random"]}, r"environment\.baselines\.0: must have .* got 'random'"),
        ({"factory_options": [1]}, r"environment\.factory_options: must be a mapping from names"),
    ],
)
def test_what_has_no_meaning_there_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        foreign(section)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {"deferral_price": 1.0}}, r"training\.deferral_price: is about the allocation problem"),
        (
            {"training": {"factored_credit": True}},
            r"training\.factored_credit: is about the allocation problem",
        ),
        (
            {"training": {"curriculum": {"mechanism": [{"progress": 0.0, "mechanism": "equal"}]}}},
            r"training\.curriculum: is about the allocation problem",
        ),
        (
            {"coordination": {"protocol": "gossip"}},
            r"coordination\.protocol: is about the allocation problem",
        ),
        ({"coordination": {"conflict_resolver": "equal"}}, r"environment\.mechanism: belongs to"),
        ({"model": {"type": "gnn"}}, r"model\.type: must be one that takes rows of numbers"),
    ],
)
def test_other_sections_must_be_free_of_the_allocation_problem(
    sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        foreign(**sections)


def test_the_length_of_episodes_must_be_given() -> None:
    with pytest.raises(ConfigurationError, match=r"environment\.max_episode_length: must be given"):
        build_config({"environment": {"factory": "package.module.make"}})


@pytest.mark.parametrize("name", ["factory_options", "agent_indicator", "baselines"])
def test_what_belongs_to_a_factory_needs_one(name: str) -> None:
    values = {"factory_options": {"n": 1}, "agent_indicator": True, "baselines": ["a.b"]}
    with pytest.raises(
        ConfigurationError, match=rf"environment\.{name}: acts only with environment\.factory"
    ):
        build_config({"environment": {name: values[name]}})


def test_sizes_of_the_allocation_problem_do_not_matter() -> None:
    assert foreign(model={"state_size": 18, "action_size": 5}).model.state_size == 18


def test_the_example_is_valid(root: Path) -> None:
    config = build_config(root / "rllib_configs" / "simple_spread.yaml")
    assert config.environment.factory == "mpe2.simple_spread_v3.parallel_env"
