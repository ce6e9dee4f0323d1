"""Cooperative games whose best return is known exactly, as vectorised environments.

Two agents choose at once and are paid the same. An observation says the game's state and who one is, so that
a shared policy can tell the agents apart:

- `two_step_game`: Rashid et al. (2018), *QMIX*, section 5.1 and appendix B. The first agent's first action
  chooses a matrix: one pays 7 whatever is done, the other 8 if both take their second action, but only 1 or 0
  otherwise. Whoever values the second matrix by what undecided partners get there stays with 7.
- `climbing_game`, `penalty_game`: Claus and Boutilier (1998), *The dynamics of reinforcement learning in
  cooperative multiagent systems*. The best joint action is next to the worst ones.

They implement `camac_dra.environment.vector_api.VectorMultiAgentEnvironment`. Axes: B parallel copies,
N agents, S states, A actions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from camac_dra.environment.seeds import checked_seed
from camac_dra.environment.vector_api import Flags, StepResult
from camac_dra.utils.errors import ActionError, ConfigurationError

AGENTS = 2

TWO_STEP_BEST, TWO_STEP_SAFE = 8.0, 7.0
CLIMBING = ((11.0, -30.0, 0.0), (-30.0, 7.0, 6.0), (0.0, 0.0, 5.0))
CLIMBING_BEST, PENALTY_BEST = 11.0, 10.0


class FixedLengthEnvironment:
    """B copies in step of a small task whose episodes all have the same length and end by termination.

    Implements `VectorMultiAgentEnvironment`. A task says in `_draw` how episodes begin, in `_observe` what is
    seen, and in `_play` what actions earn and change; its state is one array.
    """

    def __init__(
        self,
        num_envs: int,
        seed: int,
        *,
        num_agents: int,
        observation_shape: tuple[int, ...],
        num_actions: int,
        length: int,
    ) -> None:
        """Begin episodes of ``length`` steps in all copies.

        Raises:
            ConfigurationError: there is no copy, or the seed is negative or no whole number.
        """
        if num_envs < 1:
            raise ConfigurationError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs, self.length = num_envs, length
        self.agent_ids = [f"agent_{i}" for i in range(num_agents)]
        self.single_observation_space = spaces.Box(-np.inf, np.inf, observation_shape, np.float32)
        self.single_action_space: spaces.Discrete = spaces.Discrete(num_actions)
        self._flags = Flags.of(num_envs, num_agents)
        self.state: np.ndarray  # (B, ...) of the running episodes
        self.reset(seed)

    # What a task is

    def _draw(self) -> np.ndarray:
        """Return the state (B, ...) in which episodes begin."""
        raise NotImplementedError

    def _observe(self) -> np.ndarray:
        """Return observations (B, N, *shape) float32 of ``state`` in step ``time``."""
        raise NotImplementedError

    def _play(self, actions: np.ndarray) -> np.ndarray:
        """Change the state by actions (B, N) and return rewards (B, N)."""
        raise NotImplementedError

    # The contract

    @property
    def present(self) -> np.ndarray:
        """(B, N) bool: everybody always takes part."""
        return self._flags.everybody

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Begin new episodes in all copies and return observations (B, N, *shape) float32."""
        if seed is not None:
            self.rng = np.random.default_rng(checked_seed(seed))
        self._begin()
        return self._observe()

    def _begin(self) -> None:
        self.time = 0
        self.returns = np.zeros(self.num_envs)  # (B,) of the running episodes, mean over agents
        self.state = self._draw()

    def step(self, actions: np.ndarray) -> StepResult:
        """Advance all copies by one step of actions (B, N) int.

        Raises:
            ActionError: the shape does not fit, or an action is out of range.
        """
        actions, most = np.asarray(actions), int(self.single_action_space.n)
        if actions.shape != self._flags.everybody.shape:
            raise ActionError(f"actions must have shape {self._flags.everybody.shape}, got {actions.shape}")
        if not ((actions >= 0) & (actions < most)).all():
            raise ActionError(f"actions must be from 0 to {most - 1}, got {actions.min()} to {actions.max()}")
        rewards = self._play(actions)
        self.returns += rewards.mean(1)
        self.time += 1
        flags, over, final, episodes = self._flags, self.time == self.length, None, []
        if over:
            final = self._observe()
            episodes = [{"reward": float(one)} for one in self.returns]
            self._begin()
        return StepResult(
            observations=self._observe(),
            rewards=rewards,
            terminated=flags.everybody if over else flags.nobody,
            truncated=flags.no_copies,
            active=flags.everybody,
            present=flags.everybody,
            done=flags.all_copies if over else flags.no_copies,
            final_observations=final,
            episodes=episodes,
        )

    def get_state(self) -> dict[str, Any]:
        """Return step, state and returns of the running episodes, and the generator's state."""
        return {
            "time": self.time,
            "state": self.state.copy(),
            "returns": self.returns.copy(),
            "rng": self.rng.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue exactly from what ``get_state`` returned."""
        self.time = int(state["time"])
        self.state, self.returns = state["state"].copy(), state["returns"].copy()
        self.rng.bit_generator.state = state["rng"]

    def close(self) -> None:
        """Nothing is held."""


class CommonPayoffGame(FixedLengthEnvironment):
    """Two agents who are paid the same, through as many matrix games as an episode has steps.

    Observations are (S + 2,): the state as a unit vector, then the agent. Nothing is drawn.
    """

    def __init__(
        self,
        num_envs: int,
        seed: int,
        *,
        payoffs: np.ndarray,
        successors: np.ndarray | None = None,
        length: int = 1,
    ) -> None:
        """Begin games of ``length`` steps in state 0.

        Args:
            num_envs: B.
            seed: is not needed, but checked.
            payoffs: (S, A, A), what each agent gets in a state for the first and second agent's action.
            successors: (S, A, A) int, the next state; None: there is one state.
            length: steps of a game.

        Raises:
            ConfigurationError: the arrays' shapes do not fit, or a successor is no state.
        """
        self.payoffs = np.asarray(payoffs, float)
        if self.payoffs.ndim != 3 or self.payoffs.shape[1] != self.payoffs.shape[2]:
            raise ConfigurationError(f"payoffs must have shape (S, A, A), got {self.payoffs.shape}")
        zeros = np.zeros(self.payoffs.shape, np.int64)
        self.successors = zeros if successors is None else np.asarray(successors, np.int64)
        if self.successors.shape != self.payoffs.shape:
            raise ConfigurationError(
                f"successors must have the payoffs' shape {self.payoffs.shape}, got {self.successors.shape}"
            )
        states, num_actions = self.payoffs.shape[:2]
        if not ((self.successors >= 0) & (self.successors < states)).all():
            raise ConfigurationError(
                f"successors must be from 0 to {states - 1}, got {self.successors.max()}"
            )
        own = np.broadcast_to(np.eye(AGENTS), (states, AGENTS, AGENTS))
        seen = np.broadcast_to(np.eye(states)[:, None], (states, AGENTS, states))
        self._seen = np.concatenate([seen, own], axis=2).astype(np.float32)  # (S, 2, S + 2)
        super().__init__(
            num_envs,
            seed,
            num_agents=AGENTS,
            observation_shape=(states + AGENTS,),
            num_actions=num_actions,
            length=length,
        )

    def _draw(self) -> np.ndarray:
        return np.zeros(self.num_envs, np.int64)

    def _observe(self) -> np.ndarray:
        return self._seen[self.state]

    def _play(self, actions: np.ndarray) -> np.ndarray:
        cell = (self.state, actions[:, 0], actions[:, 1])
        earned = self.payoffs[cell]
        self.state = self.successors[cell]
        return np.repeat(earned[:, None], AGENTS, axis=1)


def two_step_game(num_envs: int, seed: int) -> CommonPayoffGame:
    """Return B copies of the two-step game; both play the best they can for 8, careful ones for 7."""
    payoffs = np.zeros((3, 2, 2))
    payoffs[1] = TWO_STEP_SAFE
    payoffs[2] = [[0.0, 1.0], [1.0, TWO_STEP_BEST]]
    successors = np.zeros((3, 2, 2), np.int64)
    successors[0, 0], successors[0, 1] = 1, 2  # by the first agent's action, whatever the second one does
    return CommonPayoffGame(num_envs, seed, payoffs=payoffs, successors=successors, length=2)


def climbing_game(num_envs: int, seed: int) -> CommonPayoffGame:
    """Return B copies of the climbing game: at best 11, and 7 and 6 and 5 on the way there."""
    return CommonPayoffGame(num_envs, seed, payoffs=np.array([CLIMBING]))


def penalty_game(num_envs: int, seed: int, *, penalty: float = 0.0) -> CommonPayoffGame:
    """Return B copies of the penalty game: 10 in two corners, 2 in the middle, ``penalty`` (at most 0) in the
    other corners, where the agents chose different good ones.

    Raises:
        ConfigurationError: the penalty is above 0.
    """
    if not penalty <= 0.0:
        raise ConfigurationError(f"penalty must be at most 0, got {penalty}")
    corner = PENALTY_BEST
    return CommonPayoffGame(
        num_envs,
        seed,
        payoffs=np.array([[[corner, 0.0, penalty], [0.0, 2.0, 0.0], [penalty, 0.0, corner]]]),
    )
