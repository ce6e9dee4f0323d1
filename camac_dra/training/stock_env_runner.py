"""RLlib's own env runner in place of ours, for comparisons: the same training on other samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from camac_dra.training.episode_fragments import Layout, fragment_of
from camac_dra.training.fragments import Fragment
from camac_dra.training.rllib_bridge import ArrayConfig, acting_spec
from camac_dra.utils.errors import CapabilityError

FACTORY = "factory"  # key in ``env_config``


class StockEnvironment(MultiAgentEnv):
    """What RLlib makes copies of: the environment that the factory makes for it."""

    def __new__(cls, context: EnvContext) -> MultiAgentEnv:  # type: ignore[misc]
        """Return that environment, and no instance of this class."""
        return context[FACTORY].single(context)


class StockEnvRunner(MultiAgentEnvRunner):
    """Samples as RLlib does, and returns the episodes as a ``Fragment``.

    It is slow, draws actions from torch's global generator, and cannot save running episodes: a training that
    is resumed begins new ones. Callbacks for episodes do fire.
    """

    config: ArrayConfig

    def __init__(self, *, config: ArrayConfig, **kwargs: Any) -> None:
        self._copies: dict[str, int] = {}  # by id of episode
        self._measures: dict[str, dict[str, float]] = {}  # by id of episode that ended
        self.start_of_fragment: dict[str, Any] | None = None  # has none
        self.settings = config.array_settings
        super().__init__(config=config, **kwargs)
        if self.worker_index:
            torch.set_num_threads(self.settings.torch_threads)
            seeds = np.random.SeedSequence([self.settings.seed, self.worker_index])
            torch.manual_seed(int(seeds.generate_state(1)[0]))  # this process is ours alone
        self.worker_index = self.worker_index or 0

    def make_module(self) -> None:
        """Build the policies, without critics."""
        self.module = acting_spec(self.config, self.get_spaces()).build()

    def sample(self, **kwargs: Any) -> Fragment:  # type: ignore[override]
        """Step all copies ``fragment_length`` times and return what happened."""
        steps = self.settings.fragment_length
        episodes = self._sample(num_timesteps=steps * self.num_envs, explore=self.config.explore)
        fragment = fragment_of(episodes, self._layout(steps), self._copies, self._measures)
        fragment.weights_number = self._weights_seq_no
        fragment.worker_index = self.worker_index
        if self.settings.normalize_observations:
            shape = fragment.observations.shape[3:]
            rows = torch.from_numpy(fragment.observations[:-1])
            fragment.moments = self.settings.network.moments(rows, fragment.active, shape)
        for episode in episodes:
            if episode.is_done:
                self._copies.pop(episode.id_, None)
                self._measures.pop(episode.id_, None)
        self._notify_sample_end(fragment)
        return fragment

    def _notify_sample_end(self, fragment: Fragment) -> None:
        make_callback(
            "on_sample_end",
            callbacks_objects=self._callbacks,
            callbacks_functions=self.config.callbacks_on_sample_end,
            kwargs={"env_runner": self, "metrics_logger": self.metrics, "samples": fragment},
        )

    def _layout(self, steps: int) -> Layout:
        module = self.module[self.config.module_ids[0]].unwrapped()
        env = self.env.envs[0].unwrapped
        return Layout(
            steps=steps,
            copies=self.num_envs,
            agents=tuple(env.possible_agents),
            observation_shape=module.observation_space.shape,
            action_shape=module.head.action_shape,
            action_dtype=torch.zeros((), dtype=module.head.action_dtype).numpy().dtype,
        )

    def _new_episode(self, env_index: int, episodes: Any = None) -> None:
        super()._new_episode(env_index, episodes)
        running: list[MultiAgentEpisode] = self._ongoing_episodes if episodes is None else episodes
        self._copies[running[env_index].id_] = env_index

    def _make_on_episode_callback(self, which: str, idx: int, episodes: Any) -> None:
        if which == "on_episode_end":
            env = self.env.envs[idx].unwrapped
            self._measures[episodes[idx].id_] = dict(getattr(env, "episode_measures", {}))
        super()._make_on_episode_callback(which, idx, episodes)

    # State

    def get_sampling_state(self) -> None:
        """Return None: running episodes cannot be saved."""

    def set_sampling_state(self, state: Any) -> None:
        """Begin new episodes, whatever the state of another sampler is."""


def refuse_unsupported_by_stock(factory: Any, settings: Any) -> None:
    """Raise ``CapabilityError`` with the name of a setting that RLlib's env runner cannot follow."""
    if not hasattr(factory, "single"):
        raise CapabilityError(
            "training.sampler: 'stock' needs the allocation problem, whose copies RLlib can step one by one, "
            f"got {type(factory).__name__}; use 'array'"
        )
    if settings.max_episode_steps is not None:
        raise CapabilityError(
            "max_episode_steps must be None where training.sampler is 'stock', which plays whole episodes, "
            f"got {settings.max_episode_steps}"
        )
    if settings.network.recurrent_size is not None:
        raise CapabilityError(
            "model.recurrent_size must be null where training.sampler is 'stock', got "
            f"{settings.network.recurrent_size}"
        )
