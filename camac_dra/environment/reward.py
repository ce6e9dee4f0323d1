"""What agents are rewarded for, and to whom it is credited.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from camac_dra.environment.constraints import Constraints, pool_of
from camac_dra.environment.measures import jain_index, service_ratios
from camac_dra.environment.objective import Objective
from camac_dra.environment.physics import Flows
from camac_dra.environment.plant import Agree, Plant
from camac_dra.environment.state import EnvironmentState
from camac_dra.environment.totals import Totals
from camac_dra.utils.dotted import import_callable
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema.environment import EnvironmentConfig
from camac_dra.utils.schema.objectives import SUM_OVER_RESOURCES
from camac_dra.utils.validation import shown

RewardFn = Callable[[str, np.ndarray, np.ndarray], Any]


def load_reward_fn(reward_fn: str | RewardFn | None) -> RewardFn | None:
    """Return the user's reward function, imported where it is given as a dotted path.

    Raises:
        ConfigurationError: the path does not lead to a callable.
    """
    if not isinstance(reward_fn, str):
        return reward_fn
    return import_callable(reward_fn, "environment.reward_fn")


def user_rewards(
    reward_fn: RewardFn, agent_ids: list[str], grants: np.ndarray, capacity: np.ndarray
) -> np.ndarray:
    """Return the user's reward (B, N) for grants (B, N, R) out of the pool's nominal capacities (R,).

    The function is called once per agent and copy; an array it returns is averaged.

    Raises:
        ConfigurationError: it raised, or returned something that is not a finite number or an array of them.
    """
    rewards = np.empty(grants.shape[:2])  # (B, N)
    for b, copy in enumerate(grants):
        for i, agent_id in enumerate(agent_ids):
            # Copies, so that whatever the function does to its arguments stays with it.
            try:
                returned = reward_fn(agent_id, copy[i].copy(), capacity.copy())
            except Exception as error:  # whatever somebody else's code raises
                name = getattr(reward_fn, "__qualname__", type(reward_fn).__qualname__)
                raise ConfigurationError(
                    f"environment.reward_fn: {name}(agent_id, allocation, resources) must return a number,"
                    f" but raised {type(error).__name__}: {error}; it was asked for {agent_id!r} with the"
                    f" allocation {copy[i].tolist()}"
                ) from error
            rewards[b, i] = _mean(returned)
            if not math.isfinite(rewards[b, i]):
                raise ConfigurationError(
                    f"environment.reward_fn: must return a finite number or an array of them,"
                    f" got {returned!r} for {agent_id!r} with the allocation {copy[i].tolist()}"
                )
    return rewards


def _mean(returned: Any) -> float:
    """Return the mean of a number or an array; NaN for what is neither or empty."""
    try:
        numbers = np.asarray(returned, np.float64)
    except (TypeError, ValueError):
        return math.nan
    return float(numbers.mean()) if numbers.size else math.nan


def fairness_of(totals: Totals, constraints: Constraints) -> np.ndarray:
    """Return Jain's index (B,) of the agents' service ratios so far in the episode."""
    totals.settle()
    return jain_index(*service_ratios(totals.served, totals.demanded, constraints.fair_share))


def share_among_team(rewards: np.ndarray, present: np.ndarray | None) -> np.ndarray:
    """Return the mean over the present agents, the same for everybody, of ``rewards`` (B, N) or (B, N, R)."""
    if present is None:
        mean = rewards.mean(axis=1, keepdims=True)  # (B, 1) or (B, 1, R)
    else:
        here = present if rewards.ndim == 2 else present[..., None]
        count = np.maximum(here.sum(axis=1, keepdims=True), 1)  # (B, 1) or (B, 1, 1)
        mean = (rewards * here).sum(axis=1, keepdims=True) / count
    return np.repeat(mean, rewards.shape[1], axis=1)


def settled(credited: np.ndarray, present: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return rewards (B, N), zero for absent agents, and by resource (B, N, R); None where ``credited``,
    which is changed, is not.
    """
    if credited.ndim == 2:
        if present is not None:
            credited *= present
        return credited, None
    if present is not None:
        credited *= present[..., None]
    return credited.sum(axis=2), credited


def refuse_joint_rewards(config: EnvironmentConfig) -> None:
    """Refuse rewards by resource where rewards are not sums over resources served apart from each other.

    Raises:
        ConfigurationError: names the setting that stands against it.
    """
    for setting, right in SUM_OVER_RESOURCES.items():
        value = getattr(config, setting)
        if value != right:
            raise ConfigurationError(
                f"environment.{setting} must be {shown(right)} for rewards by resource, got {shown(value)}"
            )


@dataclass(slots=True)
class Decision:
    """One step as it is to be rewarded."""

    intended: np.ndarray  # (B, N, R) requests before an agreement
    flows: Flows  # what became of them
    state: EnvironmentState  # before the step
    agree: Agree | None  # the agreement, None without one
    objective: Objective  # what the agents want
    price: np.ndarray  # (B or 1, N, R) of a granted unit
    earned: np.ndarray  # (B, N) each agent's value in that objective, or (B, N, R) by resource


class Rewarder(Protocol):
    """Makes rewards of what agents earned.

    Attributes:
        fairness: (B,) Jain's index so far in the episode, 1 where it is not rewarded.
    """

    fairness: np.ndarray

    def begin(self, num_envs: int) -> None:
        """Start new episodes in ``num_envs`` copies."""
        ...

    def get_state(self) -> dict[str, np.ndarray]:
        """Return what the next rewards depend on besides the environment's state; ``fairness`` is in it."""
        ...

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from what ``get_state`` returned; it may hold more."""
        ...

    def rewards(self, decision: Decision, totals: Totals) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return rewards (B, N), those of absent agents without meaning, and arrays for the step's ``info``.

        ``totals`` hold the step already. Of what was earned by resource, which happens with reward_function
        `efficiency` and without a user's only, they are (B, N, R).
        """
        ...


class MarginalRewards:
    """What each agent earned, less what the others would gain if it had asked for nothing."""

    def __init__(self, plant: Plant) -> None:
        """Resolve steps again by ``plant``."""
        self._plant = plant

    def begin(self, num_envs: int) -> None:
        """Start new episodes in ``num_envs`` copies."""
        self.fairness = np.ones(num_envs)

    def get_state(self) -> dict[str, np.ndarray]:
        """Return Jain's index so far."""
        return {"fairness": self.fairness.copy()}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from what ``get_state`` returned."""
        self.fairness = np.array(state["fairness"])

    def rewards(self, decision: Decision, totals: Totals) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return rewards (B, N), or (B, N, R)."""
        d = decision
        gain = self._plant.externality(d.intended, d.flows, d.objective, d.price, d.earned, d.state, d.agree)
        return d.earned - gain, {}


class SharedRewards:
    """Rewards of their own or of the team, by one number: every credit but the marginal one."""

    def __init__(self, config: EnvironmentConfig, constraints: Constraints) -> None:
        """Reward as ``config`` says.

        Raises:
            ConfigurationError: the path of the user's reward function does not lead to a callable.
        """
        self._reward_fn = load_reward_fn(config.reward_fn)
        self._agent_ids = config.agent_ids
        self._pool = pool_of(config)
        self._constraints = constraints
        self._team = config.credit == "team"
        self._by_fairness = config.reward_function != "efficiency"
        # What the change of the fairness counts for, and the step's values the rest.
        self._mix = 1.0 if config.reward_function == "fairness" else config.hybrid_fairness

    def begin(self, num_envs: int) -> None:
        """Start new episodes in ``num_envs`` copies."""
        self.fairness = np.ones(num_envs)

    def get_state(self) -> dict[str, np.ndarray]:
        """Return Jain's index so far."""
        return {"fairness": self.fairness.copy()}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from what ``get_state`` returned."""
        self.fairness = np.array(state["fairness"])

    def rewards(self, decision: Decision, totals: Totals) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return rewards (B, N) or (B, N, R) from what was earned, or from whatever is rewarded instead."""
        values = decision.earned
        if self._reward_fn is not None:
            values = user_rewards(self._reward_fn, self._agent_ids, decision.flows.grants, self._pool)
        elif self._by_fairness:
            fairness = fairness_of(totals, self._constraints)
            change = (fairness - self.fairness)[:, None]
            self.fairness = fairness
            values = (1.0 - self._mix) * values + self._mix * change
        if self._team:
            return share_among_team(values, decision.state.draw.present), {}
        # The totals keep the values, and whoever gets the rewards may scale them in place.
        return values.copy(), {}
