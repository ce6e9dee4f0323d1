"""Any Gymnasium environment as a PettingZoo ``ParallelEnv`` of one agent, for `ForeignVectorEnvironment`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium import spaces

AGENT = "agent_0"


class SingleAgentParallelEnv:
    """One agent in a Gymnasium environment, with the methods of a PettingZoo ``ParallelEnv``.

    PettingZoo itself is not needed. ``ForeignVectorEnvironment(lambda: SingleAgentParallelEnv("CartPole-v1"),
    num_envs)`` trains on it: what the environment (or its ``TimeLimit``) truncates is bootstrapped, what it
    terminates is not. On the command line it is ``environment.factory:
    camac_dra.environment.single_agent.SingleAgentParallelEnv`` with ``factory_options: {env: CartPole-v1}``.
    """

    def __init__(self, env: gym.Env[Any, Any] | str, **options: Any) -> None:
        """``env`` is an environment, or the name of one that ``gymnasium.make`` makes with ``options``."""
        self.env: gym.Env[Any, Any] = gym.make(env, **options) if isinstance(env, str) else env
        self.possible_agents = [AGENT]
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """Return what the agent observes."""
        return self.env.observation_space

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """Return what the agent may do."""
        return self.env.action_space

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode and return observation and info by agent."""
        observation, info = self.env.reset(seed=seed, options=options)
        self.agents = [AGENT]
        return {AGENT: observation}, {AGENT: info}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        """Advance by the agent's action; return observation, reward, terminated, truncated, info by agent."""
        answer = self.env.step(actions[AGENT])
        if answer[2] or answer[3]:
            self.agents = []
        return tuple({AGENT: part} for part in answer)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()
