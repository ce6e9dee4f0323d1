"""How good policies are in somebody else's environment: what agents earn in held-out episodes.

Axes: E episodes, N agents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from camac_dra.environment.foreign import draw_seed
from camac_dra.environment.foreign_factory import ForeignFactory
from camac_dra.environment.foreign_spaces import MASK
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema import Config

if TYPE_CHECKING:
    from camac_dra.training.policy import TrainedPolicy

# Takes the environment as its author made it and what each agent observes; returns what each agent does.
Baseline = Callable[[Any, Mapping[Hashable, Any]], Mapping[Hashable, Any]]
MOST_COPIES = 32  # that are played at a time


@dataclass(frozen=True)
class Played:
    """What became of one policy in E episodes."""

    name: str
    agent_ids: list[str]  # N
    returns: np.ndarray  # (E, N) undiscounted, NaN where the agent took no part
    steps: np.ndarray  # (E,)

    @property
    def per_agent(self) -> np.ndarray:
        """(E,) mean return of the agents that took part."""
        return np.nanmean(self.returns, axis=1)

    @property
    def reward(self) -> np.ndarray:
        """(E,) sum of the agents' returns."""
        return np.nansum(self.returns, axis=1)


def play_policy(policy: TrainedPolicy, factory: ForeignFactory, num_episodes: int, seed: int) -> Played:
    """Play E episodes with a trained policy, whose agents take their most likely actions.

    Episode i starts from the i-th seed that a generator seeded with ``seed`` draws, as in `play_baseline`.

    Raises:
        ConfigurationError: the environment cannot be made, or ``num_episodes`` is below 1.
    """
    _check(num_episodes)
    rounds = math.ceil(num_episodes / MOST_COPIES)
    copies = math.ceil(num_episodes / rounds)
    env = factory(copies, seed, autoreset=False)
    returns, steps = [], []
    for _ in range(rounds):
        env.reset()
        policy.begin(env)
        earned = np.zeros(env.present.shape)  # (B, N)
        took_part, lengths = np.zeros(env.present.shape, bool), np.zeros(copies, int)
        while env.present.any():
            result = env.step(policy.actions_in(env))
            earned += result.rewards
            took_part |= result.active
            lengths += result.active.any(axis=1)
        returns.append(np.where(took_part, earned, np.nan))
        steps.append(lengths)
    env.close()
    return Played(
        policy.name,
        list(env.agent_ids),
        np.concatenate(returns)[:num_episodes],
        np.concatenate(steps)[:num_episodes],
    )


def play_baseline(
    name: str, baseline: Baseline, factory: ForeignFactory, num_episodes: int, seed: int
) -> Played:
    """Play the episodes that `play_policy` plays with a function of environment and observations.

    As there, an agent's return is what it earned while it was present, and episodes are cut off at the
    factory's ``max_episode_length``.

    Raises:
        ConfigurationError: the environment cannot be made, or ``num_episodes`` is below 1.
    """
    _check(num_episodes)
    env, rng = factory.make(), np.random.default_rng(seed)
    agents = list(env.possible_agents)
    returns, steps = np.full((num_episodes, len(agents)), np.nan), np.zeros(num_episodes, int)
    for episode in range(num_episodes):
        observations, _ = env.reset(seed=draw_seed(rng))
        earned: dict[Hashable, float] = {}
        while env.agents and steps[episode] != factory.max_episode_length:
            present = list(env.agents)
            observations, rewards, *_ = env.step(dict(baseline(env, observations)))
            for agent in present:
                earned[agent] = earned.get(agent, 0.0) + float(rewards.get(agent, 0.0))
            steps[episode] += 1
        returns[episode] = [earned.get(agent, np.nan) for agent in agents]
    env.close()
    return Played(name, [str(agent) for agent in agents], returns, steps)


class RandomActions:
    """Every agent draws from its own action space: a `Baseline`."""

    def __init__(self, seed: int) -> None:
        self._seeds = np.random.default_rng(seed)
        self._spaces: dict[Hashable, Any] = {}

    def __call__(self, env: Any, observations: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return an action for each agent that is there, a possible one where there is a mask."""
        for agent in env.agents:
            if agent not in self._spaces:
                self._spaces[agent] = env.action_space(agent)
                self._spaces[agent].seed(draw_seed(self._seeds))
        return {agent: self._draw(agent, observations.get(agent)) for agent in env.agents}

    def _draw(self, agent: Hashable, seen: Any) -> Any:
        mask = seen.get(MASK) if isinstance(seen, Mapping) else None
        if mask is None or not np.any(mask):
            return self._spaces[agent].sample()
        return self._spaces[agent].sample(mask=np.asarray(mask, np.int8))


def foreign_measures(config: Config, policy: TrainedPolicy, seed: int) -> dict[str, Any]:
    """Return ``avg_reward`` and ``std_reward`` of the sum over agents, ``return_per_agent``, which is the
    ``score``, and ``steps``: means over ``evaluation_episodes`` episodes.
    """
    played = play_policy(
        policy, ForeignFactory.of(config.environment), config.training.evaluation_episodes, seed
    )
    per_agent = float(played.per_agent.mean())
    return {
        "avg_reward": float(played.reward.mean()),
        "std_reward": float(played.reward.std()),
        "score": per_agent,
        "return_per_agent": per_agent,
        "steps": float(played.steps.mean()),
    }


def _check(num_episodes: int) -> None:
    if num_episodes < 1:
        raise ConfigurationError(f"num_episodes must be at least 1, got {num_episodes}")
