"""Trained policies from files, ready to act, without Ray and without what training needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces

from camac_dra.environment.foreign import group_of
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.acting import DiscretePolicy, Policy, as_policy
from camac_dra.models.action_spaces import space_of
from camac_dra.models.actor import PolicySpec, acting_part
from camac_dra.models.assignment import assign_policies
from camac_dra.models.checkpoint_files import (
    CONFIG,
    WEIGHTS,
    Manifest,
    find_checkpoint,
    read_manifest,
    read_tensors,
    saved_config,
    verified,
)
from camac_dra.models.checks import finite
from camac_dra.models.network_spec import network_of
from camac_dra.models.policy_network import PolicyNetwork
from camac_dra.models.registry import known_class, load_model
from camac_dra.utils.errors import CheckpointError, ConfigurationError, ModelError, did_you_mean
from camac_dra.utils.file_handler import StrPath
from camac_dra.utils.schema import Config


def load_policy(path: StrPath) -> DiscretePolicy | NetworkPolicy | CheckpointPolicy | Policy:
    """Return the policy in a file or folder; its ``act(observation)`` gives the action for one observation.

    ``path`` is a file that ``BaseModel.save`` wrote, a checkpoint's folder, or a run's folder, whose best
    checkpoint (else the latest) is taken. Actions are the best ones (the mean of continuous ones): an int
    for discrete actions, an array for others. Nothing in the files is run.

    Raises:
        CheckpointError: there is none, it is damaged or foreign, or holds what does not act.
    """
    if Path(path).is_dir():
        return CheckpointPolicy.load(path)
    model = load_model(path)
    if isinstance(model, PolicyNetwork) and model.action_size is None:
        return NetworkPolicy(model)
    if model.action_size is None:
        raise CheckpointError(
            f"{path}: must hold a model that scores actions, got a "
            f"{type(model).__name__} without an action head"
        )
    return as_policy(model, model.action_size)


class NetworkPolicy:
    """A `PolicyNetwork` of several or continuous action components, acting by its most likely actions."""

    def __init__(self, model: PolicyNetwork) -> None:
        self.model = model
        self._memory: torch.Tensor | None = None  # (1, M)

    def reset(self) -> None:
        """Forget what was seen: an episode begins."""
        self._memory = None

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        """Return the action (*action_shape) for one observation (*shape).

        Raises:
            ModelError: the observation has another size, or is not finite.
        """
        observations = np.asarray(observation, np.float32).reshape(1, -1)
        finite(observations, by_row=False)
        row = torch.as_tensor(observations, device=self.model.device)
        memory = self.model.initial_memory(1) if self._memory is None else self._memory
        outputs, self._memory = self.model.step(row, memory)
        return self.model.head.to_environment(self.model.read(outputs.cpu()).mode())[0]


class Interface(Protocol):
    """What agents observe and do; an environment says it."""

    agent_ids: list[str]

    @property
    def single_observation_space(self) -> spaces.Box:
        """What one agent observes."""
        ...

    @property
    def single_action_space(self) -> spaces.Space:
        """What one agent does."""
        ...


@dataclass
class _KnownInterface:
    """What a checkpoint says of somebody else's environment."""

    agent_ids: list[str]
    single_observation_space: spaces.Box
    single_action_space: spaces.Space

    @property
    def agent_groups(self) -> list[str]:
        """As the environment has them."""
        return [group_of(agent_id) for agent_id in self.agent_ids]


class CheckpointPolicy:
    """The policies that a run trained, one for all agents or one for each."""

    def __init__(self, config: Config, env: Interface, spec: PolicySpec) -> None:
        """``env`` is the environment of ``config``, or says like it what agents observe and do."""
        self.config, self.spec = config, spec
        self.agent_ids: list[str] = list(env.agent_ids)
        self.observation_space, self.action_space = env.single_observation_space, env.single_action_space
        self._number = {agent_id: number for number, agent_id in enumerate(self.agent_ids)}
        self._shared = len(set(spec.assignment)) == 1
        self._by_row = spec.network.sees_entities(tuple(self.observation_space.shape))
        self._policies = spec.build()

    @classmethod
    def load(cls, path: StrPath, *, trusted: bool = False) -> CheckpointPolicy:
        """Return the policies of a checkpoint, or of a run's best one.

        A class of the user's own that it names must have been imported before, unless it is ``trusted``.

        Raises:
            CheckpointError: there is none, it is damaged, or its weights do not fit its configuration.
        """
        manifest = read_manifest(find_checkpoint(path, prefer_best=True))
        try:
            text = verified(manifest, CONFIG).decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{manifest.path / CONFIG}: is damaged: {error}") from None
        config = saved_config(text, str(manifest.path))
        env = _interface_of(config, manifest)
        if "." in config.model.type and not trusted:
            try:
                known_class(config.model.type)
            except ConfigurationError as error:
                raise CheckpointError(f"{manifest.path}: {error}") from None
        weights = read_tensors(manifest, WEIGHTS)
        return cls(config, env, _spec_of(config, env, weights, str(manifest.path)))

    def act(
        self, observation: np.ndarray, agent_id: str | None = None, action_mask: np.ndarray | None = None
    ) -> Any:
        """Return the action for one observation (*observation_shape) of an agent.

        ``agent_id`` may be left out where one policy decides for all and remembers nothing; ``action_mask``
        (A,) is false where an action is impossible.

        Raises:
            ModelError: the observation has another shape or is not finite, or the agent is not known or has
                to be named.
        """
        shape = self.observation_space.shape
        row = np.asarray(observation, np.float32)
        if row.shape != shape:
            raise ModelError(f"observation must have shape {shape}, got {row.shape}")
        finite(row[None], [agent_id], by_row=self._by_row)
        masks = None if action_mask is None else np.asarray(action_mask, bool)[None, None]
        action = self._policies.act(row[None, None], [self._agent(agent_id)], masks=masks)[0, 0]
        return int(action) if isinstance(self.action_space, spaces.Discrete) else action

    def act_many(self, observations: np.ndarray, agent_ids: Sequence[str] | None = None) -> np.ndarray:
        """Return the actions (n, *action_shape) for observations (n, *observation_shape) of n agents.

        Without ``agent_ids`` they are all agents, in order. Everybody decides as in `act`, to the last bit.

        Raises:
            ModelError: the observations have another shape or are not finite, or an agent is not known.
        """
        names = self.agent_ids if agent_ids is None else list(agent_ids)
        expected = (len(names), *(self.observation_space.shape or ()))
        rows = np.asarray(observations, np.float32)
        if rows.shape != expected:
            raise ModelError(f"observations must have shape {expected}, got {rows.shape}")
        finite(rows, names, by_row=self._by_row)
        return self._policies.act(rows[None], [self._agent(name) for name in names])[0]

    def reset(self) -> None:
        """Forget what was seen: an episode begins."""
        self._policies.reset()

    def _agent(self, agent_id: str | None) -> int:
        if agent_id in self._number:
            return self._number[agent_id]
        alone = len(self.agent_ids) == 1 or not self.spec.network.memory_size  # else: whose?
        if agent_id is None and self._shared and alone:
            return 0
        raise ModelError(
            f"agent_id must be one of the {len(self.agent_ids)} agents ({self.agent_ids[0]}, ...), "
            f"got {agent_id!r}.{did_you_mean(str(agent_id), self.agent_ids)}"
        )


def _interface_of(config: Config, manifest: Manifest) -> Interface:
    """Return what agents observe and do; somebody else's environment is not made, nor its code imported."""
    if config.environment.factory is None:
        return VectorEnvironment(config.environment)
    try:
        known = manifest.environment["interface"]
        shape = tuple(int(size) for size in known["observation_shape"])
        box = spaces.Box(-np.inf, np.inf, shape, np.float32)
        return _KnownInterface(list(manifest.environment["agents"]), box, space_of(known["action_space"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{manifest.path}: its manifest must say what agents observe and do, got {error!r}"
        ) from None


def _spec_of(
    config: Config, env: Interface, weights: dict[str, dict[str, torch.Tensor]], name: str
) -> PolicySpec:
    """Return the policies of a checkpoint's weights, by policy."""
    network = network_of(config.model)
    try:
        expected, assignment = assign_policies(config.training.policies, env)
    except ConfigurationError as error:
        raise CheckpointError(f"{name}: {error}") from None
    if not isinstance(weights, dict) or set(weights) != set(expected):
        raise CheckpointError(
            f"{name}: must hold weights of {len(expected)} policies ({expected[0]}, ...), "
            f"got {', '.join(map(str, weights))}"
        )
    return PolicySpec(
        observation_shape=tuple(env.single_observation_space.shape),
        action_space=env.single_action_space,
        network=network,
        normalize_observations=config.training.normalize_observations,
        weights=tuple(acting_part(weights[policy]) for policy in expected),
        assignment=tuple(assignment),
        squashed=config.model.type == "sac",
    )
