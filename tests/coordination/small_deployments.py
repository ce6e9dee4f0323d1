"""Policies and plants for tests of deployments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from camac_dra.coordination.plant import SimulatedPlant
from camac_dra.models.actor import Actor, PolicySpec
from camac_dra.models.network_spec import NetworkSpec
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.schema import Config
from camac_dra.utils.validation import validated

PROBLEM = {
    "environment.num_agents": 4,
    "environment.topology": "ring",
    "environment.max_episode_length": 25,
    "environment.credit": "individual",
}


def config_of(protocol: str = "none", **coordination: Any) -> Config:
    """Return a small problem with a protocol."""
    plain = build_config(None, PROBLEM).model_dump()
    return validated(
        {**plain, "coordination": {"protocol": protocol, "message_timeout": 3.0, **coordination}}
    )


def policy_for(config: Config, seed: int = 0) -> PolicySpec:
    """Return a policy with weights drawn from a seed: it acts differently in different states."""
    env = SimulatedPlant(config.environment, 0).env
    torch.manual_seed(seed)
    shape, network = env.single_observation_space.shape, NetworkSpec(hidden_sizes=(16,))
    actor = Actor(shape, env.single_action_space, network, normalize_observations=False)
    with torch.no_grad():
        for weight in actor.parameters():
            weight.mul_(5.0)
    weights = {name: value.clone() for name, value in actor.state_dict().items()}
    agents = config.environment.num_agents
    return PolicySpec(shape, env.single_action_space, network, False, (weights,), (0,) * agents)


@dataclass
class Fixed:
    """A policy that always takes the same action, or does what a test wants it to do."""

    action: int = 9
    nan_from: int | None = None  # number of the decision from which it raises

    def build(self) -> Fixed:
        """Return itself."""
        self.decisions = 0
        return self

    def act(self, observations: np.ndarray, agents: Any = None) -> np.ndarray:
        """Return the action for everybody."""
        self.decisions += 1
        if self.nan_from is not None and self.decisions > self.nan_from:
            raise ValueError("weights are gone")
        return np.full(observations.shape[:2], self.action)


def talking_config(**environment: Any) -> Config:
    """Return a small problem whose agents communicate."""
    changes = {f"environment.{name}": value for name, value in environment.items()}
    plain = build_config(None, {**PROBLEM, "environment.observation_type": "graph", **changes}).model_dump()
    model = {"type": "communication", "message_size": 5, "hidden_sizes": [16]}
    return validated({**plain, "model": model, "coordination": {"message_timeout": 30.0}})


def talking_policy(config: Config, seed: int = 0, **options: Any) -> PolicySpec:
    """Return a policy of `talking_config` with weights from a seed, which listens to what it is told."""
    env = SimulatedPlant(config.environment, 0).env
    torch.manual_seed(seed)
    shape = env.single_observation_space.shape
    network = NetworkSpec("communication", (16,), "tanh", options={"message_size": 5, **options})
    actor = Actor(shape, env.single_action_space, network, normalize_observations=True)
    assert actor.observation_scaler is not None
    with torch.no_grad():
        for weight in actor.parameters():
            weight.mul_(3.0)
        actor.policy.output.weight.mul_(30.0)
        actor.observation_scaler.mean.uniform_(-0.5, 0.5)
        actor.observation_scaler.scale.uniform_(0.5, 2.0)
    weights = {name: value.clone() for name, value in actor.state_dict().items()}
    agents = config.environment.num_agents
    return PolicySpec(shape, env.single_action_space, network, True, (weights,), (0,) * agents)
