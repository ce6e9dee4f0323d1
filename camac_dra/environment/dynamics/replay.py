"""Replay of a trace: demand, and if given prices and capacities, as they were recorded.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups; S
    timestamps in the trace.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.dynamics.base import Draw, Dynamics
from camac_dra.environment.dynamics.trace_files import Trace
from camac_dra.environment.dynamics.trace_grid import Grid, names_of
from camac_dra.utils.errors import TraceError
from camac_dra.utils.schema.traces import ReplayConfig


class ReplayDynamics(Dynamics):
    """Plays stretches of a recorded trace; everybody is always present.

    With ``order: random`` an episode starts at any step from which the trace lasts a whole episode; with
    ``sequential`` the stretches follow each other without overlap, copy by copy: with B copies the
    e-th episode of copy b is stretch ``e * B + b``, from the first stretch again after every seeding
    or when they are through. Past the trace's last step, which is only observed, nothing arrives and
    prices and capacities stay.

    Attributes:
        starts: (B,) steps of the trace at which the running episodes began.
    """

    def __init__(
        self,
        config: ReplayConfig,
        num_envs: int,
        constraints: Constraints,
        episode_length: int,
        agent_ids: list[str],
        resource_ids: list[str],
        pool_groups: int,
    ) -> None:
        """Read the files; the first ``pool_groups`` capacity groups make up the pool.

        Raises:
            TraceError: a file is missing, malformed or too short, has gaps, or names an
                unknown agent or resource.
        """
        super().__init__(num_envs, constraints, episode_length)
        self.config = config
        trace = Trace(config.demand, ("timestamp", "agent_id", "resource_type", "amount"))
        grid = Grid.of(trace, config.start, config.end)
        self._refuse_short(grid)
        self._demand = _demand(trace, grid, agent_ids, resource_ids, constraints)  # (S + 1, N, R)
        self._prices = _prices(config, grid, resource_ids)  # (S + 1, R)
        self._capacity = None  # (S + 1, K, R)
        if config.capacity is not None:
            self._capacity = self._capacities(config.capacity, grid, resource_ids, pool_groups)
        self._phase = grid.phase(config.day_length)  # (S + 1, 2) or None
        self.num_features = 0 if self._phase is None else 2
        self._last_start = len(grid) - episode_length
        self._played = 0
        self.starts = np.zeros(num_envs, np.int64)  # (B,)

    def restart(self) -> None:
        """Play from the first stretch on, where they are played in order."""
        self._played = 0

    def begin(self, rng: np.random.Generator) -> None:
        """Choose the stretches of new episodes."""
        if self.config.order == "random":
            self.starts = rng.integers(self._last_start + 1, size=self.num_envs)
        else:
            stretches = self._last_start // self.episode_length + 1
            self.starts = (self._played + np.arange(self.num_envs)) % stretches * self.episode_length
        self._played += self.num_envs

    def draw(self, rng: np.random.Generator, time: int) -> Draw:
        """Return the events of step ``time``."""
        step = self.starts + time  # (B,)
        features = None
        if self._phase is not None:
            features = np.repeat(self._phase[step, None], self.num_agents, axis=1)  # (B, N, 2)
        return Draw(
            arrivals=self._demand[step],
            capacity=self.nominal_capacity if self._capacity is None else self._capacity[step],
            price=self._prices[step],
            features=features,
        )

    def clock(self, time: int) -> tuple[float, float]:
        """Return zeros: copies start at different times of day, so each agent's features have its phase."""
        return 0.0, 0.0

    def get_state(self) -> dict[str, Any]:
        """Return which stretches are being played."""
        return {"starts": self.starts.copy(), "played": self._played}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what ``get_state`` returned."""
        self.starts, self._played = np.array(state["starts"]), int(state["played"])

    def _refuse_short(self, grid: Grid) -> None:
        """Raise where not one episode fits into the trace."""
        if len(grid) < self.episode_length:
            raise TraceError(
                f"{self.config.demand}: must have at least {self.episode_length} timestamps "
                f"(environment.max_episode_length){grid.between}, got {len(grid)}"
            )

    def _capacities(self, path: str, grid: Grid, resource_ids: list[str], pool_groups: int) -> np.ndarray:
        """Return the capacities (S + 1, K, R): the pool's as recorded, racks by their usual share of it."""
        nominal = self.nominal_capacity[0]  # (K, R)
        recorded = grid.table(path, "amount", resource_ids)  # (S, R)
        out = np.repeat(nominal[None], len(grid) + 1, axis=0)
        share = nominal[:pool_groups] / nominal[:pool_groups].sum(axis=0)  # (K', R)
        racks = np.where(np.isnan(recorded)[:, None], nominal[:pool_groups], recorded[:, None] * share)
        out[:-1, :pool_groups] = racks
        out[-1] = out[-2]
        return out


def _demand(
    trace: Trace, grid: Grid, agent_ids: list[str], resource_ids: list[str], constraints: Constraints
) -> np.ndarray:
    """Return the recorded demand (S + 1, N, R); the last row, after the end, is zero."""
    amount, step = trace.amounts("amount"), grid.steps_of(trace)
    agent = names_of(trace, "agent_id", agent_ids)
    resource = names_of(trace, "resource_type", resource_ids)
    if constraints.access is not None:
        barred = (constraints.access[agent, resource] == 0.0) & (amount > 0.0)
        rule = "must be 0 where environment.constraints give the agent no access to the resource"
        trace.refuse(barred, "amount", rule, amount)
    inside = step >= 0
    demand = np.zeros((len(grid) + 1, len(agent_ids), len(resource_ids)))
    np.add.at(demand, (step[inside], agent[inside], resource[inside]), amount[inside])
    return demand


def _prices(config: ReplayConfig, grid: Grid, resource_ids: list[str]) -> np.ndarray:
    """Return the recorded prices (S + 1, R)."""
    prices = np.full((len(grid) + 1, len(resource_ids)), config.price_base)
    if config.price is not None:
        recorded = grid.table(config.price, "price", resource_ids)  # (S, R)
        prices[:-1] = np.where(np.isnan(recorded), config.price_base, recorded)
        prices[-1] = prices[-2]
    return prices
