"""A small environment with exact, obvious rules, as arrays and as RLlib's dicts, for tests of training.

Agent i of a copy holds a number in [-1, 1]; actions move it by up to 0.2 either way; the reward is 1 minus
the distance to a target that the agent sees. Observations are ``[number, target, step / length, copy,
mean number of the present agents, presence, agent]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from camac_dra.environment.vector_api import StepResult

FEATURES = 7


class ToyVectorEnvironment:
    """B copies; episodes of copy b last ``length + b % 3`` steps.

    ``absent``: agent 1 is away in steps 2 and 3 of every episode and agent 2 from step ``length - 2`` on.
    ``terminate``: agent 0 is done for good in step 4. ``noise``: targets are drawn, else they are fixed.
    ``poison``: from this step of the environment's life on, rewards are NaN. ``first_copy`` numbers them.
    """

    def __init__(
        self,
        num_envs: int,
        seed: int,
        *,
        num_agents: int = 3,
        length: int = 8,
        action_space: spaces.Space | None = None,
        absent: bool = False,
        terminate: bool = False,
        noise: bool = True,
        poison: int | None = None,
        first_copy: int = 0,
    ) -> None:
        self.num_envs = num_envs
        self.agent_ids = [f"agent_{i}" for i in range(num_agents)]
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (FEATURES,), np.float32)
        self.single_action_space = action_space or spaces.Discrete(3)
        self.copies = first_copy + np.arange(num_envs)  # (B,)
        self.lengths = length + self.copies % 3  # (B,)
        self._options = (absent, terminate, noise)
        self._poison = poison
        self._age = 0
        self._rng = np.random.default_rng(seed)
        self.reset(seed)

    def reset(self, seed: int | None = None) -> np.ndarray:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        shape = (self.num_envs, len(self.agent_ids))
        self.number, self.target = np.zeros(shape), np.zeros(shape)  # (B, N)
        self.clock = np.zeros(self.num_envs, dtype=np.int64)  # (B,)
        self._begin(np.ones(self.num_envs, bool))
        return self._observe()

    def _begin(self, copies: np.ndarray) -> None:
        self.clock[copies] = 0
        agents = np.arange(len(self.agent_ids))
        fixed = np.cos(agents + 1.0) * np.ones((int(copies.sum()), 1))
        drawn = self._rng.uniform(-1, 1, fixed.shape)
        self.number[copies] = 0.0
        self.target[copies] = drawn if self._options[2] else fixed

    @property
    def present(self) -> np.ndarray:
        absent, terminate, _ = self._options
        present = np.ones(self.number.shape, bool)
        if absent:
            present[:, 1] = ~np.isin(self.clock, (2, 3))
            present[:, 2] = self.clock < self.lengths - 2
        if terminate:
            present[:, 0] = self.clock <= 4
        return present

    def _observe(self) -> np.ndarray:
        present = self.present
        mean = (self.number * present).sum(1, keepdims=True) / np.maximum(present.sum(1, keepdims=True), 1)
        shape = self.number.shape
        columns = [
            self.number,
            self.target,
            np.broadcast_to((self.clock / self.lengths)[:, None], shape),
            np.broadcast_to(self.copies[:, None], shape),
            np.broadcast_to(mean, shape),
            present,
            np.broadcast_to(np.arange(shape[1]), shape),
        ]
        return np.stack(columns, axis=-1).astype(np.float32)

    def move(self, actions: np.ndarray) -> np.ndarray:
        """Return the change (B, N) that actions cause."""
        space = self.single_action_space
        if isinstance(space, spaces.Discrete):
            return (actions / (space.n - 1) * 2 - 1) * 0.2
        if isinstance(space, spaces.MultiDiscrete):
            return ((actions / (space.nvec - 1) * 2 - 1) * 0.2).mean(-1)
        span = space.high - space.low
        return (((actions - space.low) / span * 2 - 1) * 0.2).mean(-1)

    def step(self, actions: np.ndarray) -> StepResult:
        active = self.present
        self._age += 1
        self.number = np.where(active, np.clip(self.number + self.move(actions), -1, 1), self.number)
        rewards = np.where(active, 1.0 - np.abs(self.number - self.target), 0.0)
        if self._poison is not None and self._age >= self._poison:
            rewards = rewards * np.nan
        terminated = np.zeros(active.shape, bool)
        if self._options[1]:
            terminated[:, 0] = self.clock == 4
        self.clock = self.clock + 1
        truncated = self.clock >= self.lengths
        final = self._observe()[truncated] if truncated.any() else None
        episodes = [
            {"distance": float(np.abs(self.number - self.target)[b].mean())}
            for b in np.flatnonzero(truncated)
        ]
        if truncated.any():
            self._begin(truncated)
        return StepResult(
            observations=self._observe(),
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            active=active,
            present=self.present,
            done=truncated,
            final_observations=final,
            episodes=episodes,
        )

    def done_for_good(self, agent: int) -> bool:
        """Whether an agent of copy 0 terminated before the episode that just ended did."""
        return self._options[1] and agent == 0

    def get_state(self) -> dict[str, Any]:
        return {
            "number": self.number.copy(),
            "target": self.target.copy(),
            "clock": self.clock.copy(),
            "age": self._age,
            "rng": self._rng.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.number, self.target = state["number"].copy(), state["target"].copy()
        self.clock = state["clock"].copy()
        self._age = state["age"]
        self._rng.bit_generator.state = state["rng"]

    def close(self) -> None:
        pass


class ToyMultiAgentEnv(MultiAgentEnv):
    """One copy as RLlib's dicts: absent agents are left out, but not of an episode's last observations."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.core = ToyVectorEnvironment(1, 0, **config)
        self.possible_agents = self.agents = list(self.core.agent_ids)
        self.observation_spaces = dict.fromkeys(self.agents, self.core.single_observation_space)
        self.action_spaces = dict.fromkeys(self.agents, self.core.single_action_space)

    def _seen(self, observations: np.ndarray, who: np.ndarray) -> dict[str, np.ndarray]:
        return {a: o for a, o, there in zip(self.possible_agents, observations, who, strict=True) if there}

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        observations = self.core.reset()
        return self._seen(observations[0], self.core.present[0]), {}

    def step(self, action_dict: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        actions = np.array([[action_dict.get(a, 0) for a in self.possible_agents]])
        result = self.core.step(actions)
        over = bool(result.done[0])
        terminated = {a: True for a, t in zip(self.possible_agents, result.terminated[0], strict=True) if t}
        gone = np.array([self.core.done_for_good(i) for i in range(len(self.agents))])
        if over:
            observations = self._seen(result.final_observations[0], ~gone)
        else:
            observations = self._seen(result.observations[0], result.present[0] | result.terminated[0])
        rewards = {
            a: r
            for a, r, t in zip(self.possible_agents, result.rewards[0], result.active[0], strict=True)
            if t
        }
        return observations, rewards, {**terminated, "__all__": False}, {"__all__": over}, {}
