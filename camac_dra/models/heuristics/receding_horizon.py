"""A central planner that looks ahead with a forecast and plans anew as it goes.

Axes, always in this order: T periods, B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from camac_dra.environment.planning import CALL_CELLS, Outlook, Planner, independent_parts
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.heuristics.forecasts import PriceForecast, SmoothedDemand, tariff_or_persistence
from camac_dra.models.heuristics.policy import Heuristic


class RecedingHorizon(Heuristic):
    """Solves the linear programme of the coming steps as it expects them, and does what it says for this one.

    It expects every coming step to bring the demand of late, this step's capacity and yield, and the tariff's
    price, expects agents to leave when they announced to, and plans up to the end of the episode at most.
    Steps far ahead are planned in longer periods: 40 steps are 9 of them, which is several times as fast and
    changes the result by less than a hundredth.
    """

    name = "receding_horizon"
    description = "central: plans 40 steps with a persistence forecast, anew at every step"
    central = True

    def __init__(
        self,
        periods: tuple[int, ...] = (1, 1, 2, 4, 4, 4, 8, 8, 8),
        memory: float = 50.0,
        price_forecast: PriceForecast = tariff_or_persistence,
    ) -> None:
        """Plan ``periods`` (steps each, the first must be 1) ahead, with a demand
        smoothed over ``memory`` steps.
        """
        self._periods = np.array(periods)
        self._demand = SmoothedDemand(memory)
        self._price_forecast = price_forecast

    def begin(self, env: VectorEnvironment) -> None:
        """Forget earlier episodes, and prepare the programmes."""
        self._demand.begin()
        self._lengths = np.zeros(0, int)

    def requests(self, env: VectorEnvironment) -> np.ndarray:
        """Return requests (B, N, R), which fit."""
        state, draw = env.state, env.state.draw
        self._look_ahead(env)
        expected = self._demand.update(draw.arrivals)  # (B, N, R)
        arrivals = expected * self._lengths[:, None, None, None]  # (T, B, N, R)
        arrivals[0] = state.pending
        price = self._mean_prices(env)  # (T, B, R)
        leaving = self._leaving(env)
        requests = np.zeros_like(state.pending)
        for first, planner in self._planners:
            copies = np.arange(first, first + planner.copies)
            outlook = self._outlook(env, planner, copies, arrivals, price, leaving)
            grants = planner.solve(outlook).grants[0]  # (copies * N, R)
            rows = np.ix_(copies, planner.agents, planner.resources)
            requests[rows] = grants.reshape(len(copies), len(planner.agents), -1)
        return requests

    def _look_ahead(self, env: VectorEnvironment) -> None:
        """Set the lengths (T,) of the periods, none beyond the episode's end, and prepare the programmes."""
        starts = np.cumsum(self._periods) - self._periods
        lengths = np.minimum(self._periods, env.episode_length - env.state.time - starts)
        lengths = lengths[lengths > 0]
        if len(lengths) != len(self._lengths):
            self._planners = list(self._make_planners(env, len(lengths)))
        self._lengths = lengths

    def _make_planners(self, env: VectorEnvironment, num_periods: int) -> Iterator[tuple[int, Planner]]:
        """Yield planners that together cover all copies, agents and resources, and their first copies."""
        config, constraints = env.config, env.constraints
        binds = np.isfinite(constraints.capacity)  # (K, R)
        for agents, resources in independent_parts(config, constraints, binds, num_periods):
            together = max(1, CALL_CELLS // (num_periods * len(agents) * len(resources)))
            planners: dict[int, Planner] = {}
            for first in range(0, env.num_envs, together):
                copies = min(together, env.num_envs - first)
                if copies not in planners:
                    planners[copies] = Planner(config, constraints, agents, resources, num_periods, copies)
                yield first, planners[copies]

    def _outlook(
        self,
        env: VectorEnvironment,
        planner: Planner,
        copies: np.ndarray,
        arrivals: np.ndarray,
        price: np.ndarray,
        leaving: np.ndarray | None,
    ) -> Outlook:
        """Return what is expected for a planner's part of the problem."""
        draw, periods, resources = env.state.draw, len(self._lengths), len(planner.resources)
        capacity = np.broadcast_to(draw.capacity, (env.num_envs, *draw.capacity.shape[1:]))
        capacity = capacity[np.ix_(copies, planner.groups, planner.resources)].reshape(-1, resources)
        rows = np.ix_(copies, planner.agents, planner.resources)
        service_yield = None
        if draw.service_yield is not None:
            service_yield = np.tile(draw.service_yield[rows].reshape(-1, resources), (periods, 1, 1))
        return Outlook(
            lengths=self._lengths,
            arrivals=np.stack([period[rows].reshape(-1, resources) for period in arrivals]),
            capacity=capacity * self._lengths[:, None, None],
            price=np.repeat(price[:, copies][:, :, planner.resources], len(planner.agents), axis=1),
            weights=env.state.weights[np.ix_(copies, planner.agents)].ravel(),
            leaving=None
            if leaving is None
            else leaving[:, copies][:, :, planner.agents].reshape(periods, -1),
            service_yield=service_yield,
        )

    def _mean_prices(self, env: VectorEnvironment) -> np.ndarray:
        """Return the mean price (T, B, R) expected in each period."""
        price = self._price_forecast(env, int(self._lengths.sum()))  # (H, B or 1, R)
        starts = np.cumsum(self._lengths) - self._lengths
        mean = np.add.reduceat(price, starts, axis=0) / self._lengths[:, None, None]
        return np.broadcast_to(mean, (len(mean), env.num_envs, env.num_resources))

    def _leaving(self, env: VectorEnvironment) -> np.ndarray | None:
        """Return who announced to leave with the end of each period (T, B, N); None: nobody ever does."""
        announced = env.state.draw.announced
        if announced is None:
            return None
        ends = np.cumsum(self._lengths)[:, None, None]  # (T, 1, 1)
        left = np.maximum(announced, 1.0)  # whoever is overdue may leave at any time
        return (left <= ends) & (left > ends - self._lengths[:, None, None])
