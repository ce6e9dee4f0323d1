"""The environment as a PettingZoo ``ParallelEnv``. Needs PettingZoo (the extra ``pettingzoo``)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from camac_dra.environment import rendering
from camac_dra.environment.agreement import Agreement
from camac_dra.environment.single_copy import SingleCopy
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema.environment import EnvironmentConfig

try:
    from pettingzoo import ParallelEnv
except ModuleNotFoundError as error:
    raise ImportError("parallel_env needs PettingZoo: pip install 'camac-dra[pettingzoo]'") from error

Observations = dict[str, np.ndarray]
Infos = dict[str, dict[str, Any]]


def parallel_env(
    config: EnvironmentConfig | Mapping[str, Any],
    render_mode: str | None = None,
    agreement: Agreement | None = None,
) -> ParallelEnvironment:
    """Return the PettingZoo environment of a whole configuration or of its `environment` section."""
    return ParallelEnvironment(config, render_mode, agreement)


class ParallelEnvironment(ParallelEnv):
    """A PettingZoo environment with the rules of `VectorEnvironment` and nothing else.

    All agents stay in `agents` until the episode is truncated, since PettingZoo forbids reviving one that
    left: an absent agent is masked instead. Its info has `present` False and an `action_mask` that allows
    action 0 only (for discrete actions), its reward is 0, and what it does is ignored, so that its action may
    be left out.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "name": "camac_dra_v0",
        "render_modes": ["human", "rgb_array"],
        "is_parallelizable": True,
    }

    def __init__(
        self,
        config: EnvironmentConfig | Mapping[str, Any],
        render_mode: str | None = None,
        agreement: Agreement | None = None,
    ) -> None:
        """Build the environment; see `Environment` for the arguments.

        Raises:
            ConfigurationError: a setting or the render mode is wrong.
        """
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ConfigurationError(
                f"render_mode must be one of human, rgb_array or None, got {render_mode!r}"
            )
        self._copy = SingleCopy(config, agreement)
        self.render_mode = render_mode
        self.possible_agents = list(self._copy.agent_ids)
        self.agents: list[str] = []
        self._masks = _masks(self._copy.action_space)

    def observation_space(self, agent: str) -> spaces.Box:
        """Return the space of every agent's observations."""
        return self._copy.observation_space

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """Return the space of every agent's actions."""
        return self._copy.action_space

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[Observations, Infos]:
        """Start an episode; a `seed` fixes it and those after it. No `options` are known; all are ignored.

        Raises:
            ConfigurationError: the seed is negative or no whole number; then nothing has changed.
        """
        self._copy.reset(seed)
        self.agents = list(self.possible_agents)
        return self._observations(), self._infos()

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[Observations, dict[str, float], dict[str, bool], dict[str, bool], Infos]:
        """Advance by one step; nobody is ever terminated, and all are truncated together.

        Raises:
            ActionError: an action is missing for a present agent, of an unknown one, or out of range, or the
                episode is over.
        """
        result = self._copy.step(actions, refuse_absent=False)
        names = self.agents
        rewards = dict(zip(names, result.rewards[0].tolist(), strict=True))
        truncated = bool(result.truncated[0])
        answer = (
            self._observations(),
            rewards,
            dict.fromkeys(names, False),
            dict.fromkeys(names, truncated),
            self._infos(),
        )
        if truncated:
            self.agents = []
        if self.render_mode == "human":
            self.render()
        return answer

    def render(self) -> np.ndarray | None:
        """Return a picture (H, W, 3) uint8 or print a table, as
        `render_mode` says; nothing where it is None.
        """
        if self.render_mode == "rgb_array":
            return rendering.frame(self._copy.core, self._copy.last)
        if self.render_mode == "human":
            sys.stdout.write(rendering.table(self._copy.core, self._copy.last))
        return None

    def close(self) -> None:
        """End the episode."""
        self._copy.close()
        self.agents = []

    def _observations(self) -> Observations:
        rows = self._copy.observations
        assert rows is not None
        return dict(zip(self.possible_agents, rows.copy(), strict=True))

    def _infos(self) -> Infos:
        """Return who is present, and what each may do."""
        named = zip(self.possible_agents, self._copy.present.tolist(), strict=True)
        if self._masks is None:
            return {agent: {"present": here} for agent, here in named}
        masks = self._masks
        return {agent: {"present": here, "action_mask": masks[here]} for agent, here in named}


def _masks(space: spaces.Space[Any]) -> tuple[Any, Any] | None:
    """Return the action masks of absent and of present agents, as the space's `sample` takes
    them; None for Box.
    """
    if isinstance(space, spaces.Discrete):
        idle = np.zeros(int(space.n), np.int8)
        idle[0] = 1
        return idle, np.ones_like(idle)
    if isinstance(space, spaces.MultiDiscrete):
        each = [_masks(spaces.Discrete(int(n))) for n in space.nvec]
        return tuple(pair[0] for pair in each if pair), tuple(pair[1] for pair in each if pair)
    return None
