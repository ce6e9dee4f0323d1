"""Policies and values: shapes, masks, memory, and being the very network that is trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from camac_dra.models import PolicyNetwork, ValueNetwork
from camac_dra.models.action_spaces import describe_space, space_of
from camac_dra.models.normalization import RunningMoments
from camac_dra.models.rl_module import ActorCriticModule
from camac_dra.utils.errors import ConfigurationError, ModelError

SPACES: dict[str, tuple[spaces.Space, int]] = {
    "discrete": (spaces.Discrete(4), 4),
    "multi_discrete": (spaces.MultiDiscrete([3, 5]), 10),
    "box": (spaces.Box(np.array([-1, 0], np.float32), np.array([2, 7], np.float32)), 2),
}


def make_policy(kind: str = "discrete", **options: Any) -> PolicyNetwork:
    space, outputs = SPACES[kind]
    return PolicyNetwork(6, outputs, action_space=space, hidden_sizes=(16, 8), seed=0, **options)


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3)])
@pytest.mark.parametrize("shared_torso", [False, True])
def test_shapes(kind: str, lead: tuple[int, ...], shared_torso: bool) -> None:
    policy = make_policy(kind, shared_torso=shared_torso)
    states = torch.randn(*lead, 6)
    assert policy(states).shape == (*lead, policy.output_size)
    assert policy.values(states).shape == lead
    rows = states.reshape(-1, 6)
    actions = policy.distribution(rows).mode()
    assert actions.shape == (len(rows), *(SPACES[kind][0].shape or ()))
    np.testing.assert_allclose(
        policy(states).reshape(-1, policy.output_size).detach(), policy(rows).detach(), atol=1e-6
    )


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("shared_torso", [False, True])
def test_it_is_the_network_that_is_trained(kind: str, shared_torso: bool) -> None:
    options = {"shared_torso": shared_torso, "normalize_observations": True, "normalize_returns": True}
    module = ActorCriticModule(
        observation_space=spaces.Box(-1, 1, (6,), np.float32),
        action_space=SPACES[kind][0],
        model_config={"network": {"hidden_sizes": (16, 8)}, "seed": 3, **options},
    )
    module.observation_scaler.set_moments(RunningMoments.of(torch.randn(50, 6) * 3 + 1))
    module.return_scaler.set_moments(RunningMoments.of(torch.randn(50, 1) * 9 + 4), module.value.output)
    policy = make_policy(kind, **options)
    policy.load_state_dict(module.state_dict())
    states = torch.randn(5, 6)
    inputs = module.forward_inference({"obs": states})["action_dist_inputs"]
    expected = module.get_inference_action_dist_cls().from_logits(inputs)
    actions = policy.distribution(states).sample(None)[0]
    torch.testing.assert_close(policy.distribution(states).log_prob(actions), expected.logp(actions))
    torch.testing.assert_close(policy.values(states), module.expected_returns({"obs": states}))


@given(st.lists(st.booleans(), min_size=4, max_size=4).filter(any), st.integers(0, 100))
def test_masked_actions_have_no_probability(mask: list[bool], seed: int) -> None:
    policy, allowed = make_policy(), torch.tensor(mask)
    states = torch.randn(9, 6, generator=torch.Generator().manual_seed(seed))
    probabilities = policy(states, allowed).softmax(-1)
    assert (probabilities[:, ~allowed] == 0).all()
    inside = policy(states)[:, allowed].softmax(-1)
    torch.testing.assert_close(probabilities[:, allowed], inside)
    drawn, _ = policy.distribution(states, allowed).sample(torch.Generator().manual_seed(seed))
    assert allowed[drawn].all()


def test_masks_are_by_row_and_fit() -> None:
    policy, states = make_policy(), torch.randn(4, 6)
    rows = torch.eye(4, dtype=torch.bool)
    assert policy.distribution(states, rows).mode().tolist() == [0, 1, 2, 3]
    with pytest.raises(ModelError, match=r"action_mask must fit shape \(4, 4\), got \(3,\)"):
        policy(states, torch.ones(3))
    with pytest.raises(ModelError, match="action_mask must be None for continuous actions"):
        make_policy("box")(states, torch.ones(2))


def test_states_of_another_size_are_refused() -> None:
    for network in (make_policy(), ValueNetwork(6)):
        with pytest.raises(
            ModelError, match=r"state must have 6 features in the last axis, got shape \(2, 5\)"
        ):
            network(torch.zeros(2, 5))


# Memory


@pytest.mark.parametrize("kind", SPACES)
def test_memory_carries_what_was_seen(kind: str) -> None:
    policy = make_policy(kind, shared_torso=True, recurrent_size=5)
    states, rows = torch.randn(7, 3, 6), 3
    memory = policy.initial_memory(rows)
    stepped = []
    for now in states:
        outputs, memory = policy.step(now, memory)
        stepped.append(outputs)
    sequence, values = policy.sequence(states, policy.initial_memory(rows))
    torch.testing.assert_close(sequence, torch.stack(stepped))
    assert values.shape == (7, 3)
    torch.testing.assert_close(policy(states[0]), stepped[0])
    assert not torch.allclose(policy(states[1]), stepped[1])
    sequence[-1].sum().backward()
    assert policy.policy.torso.cell.weight_hh.grad.abs().sum() > 0


def test_memory_ends_with_the_episode() -> None:
    policy = make_policy(shared_torso=True, recurrent_size=5)
    states = torch.randn(6, 2, 6)
    starts = torch.zeros(6, 2, dtype=torch.bool)
    starts[4, 0] = True
    outputs, values = policy.sequence(states, torch.randn(2, 5), starts)
    alone, alone_values = policy.sequence(states[4:], policy.initial_memory(2))
    torch.testing.assert_close(outputs[4:, 0], alone[:, 0])
    torch.testing.assert_close(values[4:, 0], alone_values[:, 0])
    assert not torch.allclose(outputs[4:, 1], alone[:, 1])


def test_value_network_with_memory() -> None:
    network, states = ValueNetwork(6, 2, hidden_sizes=(8,), recurrent_size=5, seed=0), torch.randn(4, 3, 6)
    memory, stepped = network.initial_memory(3), []
    for now in states:
        values, memory = network.step(now, memory)
        stepped.append(values)
    torch.testing.assert_close(network.sequence(states, network.initial_memory(3)), torch.stack(stepped))
    torch.testing.assert_close(network(states[0]), stepped[0])


def test_memory_that_is_not_there_is_not_asked() -> None:
    for network in (make_policy(), ValueNetwork(6)):
        with pytest.raises(ModelError, match="sequence needs recurrent_size, got None"):
            network.sequence(torch.zeros(2, 3, 6), torch.zeros(3, 0))
    with pytest.raises(ConfigurationError, match=r"shared_torso must be True with recurrent_size.*got False"):
        make_policy(recurrent_size=5)


# Settings


@pytest.mark.parametrize("activation", ["relu", "elu", "tanh"])
def test_activations(activation: str) -> None:
    network = ValueNetwork(1, hidden_sizes=(1,), activation=activation)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.tensor([1.0]).reshape(parameter.shape) * (parameter.ndim > 1))
    x = torch.tensor([[-1.5], [0.5]])
    expected = {"relu": torch.relu, "elu": torch.nn.functional.elu, "tanh": torch.tanh}[activation](x)
    torch.testing.assert_close(network(x), expected)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"output_size must be 10 for MultiDiscrete\(\[3 5\]\), got 8"
    ):
        PolicyNetwork(6, 8, action_space=spaces.MultiDiscrete([3, 5]))
    with pytest.raises(
        ConfigurationError, match=r"hidden_sizes must be whole numbers of at least 1, got \(8, 0\)"
    ):
        PolicyNetwork(6, 4, hidden_sizes=(8, 0))
    with pytest.raises(ConfigurationError, match=r"activation must be one of relu, elu, tanh, got 'gelu'"):
        ValueNetwork(6, activation="gelu")
    with pytest.raises(ConfigurationError, match=r"kind must be one of discrete, .*, got 'tuple'"):
        PolicyNetwork(6, 4, action_space={"kind": "tuple"})
    with pytest.raises(ConfigurationError, match=r"action_space must describe a space, got .*'size'"):
        PolicyNetwork(6, 4, action_space={"kind": "discrete"})


@pytest.mark.parametrize("kind", SPACES)
def test_spaces_are_described_exactly(kind: str) -> None:
    space = SPACES[kind][0]
    assert space_of(describe_space(space)) == space
