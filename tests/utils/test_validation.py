"""Bad configurations get one error that lists every problem: path, rule, value, place."""

from __future__ import annotations

import dataclasses
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camac_dra.training.replay_settings import ReplaySettings
from camac_dra.training.settings import PPOSettings
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema import EFFECTLESS_WITH, KNOWN_MODELS, Config, ModelConfig, TrainingConfig
from camac_dra.utils.schema.catalog import settings
from camac_dra.utils.schema.model import ENTITY_MODELS
from camac_dra.utils.validation import Origin, Problem, invalid, plain, shown, validated


def nested(path: str, value: Any) -> dict[str, Any]:
    """Return nested dicts with the value at a dotted path."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


GRAPH = {"environment": {"observation_type": "graph"}}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("environment.num_agents", -3, "must be a whole number of at least 1, got -3"),
        ("environment.num_agents", True, "must be a whole number of at least 1, got true"),
        ("environment.num_agents", "20", "must be .*, got '20' (a string: remove the quotes)"),
        ("environment.num_agents", None, "must be a whole number of at least 1, got null"),
        ("environment.resource_limits.cpu", float("nan"), "must be a number above 0, got nan"),
        ("environment.resource_limits.cpu", -1, "must be a number above 0, got -1"),
        (
            "environment.resource_limits",
            {},
            "must be a mapping from names, each value a number above 0, got {}",
        ),
        ("environment.message_loss", float("nan"), "must be a number from 0 to 1, got nan"),
        ("environment.message_loss", 1.5, "must be a number from 0 to 1, got 1.5"),
        ("environment.topology", "rign", "must be one of .*, got 'rign'. Did you mean 'ring'?"),
        ("environment.topology", "xyz", "must be one of fully_connected, .*, graphml, got 'xyz'"),
        ("environment.reward_fn", 3, "must be a string or null, got 3"),
        ("environment.constraints.access.cpu.0", 1, "must be a list"),
        ("environment.constraints.access", {"cpu": [1.5]}, "must be a whole number or a string, got 1.5"),
        (
            "environment.constraints.groups",
            [{"name": "a", "agents": [], "limits": {}}],
            "must be a list of at least 1, .* got []",
        ),
        (
            "environment.dynamics.replay",
            {},
            "environment.dynamics.replay.demand: is missing; it must be a string",
        ),
        ("environment.topolgy", "ring", "is not a setting. Did you mean 'environment.topology'?"),
        ("training.gamma", 0.9, "training.gamma: is not a setting. Did you mean 'model.gamma'?"),
        ("training.early_stopping", "yes", "must be true or false, got 'yes'"),
        ("training.batch_size", 0.5, "must be a whole number of at least 1, got 0.5"),
        ("model.hidden_sizes", [64, 0], "model.hidden_sizes.1: must be a whole number of at least 1, got 0"),
        ("model", [1], "model: must be a section (a mapping of settings), got [1]"),
        ("modle", {}, "modle: is not a setting. Did you mean 'model'?"),
    ],
)
def test_message_names_path_rule_and_value(path: str, value: Any, message: str) -> None:
    pattern = message.replace("(", r"\(").replace(")", r"\)").replace("[", r"\[").replace("?", r"\?")
    with pytest.raises(ConfigurationError, match=pattern) as caught:
        validated(nested(path, value))
    assert path.split(".")[0] in str(caught.value)
    assert "\n" not in str(caught.value), "one problem, one line"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"environment": {"num_resources": 2}},
            r"environment\.num_resources: must be at least the number of resource_limits \(3: cpu, memory, "
            r"bandwidth\), got 2",
        ),
        (
            {"environment": {"num_agents": 2, "constraints": {"num_groups": 3}}},
            r"environment\.constraints\.num_groups: must be at most num_agents \(2\), got 3",
        ),
        ({"environment": {"weight_probabilities": [1.0]}}, r"as many entries as weight_values \(3\), got 1"),
        ({"environment": {"weight_probabilities": [0.5, 0.3, 0.3]}}, r"must sum to 1, got .* with sum 1\.1"),
        ({"environment": {"weights": [1.0]}}, r"weights: must have num_agents \(10\) entries, got 1"),
        (
            {"environment": {"topology": "graphml"}},
            r"topology_options\.file: is needed with topology 'graphml'",
        ),
        (
            {"environment": {"topology_options": {"file": "a.graphml"}}},
            r"topology_options\.file: has no effect with topology 'fully_connected': remove it",
        ),
        ({"environment": {"max_neighbors": 3}}, r"max_neighbors: acts only with observation_type 'graph'"),
        (
            {"environment": {"observation_type": "full", "message_delay": 2.0}},
            r"message_delay: has no effect with observation_type 'full', .*, got 2\.0: leave it at 0",
        ),
        (
            {"environment": {"observation_type": "full", "message_loss": 0.1}},
            r"message_loss: has no effect with observation_type 'full', .*, got 0\.1: leave it at 0",
        ),
        (
            {"environment": {"mechanism": "weighted_random", "credit": "marginal"}},
            r"credit: 'marginal' needs a deterministic mechanism, got 'weighted_random'",
        ),
        (
            {"environment": {"reward_function": "hybrid", "credit": "marginal"}},
            r"credit: 'marginal' is defined for reward_function 'efficiency' .*got 'hybrid'",
        ),
        (
            {"environment": {"reward_fn": "a.b", "credit": "marginal"}},
            r"credit: 'marginal' is defined for reward_function 'efficiency' .*got a reward_fn",
        ),
        (
            {"environment": {"dynamics": {"kind": "replay"}}},
            r"dynamics\.replay: is needed with dynamics\.kind",
        ),
        (
            {"environment": {"dynamics": {"sessions": {"sessions": "a.csv"}}}},
            r"dynamics\.sessions: has no effect with dynamics\.kind 'synthetic': remove it",
        ),
        (
            {"training": {"early_stopping": True, "evaluation_interval": None}},
            r"training\.evaluation_interval: must be a number where early_stopping is true, got null",
        ),
        (
            {
                "training": {
                    "curriculum": {"contention": [{"progress": p, "contention": 1} for p in (0.5, 0.1)]}
                }
            },
            r"training\.curriculum\.contention: must be ordered by rising progress, got \[0\.5, 0\.1\]",
        ),
        (
            {"training": {"curriculum": {"mechanism": [{"progress": 0, "mechanism": "weighted_random"}]}}},
            r"training\.curriculum\.mechanism\.0\.mechanism: must be deterministic where environment\.credit",
        ),
        (
            {"environment": {"mechanism": "equal"}, "coordination": {"conflict_resolver": "drf"}},
            r"coordination\.conflict_resolver: 'drf' contradicts environment\.mechanism 'equal'",
        ),
        (
            {"model": {"state_size": 32}},
            r"model\.state_size: must be at least environment\.observation_size \(64\), got 32",
        ),
        (
            {"model": {"action_size": 12}},
            r"model\.action_size: must be environment\.action_size \(10\) where environment\.action_type is "
            r"'discrete', got 12",
        ),
        (
            {"model": {"action_size": 10}, "environment": {"action_type": "continuous"}},
            r"model\.action_size: must be environment\.num_resources \(5\)",
        ),
        (
            {"model": {"type": "dqn"}, "training": {"epsilon_start": 0.1, "epsilon_end": 0.5}},
            r"training\.epsilon_start: must be at least epsilon_end \(0\.5\), got 0\.1",
        ),
        (
            {"model": {"type": "dqn"}, "training": {"epsilon_start": 0.01}},
            r"training\.epsilon_start: must be at least epsilon_end \(0\.02\), got 0\.01",
        ),
        (
            {"training": {"replay_buffer_size": 1000}},
            r"training\.replay_buffer_size: acts only with model\.type 'dqn' or 'sac', got 1000 with 'act",
        ),
        (
            {"model": {"target_update_freq": 10}},
            r"model\.target_update_freq: acts only with model\.type 'dqn' or 'sac', got 10",
        ),
        (
            {"model": {"type": "sac"}, "training": {"epsilon_end": 0.1}},
            r"training\.epsilon_end: acts only with model\.type 'dqn', got 0\.1 with 'sac'",
        ),
        (
            {"model": {"type": "dqn"}, "training": {"critic": "centralized"}},
            r"training\.critic: must be 'local' with model\.type 'dqn', .* got 'centralized'",
        ),
        (
            {"model": {"type": "dqn"}, "training": {"gae_lambda": 0.95}},
            r"training\.gae_lambda: has no effect with model\.type 'dqn', got 0\.95: leave it at 0\.9$",
        ),
        (
            {"model": {"type": "sac"}, "training": {"value_clip": 3.0}},
            r"training\.value_clip: has no effect with model\.type 'sac', got 3\.0: leave it at null$",
        ),
        (
            {"model": {"type": "policy_gradient"}, "training": {"clip_param": 0.1}},
            r"training\.clip_param: has no effect with model\.type 'policy_gradient', got 0\.1",
        ),
        (
            {**GRAPH, "model": {"type": "attention", "num_heads": 4, "attention_width": 6}},
            r"model\.num_heads: must divide model\.attention_width, 6, got 4$",
        ),
        (
            {**GRAPH, "model": {"type": "communication", "num_heads": 5}},
            r"model\.num_heads: must divide model\.attention_width, 64 by default, got 5$",
        ),
        (
            {**GRAPH, "model": {"type": "communication", "attention_width": 6}},
            r"model\.attention_width: must be a multiple of model\.num_heads, 4 by default, got 6$",
        ),
        (
            {**GRAPH, "model": {"type": "gnn", "num_heads": 5, "hidden_sizes": [10, 12]}},
            r"model\.num_heads: must divide each of model\.hidden_sizes, \[10, 12\], got 5$",
        ),
        (
            {**GRAPH, "model": {"type": "gnn", "hidden_sizes": [10, 12]}},
            r"model\.hidden_sizes: must be multiples of model\.num_heads, 4 by default, got \[10, 12\]$",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        validated(data)


OF_POLICY_GRADIENTS = {
    "gae_lambda": 0.5,
    "value_clip": 2.0,
    "value_loss_coeff": 0.1,
    "entropy_coeff": 0.2,
    "entropy_coeff_end": 0.1,
}


@pytest.mark.parametrize("kind", KNOWN_MODELS)
def test_what_is_accepted_acts(kind: str) -> None:
    """All settings of policy gradients are refused together where there is none, each by name; what a run
    saved, with every setting in it, is taken.
    """
    graph = GRAPH if kind in ENTITY_MODELS else {}
    without = {**graph, "model": {"type": kind}}
    validated(validated(without).model_dump())
    given = {**without, "training": {**OF_POLICY_GRADIENTS, "clip_param": 0.1}}
    refused = {"policy_gradient": ["clip_param"], "dqn": [*OF_POLICY_GRADIENTS, "clip_param"]}
    refused["sac"] = refused["dqn"]
    if kind not in refused:
        validated(given)
        return
    with pytest.raises(ConfigurationError, match="has no effect") as caught:
        validated(given)
    named = set(re.findall(r"training\.(\w+): has no effect", str(caught.value)))
    assert named == set(refused[kind])


def test_the_settings_of_an_algorithm_are_those_that_act() -> None:
    """Whoever adds a setting to PPO says for which kinds it has no effect."""
    own = {field.name for field in dataclasses.fields(PPOSettings)}
    shared = {field.name for field in dataclasses.fields(ReplaySettings)}
    sections = {"training": TrainingConfig, "model": ModelConfig}
    known = {f"{section}.{name}" for section, kind in sections.items() for name in kind.model_fields}
    of_ppo = {path for path in known if path.partition(".")[2] in own - shared}
    refused_otherwise = {"training.critic", "training.factored_credit", "model.recurrent_size"}
    assert of_ppo - refused_otherwise == set(EFFECTLESS_WITH)


def test_heads_need_not_divide_what_they_do_not_share() -> None:
    validated({**GRAPH, "model": {"type": "gnn", "hidden_sizes": [10], "aggregation": "mean"}})
    validated({**GRAPH, "model": {"type": "attention", "hidden_sizes": [10]}})
    validated({"model": {"hidden_sizes": [10]}})


def test_all_problems_are_listed_each_with_its_place() -> None:
    origin = Origin(
        "a.yaml", {"environment": "line 1", "environment.num_agents": "line 2", "training": "line 5"}
    )
    data = {"environment": {"num_agents": 0, "topology": "x"}, "training": {"seeed": 1}, "extra": 1}
    with pytest.raises(
        ConfigurationError, match=r"^Invalid configuration a\.yaml \(4 problems\):\n"
    ) as caught:
        validated(data, origin)
    lines = str(caught.value).splitlines()[1:]
    assert lines[0] == "  environment.num_agents: must be a whole number of at least 1, got 0 (line 2)"
    assert lines[1].startswith("  environment.topology: must be one of ")
    assert lines[1].endswith("(line 1)")
    assert lines[2] == "  training.seeed: is not a setting. Did you mean 'training.seed'? (line 5)"
    assert lines[3] == "  extra: is not a setting. Known here: environment, model, training, coordination."


def test_contradictions_of_one_section_are_listed_together() -> None:
    with pytest.raises(ConfigurationError, match=r"\(3 problems\)"):
        validated({"environment": {"num_resources": 1, "weights": [1.0], "max_neighbors": 2}})


@pytest.mark.parametrize("wrong", [None, 3, "text", [], [("environment", {})]])
def test_only_mappings_are_configurations(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="Invalid configuration: must be a mapping of sections, got"):
        validated(wrong)


def test_names_that_are_no_strings_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="must be a name, so a string, got 3: put it in quotes"):
        validated({"environment": {"resource_limits": {3: 1.0}}})
    with pytest.raises(ConfigurationError, match="must be a name, so a string, got 3: put it in quotes"):
        validated({"environment": {3: 1.0}})


def test_numpy_values_and_tuples_are_taken_for_what_they_stand_for() -> None:
    data = {
        "environment": {
            "num_agents": np.int64(2),
            "weights": np.array([1.0, 2.0]),
            "max_multiple": np.float32(2),
        },
        "model": {"hidden_sizes": (8, 8)},
        "training": {"output_dir": Path("runs")},
    }
    config = validated(data)
    assert config.environment.weights == [1.0, 2.0]
    assert type(config.environment.num_agents) is int
    assert config.model.hidden_sizes == [8, 8]
    assert config.training.output_dir == "runs"


def test_valid_configurations_pass_through() -> None:
    config = Config()
    assert validated(config) is config
    assert validated({}) == config
    assert validated(config.model_dump()) == config


def test_errors_pickle_because_they_cross_processes() -> None:
    error = invalid([Problem("a.b", "is wrong")])
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) == "Invalid configuration: a.b: is wrong"
    assert isinstance(error, ValueError)


def test_long_values_are_cut() -> None:
    assert shown("x" * 500) == "'" + "x" * 79 + "..."
    assert shown(None) == "null"
    assert shown(False) == "false"


def test_plain_data_shares_nothing_with_what_it_was_made_of() -> None:
    given_data = {"a": [1, {"b": 2}]}
    copy = plain(given_data)
    copy["a"][1]["b"] = 3
    assert given_data["a"][1] == {"b": 2}


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(st.sampled_from(sorted(settings())), JUNK)
def test_whatever_is_given_is_accepted_or_refused_with_the_path(path: str, value: Any) -> None:
    try:
        config = validated(nested(path, value))
    except ConfigurationError as error:
        assert path.split(".")[0] in str(error)
        assert "pydantic" not in str(error)
    else:
        assert validated(config.model_dump()) == config
