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
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.charging_planners import ClairvoyantPlan, InformedRollingPlan, OwnPlan, RollingPlan
from camac_dra.models.charging_sessions import sessions_of, steps_left
from camac_dra.models.heuristics import HEURISTICS, Heuristic
from camac_dra.utils.schema import EnvironmentConfig


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
        return steps_left(env, self.informed)


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


_CLASSES: tuple[type[Heuristic], ...] = (
    FirstCome,
    EqualShare,
    EarliestDeadline,
    LeastLaxity,
    OwnPlan,
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

_ONE_RESOURCE = (RollingPlan, InformedRollingPlan, ClairvoyantPlan)


def heuristics_of(problem: EnvironmentConfig) -> dict[str, Callable[[], Heuristic]]:
    """Return all heuristics that can decide on ``problem`` by name: the general ones, then those of its
    field.
    """
    out: dict[str, Callable[[], Heuristic]] = dict(HEURISTICS)
    if problem.dynamics.kind == "sessions":
        fitting = _CLASSES if problem.num_resources == 1 else [k for k in _CLASSES if k not in _ONE_RESOURCE]
        out |= {kind.name: kind for kind in fitting}
    return out
