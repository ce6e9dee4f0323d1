"""What Q-networks and soft actor-critics are made of: heads, branches, and the half that acts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions

from camac_dra.models.actor import Actor, acting_part
from camac_dra.models.distributions import IMPOSSIBLE, make_action_head
from camac_dra.models.network_spec import NetworkSpec
from camac_dra.models.q_module import QConfig, QModule, q_model_config
from camac_dra.models.q_network import QNetwork
from camac_dra.models.q_targets import best_values, huber_loss
from camac_dra.models.replay_heads import EpsilonGreedyHead, SquashedGaussianHead, squashed_head
from camac_dra.utils.errors import CapabilityError, ConfigurationError

SEEN = spaces.Box(-np.inf, np.inf, (6,), np.float32)


def greedy_head(epsilon: float, sizes: list[int], *, scalar: bool) -> EpsilonGreedyHead:
    return EpsilonGreedyHead(sizes, scalar=scalar, epsilon=torch.tensor(epsilon))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_exploration_is_uniform_with_the_share_epsilon() -> None:
    inputs = torch.tensor([0.0, 2.0, 1.0])[:, None].expand(3, 30_000)
    actions, log_probs = greedy_head(0.3, [3], scalar=True).distribution(inputs).sample(generator())
    shares = np.bincount(actions.numpy(), minlength=3) / len(actions)
    np.testing.assert_allclose(shares, [0.1, 0.8, 0.1], atol=0.01)
    chances = torch.tensor([0.1, 0.8, 0.1])
    torch.testing.assert_close(log_probs, chances[actions].log())
    distribution = greedy_head(0.3, [3], scalar=True).distribution(inputs)
    torch.testing.assert_close(distribution.log_prob(actions), log_probs)


def test_components_explore_by_themselves_within_their_choices() -> None:
    inputs = torch.zeros(6, 9000)  # two components of up to three choices
    actions, _ = greedy_head(1.0, [2, 3], scalar=False).distribution(inputs).sample(generator())
    pairs = np.unique(actions.numpy(), axis=0, return_counts=True)
    assert pairs[0].tolist() == [[a, b] for a in range(2) for b in range(3)]
    np.testing.assert_allclose(pairs[1], 1500, atol=150)


def test_impossible_actions_are_not_explored() -> None:
    inputs = torch.tensor([IMPOSSIBLE, 0.0, IMPOSSIBLE, 1.0])[:, None].expand(4, 4000)
    actions, _ = greedy_head(1.0, [4], scalar=True).distribution(inputs).sample(generator())
    assert set(actions.tolist()) == {1, 3}
    assert (actions == 1).float().mean().item() == pytest.approx(0.5, abs=0.04)


def test_squashed_gaussians_are_those_of_torch() -> None:
    inputs = 0.5 * torch.randn(4, 50, generator=generator())
    ours = SquashedGaussianHead(-np.ones(2), np.ones(2)).distribution(inputs)
    theirs = distributions.TransformedDistribution(
        distributions.Normal(inputs[:2].t(), inputs[2:].clamp(-5, 2).exp().t()),
        distributions.TanhTransform(cache_size=1),
    )
    actions, log_probs = ours.sample(generator())
    assert (actions.abs() < 1).all()
    torch.testing.assert_close(log_probs, theirs.log_prob(actions).sum(1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.log_prob(actions), log_probs, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(ours.mode(), inputs[:2].t().tanh())
    with pytest.raises(CapabilityError, match="entropy of squashed Gaussians has no closed form"):
        ours.entropy()


def test_squashed_actions_reach_the_bounds_and_no_further() -> None:
    head = squashed_head(spaces.Box(np.array([0.0, -2.0], np.float32), np.array([1.0, 6.0], np.float32)))
    assert head.to_environment(torch.tensor([[-1.0, 1.0], [0.0, 0.0]])).tolist() == [[0.0, 6.0], [0.5, 2.0]]
    with pytest.raises(CapabilityError, match="'sac' needs continuous actions"):
        squashed_head(spaces.Discrete(2))


def test_branches_have_advantages_of_their_own_over_one_value() -> None:
    network = QNetwork(6, 6, branches=2, hidden_sizes=(5,), seed=1)
    x = torch.randn(4, 6)
    features = network.torso(x)
    advantages = network.advantage(features).unflatten(1, (2, 3))
    assert network.value is not None
    expected = network.value(features)[:, None] + advantages - advantages.mean(-1, keepdim=True)
    torch.testing.assert_close(network(x), expected.flatten(1))
    assert (network.action_size, QNetwork(6, 6).action_size) == (None, 6)
    torch.testing.assert_close(QNetwork.from_config(network.get_config())(x).shape, network(x).shape)
    with pytest.raises(ConfigurationError, match="output_size must be a multiple of the 4 branches, got 6"):
        QNetwork(6, 6, branches=4)


def test_the_network_of_advantages_decides_as_the_q_values_do() -> None:
    """Without RLlib, an actor with torso and advantages as its policy takes the same actions."""
    config = QConfig(NetworkSpec(hidden_sizes=(7,), activation="tanh"), normalize_observations=True, seed=3)
    module = QModule(
        observation_space=SEEN, action_space=spaces.Discrete(4), model_config=q_model_config(config)
    )
    module.observation_scaler.scale.fill_(0.5)
    x = torch.randn(50, 6)
    best = module.compute_q_values({"obs": x})["qf_preds"].argmax(1)
    actor = Actor((6,), spaces.Discrete(4), config.network, normalize_observations=True)
    actor.load_state_dict(acting_part(module.state_dict()))
    assert torch.equal(make_action_head(spaces.Discrete(4)).distribution(actor(x)).mode(), best)
    assert torch.equal(module.distribution_inputs(x).argmax(0), best)


def test_other_networks_are_refused_by_name() -> None:
    with pytest.raises(CapabilityError, match="'dqn' needs fully connected layers without memory, got 'gnn'"):
        QConfig(NetworkSpec(kind="gnn"))


def test_double_learning_values_what_the_online_network_chooses() -> None:
    target, online = torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, 0.0]])
    assert best_values(target, online).tolist() == [[1.0]]
    assert best_values(target, None).tolist() == [[5.0]]


def test_large_errors_count_linearly() -> None:
    loss, errors = huber_loss(torch.tensor([0.0, 0.0]), torch.tensor([0.5, -3.0]), None)
    assert loss.item() == pytest.approx((0.5 * 0.25 + 2.5) / 2)
    assert errors.tolist() == [0.5, -3.0]
