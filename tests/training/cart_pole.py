"""Gymnasium's CartPole-v1 as a vectorised environment of one agent, for tests of learning."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from camac_dra.environment.vector_api import StepResult

LENGTH = 500
TAU, GRAVITY, POLE_MASS, TOTAL_MASS, HALF_LENGTH, FORCE = 0.02, 9.8, 0.1, 1.1, 0.5, 10.0


class CartPoles:
    """B carts, each with a pole to balance; an episode ends when it falls, or is cut off after 500 steps."""

    agent_ids = ("cart",)
    single_observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    single_action_space = spaces.Discrete(2)

    def __init__(self, num_envs: int, seed: int) -> None:
        self.num_envs = num_envs
        self._rng = np.random.default_rng(seed)
        self.state, self.clock = np.zeros((num_envs, 4)), np.zeros(num_envs, int)

    def reset(self, seed: int | None = None) -> np.ndarray:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._begin(np.ones(self.num_envs, bool))
        return self._observe()

    def _begin(self, copies: np.ndarray) -> None:
        self.state[copies] = self._rng.uniform(-0.05, 0.05, (int(copies.sum()), 4))
        self.clock[copies] = 0

    def _observe(self) -> np.ndarray:
        return self.state[:, None].astype(np.float32)

    @property
    def present(self) -> np.ndarray:
        return np.ones((self.num_envs, 1), bool)

    def step(self, actions: np.ndarray) -> StepResult:
        x, speed, angle, turning = self.state.T
        force = np.where(actions[:, 0] == 1, FORCE, -FORCE)
        cos, sin = np.cos(angle), np.sin(angle)
        push = (force + POLE_MASS * HALF_LENGTH * turning**2 * sin) / TOTAL_MASS
        turn = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4 / 3 - POLE_MASS * cos**2 / TOTAL_MASS))
        gain = push - POLE_MASS * HALF_LENGTH * turn * cos / TOTAL_MASS
        self.state = np.stack(
            [x + TAU * speed, speed + TAU * gain, angle + TAU * turning, turning + TAU * turn], axis=1
        )
        self.clock += 1
        fallen = (np.abs(self.state[:, 0]) > 2.4) | (np.abs(self.state[:, 2]) > 12 * np.pi / 180)
        truncated = (self.clock >= LENGTH) & ~fallen
        done = fallen | truncated
        final = self._observe()[done] if done.any() else None
        episodes = [{"steps": float(steps)} for steps in self.clock[done]]
        self._begin(done)
        return StepResult(
            observations=self._observe(),
            rewards=np.ones((self.num_envs, 1)),
            terminated=fallen[:, None],
            truncated=truncated,
            active=self.present,
            present=self.present,
            done=done,
            final_observations=final,
            episodes=episodes,
        )

    def get_state(self) -> dict[str, Any]:
        return {"state": self.state, "clock": self.clock, "rng": self._rng.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        self.state, self.clock = state["state"].copy(), state["clock"].copy()
        self._rng.bit_generator.state = state["rng"]

    def close(self) -> None:
        pass
