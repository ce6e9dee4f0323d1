"""What Q-networks are made of: branches, targets, and the half that acts."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from gymnasium import spaces

from camac_dra.models.actor import Actor, acting_part
from camac_dra.models.distributions import make_action_head
from camac_dra.models.network_spec import NetworkSpec
from camac_dra.models.q_module import QConfig, QModule
from camac_dra.models.q_network import QNetwork
from camac_dra.models.q_targets import best_values, huber_loss
from camac_dra.utils.errors import CapabilityError, ConfigurationError

SEEN = spaces.Box(-np.inf, np.inf, (6,), np.float32)


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
    module = QModule(observation_space=SEEN, action_space=spaces.Discrete(4), model_config=asdict(config))
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
