"""The environment as an RLlib ``MultiAgentEnv`` (new API stack), so that stock RLlib and Tune can use it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.utils.typing import MultiAgentDict

from camac_dra.environment import rendering
from camac_dra.environment.agreement import Agreement
from camac_dra.environment.single_copy import SingleCopy

_made_here = itertools.count()  # environments made by RLlib in this process


class RLlibEnvironment(MultiAgentEnv):
    """A MultiAgentEnv with the rules of `VectorEnvironment` and nothing else.

    Observations are those of the agents that act next, so absent agents are left out until they come back; at
    the end of an episode everybody gets a last one. Only ``__all__`` is ever truncated: RLlib takes an
    episode in which all agents are truncated one by one for a terminated one, and would not bootstrap. Infos
    are empty, because a dict per agent and step costs more than the step; the last episode's measures are in
    `episode_measures`, which callbacks reach through their `env`.

    Graph observations are matrices, for which RLlib has no default network: give it an RLModule for them.

    Attributes:
        agents, possible_agents: all agents, always.
        observation_spaces, action_spaces: by agent.
        core: the vectorised environment with one copy.
    """

    def __init__(self, config: Mapping[str, Any], agreement: Agreement | None = None) -> None:
        """Build the environment from RLlib's `env_config`: a whole configuration
        or its `environment` section.

        Raises:
            ConfigurationError: a setting is wrong.
        """
        self._copy = SingleCopy(dict(config), agreement)
        self.core = self._copy.core
        self.agents = list(self._copy.agent_ids)
        self.possible_agents = list(self.agents)
        self.observation_spaces = dict.fromkeys(self.agents, self._copy.observation_space)
        self.action_spaces = dict.fromkeys(self.agents, self._copy.action_space)
        self._own_seeds = _seeds_within_rllib(config, self.core.config.seed)
        super().__init__()

    @property
    def episode_measures(self) -> dict[str, float]:
        """Measures of the last episode that ended (`measures.episode_measures`); empty before that."""
        return self._copy.episode_measures

    def reset(  # type: ignore[override]  # RLlib's own signature contradicts gymnasium's
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[MultiAgentDict, MultiAgentDict]:
        """Start an episode; a `seed` fixes it and those after it. No `options` are known; all are ignored.

        Without a seed, made by RLlib and not just past the end of an episode, it takes one of its own, since
        RLlib checks all copies with one and the same seed before it samples from them.

        Raises:
            ConfigurationError: the seed is negative or no whole number; then nothing has changed.
        """
        if seed is None and self._own_seeds is not None and (self._copy.running or self._copy.last is None):
            seed = int(self._own_seeds.integers(2**31))
        self._copy.reset(seed)
        return self._observed(), {}

    def step(  # type: ignore[override]  # RLlib's own signature contradicts gymnasium's
        self, action_dict: dict[Any, Any]
    ) -> tuple[MultiAgentDict, MultiAgentDict, MultiAgentDict, MultiAgentDict, MultiAgentDict]:
        """Advance by one step with an action for every agent in the last observations.

        Raises:
            ActionError: an action is missing, of an unknown or absent agent, or out of range, or the episode
            is over.
        """
        everybody = self._copy.running and self._copy.everybody
        result = self._copy.step(action_dict)
        rewards = result.rewards[0].tolist()
        if everybody:
            rewarded = dict(zip(self.agents, rewards, strict=True))
        else:
            took_part = zip(self.agents, rewards, result.active[0].tolist(), strict=True)
            rewarded = {agent: reward for agent, reward, active in took_part if active}
        truncated = bool(result.truncated[0])
        return self._observed(everybody=truncated), rewarded, {"__all__": False}, {"__all__": truncated}, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        """Return the last step as a picture (H, W, 3) uint8."""
        return rendering.frame(self.core, self._copy.last)

    def close(self) -> None:
        """End the episode."""
        self._copy.close()

    def _observed(self, everybody: bool = False) -> MultiAgentDict:
        """Return the rows of the agents that act next, or of all; views of an array that nobody else has."""
        rows = self._copy.observations
        assert rows is not None
        if everybody or self._copy.everybody:
            return dict(zip(self.agents, rows, strict=True))
        return {
            agent: row
            for agent, row, here in zip(self.agents, rows, self._copy.present.tolist(), strict=True)
            if here
        }


def _seeds_within_rllib(config: Mapping[str, Any], seed: int) -> np.random.Generator | None:
    """Return a source of seeds that differs between workers and copies, or None outside of RLlib."""
    if not isinstance(config, EnvContext):
        return None
    return np.random.default_rng([seed, config.worker_index or 0, next(_made_here)])
