"""Environments as somebody else might write them, named by dotted paths in tests."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

HERE = "tests.training.foreign_environments"
NOT_CALLABLE = 3


class Signals(ParallelEnv):
    """Each agent sees a number and earns 1 where it answers with it; ``leaver`` is gone after two steps.

    ``stayer`` knows numbers 0 and 1 and sees them one-hot; ``leaver`` knows 0 to 2, and sees noise besides.
    The best team earns 1 per agent and step.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "signals_v0"}
    render_mode = None

    def __init__(self, length: int = 5, careless: bool = False) -> None:
        self.possible_agents = ["stayer", "leaver"]
        self.agents: list[str] = []
        self._length, self._careless = length, careless
        self._sizes = {"stayer": 2, "leaver": 3}

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Box(0.0, 1.0, (self._sizes[agent] + (agent == "leaver"),), np.float32)

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(self._sizes[agent])

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self._rng = np.random.default_rng(None if self._careless else seed)
        self.agents, self._time = list(self.possible_agents), 0
        return self._draw(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        self._time += 1
        rewards = {agent: float(actions[agent] == self._asked[agent]) for agent in self.agents}
        ends = {agent: agent == "leaver" and self._time == 2 for agent in self.agents}
        cuts = dict.fromkeys(self.agents, self._time == self._length)
        answer = self._draw(), rewards, ends, cuts, {agent: {} for agent in self.agents}
        self.agents = [agent for agent in self.agents if not ends[agent] and not cuts[agent]]
        return answer

    def _draw(self) -> dict[str, np.ndarray]:
        self._asked = {agent: int(self._rng.integers(self._sizes[agent])) for agent in self.possible_agents}
        seen = {}
        for agent in self.agents:
            seen[agent] = np.zeros(self.observation_space(agent).shape, np.float32)
            seen[agent][self._asked[agent]] = 1.0
            if agent == "leaver":
                seen[agent][-1] = self._rng.random()
        return seen


class Forbidding(Signals):
    """Two of three answers are allowed at a time, and ``leaver`` stays; the greater number earns more."""

    def observation_space(self, agent: str) -> spaces.Space:
        seen = spaces.Box(0.0, 1.0, (3,), np.float32)
        return spaces.Dict({"observation": seen, "action_mask": spaces.MultiBinary(3)})

    def action_space(self, agent: str) -> spaces.Space:
        return self._spaces[agent]

    def __init__(self) -> None:
        super().__init__()
        self._spaces = {agent: spaces.Discrete(3) for agent in self.possible_agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        self._time += 1
        for agent, action in actions.items():
            if not self._allowed[agent][action]:
                raise ValueError(f"{agent} must not do {action}")
        rewards = {agent: float(actions[agent]) for agent in self.agents}
        cuts = dict.fromkeys(self.agents, self._time == self._length)
        answer = self._draw(), rewards, dict.fromkeys(self.agents, False), cuts, {}
        if self._time == self._length:
            self.agents = []
        return answer

    def _draw(self) -> dict[str, Any]:
        seen = {}
        self._allowed = {}
        for agent in self.agents:
            mask = np.ones(3, np.int8)
            mask[self._rng.integers(3)] = 0
            self._allowed[agent] = mask
            seen[agent] = {"observation": np.zeros(3, np.float32), "action_mask": mask}
        return seen


class Turns(AECEnv):
    """Not for us: agents take turns."""

    def __init__(self) -> None:
        self.possible_agents = ["first", "second"]


def no_environment(answer: int = 42) -> int:
    return answer


def tells_the_truth(env: Any, observations: dict[str, Any]) -> dict[str, int]:
    """A baseline: everybody answers with what it is asked."""
    sizes = {"stayer": 2, "leaver": 3}
    return {agent: int(np.argmax(observations[agent][: sizes[agent]])) for agent in env.agents}
