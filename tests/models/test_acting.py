"""Discrete actions from any model, with heads, masks and memory; models by name."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from camac_dra.models import (
    AttentionNetwork,
    BaseModel,
    DQNAgent,
    GraphNeuralNetwork,
    PolicyNetwork,
    QNetwork,
    ValueNetwork,
    as_policy,
    make_model,
    model_class,
    register_model,
    registry,
    with_action_head,
)
from camac_dra.models.acting import DiscretePolicy, greedy
from camac_dra.utils.errors import ActionError, ConfigurationError, ModelError

RNG = np.random.default_rng(0)
STATE = RNG.normal(size=64).astype(np.float32)


class Encoder(BaseModel):
    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__(input_size, output_size)
        self.fc = nn.Linear(input_size, output_size)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.fc(state)


@pytest.mark.parametrize(
    "name", ["dqn", "policy_gradient", "actor_critic", "attention", "gnn", "communication", "q"]
)
@pytest.mark.parametrize("activation", ["relu", "elu", "tanh"])
def test_every_kind_gives_discrete_actions(name: str, activation: str) -> None:
    model = make_model(name, 64, 10, activation=activation)
    assert model.action_size == model.output_size == 10
    policy = as_policy(model, 10)
    action = policy.act(STATE)
    assert type(action) is int
    scores = model.outputs(torch.from_numpy(STATE)[None]).detach().numpy()
    np.testing.assert_array_equal(policy.scores(STATE[None]), scores)
    assert action == scores.argmax()


def test_an_attention_network_without_a_head_acts() -> None:
    """The model of the example with fifty nodes: it gets an action head."""
    agents = [as_policy(AttentionNetwork(input_dim=64, num_heads=8), 10, seed=i) for i in range(5)]
    actions = [agent.act(STATE) for agent in agents]
    assert all(type(action) is int and 0 <= action < 10 for action in actions)
    again = as_policy(agents[0].model.body, 10, seed=0)
    np.testing.assert_array_equal(again.scores(STATE[None]), agents[0].scores(STATE[None]))
    assert agents[0].model.body.get_attention_weights().shape == (1, 8, 1, 1)


def test_a_head_reads_graph_observations_through_its_body() -> None:
    observation = RNG.normal(size=(5, 7)).astype(np.float32)
    observation[:, -1] = [1, 1, 0, 1, 0]
    for body in (AttentionNetwork(6, 3, seed=0), GraphNeuralNetwork(6, (8,), seed=0)):
        policy = as_policy(body, 4, seed=0)
        scores = policy.scores(observation[None])
        assert scores.shape == (1, 4)
        observation[2, :-1] = 9.0
        np.testing.assert_array_equal(policy.scores(observation[None]), scores)
        observation[1, 0] += 1.0
        assert (policy.scores(observation[None]) != scores).any()


def test_heads_have_the_sizes_asked_for() -> None:
    body = Encoder(6, 5)
    model = with_action_head(body, 4, hidden_sizes=(), seed=0)
    x = torch.randn(3, 6)
    torch.testing.assert_close(model(x), model.scores(body(x)))
    assert (model.input_size, model.output_size, model.action_size) == (6, 4, 4)
    model(x).sum().backward()
    assert body.fc.weight.grad.any()


@pytest.mark.parametrize(
    "make",
    [lambda: ValueNetwork(6), lambda: QNetwork(6, 4), lambda: DQNAgent(6, 4), lambda: PolicyNetwork(6, 4)],
)
def test_final_outputs_take_no_head(make: Any) -> None:
    with pytest.raises(
        ModelError, match=r"must leave room for an action head, got a \w+: its outputs are final"
    ):
        with_action_head(make(), 3)
    with pytest.raises(ModelError, match="its outputs are final"):
        with_action_head(with_action_head(Encoder(6, 5), 4), 3)


def test_what_does_not_act_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"must score 10 actions, got a QNetwork of 4 outputs; with_action_head"
    ):
        as_policy(QNetwork(6, 4), 10)
    with pytest.raises(ModelError, match="its outputs are final"):
        as_policy(ValueNetwork(6), 4)
    with pytest.raises(ModelError, match="must be a torch module or have a method act, got dict"):
        as_policy({}, 4)
    with pytest.raises(
        ModelError, match=r"scores of shape \(1, 4\) for observations of shape \(1, 6\), got \(1, 3\)"
    ):
        as_policy(nn.Linear(6, 3), 4).act(np.zeros(6))


def test_plain_modules_and_ready_policies_act() -> None:
    layer = nn.Linear(6, 4)
    x = RNG.normal(size=6)
    assert as_policy(layer, 4).act(x) == layer(torch.tensor(x, dtype=torch.float32)).argmax()

    class Ready:
        def act(self, observation: np.ndarray) -> int:
            return 3

    ready = Ready()
    assert as_policy(ready, 4) is ready


def test_many_act_as_each_alone() -> None:
    policy = as_policy(QNetwork(6, 4, seed=0), 4)
    states = RNG.normal(size=(20, 6))
    actions = policy.act_many(states)
    assert actions.tolist() == [policy.act(state) for state in states]
    assert len(set(actions)) > 1


def test_dropout_is_for_learning() -> None:
    model = nn.Sequential(nn.Linear(6, 50), nn.Dropout(0.5), nn.Linear(50, 4))
    policy = as_policy(model, 4)
    model.train()
    x = RNG.normal(size=(1, 6))
    np.testing.assert_array_equal(policy.scores(x), policy.scores(x))


def test_weights_that_change_show_at_once() -> None:
    model = QNetwork(6, 4, hidden_sizes=())
    policy = as_policy(model, 4)
    for best in (2, 1):
        with torch.no_grad():
            model.advantage.weight.zero_()
            model.advantage.bias.copy_(torch.eye(4)[best])
        assert policy.act(np.zeros(6)) == best


# Masks


def test_masked_actions_are_not_taken() -> None:
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 5.0, 5.0]])
    assert greedy(scores).tolist() == [0, 1]
    assert greedy(scores, np.array([False, True, True])).tolist() == [1, 1]
    assert greedy(scores, np.array([[0, 0, 1], [1, 0, 0]])).tolist() == [2, 0]
    assert as_policy(QNetwork(6, 4), 4).act(np.zeros(6), np.array([False, False, True, False])) == 2


def test_impossible_masks_and_scores_are_refused() -> None:
    scores = np.zeros((2, 3))
    with pytest.raises(ActionError, match="action_mask must allow at least one action, got none"):
        greedy(scores, np.array([[1, 1, 1], [0, 0, 0]]))
    with pytest.raises(ActionError, match=r"action_mask must have shape \(3,\), got \(2,\)"):
        greedy(scores, np.ones(2))
    with pytest.raises(ModelError, match="scores of actions must be numbers"):
        greedy(np.array([[np.nan, 1.0]]))


# Memory


def test_policies_remember_until_they_are_reset() -> None:
    model = PolicyNetwork(6, 4, shared_torso=True, recurrent_size=5, seed=0)
    policy, other = as_policy(model, 4), as_policy(model, 4)
    assert isinstance(policy, DiscretePolicy)
    states = RNG.normal(size=(3, 1, 6))
    first, second = policy.scores(states[0]), policy.scores(states[1])
    np.testing.assert_array_equal(
        other.scores(states[0]), first
    )  # memories are the policies', not the model's
    assert (other.scores(states[0]) != first).any()
    policy.reset()
    np.testing.assert_array_equal(policy.scores(states[0]), first)
    np.testing.assert_array_equal(policy.scores(states[1]), second)
    with pytest.raises(ModelError, match=r"observations must be 1 rows as before, got 2.*reset\(\)"):
        policy.act_many(np.zeros((2, 6)))


# Names


def test_names_and_dotted_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    assert model_class("dqn") is DQNAgent
    module = types.ModuleType("my_models")
    module.Encoder = Encoder  # type: ignore[attr-defined]
    module.NoModel = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_models", module)
    assert isinstance(make_model("my_models.Encoder", 6, 4), Encoder)
    assert register_model("encoder", Encoder) is Encoder
    assert register_model("encoder", Encoder) is Encoder
    assert make_model("encoder", 6, 4).output_size == 4
    assert registry.model_names()[-1] == "encoder"
    for name, match in {
        "dqm": r"model.type must be one of dqn, .*encoder, or a class's dotted path, got 'dqm'.*'dqn'",
        "my_models.Other": r"'my_models.Other' cannot be imported: .*no attribute 'Other'",
        "no_such_package.Model": "'no_such_package.Model' cannot be imported: ModuleNotFoundError: No module",
        "my_models.NoModel": "must be a subclass of BaseModel, got 'my_models.NoModel'",
        "..": r"must be a dotted path such as package.module.Class, got '\.\.'",
    }.items():
        with pytest.raises(ConfigurationError, match=match):
            model_class(name)


@pytest.mark.parametrize("text", ["class Model(:", "raise RuntimeError('no key')"])
def test_a_module_that_raises_when_imported_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "broken_models.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    message = r"model\.type: 'broken_models\.Model' cannot be imported: (SyntaxError|RuntimeError: no key)"
    with pytest.raises(ConfigurationError, match=message):
        model_class("broken_models.Model")


def test_names_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {"mine": Encoder})
    with pytest.raises(ConfigurationError, match=r"must be free, got 'mine', which is .*Encoder"):
        register_model("mine", QNetwork)
    for name in ("dqn", "a.b", ""):
        with pytest.raises(ConfigurationError, match=r"must have no dot and not be one of dqn"):
            register_model(name, Encoder)
    with pytest.raises(ConfigurationError, match="model_class must be a subclass of BaseModel"):
        register_model("dict", dict)  # type: ignore[arg-type]


def test_unknown_options_are_refused_with_those_there_are() -> None:
    with pytest.raises(
        ConfigurationError, match=r"options of QNetwork .* dueling, branches, seed: .*'duelling'"
    ):
        make_model("q", 6, 4, duelling=True)
