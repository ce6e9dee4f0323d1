"""A trained policy, without the training: from a checkpoint or from a running algorithm."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from camac_dra.environment.agreement import Agreement
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.actor import PolicySpec, acting_part
from camac_dra.models.block_policy import BlockPolicy
from camac_dra.models.checkpoint_files import find_checkpoint, saved_config
from camac_dra.models.q_module import QModule
from camac_dra.models.replay_heads import SquashedGaussianHead
from camac_dra.models.rl_module import ActorCriticModule
from camac_dra.models.sac_module import SACModule
from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.array_algorithm import ArrayAlgorithm
from camac_dra.training.checkpoints import read_checkpoint, read_manifest
from camac_dra.training.environments import algorithm_settings, vector_factory
from camac_dra.training.rllib_bridge import modules_of
from camac_dra.training.transfer import check_problem
from camac_dra.utils.errors import CheckpointError
from camac_dra.utils.file_handler import StrPath
from camac_dra.utils.schema import Config, EnvironmentConfig

Module = ActorCriticModule | QModule | SACModule
Weights = Mapping[str, Mapping[str, torch.Tensor]]  # state of a module by policy


class TrainedPolicy:
    """Acts on a `VectorEnvironment` as the network does, taking the most likely action (the mean of
    continuous ones).

    It holds copies of the weights: training that goes on does not change it. What networks with memory
    remember lasts until `begin`. It is a ``RequestPolicy``, as heuristics are. Agents decide to the last bit
    as they do when each is computed in a process of its own (`BlockPolicy`).
    """

    name = "trained"
    agreement: Agreement | None = None

    def __init__(self, modules: Sequence[Module], assignment: list[int]) -> None:
        """``assignment[i]`` is the index of the module that decides for agent i."""
        self._modules, self._assignment = modules, assignment
        self._policy = BlockPolicy(modules, assignment)

    @classmethod
    def from_weights(cls, config: Config, weights: Weights) -> TrainedPolicy:
        """Return the policy of a configuration with these weights.

        Raises:
            CheckpointError: the weights do not fit the networks that the configuration describes.
        """
        algorithm = build_algorithm_config(vector_factory(config.environment), algorithm_settings(config))
        modules = modules_of(algorithm.rl_module_spec.build(), algorithm.module_ids)
        if set(weights) != set(algorithm.module_ids):
            raise CheckpointError(
                f"weights must be of the policies {', '.join(algorithm.module_ids)}, got {', '.join(weights)}"
            )
        for module_id, module in zip(algorithm.module_ids, modules, strict=True):
            try:
                module.load_state_dict(weights[module_id])
            except RuntimeError as error:
                raise CheckpointError(
                    f"weights of policy {module_id!r} do not fit the network of the configuration: "
                    f"{str(error).splitlines()[-1].strip()}"
                ) from None
        return cls(modules, algorithm.agent_modules)

    @classmethod
    def from_algorithm(cls, algorithm: ArrayAlgorithm) -> TrainedPolicy:
        """Return the policy as it is now in a running algorithm."""
        config, learner = algorithm.config, algorithm.learner
        modules = modules_of(learner.module, config.module_ids)
        return cls([copy.deepcopy(module) for module in modules], config.agent_modules)

    @classmethod
    def load(cls, path: StrPath, problem: EnvironmentConfig | None = None) -> TrainedPolicy:
        """Return the policy of a checkpoint, or of a run's best one.

        ``problem`` is what it is to act in, where that is not what it was trained in. It may have other
        agents, more or fewer, where one policy decides for all of them and does not see everybody in order
        (``observation_type: full``), and other numbers of neighbours where the network reads them as rows.

        Raises:
            CheckpointError: there is none, it is damaged, or belongs to another environment.
        """
        folder = find_checkpoint(path, prefer_best=True)
        checkpoint = read_checkpoint(folder)
        own = saved_config(checkpoint.config, str(folder))
        policy = cls.from_weights(own, checkpoint.weights)
        problem = problem or own.environment
        probe = vector_factory(problem)(1, 0)
        others = check_problem(read_manifest(folder), own, policy.observation_shape, problem, probe)
        return policy.among(probe) if others else policy

    def among(self, env: Any) -> TrainedPolicy:
        """Return the policy for other agents, those of ``env``: the first module's weights decide for all."""
        module = self._modules[0]
        acts_only = isinstance(module, ActorCriticModule)  # its critic may see others than are here
        other = RLModuleSpec(
            module_class=type(module),
            observation_space=env.single_observation_space,
            action_space=env.single_action_space,
            model_config=module.model_config,
            inference_only=acts_only,
        ).build()
        weights = module.state_dict()
        other.load_state_dict(acting_part(weights) if acts_only else weights)
        return TrainedPolicy([other], [0] * len(env.agent_ids))

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one agent's observation."""
        return tuple(self._modules[0].observation_space.shape)

    def actions(self, observations: np.ndarray) -> np.ndarray:
        """Return the environment's actions for observations (B, N, *shape) float32."""
        return self._policy.act(observations)

    def actions_in(self, env: Any) -> np.ndarray:
        """Return the environment's actions for its last observations, those that are possible."""
        return self._policy.act(env.observations, masks=getattr(env, "action_masks", None))

    def spec(self) -> PolicySpec:
        """Return the policies as plain values, for agents in other processes."""
        module = self._modules[0]
        return PolicySpec(
            observation_shape=self.observation_shape,
            action_space=module.action_space,
            network=module.network,
            normalize_observations=module.observation_scaler is not None,
            weights=tuple(
                {name: value.detach().clone() for name, value in acting_part(one.state_dict()).items()}
                for one in self._modules
            ),
            assignment=tuple(self._assignment),
            squashed=isinstance(module.head, SquashedGaussianHead),
        )

    def learned_messages(self, env: VectorEnvironment) -> tuple[int, int]:
        """Return how many messages agents that communicate send per decision, and their bytes."""
        listener = self._policy.listener
        if listener is None:
            return 0, 0
        neighbors, _ = env.topology.neighbor_arrays(env.config.max_neighbors)  # (N, M), -1 for none
        messages = int((neighbors >= 0).sum())
        return messages, messages * listener.message_size * listener.dtype.itemsize

    def begin(self, env: Any) -> None:
        """Forget what was seen."""
        self._policy.reset()

    def requests(self, env: VectorEnvironment) -> np.ndarray:
        """Return requests (B, N, R) in the resources' units for the environment's last observations."""
        return env.requests_from_actions(self.actions_in(env))
