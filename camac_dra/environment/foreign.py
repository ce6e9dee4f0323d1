"""Any PettingZoo ``ParallelEnv`` as a vectorised environment, so that everything here can train on it.

Axes: B parallel copies, N agents.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from camac_dra.environment.seeds import checked_seed
from camac_dra.environment.vector_api import StepResult
from camac_dra.utils.errors import ActionError, CheckpointError, ConfigurationError

_NEVER = -1  # in place of an episode's seed before the first reset


class ForeignVectorEnvironment:
    """B copies of somebody else's environment, stepped one after the other in this process.

    Implements `VectorMultiAgentEnvironment`. All agents must share one Box observation space and one
    Discrete, MultiDiscrete or Box action space. Agents that died, left or have not come yet are absent: their
    actions are ignored, and the episode of a copy ends when nobody is left. The row of an absent agent stays
    its last observation (zeros where it had none), so that an agent which the environment truncates alone is
    bootstrapped from there.

    Every episode is started with a seed of its own, drawn from this environment's generator. `get_state`
    keeps the seeds and actions of the running episodes, and `set_state` plays them again: exact for
    environments that do the same under the same seed, and refused for others.
    """

    def __init__(self, factory: Callable[[], Any], num_envs: int = 1, seed: int = 0) -> None:
        """Make `num_envs` copies with `factory`, a callable without arguments that returns a `ParallelEnv`.

        Raises:
            ConfigurationError: agents or copies differ in their spaces, a space is of another kind, or the
                seed is negative or no whole number.
        """
        seed = checked_seed(seed)
        if num_envs < 1:
            raise ConfigurationError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs = num_envs
        self._envs = [factory() for _ in range(num_envs)]
        self._names: list[Hashable] = list(getattr(self._envs[0], "possible_agents", ()))
        self.agent_ids = [str(name) for name in self._names]
        seen, acted = _common_spaces(self._envs)
        low, high = seen.low.astype(np.float32), seen.high.astype(np.float32)
        self.single_observation_space = spaces.Box(low, high, seen.shape, np.float32)
        self.single_action_space, self._start = _from_zero(acted)
        self._index = {name: number for number, name in enumerate(self._names)}
        cells = (num_envs, len(self._names))
        shape = self.single_observation_space.shape
        self._observations = np.zeros((*cells, *shape), np.float32)  # (B, N, *observation_shape)
        self._present = np.zeros(cells, bool)  # (B, N)
        self._rewards = np.zeros(num_envs)  # (B,) of the running episodes
        self._seeds = [_NEVER] * num_envs  # of the running episodes
        self._played: list[list[np.ndarray]] = [[] for _ in range(num_envs)]  # actions (N, ...) per step
        self._rng = np.random.default_rng(seed)

    @property
    def present(self) -> np.ndarray:
        """(B, N) bool: which agents take part in the next decision."""
        return self._present.copy()

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Start new episodes in all copies and return observations (B, N, *observation_shape) float32.

        Raises:
            ConfigurationError: the seed is negative or no whole number; then nothing has changed.
        """
        if seed is not None:
            self._rng = np.random.default_rng(checked_seed(seed))
        for copy in range(self.num_envs):
            self._begin(copy)
        return self._observations.copy()

    def step(self, actions: np.ndarray) -> StepResult:
        """Advance all copies by one step; actions (B, N) or (B, N, D) of absent agents are ignored.

        Raises:
            ActionError: the shape does not fit, an action of a present agent is out of range or not finite,
                or there was no reset yet.
        """
        if self._seeds[0] == _NEVER:
            raise ActionError("step needs running episodes, got none: call reset() first")
        actions = self._checked(actions)
        active = self._present.copy()
        rewards = np.zeros(active.shape)  # (B, N)
        terminated = np.zeros(active.shape, bool)  # (B, N)
        truncated = np.zeros(self.num_envs, bool)  # (B,)
        done = np.zeros(self.num_envs, bool)  # (B,)
        final, episodes = [], []
        for copy in range(self.num_envs):
            some_truncated = self._step_one(copy, actions[copy], rewards[copy], terminated[copy])
            if self._present[copy].any():
                continue
            done[copy] = True
            truncated[copy] = some_truncated
            final.append(self._observations[copy].copy())
            episodes.append({"reward": float(self._rewards[copy]), "steps": float(len(self._played[copy]))})
            self._begin(copy)
        return StepResult(
            observations=self._observations.copy(),
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            active=active,
            present=self.present,
            done=done,
            final_observations=np.stack(final) if final else None,
            episodes=episodes,
        )

    def get_state(self) -> dict[str, Any]:
        """Return the generator's state, and seeds, actions and observations of the running episodes."""
        shape = (0, len(self._names), *(self.single_action_space.shape or ()))
        return {
            "rng": json.dumps(self._rng.bit_generator.state),
            "seeds": list(self._seeds),
            "played": [
                np.stack(played) if played else np.zeros(shape, self.single_action_space.dtype)
                for played in self._played
            ],
            "observations": self._observations.copy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned by playing the running episodes again.

        Raises:
            CheckpointError: the state is of another number of copies, or the environment did otherwise now.
        """
        if len(state["seeds"]) != self.num_envs:
            raise CheckpointError(
                f"the state must be of {self.num_envs} copies like this environment,"
                f" got {len(state['seeds'])}"
            )
        self._rng.bit_generator.state = json.loads(state["rng"])
        if _NEVER in state["seeds"]:
            return
        for copy in range(self.num_envs):
            self._begin(copy, int(state["seeds"][copy]))
            for actions in np.asarray(state["played"][copy]):
                self._step_one(copy, actions, np.zeros(len(self._names)), np.zeros(len(self._names), bool))
        if not np.array_equal(self._observations, state["observations"]):
            raise CheckpointError(
                "the environment must do the same under the same seed and actions to be restored, got other"
                " observations: let it draw only from the seed that reset() is given"
            )

    def close(self) -> None:
        """Close all copies."""
        for env in self._envs:
            env.close()

    def _begin(self, copy: int, seed: int | None = None) -> None:
        """Start an episode in one copy, with a new seed where none is given."""
        self._seeds[copy] = int(self._rng.integers(2**31)) if seed is None else seed
        answer = self._envs[copy].reset(seed=self._seeds[copy])
        self._rewards[copy] = 0.0
        self._played[copy] = []
        self._observations[copy] = 0.0
        self._look(copy, answer[0])
        self._present[copy] = [name in self._envs[copy].agents for name in self._names]
        if not self._present[copy].any():
            raise ConfigurationError("the environment must have at least one agent after reset(), got none")

    def _step_one(self, copy: int, actions: np.ndarray, rewards: np.ndarray, terminated: np.ndarray) -> bool:
        """Step one copy, write its rewards and terminations (N,), return whether it truncated anybody."""
        env, here = self._envs[copy], np.flatnonzero(self._present[copy])
        self._played[copy].append(actions.copy())
        observations, earned, ends, cuts, _ = env.step(
            {self._names[n]: actions[n] + self._start for n in here}
        )
        self._look(copy, observations)
        cut = False
        for number in here:
            name = self._names[number]
            rewards[number] = earned.get(name, 0.0)
            terminated[number] = ends.get(name, False)
            cut |= bool(cuts.get(name, False)) and not terminated[number]
        self._rewards[copy] += rewards.sum()
        over = {name for name in self._names if ends.get(name, False) or cuts.get(name, False)}
        living = set(env.agents) - over
        self._present[copy] = [name in living for name in self._names]
        return cut

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        """Return the actions in the space's type, the least one for absent agents."""
        space = self.single_action_space
        expected = (*self._present.shape, *(space.shape or ()))
        given = np.asarray(actions)
        if given.shape != expected:
            raise ActionError(f"actions must have the shape {expected}, got {given.shape}")
        low, high = _bounds(space)
        here = self._present.reshape(*self._present.shape, *[1] * (given.ndim - 2))
        numbers = np.where(here, given, low)
        fits = (numbers >= low) & (numbers <= high)  # NaN fails both
        if not isinstance(space, spaces.Box):
            fits &= numbers == np.rint(numbers)
        if not fits.all():
            where = np.argwhere(~fits)[0]
            raise ActionError(
                f"the action of {self.agent_ids[where[1]]!r} in copy {where[0]} must be from {np.min(low)} to"
                f" {np.max(high)}, got {given[tuple(where)]}"
            )
        return numbers.astype(space.dtype)

    def _look(self, copy: int, observations: Mapping[Hashable, Any]) -> None:
        """Take over what the agents see; rows of those who see nothing stay."""
        for name, seen in observations.items():
            if name in self._index:
                self._observations[copy, self._index[name]] = seen


def _common_spaces(envs: list[Any]) -> tuple[spaces.Box, spaces.Space[Any]]:
    """Return the spaces that all agents of all copies share, or say who differs."""
    names = list(getattr(envs[0], "possible_agents", ()))
    if not names:
        raise ConfigurationError(
            "the environment must be a ParallelEnv that names its possible_agents, got none: list all agents"
            " that may ever appear"
        )
    first = envs[0].observation_space(names[0]), envs[0].action_space(names[0])
    for copy, env in enumerate(envs):
        if list(env.possible_agents) != names:
            raise ConfigurationError(
                f"all copies must have the same possible_agents, got {names} and, in copy {copy},"
                f" {list(env.possible_agents)}"
            )
        for name in names:
            for what, wanted, got in zip(
                ("observation", "action"),
                first,
                (env.observation_space(name), env.action_space(name)),
                strict=True,
            ):
                if got != wanted:
                    raise ConfigurationError(
                        f"all agents must have the same {what} space, got {wanted} for {names[0]!r} and {got}"
                        f" for {name!r}: pad them to one space with a wrapper"
                    )
    if not isinstance(first[0], spaces.Box):
        raise ConfigurationError(
            f"the observation space must be a Box, got {first[0]}: flatten it with a wrapper"
            " (action masks are not supported)"
        )
    if not isinstance(first[1], spaces.Discrete | spaces.MultiDiscrete | spaces.Box):
        raise ConfigurationError(f"the action space must be Discrete, MultiDiscrete or Box, got {first[1]}")
    return first


def _from_zero(space: spaces.Space[Any]) -> tuple[spaces.Space[Any], Any]:
    """Return the space with discrete actions counted from 0, and what is to be added to them."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n)), space.start
    if isinstance(space, spaces.MultiDiscrete):
        if space.nvec.ndim != 1:
            raise ConfigurationError(
                f"a MultiDiscrete action space must be a vector, got the shape {space.shape}"
            )
        return spaces.MultiDiscrete(space.nvec), space.start
    return space, 0


def _bounds(space: spaces.Space[Any]) -> tuple[Any, Any]:
    """Return the least and greatest action, inclusive."""
    if isinstance(space, spaces.Discrete):
        return 0, int(space.n) - 1
    if isinstance(space, spaces.MultiDiscrete):
        return np.zeros_like(space.nvec), space.nvec - 1
    assert isinstance(space, spaces.Box)
    return space.low, space.high
