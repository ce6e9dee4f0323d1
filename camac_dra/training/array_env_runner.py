"""An RLlib env runner that steps arrays: one environment call and one policy call per step, whatever
B and N are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import Any

import gymnasium as gym
import numpy as np
import ray
import torch
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.env import INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    EPISODE_LEN_MEAN,
    EPISODE_RETURN_MEAN,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_MODULE_STEPS_SAMPLED,
    SAMPLE_TIMER,
    WEIGHTS_SEQ_NO,
)

from camac_dra.environment.vector_api import StepResult, VectorMultiAgentEnvironment
from camac_dra.models.array_policy import ArrayPolicy, SeparatePolicy, array_policy
from camac_dra.models.normalization import RunningMoments
from camac_dra.training.episode_manager import EpisodeManager
from camac_dra.training.fragments import Fragment
from camac_dra.training.plain_state import arrays_of, plain
from camac_dra.training.rllib_bridge import (
    ArrayConfig,
    acting_spec,
    actor_was_restarted,
    callback_classes,
    modules_of,
    notify,
)
from camac_dra.utils.errors import ConfigurationError, EpisodesLostError
from camac_dra.utils.memory import keep_freed_memory

logger = logging.getLogger(__name__)

EnvironmentFactory = Callable[[int, int], VectorMultiAgentEnvironment]


class ArrayEnvRunner(EnvRunner, Checkpointable):
    """Samples ``Fragment`` objects from a ``VectorMultiAgentEnvironment``.

    ``config.env_config["factory"](num_envs, seed)`` makes the environment. Works as RLlib's local env runner
    and as its remote actors; connectors and per-agent episodes do not exist here. Draws come from generators
    of its own, seeded from the configuration's seed and the worker's index, never from global ones.
    """

    def __init__(self, *, config: ArrayConfig, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self.config: ArrayConfig
        self.settings = config.array_settings
        self.spaces: dict[str, tuple[gym.Space, gym.Space]] = kwargs.get("spaces") or {}
        self.worker_index: int = self.worker_index or 0  # RLlib's is None where there is one process only
        if self.worker_index:
            torch.set_num_threads(self.settings.torch_threads)
            keep_freed_memory()
        self._env_seed, action_seed = self._draw_seeds()
        self._generator = torch.Generator().manual_seed(action_seed)
        self._weights_seq_no = 0
        self.start_of_fragment: dict[str, Any] | None = None  # of the last one that was sampled ahead
        self.callbacks = [callback() for callback in callback_classes(config)]
        self.env: VectorMultiAgentEnvironment | None = None
        self.module: MultiRLModule
        if self.worker_index or self.config.num_env_runners == 0 or self.config.create_env_on_local_worker:
            self.make_env()
        self.make_module()

    def _draw_seeds(self) -> tuple[int, int]:
        """Return seeds of the environment and of the actions.

        An actor that Ray restarted gets fresh ones: with its first ones it would sample
        its first episodes again.
        """
        entropy = [self.settings.seed, self.worker_index]
        if self.worker_index and actor_was_restarted():
            entropy.append(time.time_ns())
        env_seed, action_seed = np.random.SeedSequence(entropy).generate_state(2)
        return int(env_seed), int(action_seed)

    # RLlib's contract

    def make_env(self) -> None:
        """Make the environment anew and start its first episodes."""
        if self.env is not None:
            self.env.close()
        factory: EnvironmentFactory = self.config.env_config["factory"]
        self.env = factory(self.settings.num_envs, self._env_seed)
        self._episodes = EpisodeManager(self.env, self.settings.max_episode_steps)
        self._episodes.begin(self._env_seed)
        self._num_env_steps = self._num_agent_steps = 0  # not reported yet
        self._sample_seconds = 0.0
        self._buffers: _Buffers | None = None
        notify(self, "on_environment_created", env=self.env, env_context=self.config.env_config)

    def make_module(self) -> None:
        """Build the policies, without critics, and what acts with them."""
        self.module = acting_spec(self.config, self.get_spaces()).build()
        modules = modules_of(self.module, self.config.module_ids)
        self.policy: ArrayPolicy = array_policy(modules, self.config.agent_modules)

    def get_spaces(self) -> dict[str, tuple[gym.Space, gym.Space]]:
        """Return observation and action space of every module."""
        if self.env is None:
            return self.spaces
        pair = (self.env.single_observation_space, self.env.single_action_space)
        return {INPUT_ENV_SPACES: pair, **dict.fromkeys(self.config.module_ids, pair)}

    def assert_healthy(self) -> None:
        """Check that construction went through."""
        assert self.env is not None
        assert self.module is not None

    def stop(self) -> None:
        """Close the environment."""
        if self.env is not None:
            self.env.close()

    # Sampling

    def sample(self, *, explore: bool | None = None) -> Fragment:
        """Step all copies ``fragment_length`` times and return what happened.

        ``explore`` defaults to the configuration's (True); without it the most likely actions are taken.
        """
        assert self.env is not None, "this env runner has no environment: ask the remote ones"
        started = time.perf_counter()
        explore = self.config.explore if explore is None else explore
        steps = self.settings.fragment_length
        if self._buffers is None:
            self._buffers = _Buffers(steps, self.env, self.policy)
        finals: list[np.ndarray] = []
        episodes: list[dict[str, float]] = []
        memory = self._memory()
        for t in range(steps):
            self._buffers.observations[t] = self._episodes.observations
            masks = self._buffers.masks_at(t, self.env)
            actions, log_probs = self.policy.act(
                self._buffers.observation_tensor[t], self._generator, explore=explore, masks=masks
            )
            result = self._episodes.step(self.policy.head.to_environment(actions))
            self._buffers.store(t, actions, log_probs, result)
            if isinstance(self.policy, SeparatePolicy):
                self.policy.forget(result.done)
            if result.final_observations is not None and len(result.final_observations):
                finals.append(result.final_observations)
                episodes.extend(result.episodes)
        self._buffers.observations[steps] = self._episodes.observations
        fragment = self._fragment(self._buffers, finals, episodes)
        fragment.memory = memory
        self._num_env_steps += fragment.env_steps
        self._num_agent_steps += fragment.agent_steps
        self.num_env_steps_sampled_lifetime += fragment.env_steps
        self._sample_seconds += time.perf_counter() - started
        notify(self, "on_sample_end", samples=fragment)
        return fragment

    def _memory(self) -> np.ndarray | None:
        """Return a copy of what the policies remember, (B, N, M), None where they have no memory."""
        if not isinstance(self.policy, SeparatePolicy) or not self.policy.memory_size:
            return None
        return self.policy.memory(self.settings.num_envs).numpy().copy()

    def _fragment(
        self, buffers: _Buffers, finals: list[np.ndarray], episodes: list[dict[str, float]]
    ) -> Fragment:
        none = np.zeros((0, *buffers.observations.shape[2:]), np.float32)
        return Fragment(
            observations=buffers.observations,
            actions=buffers.actions.numpy(),
            log_probs=buffers.log_probs.numpy(),
            rewards=buffers.rewards,
            terminated=buffers.terminated,
            active=buffers.active,
            done=buffers.done,
            final_observations=np.concatenate(finals) if finals else none,
            moments=self._moments(buffers) if self.settings.normalize_observations else None,
            episodes=episodes,
            worker_index=self.worker_index,
            masks=buffers.masks,
            present=np.array(self._episodes.env.present),
            next_masks=_copied(getattr(self._episodes.env, "action_masks", None)),
            weights_number=self._weights_seq_no,
        )

    def _moments(self, buffers: _Buffers) -> RunningMoments:
        """Return the moments of what active agents observed."""
        shape = buffers.observations.shape[3:]
        return self.settings.network.moments(buffers.observation_tensor[:-1], buffers.active, shape)

    def get_metrics(self) -> dict[str, Any]:
        """Return what was sampled since the last call, logged in one go."""
        log = self.metrics.log_value
        log(NUM_ENV_STEPS_SAMPLED, self._num_env_steps, reduce="sum")
        log(NUM_ENV_STEPS_SAMPLED_LIFETIME, self._num_env_steps, reduce="lifetime_sum", with_throughput=True)
        log((NUM_MODULE_STEPS_SAMPLED, "all"), self._num_agent_steps, reduce="sum")
        finished = self._episodes.take_finished()
        log(NUM_EPISODES, len(finished), reduce="sum")
        log(SAMPLE_TIMER, self._sample_seconds, window=1)
        if finished:
            log(EPISODE_RETURN_MEAN, float(np.mean([episode.reward for episode in finished])), window=1)
            log(EPISODE_LEN_MEAN, float(np.mean([episode.length for episode in finished])), window=1)
        self._num_env_steps = self._num_agent_steps = 0
        self._sample_seconds = 0.0
        return self.metrics.reduce()

    # State

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return what RLlib hands to another env runner: weights and the step counter,
        not the running episodes.
        """
        state: dict[str, Any] = {NUM_ENV_STEPS_SAMPLED_LIFETIME: self.num_env_steps_sampled_lifetime}
        if self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = self.module.get_state(**kwargs)
            state[WEIGHTS_SEQ_NO] = self._weights_seq_no
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over weights that are newer than the own ones or carry no number, and the step counter."""
        if COMPONENT_RL_MODULE in state:
            number = state.get(WEIGHTS_SEQ_NO, 0)
            if number == 0 or number > self._weights_seq_no:
                weights = state[COMPONENT_RL_MODULE]
                self.module.set_state(ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights)
                self.policy.refresh()
            self._weights_seq_no = max(number, self._weights_seq_no)
        if NUM_ENV_STEPS_SAMPLED_LIFETIME in state:
            self.num_env_steps_sampled_lifetime = state[NUM_ENV_STEPS_SAMPLED_LIFETIME]

    def get_sampling_state(self) -> dict[str, Any]:
        """Return what the next fragment depends on besides weights: plain values and
        tensors, for exact resume.
        """
        assert self.env is not None
        memory = self._memory()
        return {
            "environment": plain(self.env.get_state()),
            **self._episodes.get_state(),
            "memory": None if memory is None else torch.from_numpy(memory),
            "generator": self._generator.get_state(),
            "env_steps": self.num_env_steps_sampled_lifetime,
        }

    def set_sampling_state(self, state: dict[str, Any]) -> None:
        """Continue exactly from what ``get_sampling_state`` returned.

        Where the environment cannot be brought back to where it was (somebody else's, that draws from more
        than its seed), its running episodes are given up and new ones begin, with a warning.
        """
        assert self.env is not None
        try:
            self.env.set_state(arrays_of(state["environment"]))
            self._episodes.set_state(state)
            if isinstance(self.policy, SeparatePolicy):
                self.policy.set_memory(state["memory"])
        except EpisodesLostError as error:
            logger.warning("Running episodes begin anew: %s", error)
            self._episodes.begin()
        self._generator.set_state(state["generator"])
        self.num_env_steps_sampled_lifetime = int(state["env_steps"])

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        """Return what constructs an equal env runner."""
        return (), {"config": self.config}


def _copied(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else np.array(array)


def _by_resource(result: StepResult) -> np.ndarray:
    if result.rewards_by_resource is None:
        raise ConfigurationError(
            "training.factored_credit: the environment must return rewards by resource, got none; see "
            "VectorEnvironment.set_rewards_by_resource"
        )
    return result.rewards_by_resource


class _Buffers:
    """Time-major arrays of one fragment, allocated once.

    What matrix products read is allocated by torch, which aligns it: results of some BLAS libraries depend on
    the alignment, and curves must not.
    """

    def __init__(self, steps: int, env: VectorMultiAgentEnvironment, policy: ArrayPolicy) -> None:
        rows = (steps, env.num_envs, len(env.agent_ids))
        shape = env.single_observation_space.shape
        self.observation_tensor = torch.zeros((steps + 1, *rows[1:], *shape))  # (T + 1, B, N, *shape)
        self.observations = self.observation_tensor.numpy()
        self.actions = torch.zeros((*rows, *policy.head.action_shape), dtype=policy.head.action_dtype)
        self._by_component = policy.head.by_component
        credited = (*rows, *policy.head.action_shape) if self._by_component else rows
        self.log_probs = torch.zeros(credited)  # (T, B, N) or (T, B, N, C)
        self.rewards = np.zeros(credited, np.float32)  # the same
        self.terminated = np.zeros(rows, bool)  # (T, B, N)
        self.active = np.zeros(rows, bool)  # (T, B, N)
        self.done = np.zeros(rows[:2], bool)  # (T, B)
        self.masks: np.ndarray | None = None  # (T, B, N, O) bool, where the environment has some
        self._rows = rows

    def store(self, t: int, actions: torch.Tensor, log_probs: torch.Tensor, result: StepResult) -> None:
        """Keep step ``t``."""
        self.actions[t] = actions
        self.log_probs[t] = log_probs
        self.rewards[t] = _by_resource(result) if self._by_component else result.rewards
        self.terminated[t] = result.terminated
        self.active[t] = result.active
        self.done[t] = result.done

    def masks_at(self, t: int, env: VectorMultiAgentEnvironment) -> torch.Tensor | None:
        """Keep and return which actions are possible in step ``t``, (B, N, O); None: all are."""
        masks: np.ndarray | None = getattr(env, "action_masks", None)
        if masks is None:
            return None
        if self.masks is None:
            self.masks = np.ones((*self._rows, masks.shape[-1]), bool)
        self.masks[t] = masks
        return torch.from_numpy(self.masks[t])
