"""Networks, the RLModule around them, and the fast policy that acts with them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from gymnasium import spaces

from camac_dra.models import array_policy
from camac_dra.models.layers import ACTIVATIONS, LayerStack, activation, fast_tanh
from camac_dra.models.networks import MLP, linear
from camac_dra.models.normalization import RunningMoments
from camac_dra.models.rl_module import ActorCriticModule
from camac_dra.utils.errors import ConfigurationError

OBSERVATIONS = spaces.Box(-1, 1, (2, 3), np.float32)  # is flattened to 6 features
ACTION_SPACES = {
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete([3, 5]),
    "box": spaces.Box(-1, 2, (2,), np.float32),
}


def make_module(
    action: str = "discrete", seed: int = 0, *, inference_only: bool = False, **config
) -> ActorCriticModule:
    return ActorCriticModule(
        observation_space=OBSERVATIONS,
        action_space=ACTION_SPACES[action],
        inference_only=inference_only,
        model_config={
            "network": {"hidden_sizes": (16, 8), "activation": config.pop("activation", "relu")},
            "seed": seed,
            **config,
        },
    )


def test_fast_tanh_is_tanh() -> None:
    x = torch.linspace(-20, 20, 999, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(fast_tanh(x), torch.tanh(x))
    (grad,) = torch.autograd.grad(fast_tanh(x).sum(), x)
    (expected,) = torch.autograd.grad(torch.tanh(x).sum(), x)
    torch.testing.assert_close(grad, expected)


def test_unknown_activation_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(
        ConfigurationError, match=r"activation must be one of relu, elu, tanh, got 'rulu'.*'relu'"
    ):
        activation("rulu")


def test_no_hidden_layers_is_the_identity() -> None:
    x = torch.randn(3, 5)
    assert MLP(5, [], "relu")(x) is x


def plain(network: MLP, x: torch.Tensor) -> torch.Tensor:
    """The same layers one operation after the other, with torch's own functions."""
    functions = {"relu": torch.relu, "elu": torch.nn.functional.elu, "tanh": torch.tanh}
    for layer in network.layers:
        x = functions[network.activation_name](torch.nn.functional.linear(x, layer.weight, layer.bias))
    return x


@pytest.mark.parametrize("sizes", [(4,), (8, 5), (8, 8, 3)])
@pytest.mark.parametrize("activation_name", list(ACTIVATIONS))
@pytest.mark.parametrize("by_input", [False, True])
def test_layers_and_their_gradients_are_the_plain_ones(
    activation_name: str, sizes: tuple[int, ...], by_input: bool
) -> None:
    torch.manual_seed(0)
    network, x = MLP(6, sizes, activation_name).double(), torch.randn(9, 6, dtype=torch.float64)
    x.requires_grad_(by_input)
    wanted = [*network.parameters(), *([x] if by_input else [])]
    weights = torch.randn(sizes[-1], 9, dtype=torch.float64).t()  # lies in memory as gradients there do
    given = weights.clone()
    found = torch.autograd.grad(network(x), wanted, given)
    assert torch.equal(given, weights)  # somebody else's, hence untouched
    torch.testing.assert_close(network(x), plain(network, x))
    torch.testing.assert_close(found, torch.autograd.grad(plain(network, x), wanted, weights))


@pytest.mark.parametrize("sizes", [(4,), (8, 5), (8, 8, 3)])
@pytest.mark.parametrize("activation_name", list(ACTIVATIONS))
def test_a_stack_is_differentiated_as_the_graph_is(activation_name: str, sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network, x = MLP(6, sizes, activation_name).double(), torch.randn(9, 6, dtype=torch.float64)
    output = linear(sizes[-1], 7, 1.0, None).double()
    stack = LayerStack.of([*network.layers, output], activation_name)
    assert stack is not None
    kept = stack.forward(x)
    expected = torch.nn.functional.linear(plain(network, x), output.weight, output.bias)
    torch.testing.assert_close(kept[-1], expected.detach())
    weights = torch.randn(9, 7, dtype=torch.float64)
    given = weights.clone()
    found = stack.backward(kept, given)
    assert torch.equal(given, weights)
    assert stack.parameters == [*network.parameters(), *output.parameters()]
    torch.testing.assert_close(found, list(torch.autograd.grad(expected, stack.parameters, weights)))


def test_layers_that_do_not_learn_are_left_to_the_graph() -> None:
    layers = [linear(3, 4, 1.0, None), linear(4, 2, 1.0, None)]
    layers[0].bias.requires_grad_(False)
    assert LayerStack.of(layers, "tanh") is None


@pytest.mark.parametrize("frozen", range(4))
def test_frozen_parameters_of_layers_get_no_gradient(frozen: int) -> None:
    torch.manual_seed(0)
    network, x = MLP(6, (8, 5), "tanh"), torch.randn(9, 6)
    parameters = list(network.parameters())
    parameters[frozen].requires_grad_(False)
    rest = [p for p in parameters if p.requires_grad]
    network(x).square().sum().backward()
    expected = torch.autograd.grad(plain(network, x).square().sum(), rest)
    assert parameters[frozen].grad is None
    torch.testing.assert_close([p.grad for p in rest], list(expected))


def test_outputs_of_layers_used_twice_collect_both_gradients() -> None:
    torch.manual_seed(0)
    first, second, x = MLP(6, (8, 5), "elu"), MLP(5, (7,), "elu"), torch.randn(9, 6)
    parameters = [*first.parameters(), *second.parameters()]

    def loss(layers: Callable[[MLP, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        features = layers(first, x)
        return (layers(second, features).sum(1) * features.sum(1)).sum()

    found = torch.autograd.grad(loss(lambda network, rows: network(rows)), parameters)
    torch.testing.assert_close(found, torch.autograd.grad(loss(plain), parameters))


def test_what_layers_returned_must_not_be_changed_before_they_are_differentiated() -> None:
    network = MLP(6, (8,), "tanh")
    features = network(torch.randn(9, 6))
    with torch.no_grad():
        features.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified inplace"):
        features.sum().backward()


def test_seed_decides_the_initial_weights() -> None:
    one, two, other = (make_module(seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not torch.equal(one["policy.output.weight"], other["policy.output.weight"])


@pytest.mark.parametrize("shared_torso", [False, True])
def test_runners_get_everything_but_the_critic(shared_torso: bool) -> None:
    config = {"shared_torso": shared_torso, "normalize_observations": True, "normalize_returns": True}
    learner, runner = make_module(**config), make_module(**config, seed=5, inference_only=True)
    sent = learner.get_state(inference_only=True)
    assert not any(name.startswith(("value", "return_scaler")) for name in sent)
    assert set(sent) == set(runner.state_dict())
    runner.set_state(sent)
    batch = {"obs": torch.randn(4, 2, 3)}
    key = "action_dist_inputs"
    torch.testing.assert_close(runner.forward_inference(batch)[key], learner.forward_inference(batch)[key])


@pytest.mark.parametrize("shared_torso", [False, True])
def test_values_do_not_depend_on_the_way_they_are_asked_for(shared_torso: bool) -> None:
    module = make_module(shared_torso=shared_torso, normalize_observations=True, normalize_returns=True)
    module.observation_scaler.set_moments(RunningMoments.of(torch.randn(50, 6) * 3))
    module.return_scaler.set_moments(RunningMoments.of(torch.randn(50, 1) * 9 + 4), module.value.output)
    batch = {"obs": torch.randn(4, 2, 3)}
    with_embeddings = module.compute_values(batch, embeddings=module.forward_train(batch)["embeddings"])
    torch.testing.assert_close(with_embeddings, module.compute_values(batch))
    real = module.return_scaler.to_returns(module.compute_values(batch))
    torch.testing.assert_close(module.expected_returns(batch), real)


def reference_inputs(module: ActorCriticModule, observations: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module.forward_inference({"obs": observations})["action_dist_inputs"]


@pytest.mark.parametrize("action", list(ACTION_SPACES))
@pytest.mark.parametrize("activation_name", ["relu", "elu", "tanh"])
@pytest.mark.parametrize("assignment", [[0, 0, 0, 0], [0, 1, 2, 3], [1, 0, 0, 1], [0, 1, 0, 0]])
def test_array_policy_acts_as_the_modules_do(
    action: str, activation_name: str, assignment: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_policy, "BLOCK_ROWS", 8)  # several blocks
    modules = [
        make_module(action, seed=s, activation=activation_name, normalize_observations=True)
        for s in range(max(assignment) + 1)
    ]
    for module in modules:
        module.observation_scaler.set_moments(RunningMoments.of(torch.randn(50, 6) * 2 + 1))
    policy = array_policy.array_policy(modules, assignment)
    observations = torch.randn(7, 4, 2, 3)
    actions, log_probs = policy.act(observations, None, explore=False)
    drawn, drawn_log_probs = policy.act(observations, torch.Generator().manual_seed(0))
    for agent, index in enumerate(assignment):
        distribution = (
            modules[index]
            .get_inference_action_dist_cls()
            .from_logits(reference_inputs(modules[index], observations[:, agent]))
        )
        torch.testing.assert_close(actions[:, agent], distribution.to_deterministic().sample())
        torch.testing.assert_close(log_probs[:, agent], distribution.logp(actions[:, agent].clone()))
        expected = distribution.logp(drawn[:, agent].clone())
        torch.testing.assert_close(drawn_log_probs[:, agent], expected, rtol=1e-4, atol=1e-4)


def test_array_policy_follows_new_weights_after_refresh() -> None:
    module = make_module()
    policy, observations = array_policy.array_policy([module], [0]), torch.randn(5, 1, 2, 3)
    with torch.no_grad():
        module.policy.output.weight.zero_()
        module.policy.output.bias.copy_(torch.tensor([0.0, 0.0, 9.0, 0.0]))
    policy.refresh()
    assert (policy.act(observations, None, explore=False)[0] == 2).all()


def test_every_module_must_decide_for_somebody() -> None:
    with pytest.raises(ConfigurationError, match=r"must give every module agents, got \[3, 0\]"):
        array_policy.array_policy([make_module(), make_module()], [0, 0, 0])
