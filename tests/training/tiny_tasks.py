"""Tiny tasks of known optimum, each of which needs one thing: memory, attention, masks of actions."""

from __future__ import annotations

import numpy as np

from experiments.games.matrix_games import FixedLengthEnvironment

DELAY = 4
NEIGHBOURS = 4


class CueTask(FixedLengthEnvironment):
    """One agent is shown -1 or 1 in the first step, and after ``DELAY`` more steps has to say which.

    Observations are ``[cue, is this the last step]``. The return is 1 for the right answer, else 0: whoever
    forgets has 0.5 (the T-maze of Bakker 2001, without the walking).
    """

    def __init__(self, num_envs: int, seed: int) -> None:
        super().__init__(
            num_envs, seed, num_agents=1, observation_shape=(2,), num_actions=2, length=DELAY + 1
        )

    def _draw(self) -> np.ndarray:
        return self.rng.integers(2, size=self.num_envs)

    def _observe(self) -> np.ndarray:
        observations = np.zeros((self.num_envs, 1, 2), np.float32)
        if self.time == 0:
            observations[:, 0, 0] = 2 * self.state - 1
        observations[:, 0, 1] = self.time == DELAY
        return observations

    def _play(self, actions: np.ndarray) -> np.ndarray:
        return (actions == self.state[:, None]) * float(self.time == DELAY)


class MarkedNeighbourTask(FixedLengthEnvironment):
    """One agent sees its own empty row, four neighbours' with a number 0, 1 or 2, one of them marked, and a
    row behind the mask that shows a mark and another number; the marked neighbour's number is the answer.

    Observations are (6, 6): ``[mark, unit vector of the number, is own, is real]`` per row. The return is 1
    for the right answer, else 0; a guess has a third.
    """

    def __init__(self, num_envs: int, seed: int) -> None:
        shape = (2 + NEIGHBOURS, 6)
        super().__init__(num_envs, seed, num_agents=1, observation_shape=shape, num_actions=3, length=1)

    def _draw(self) -> np.ndarray:
        marked = self.rng.integers(NEIGHBOURS, size=self.num_envs)
        numbers = self.rng.integers(3, size=(self.num_envs, NEIGHBOURS))
        return np.column_stack([marked, numbers, self.rng.integers(1, 3, size=self.num_envs)])

    @property
    def answer(self) -> np.ndarray:
        """(B,) the marked neighbour's number."""
        return np.take_along_axis(self.state, 1 + self.state[:, :1], axis=1)[:, 0]

    def _observe(self) -> np.ndarray:
        copies = np.arange(self.num_envs)
        rows = np.zeros((self.num_envs, 1, 2 + NEIGHBOURS, 6), np.float32)
        rows[:, 0, 0, 4:] = 1.0
        rows[:, 0, 1 : 1 + NEIGHBOURS, 1:4] = np.eye(3)[self.state[:, 1:-1]]
        rows[:, 0, 1 : 1 + NEIGHBOURS, 5] = 1.0
        rows[copies, 0, 1 + self.state[:, 0], 0] = 1.0
        rows[:, 0, -1, 0] = 1.0  # nobody's row, and wrong
        rows[copies, 0, -1, 1 + (self.answer + self.state[:, -1]) % 3] = 1.0
        return rows

    def _play(self, actions: np.ndarray) -> np.ndarray:
        return (actions == self.answer[:, None]).astype(float)


class ForbiddenActionTask(FixedLengthEnvironment):
    """One agent, three actions that pay 3, 2 and 1, of which one is impossible in each episode and would pay
    10. Agents see nothing, and are to take the best one that is possible.
    """

    PAY = np.array([3.0, 2.0, 1.0])

    def __init__(self, num_envs: int, seed: int) -> None:
        self.taken = 0  # impossible actions, ever
        super().__init__(num_envs, seed, num_agents=1, observation_shape=(1,), num_actions=3, length=1)

    def _draw(self) -> np.ndarray:
        return self.rng.integers(3, size=self.num_envs)

    @property
    def action_masks(self) -> np.ndarray:
        """(B, 1, 3) bool: false where an action is impossible."""
        return (np.arange(3) != self.state[:, None])[:, None]

    @property
    def observations(self) -> np.ndarray:
        """(B, 1, 1) float32."""
        return self._observe()

    @property
    def best(self) -> np.ndarray:
        """(B,) what the best possible action pays."""
        return np.where(self.state == 0, 2.0, 3.0)

    def _observe(self) -> np.ndarray:
        return np.ones((self.num_envs, 1, 1), np.float32)

    def _play(self, actions: np.ndarray) -> np.ndarray:
        impossible = actions == self.state[:, None]
        self.taken += int(impossible.sum())
        return np.where(impossible, 10.0, self.PAY[actions])
