"""Several objectives at once: a vector of rewards per agent, and its product with the weights in force.

The objectives, in this order: **service** (``weight * served - holding * weight * backlog - loss * weight *
lost``), **cost** (``-price * granted``), both in fair shares and averaged over resources, and **fairness**
(the change of Jain's index of the agents' service ratios, the same for all who are present). Their weighted
sum is ``efficiency`` with the weights (1, 1, 0), ``fairness`` with (0, 0, 1), and ``hybrid`` with
``(1 - h, 1 - h, h)``.

Axes, always in this order: C trials, B parallel copies, N agents, R resources, O objectives.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.measures import Standing
from camac_dra.environment.plant import Plant
from camac_dra.environment.preferences import Preferences
from camac_dra.environment.reward import Decision, share_among_team
from camac_dra.environment.totals import Totals
from camac_dra.utils.schema.environment import EnvironmentConfig
from camac_dra.utils.schema.objectives import OBJECTIVES

SERVICE, COST, FAIRNESS = range(len(OBJECTIVES))
_FREE = np.zeros((1, 1, 1))  # a price (B, N, R)

# Takes what was granted, served and lost (..., B, N, R) and Jain's index then (..., B); returns each agent's
# value in each objective (..., B, N, O).
Values = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class WeightedRewards:
    """Rewards by `Preferences`, with each of the three credits applied to each objective by itself.

    With credit ``marginal`` the objectives service and cost have the closed form of the efficiency; what the
    others would lose or gain in fairness, had one agent asked for nothing, takes O(B N^2 R).

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

    def begin(self, num_envs: int) -> None:
        """Start new episodes in ``num_envs`` copies."""
        self.fairness = np.ones(num_envs)

    def rewards(self, decision: Decision, totals: Totals) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return rewards (B, N) and the arrays by objective that `VectorEnvironment.step` describes."""
        objective, price, flows = decision.objective, decision.price, decision.flows
        standing = Standing.of(totals, self._constraints.fair_share)
        fairness = standing.jain()  # (B,)
        before, self.fairness = self.fairness, fairness
        present = decision.state.draw.present
        here = np.ones(standing.got.shape) if present is None else present.astype(np.float64)  # (B, N)

        def values(grants: np.ndarray, served: np.ndarray, lost: np.ndarray, jain: np.ndarray) -> np.ndarray:
            pending = decision.state.pending
            worth = np.empty((*grants.shape[:-1], len(OBJECTIVES)))  # (..., B, N, O)
            worth[..., SERVICE] = objective.values(_FREE, pending, grants, served, lost)
            worth[..., COST] = -((price * grants) @ objective.ones)
            worth[..., FAIRNESS] = (jain - before)[..., None] * here
            return worth

        earned = values(*flows.fates, fairness)  # (B, N, O)
        if self._credit == "marginal":
            credited = earned - self._externality(decision, standing, earned, here, values)
        elif self._credit == "team":
            shares = [share_among_team(earned[..., o], present) for o in range(len(OBJECTIVES))]
            credited = np.stack(shares, axis=-1)
        else:
            credited = earned.copy()
        credited *= here[..., None]
        now = self.preferences.now
        assert now is not None
        info = {"objectives": earned, "objective_rewards": credited, "preferences": now}
        return (credited @ self.preferences.factors())[..., 0], info

    def _externality(
        self,
        decision: Decision,
        standing: Standing,
        earned: np.ndarray,
        here: np.ndarray,
        values: Values,
    ) -> np.ndarray:
        """Return what the others would gain in each objective (B, N, O) if one agent at a time asked for
        nothing.
        """
        plant, flows, state, agree = self._plant, decision.flows, decision.state, decision.agree
        objective, price = decision.objective, decision.price
        if not plant.has_closed_form(agree):

            def worth(grants: np.ndarray, served: np.ndarray, lost: np.ndarray) -> np.ndarray:
                jain = standing.jain(self._in_fair_shares(served - flows.served))  # (C, B)
                return values(grants, served, lost, jain)

            return plant.solved_again(decision.intended, state, agree, worth, earned)
        gain = np.empty_like(earned)
        gain[..., SERVICE] = plant.closed_externality(decision.intended, flows, objective, _FREE, state)
        gain[..., COST] = plant.closed_externality(
            decision.intended, flows, objective.without_worth(), price, state
        )
        change = plant.closed_service_change(decision.intended, flows, state, self._constraints.fair_share)
        without = standing.jain(change.swapaxes(0, 1)).T  # (B, N)
        others = here.sum(axis=1, keepdims=True) - here  # (B, N)
        gain[..., FAIRNESS] = (without - self.fairness[:, None]) * others
        return gain

    def _in_fair_shares(self, amounts: np.ndarray) -> np.ndarray:
        """Return amounts (..., N, R) added up over resources in fair shares (..., N)."""
        return (amounts / self._constraints.fair_share).sum(axis=-1)
