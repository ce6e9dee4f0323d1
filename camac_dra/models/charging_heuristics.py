"""How charging stations are run today, and how they could be: policies for jobs with deadlines.

The first four are the field's own: see Z. Lee et al., "Adaptive Charging Networks: A Framework for Smart
Electric Vehicle Charging", IEEE Transactions on Smart Grid 12, 2021. All of them are central: they see every
station's queue and make requests that fit. The clairvoyant ones know when sessions really end, the others
what sessions announced; a session that announced nothing, or is overdue, counts as about to leave.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from camac_dra.environment.allocation import get_mechanism
from camac_dra.environment.dynamics.sessions import SessionsDynamics
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.charging_plan import Jobs, Plan, best_plan
from camac_dra.models.heuristics.policy import Heuristic
from camac_dra.utils.errors import ConfigurationError

_LEAST = 1e-9  # kW-steps below which a session counts as served


def sessions_of(env: VectorEnvironment, name: str) -> SessionsDynamics:
    """Return the environment's sessions.

    Raises:
        ConfigurationError: its dynamics are of another kind.
    """
    if not isinstance(env.dynamics, SessionsDynamics):
        kind = env.config.dynamics.kind
        raise ConfigurationError(
            f"{name} needs sessions with deadlines: environment.dynamics.kind must be 'sessions', "
            f"got {kind!r}"
        )
    return env.dynamics


class _ByRank(Heuristic):
    """Serves one station after the other, each as much as it can take, until the capacity is used up."""

    central = True
    informed = False  # whether it knows when sessions really end

    @abstractmethod
    def rank(self, env: VectorEnvironment) -> np.ndarray:
        """Return (B, N), lowest first; among equals the lower index goes first."""

    def requests(self, env: VectorEnvironment) -> np.ndarray:
        """Return requests (B, N, R) that fit the capacity of every group."""
        rank = np.where(env.present, self.rank(env), np.inf)
        places = np.argsort(np.argsort(rank, axis=1, kind="stable"), axis=1, kind="stable")  # (B, N)
        serve = get_mechanism("first_come")
        capacity = env.state.draw.capacity
        return serve(env.askable(), capacity, env.constraints.groups, order=places.astype(float))

    def steps_left(self, env: VectorEnvironment) -> np.ndarray:
        """Return the steps (B, N) that each session will stay as far as this policy knows, at least 0."""
        sessions_of(env, self.name)
        return _steps_left(env, self.informed)


class EarliestDeadline(_ByRank):
    """Who leaves first is served first."""

    name = "earliest_deadline"
    description = "the session that announced to leave first goes first"

    def rank(self, env: VectorEnvironment) -> np.ndarray:
        """Return the steps left (B, N)."""
        return self.steps_left(env)


class LeastLaxity(_ByRank):
    """Who can least afford to wait is served first.

    Laxity is the time left less the time that the rest takes at full rate.
    """

    name = "least_laxity"
    description = "the session with the least slack before its announced departure goes first"

    def rank(self, env: VectorEnvironment) -> np.ndarray:
        """Return the laxities (B, N) in steps."""
        need = (env.state.pending / sessions_of(env, self.name).full_rate).max(axis=2)  # (B, N)
        return self.steps_left(env) - need


class ClairvoyantEarliestDeadline(EarliestDeadline):
    """Earliest deadline first by the true departures."""

    name = "earliest_deadline_clairvoyant"
    description = "the session that will really leave first goes first"
    informed = True
    told = "when sessions really leave"


class ClairvoyantLeastLaxity(LeastLaxity):
    """Least laxity first by the true departures; in one group it delivers nearly all that can be."""

    name = "least_laxity_clairvoyant"
    description = "the session with the least slack before its true departure goes first"
    informed = True
    told = "when sessions really leave"


class FirstCome(_ByRank):
    """Who arrived first is served first."""

    name = "first_come"
    description = "the session that arrived first goes first"

    def rank(self, env: VectorEnvironment) -> np.ndarray:
        """Return when the sessions came (B, N), in steps."""
        return sessions_of(env, self.name).arrived(env.state.time)


class EqualShare(Heuristic):
    """Everybody charges at the same rate, but for those who need less."""

    name = "equal_share"
    description = "the same rate for all, unless they need less"
    central = True

    def requests(self, env: VectorEnvironment) -> np.ndarray:
        """Return requests (B, N, R) that fit the capacity of every group."""
        sessions_of(env, self.name)
        return get_mechanism("max_min")(env.askable(), env.state.draw.capacity, env.constraints.groups)


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

    def __init__(self, stay: float = 0.994) -> None:
        """Expect sessions to stay for another step with probability ``stay``."""
        self._log_stay = float(np.log(stay))

    def requests(self, env: VectorEnvironment) -> np.ndarray:
        """Return requests (B, N, 1) that fit the capacity of every group."""
        sessions = _single(env, self.name)
        pending = env.state.pending[..., 0]  # (B, N)
        waiting = env.present & (pending > _LEAST)
        left = np.maximum(np.floor(_steps_left(env, self.informed)), 1.0)  # (B, N)
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
        sessions = _single(env, self.name)
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


_CLASSES: tuple[type[Heuristic], ...] = (
    FirstCome,
    EqualShare,
    EarliestDeadline,
    LeastLaxity,
    RollingPlan,
    ClairvoyantEarliestDeadline,
    ClairvoyantLeastLaxity,
    InformedRollingPlan,
    ClairvoyantPlan,
)

CHARGING_HEURISTICS: Mapping[str, Callable[[], Heuristic]] = MappingProxyType(
    {kind.name: kind for kind in _CLASSES}
)
"""Heuristics for sessions by name, those that know only what was announced first; call one to make it."""


def _steps_left(env: VectorEnvironment, informed: bool) -> np.ndarray:
    """Return how many steps each session will stay (B, N), this one included; announced
    ones where not informed.
    """
    draw = env.state.draw
    steps = draw.deadline if informed else draw.announced
    assert steps is not None
    return np.maximum(np.where(np.isfinite(steps), steps, 0.0), 0.0)


def _single(env: VectorEnvironment, name: str) -> SessionsDynamics:
    """Return the sessions of an environment with one resource."""
    if env.num_resources != 1:
        raise ConfigurationError(f"{name} plans one resource, got num_resources {env.num_resources}")
    return sessions_of(env, name)


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
