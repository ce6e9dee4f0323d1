"""Any PettingZoo ``ParallelEnv`` as a vectorised environment, so that everything here can train on it.

Axes: B parallel copies, N agents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from camac_dra.environment.foreign_checks import common_spaces, possible_agents
from camac_dra.environment.foreign_cycles import direct
from camac_dra.environment.seeds import checked_seed
from camac_dra.environment.vector_api import StepResult
from camac_dra.utils.errors import ActionError, CheckpointError, ConfigurationError, EpisodesLostError

_NEVER = -1  # in place of an episode's seed before the first reset


class ForeignVectorEnvironment:
    """B copies of somebody else's environment, stepped one after the other in this process.

    Implements `VectorMultiAgentEnvironment`. Agents whose spaces differ are given common ones, see
    `CommonSpaces`. Agents that died, left or have not come yet are absent: their actions are ignored, and
    the episode of a copy ends when nobody is left, or is cut off after ``max_steps``. The row of an absent
    agent stays its last observation (zeros where it had none), so that an agent which the environment
    truncates alone is bootstrapped from there. What an agent earns after it left is not counted.

    Attributes:
        envs: the B environments as they are stepped; see `direct`.

    Every episode is started with a seed of its own, drawn from this environment's generator. `get_state`
    keeps the seeds and actions of the running episodes, and `set_state` plays them again: exact for
    environments that do the same under the same seed, and refused for others.
    """

    def __init__(
        self,
        factory: Callable[[], Any],
        num_envs: int = 1,
        seed: int = 0,
        *,
        max_steps: int | None = None,
        indicator: bool = False,
        autoreset: bool = True,
    ) -> None:
        """Make `num_envs` copies with `factory`, a callable without arguments that returns a `ParallelEnv`.

        Args:
            factory: called once per copy.
            num_envs: B.
            seed: of the generator that episodes' seeds are drawn from.
            max_steps: episodes that would go on are cut off (truncated) after so many steps; None: never.
            indicator: observations also say who sees them, as a one-hot vector.
            autoreset: begin a new episode where one ended; without it, that copy is empty until `reset`.

        Raises:
            ConfigurationError: what was made is no ParallelEnv, copies differ in their spaces, a space is of
                a kind that is not supported, a number is below 1, or the seed is negative or no whole number.
        """
        seed = checked_seed(seed)
        for name, number in (("num_envs", num_envs), ("max_steps", max_steps)):
            if number is not None and number < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {number}")
        self.num_envs = num_envs
        envs = [factory() for _ in range(num_envs)]
        self._names = possible_agents(envs)
        self.agent_ids = [str(name) for name in self._names]
        self._spaces = common_spaces(envs, self._names, indicator)
        self.envs = [direct(env) for env in envs]
        self.single_observation_space = self._spaces.observation
        self.single_action_space = self._spaces.action
        self._index = {name: number for number, name in enumerate(self._names)}
        self._max_steps, self._autoreset = max_steps, autoreset
        cells = (num_envs, len(self._names))
        shape = self.single_observation_space.shape
        self._observations = np.zeros((*cells, *shape), np.float32)  # (B, N, *observation_shape)
        masks = self._spaces.masks
        self._masks = None if masks is None else np.tile(masks, (num_envs, 1, 1))  # (B, N, A)
        self._present = np.zeros(cells, bool)  # (B, N)
        self._took_part = np.zeros(cells, bool)  # (B, N) in the running episodes
        self._living: list[list[Hashable]] = [[] for _ in range(num_envs)]  # names of those present
        self._rewards = np.zeros(num_envs)  # (B,) of the running episodes
        self._seeds = [_NEVER] * num_envs  # of the running episodes
        self._played: list[list[np.ndarray]] = [[] for _ in range(num_envs)]  # actions (N, ...) per step
        self._rng = np.random.default_rng(seed)

    @property
    def present(self) -> np.ndarray:
        """(B, N) bool: which agents take part in the next decision."""
        return self._present.copy()

    @property
    def observations(self) -> np.ndarray:
        """(B, N, *observation_shape) float32, upon which is decided next."""
        return self._observations.copy()

    @property
    def action_masks(self) -> np.ndarray | None:
        """(B, N, A) bool: false where a Discrete action is impossible in the next decision; None: all are
        possible.
        """
        return None if self._masks is None else self._masks.copy()

    @property
    def agent_groups(self) -> list[str]:
        """Name of each agent's group: its own without the number (``agent_0`` and ``agent_1`` are alike)."""
        return [group_of(agent_id) for agent_id in self.agent_ids]

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
        for copy in np.flatnonzero(active.any(axis=1)).tolist():
            some_truncated = self._step_one(copy, actions[copy], rewards[copy], terminated[copy])
            if self._living[copy]:
                continue
            done[copy] = True
            truncated[copy] = some_truncated
            final.append(self._observations[copy].copy())
            episodes.append(self._measures(copy))
            if self._autoreset:
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
            CheckpointError: the state is of another number of copies; nothing has changed then.
            EpisodesLostError: the environment did otherwise now. The generator is the state's, so that
                `reset` goes on with the episodes that would have come.
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
                if self._living[copy]:  # an episode that does otherwise may be over before
                    self._step_one(
                        copy, actions, np.zeros(len(self._names)), np.zeros(len(self._names), bool)
                    )
        same = all(
            len(mine) == len(theirs) for mine, theirs in zip(self._played, state["played"], strict=True)
        )
        if not same or not np.array_equal(self._observations, state["observations"]):
            raise EpisodesLostError(
                "the environment must do the same under the same seed and actions for its running episodes to"
                " be restored, got other observations: let it draw only from the seed that reset() is given"
            )

    def close(self) -> None:
        """Close all copies."""
        for env in self.envs:
            env.close()

    def _begin(self, copy: int, seed: int | None = None) -> None:
        """Start an episode in one copy, with a new seed where none is given."""
        self._seeds[copy] = draw_seed(self._rng) if seed is None else seed
        answer = self.envs[copy].reset(seed=self._seeds[copy])
        self._rewards[copy] = 0.0
        self._played[copy] = []
        self._observations[copy] = 0.0
        if self._masks is not None:
            self._masks[copy] = self._spaces.masks
        self._look(copy, answer[0])
        self._took_part[copy] = False
        self._set_living(copy, self.envs[copy].agents)
        if not self._present[copy].any():
            raise ConfigurationError("the environment must have at least one agent after reset(), got none")

    def _step_one(self, copy: int, actions: np.ndarray, rewards: np.ndarray, terminated: np.ndarray) -> bool:
        """Step one copy, write its rewards and terminations (N,), return whether it truncated anybody."""
        env, here = self.envs[copy], self._living[copy]
        self._played[copy].append(actions.copy())
        own = self._spaces.to_own(actions)
        observations, earned, ends, cuts, _ = env.step({name: own[self._index[name]] for name in here})
        self._look(copy, observations)
        total, cut = 0.0, False
        for name in here:
            number = self._index[name]
            reward = float(earned.get(name, 0.0))
            rewards[number] = reward
            total += reward
            if ends.get(name, False):
                terminated[number] = True
            elif cuts.get(name, False):
                cut = True
        self._rewards[copy] += total
        ended = any(ends.values()) or any(cuts.values())
        if not ended and len(self._played[copy]) != self._max_steps and env.agents == here:
            return False
        over = {name for name in self._names if ends.get(name, False) or cuts.get(name, False)}
        living = set(env.agents) - over
        if living and len(self._played[copy]) == self._max_steps:
            living, cut = set(), True
        self._set_living(copy, living)
        return cut

    def _set_living(self, copy: int, living: Collection[Hashable]) -> None:
        """Note who takes part in the next decision of a copy."""
        self._living[copy] = [name for name in self._names if name in living]
        self._present[copy] = [name in living for name in self._names]
        self._took_part[copy] |= self._present[copy]

    def _measures(self, copy: int) -> dict[str, float]:
        """Return the measures of the episode that ended in a copy."""
        reward = float(self._rewards[copy])
        return {
            "reward": reward,
            "return_per_agent": reward / int(self._took_part[copy].sum()),
            "steps": float(len(self._played[copy])),
        }

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
        rows = self._observations[copy]
        for name, seen in observations.items():
            number = self._index.get(name)
            if number is not None:
                self._spaces.write(rows[number], number, seen)
                if self._masks is not None and self._spaces.masked:
                    self._spaces.write_mask(self._masks[copy, number], number, seen)


def group_of(agent_id: str) -> str:
    """Return the name of an agent without its number."""
    return re.sub(r"_?\d+$", "", agent_id)


def draw_seed(rng: np.random.Generator) -> int:
    """Return the seed of the next episode that a generator has."""
    return int(rng.integers(2**31))


def _bounds(space: spaces.Space[Any]) -> tuple[Any, Any]:
    """Return the least and greatest action, inclusive."""
    if isinstance(space, spaces.Discrete):
        return 0, int(space.n) - 1
    if isinstance(space, spaces.MultiDiscrete):
        return np.zeros_like(space.nvec), space.nvec - 1
    assert isinstance(space, spaces.Box)
    return space.low, space.high
