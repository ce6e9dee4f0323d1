"""Several objectives at once: a vector of rewards per agent, and its product with the weights in force.

The objectives, in this order: **service** (``weight * served - holding * weight * backlog - loss * weight *
lost``), **cost** (``-price * granted``), both in fair shares and averaged over resources, and **fairness**
(the change of Jain's index of the agents' service ratios, the same for all who are present). Their weighted
sum is ``efficiency`` with the weights (1, 1, 0), ``fairness`` with (0, 0, 1), and ``hybrid`` with
``(1 - h, 1 - h, h)``.

Axes, always in this order: B parallel copies, N agents, R resources, O objectives.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.measures import jain_index, jain_without_one, service_ratios
from camac_dra.environment.plant import Plant
from camac_dra.environment.preferences import Preferences
from camac_dra.environment.reward import Decision, share_among_team
from camac_dra.environment.totals import Totals
from camac_dra.utils.schema.environment import EnvironmentConfig
from camac_dra.utils.schema.objectives import OBJECTIVES

SERVICE, COST, FAIRNESS = range(len(OBJECTIVES))
_FREE = np.zeros((1, 1, 1))  # a price (B, N, R)


class WeightedRewards:
    """Rewards by `Preferences`, with each of the three credits applied to each objective by itself.

    With credit ``marginal``, service and cost are credited by `Plant.externality`, as the efficiency is.
    Fairness is a property of the whole episode, and one step without a request says little of it: to
    lag behind and catch up would be rewarded again and again. Its difference reward (Wolpert and Tumer 2001)
    leaves the agent out of the index instead: the change of ``J - J of the others``, times the number of
    those present, whose rewards it changes. Over an episode it adds up to that difference at the end.

    Attributes:
        fairness: (B,) Jain's index so far in the episode.
        preferences: the weights in force.
    """

    def __init__(
        self, config: EnvironmentConfig, constraints: Constraints, plant: Plant, preferences: Preferences
    ) -> None:
        """Reward as ``config`` says."""
        self._credit = config.credit
        self._constraints, self._plant = constraints, plant
        self.preferences = preferences
        self._without: np.ndarray  # (B, N) Jain's index so far of all but one agent

    def begin(self, num_envs: int) -> None:
        """Start new episodes in ``num_envs`` copies."""
        self.fairness = np.ones(num_envs)
        self._without = np.ones((num_envs, len(self._constraints.fair_share)))

    def get_state(self) -> dict[str, np.ndarray]:
        """Return what the next rewards depend on."""
        return {"fairness": self.fairness.copy(), "fairness_without": self._without.copy()}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from what ``get_state`` returned."""
        self.fairness, self._without = np.array(state["fairness"]), np.array(state["fairness_without"])

    def rewards(self, decision: Decision, totals: Totals) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return rewards (B, N) and the arrays by objective that `VectorEnvironment.step` describes."""
        totals.settle()
        ratios, had = service_ratios(totals.served, totals.demanded, self._constraints.fair_share)
        fairness, without = jain_index(ratios, had), jain_without_one(ratios, had)  # (B,), (B, N)
        change, change_without = fairness - self.fairness, without - self._without
        self.fairness, self._without = fairness, without
        present = decision.state.draw.present
        here = np.ones(ratios.shape) if present is None else present.astype(np.float64)  # (B, N)
        earned = np.empty((*ratios.shape, len(OBJECTIVES)))  # (B, N, O)
        earned[..., :FAIRNESS] = linear = _linear_values(decision, *decision.flows.fates)
        earned[..., FAIRNESS] = change[:, None] * here
        credited = earned.copy()
        if self._credit == "marginal":
            credited[..., :FAIRNESS] -= self._externality(decision, linear)
            credited[..., FAIRNESS] = (change[:, None] - change_without) * here.sum(axis=1, keepdims=True)
        elif self._credit == "team":
            shares = [share_among_team(earned[..., o], present) for o in range(len(OBJECTIVES))]
            credited = np.stack(shares, axis=-1)
        credited *= here[..., None]
        now = self.preferences.now
        assert now is not None
        info = {"objectives": earned, "objective_rewards": credited, "preferences": now}
        return (credited @ self.preferences.factors())[..., 0], info

    def _externality(self, decision: Decision, values: np.ndarray) -> np.ndarray:
        """Return what the others would gain in service and cost (B, N, 2) if one agent at a time asked for
        nothing; ``values`` (B, N, 2) are with all requests.
        """
        d, plant = decision, self._plant
        if not plant.has_closed_form(d.agree):
            return plant.solved_again(d.intended, d.state, d.agree, partial(_linear_values, d), values)
        free = d.objective.without_worth()
        gain = np.empty_like(values)
        gain[..., SERVICE] = plant.closed_externality(d.intended, d.flows, d.objective, _FREE, d.state)
        gain[..., COST] = plant.closed_externality(d.intended, d.flows, free, d.price, d.state)
        return gain


def _linear_values(
    decision: Decision, grants: np.ndarray, served: np.ndarray, lost: np.ndarray
) -> np.ndarray:
    """Return each agent's service and cost (..., B, N, 2) of what became, (..., B, N, R) each."""
    objective = decision.objective
    service = objective.values(_FREE, decision.state.pending, grants, served, lost)
    return np.stack([service, -((decision.price * grants) @ objective.ones)], axis=-1)
