"""The acting half of an actor-critic network, without RLlib: what agents need wherever they run.

Importing this is quick and light, which counts where every agent is a process of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from torch import nn

from camac_dra.models.array_policy import ActingPart
from camac_dra.models.block_policy import BlockPolicy
from camac_dra.models.distributions import ActionHead, make_action_head
from camac_dra.models.network_spec import NetworkSpec
from camac_dra.models.replay_heads import squashed_head
from camac_dra.utils.errors import CheckpointError

_PARTS = ("policy.", "observation_scaler.")  # of a module's state that acting needs

_OF_Q_NETWORKS = {"online.torso.": "policy.torso.", "online.advantage.": "policy.output."}


class Actor(ActingPart, nn.Module):
    """Policy network and frozen observation scaling, under the names they have in an `ActorCriticModule`."""

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        action_space: spaces.Space[Any],
        network: NetworkSpec,
        *,
        normalize_observations: bool,
        squashed: bool = False,
    ) -> None:
        """Build it with weights that are to be loaded; ``squashed`` is what SAC trains."""
        super().__init__()
        self.head: ActionHead = squashed_head(action_space) if squashed else make_action_head(action_space)
        self.network, self.input_shape = network, network.input_shape(observation_shape)
        self.observation_scaler = network.scaler(observation_shape) if normalize_observations else None
        self.policy = network.policy(observation_shape, self.head, None)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the head's inputs (O, rows) for raw observations (rows, *shape) float32."""
        return self.distribution_inputs(observations)


@dataclass(frozen=True)
class PolicySpec:
    """Everything that the policies of N agents are, as plain values that travel: shapes and weights."""

    observation_shape: tuple[int, ...]
    action_space: spaces.Space[Any]
    network: NetworkSpec
    normalize_observations: bool
    weights: tuple[Mapping[str, torch.Tensor], ...]  # of each module, by name in its state
    assignment: tuple[int, ...]  # (N,) index of the module that decides for an agent
    squashed: bool = False  # continuous actions are squeezed into their bounds, as SAC trains them

    @property
    def communicates(self) -> bool:
        """Whether agents see themselves only, and send each other messages."""
        return self.network.communicates

    def build(self) -> BlockPolicy:
        """Return the policies.

        Raises:
            CheckpointError: the weights do not fit the shapes.
        """
        return BlockPolicy([self._actor(weights) for weights in self.weights], self.assignment)

    def _actor(self, weights: Mapping[str, torch.Tensor]) -> Actor:
        actor = Actor(
            self.observation_shape,
            self.action_space,
            self.network,
            normalize_observations=self.normalize_observations,
            squashed=self.squashed,
        )
        try:
            actor.load_state_dict(acting_part(weights))
        except RuntimeError as error:
            raise CheckpointError(
                f"weights do not fit the network: {str(error).splitlines()[-1].strip()}"
            ) from None
        return actor


def acting_part(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what acting needs of a module's state: the rest is for training.

    The best action of a Q-network is that of its advantages, so torso and advantages are a policy network.
    """
    named = {_renamed(name): value for name, value in weights.items()}
    return {name: value for name, value in named.items() if name.startswith(_PARTS)}


def _renamed(name: str) -> str:
    for theirs, ours in _OF_Q_NETWORKS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
