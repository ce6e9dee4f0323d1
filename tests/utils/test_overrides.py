"""Settings given on the command line."""

from __future__ import annotations

from typing import Any

import pytest

from camac_dra.utils.config_loader import ConfigLoader, build_config
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.overrides import apply_overrides, parse_overrides, split_settings


def test_both_forms_and_all_kinds_of_values() -> None:
    tokens = (
        "--environment.num_agents 20 --training.batch_size=16 --model.learning_rate 1e-3 "
        "--training.time_limit null --training.early_stopping true --environment.seed=0 "
        "--environment.resource_limits.gpu_memory 8"
    ).split()
    tokens += ["--model.hidden_sizes", "[64, 64]", "--environment.resource_limits={cpu: 5}"]
    assert parse_overrides(tokens) == {
        "environment.num_agents": 20,
        "training.batch_size": 16,
        "model.learning_rate": 0.001,
        "training.time_limit": None,
        "training.early_stopping": True,
        "environment.seed": 0,
        "environment.resource_limits.gpu_memory": 8,
        "model.hidden_sizes": [64, 64],
        "environment.resource_limits": {"cpu": 5},
    }


def test_negative_numbers_are_values() -> None:
    assert parse_overrides(["--environment.dynamics.synthetic.price_phase", "-1.5"]) == {
        "environment.dynamics.synthetic.price_phase": -1.5
    }


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["num_agents"], r"command line: must be --section\.setting VALUE, got 'num_agents'"),
        (["-x"], r"command line: must be --section\.setting VALUE, got '-x'"),
        (["--"], r"command line: must be --section\.setting VALUE, got '--'"),
        (["--=3"], r"command line: must be --section\.setting VALUE, got '--=3'"),
        (["--training.seed"], r"--training\.seed: needs a value"),
        (["--training.seed", "--training.name", "a"], r"--training\.seed: needs a value"),
        (["--training.seed="], r"--training\.seed: needs a value, got ''; write null for none"),
        (["--training.seed", "1", "--training.seed", "2"], r"--training\.seed: is given twice"),
        (["--training.gamma", "1"], r"--training\.gamma: is not a setting\. Did you mean model\.gamma\?"),
        (["--num_workers", "4"], r"--num_workers: is not a setting\. Did you mean training\.num_workers\?"),
        (["--training.seed.x", "1"], r"--training\.seed\.x: is not a setting"),
        (
            ["--environment.constraints.groups.x", "1"],
            r"--environment\.constraints\.groups\.x: is not a setting",
        ),
        (["--model.hidden_sizes", "[1, 2"], r"--model\.hidden_sizes, line 1, column 6: not valid YAML"),
    ],
)
def test_bad_tokens_are_refused(tokens: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_overrides(tokens)


def test_entries_of_a_mapping_change_one_and_a_mapping_replaces_all() -> None:
    one = build_config(None, {"environment.resource_limits.cpu": 5})
    assert one.environment.resource_limits == {"cpu": 5.0, "memory": 500.0, "bandwidth": 10000.0}
    other = build_config(
        {"environment": {"resource_limits": {"gpu": 8}}}, {"environment.resource_limits.cpu": 5}
    )
    assert other.environment.resource_limits == {"gpu": 8.0, "cpu": 5.0}
    replaced = build_config(None, {"environment.resource_limits": {"gpu": 8}})
    assert replaced.environment.resource_limits == {"gpu": 8.0}


def test_sections_that_are_not_there_are_made() -> None:
    data = apply_overrides({"environment": None}, {"environment.dynamics.replay.demand": "a.csv"})
    assert data == {"environment": {"dynamics": {"replay": {"demand": "a.csv"}}}}


def test_what_it_is_applied_to_stays_as_it_was() -> None:
    data: dict[str, Any] = {"environment": {"resource_limits": {"cpu": 1}}}
    apply_overrides(data, {"environment.resource_limits.cpu": 2})
    assert data == {"environment": {"resource_limits": {"cpu": 1}}}


def test_path_through_a_value_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"--environment\.num_agents: environment must be a mapping, got 3"
    ):
        apply_overrides({"environment": 3}, {"environment.num_agents": 2})


@pytest.mark.parametrize(
    "base", [None, ConfigLoader.get_default_config(), {"environment": {"mechanism": "equal"}}]
)
def test_resolver_and_mechanism_are_two_names_of_one_setting(base: dict[str, Any] | None) -> None:
    config = build_config(base, {"coordination.conflict_resolver": "drf"})
    assert config.environment.mechanism == "drf"
    config = build_config(config, {"environment.mechanism": "max_min"})
    assert config.environment.mechanism == "max_min"
    assert config.coordination.conflict_resolver is None


def test_problems_name_the_command_line_or_the_line(tmp_path: Any) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("training:\n  seed: -1\n")
    with pytest.raises(ConfigurationError, match=r"\(2 problems\)") as caught:
        build_config(path, {"environment.num_agents": 0})
    assert "environment.num_agents: must be a whole number of at least 1, got 0 (command line)" in str(
        caught.value
    )
    assert "training.seed: must be a whole number from 0 to 4294967295, got -1 (line 2)" in str(caught.value)


def test_override_mends_what_the_file_has_wrong(tmp_path: Any) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("training:\n  seed: -1\n")
    assert build_config(path, {"training.seed": 3}).training.seed == 3


def test_settings_are_told_from_the_command_s_own_arguments() -> None:
    tokens = ["resume", "--a.b", "1", "path", "--c.d=2", "--quiet", "--e.f", "--num_workers", "3"]
    own, rest = split_settings(tokens)
    assert own == ["resume", "path", "--quiet", "--num_workers", "3"]
    assert rest == ["--a.b", "1", "--c.d=2", "--e.f"]
