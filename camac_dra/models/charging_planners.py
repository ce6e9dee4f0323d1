"""Plans for sessions at stations: each station's own, and those of one planner for all.

Planners know when sessions announced to leave, clairvoyant ones when they really do; a session that announced
nothing, or is overdue, counts as about to leave.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

import numpy as np

from camac_dra.environment.dynamics.own_plan import OwnPlanner
from camac_dra.environment.dynamics.sessions import SessionsDynamics
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.charging_plan import Jobs, Plan, best_plan
from camac_dra.models.charging_sessions import sessions_of, single_resource_sessions, steps_left
from camac_dra.models.heuristics.policy import Heuristic

STAY = 0.994
"""How often Caltech's sessions of summer 2019 stayed for another 5 minutes."""

_LEAST = 1e-9  # kW-steps below which a session counts as served


class OwnPlan(Heuristic):
    """Every station charges in the slots before its own announced departure that gain it the most.

    It plans as `RollingPlan` does, with the same forecasts and expectations, but for itself alone, thinking
    of no capacity and of nobody else (see `OwnPlanner`); the environment's mechanism cuts what is too much.
    """

    name = "own_plan"
    description = "each station by itself charges in the slots that its own plan chooses, in every step anew"

    def __init__(self, stay: float = STAY) -> None:
        """Expect sessions to stay for another step with probability ``stay``."""
        self._stay = stay

    def begin(self, env: VectorEnvironment) -> None:
        """Prepare the plans of sessions that are worth, served, what is gained and what is not lost."""
        worth = 1.0 + env.config.loss_cost
        self._planner: OwnPlanner = sessions_of(env, self.name).planner(self._stay, worth)

    def requests(self, env: VectorEnvironment) -> np.ndarray:
        """Return requests (B, N, R)."""
        sessions = sessions_of(env, self.name)
        need = (env.state.pending / sessions.full_rate).max(axis=2)  # (B, N)
        outlook = sessions.outlook(self._planner, steps_left(env, informed=False), env.state.time)
        return np.minimum(env.askable(), outlook.share(need)[..., None] * sessions.full_rate)


class RollingPlan(Heuristic):
    """Plans anew in every step, with the forecasts made in that step, and does the plan's first step.

    It weighs energy and price as the environment's objective does: what is served gains the station's weight
    and saves the cost of its loss, and pays the price. Prices between the forecasts' leads are interpolated;
    after the last one it stays. A session is expected to be still there in each further step with probability
    ``stay``: with 1 it is trusted to stay until it announced to leave, the less, the less is put off. The
    default is how often Caltech's sessions of summer 2019 did stay for another 5 minutes then.
    """

    name = "rolling_plan"
    description = (
        "a linear programme over the announced departures and the price forecasts, in every step anew"
    )
    central = True
    informed = False

    def __init__(self, stay: float = STAY) -> None:
        """Expect sessions to stay for another step with probability ``stay``."""
        self._log_stay = float(np.log(stay))

    def requests(self, env: VectorEnvironment) -> np.ndarray:
        """Return requests (B, N, 1) that fit the capacity of every group."""
        sessions = single_resource_sessions(env, self.name)
        pending = env.state.pending[..., 0]  # (B, N)
        waiting = env.present & (pending > _LEAST)
        left = np.maximum(np.floor(steps_left(env, self.informed)), 1.0)  # (B, N)
        horizon = env.episode_length - env.state.time
        copy, agent = np.nonzero(waiting)
        last = np.minimum(left[waiting], horizon).astype(np.int64)  # (J,)
        jobs = Jobs(copy, agent, np.zeros_like(last), last, pending[waiting])
        out = np.zeros_like(env.state.pending)
        if not len(last):
            return out
        steps = np.arange(last.max())
        prices = np.stack([np.interp(steps, *curve) for curve in self._curves(env, sessions)])  # (B, H)
        gain = _gain(env, prices) * np.exp(self._log_stay * steps)
        plan = _solved(env, sessions, jobs, gain)
        now = plan.step == 0
        out[copy[plan.job[now]], agent[plan.job[now]], 0] = plan.amount[now]
        return out

    def _curves(
        self, env: VectorEnvironment, sessions: SessionsDynamics
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return, for each copy, steps ahead and the prices expected then."""
        leads = np.concatenate([[0.0], sessions.lead_steps])  # (1 + F,)
        known = np.concatenate([env.state.draw.price[:, :1], sessions.forecasts(env.state.time)], axis=1)
        return [(leads, row) for row in known]


class InformedRollingPlan(RollingPlan):
    """The rolling plan by the true departures: what forecasts of the price alone are worth."""

    name = "rolling_plan_informed"
    description = "the rolling plan, told when sessions really leave"
    informed = True
    told = "when sessions really leave"

    def __init__(self) -> None:
        """Sessions stay until they leave."""
        super().__init__(stay=1.0)


class ClairvoyantPlan(Heuristic):
    """Knows all sessions, departures and prices of the day, and follows the best plan."""

    name = "clairvoyant_plan"
    description = "the best plan for the day, everything known in advance"
    central = True
    told = "all sessions and prices of the day"

    def begin(self, env: VectorEnvironment) -> None:
        """Plan the whole day of every copy."""
        sessions = single_resource_sessions(env, self.name)
        table, steps = sessions.table, env.episode_length
        rows = [np.flatnonzero(table.episode == day) for day in sessions.days]
        row = np.concatenate(rows)  # (J,)
        copy = np.repeat(np.arange(env.num_envs), [len(part) for part in rows])
        jobs = Jobs(copy, table.agent[row], table.first[row], table.last[row], table.amount[row, 0])
        plan = _solved(env, sessions, jobs, _gain(env, sessions.prices()[:, :steps]))
        self._grants = np.zeros((steps, env.num_envs, env.num_agents, 1))  # (T, B, N, 1)
        self._grants[plan.step, copy[plan.job], table.agent[row][plan.job], 0] = plan.amount

    def requests(self, env: VectorEnvironment) -> np.ndarray:
        """Return the planned requests (B, N, 1)."""
        return self._grants[env.state.time]


def _gain(env: VectorEnvironment, prices: np.ndarray) -> np.ndarray:
    """Return what a unit served in each step ahead gains the team (B, N, H): weight and loss
    saved, less the price.
    """
    worth = env.state.weights * (1.0 + env.config.loss_cost)  # (B, N)
    return (worth[:, :, None] - prices[:, None]) / env.constraints.fair_share[:, :1]


def _solved(env: VectorEnvironment, sessions: SessionsDynamics, jobs: Jobs, gain: np.ndarray) -> Plan:
    """Return the best plan under the environment's capacities of now."""
    capacity = env.state.draw.capacity[..., 0]  # (B or 1, K)
    capacity = np.broadcast_to(capacity, (env.num_envs, capacity.shape[1]))
    return best_plan(jobs, gain, capacity, env.constraints.groups, sessions.full_rate[:, 0])
