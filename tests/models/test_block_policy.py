"""Decisions that do not depend on who is computed together with whom."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from camac_dra.models.actor import PolicySpec, acting_part
from camac_dra.models.array_policy import array_policy
from camac_dra.models.block_policy import BlockPolicy
from camac_dra.models.network_spec import NetworkSpec
from camac_dra.utils.errors import CheckpointError
from tests.models.test_networks import ACTION_SPACES, make_module

AGENTS = 70  # more than one block


def observe(copies: int, agents: int = AGENTS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(copies, agents, 2, 3)).astype(np.float32)


@pytest.mark.parametrize("action", list(ACTION_SPACES))
@pytest.mark.parametrize("modules", [1, 2, 7])
def test_it_decides_as_the_array_policy_does(action: str, modules: int) -> None:
    networks = [make_module(action, seed) for seed in range(modules)]
    assignment = [agent % modules for agent in range(AGENTS)]
    observations = observe(3)
    chosen, _ = array_policy(networks, assignment).act(torch.from_numpy(observations), None, explore=False)
    expected = networks[0].head.to_environment(chosen)
    actions = BlockPolicy(networks, assignment).act(observations)
    assert actions.shape == expected.shape
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("modules", [1, 7, AGENTS])
def test_agents_decide_to_the_bit_as_they_do_among_all(modules: int) -> None:
    networks = [make_module("box", seed) for seed in range(modules)]  # where every bit can be seen
    assignment = [agent % modules for agent in range(AGENTS)]
    policy, observations = BlockPolicy(networks, assignment), observe(1)
    together = policy.act(observations)
    for agents in ([3], [69], [5, 64, 66], [69, 0, 33], range(20, 68)):
        numbers = list(agents)
        np.testing.assert_array_equal(policy.act(observations[:, numbers], numbers), together[:, numbers])


def spec(**changes) -> PolicySpec:
    module = make_module("discrete", 3, normalize_observations=True)
    assert module.observation_scaler is not None
    module.observation_scaler.mean.copy_(torch.arange(6.0))
    plain = {
        "observation_shape": (2, 3),
        "action_space": ACTION_SPACES["discrete"],
        "network": NetworkSpec(hidden_sizes=(16, 8)),
        "normalize_observations": True,
        "weights": (module.state_dict(),),
        "assignment": (0,) * AGENTS,
    }
    return PolicySpec(**{**plain, **changes})


def test_a_spec_travels_and_decides_as_its_module() -> None:
    module = make_module("discrete", 3, normalize_observations=True)
    module.observation_scaler.mean.copy_(torch.arange(6.0))
    travelled = pickle.loads(pickle.dumps(spec())).build()
    expected = BlockPolicy([module], [0] * AGENTS).act(observe(2))
    np.testing.assert_array_equal(travelled.act(observe(2)), expected)
    assert len(np.unique(expected)) > 1
    assert not any(name.startswith("value") for name in acting_part(module.state_dict()))


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"weights do not fit the network: size mismatch"):
        spec(network=NetworkSpec(hidden_sizes=(16, 9))).build()


def test_agents_load_neither_rllib_nor_ray() -> None:
    code = "import sys, camac_dra.models.actor; print(sorted(m for m in sys.modules if m.startswith('ray')))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
