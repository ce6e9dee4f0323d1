"""Sessions with deadlines at stations: charging, batch jobs, machine bookings; one episode is one day.

Axes, always in this order: B parallel copies, N agents (stations), R resources, K capacity groups.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.dynamics.base import Draw, Dynamics
from camac_dra.environment.dynamics.own_plan import Outlook, OwnPlanner
from camac_dra.environment.dynamics.price_series import PriceSeries
from camac_dra.environment.dynamics.session_table import SessionTable, read_sessions
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema.traces import SessionsConfig

if TYPE_CHECKING:
    from camac_dra.environment.state import EnvironmentState

_MINUTE = 60_000_000_000  # nanoseconds
_UNIT_HOURS = 4.0  # what hours are divided by to be of order one
_FEATURES = 7  # those that do not depend on the price file
_PLANNED = 3  # those of the session's own plan


class SessionsDynamics(Dynamics):
    """Plays days of real sessions: a station is present while a session occupies it.

    A session's whole amount arrives in its first slot; at the end of its last one it leaves, and what was not
    served is lost. That of the next session may begin right after. Which days are played is drawn with
    replacement (``order: random``), or goes through all of them in order, copy by copy: with B copies the
    e-th episode of copy b is day ``(e * B + b) mod D``, from the first day again after every seeding.

    The price of a slot is the latest known at its beginning, the same for all resources and copies of that
    day; the forecasts are those made at that time. With ``shuffle_prices`` that day is another one, drawn by
    itself: few days then make many, and nobody learns which prices go with which sessions. What agents may
    know of a departure is what the session announced, or with ``departures: true`` the true one, which
    ``Draw.deadline`` has in any case for planners that are told.

    Attributes:
        table: the sessions.
        days: (B,) the episodes being played, indices into ``table.midnights``.
        price_days: (B,) the days whose prices they have; the same unless prices are shuffled.
        lead_steps: (F,) steps ahead of which each forecast speaks.
        slot_hours: length of a step.
        full_rate: (N, R) the most a station can use in a step: its own limit, within its groups' capacities.
    """

    def __init__(
        self,
        config: SessionsConfig,
        num_envs: int,
        constraints: Constraints,
        episode_length: int,
        resource_ids: list[str],
    ) -> None:
        """Read the files.

        Raises:
            TraceError: a file is missing or malformed, or prices do not cover the days.
            ConfigurationError: the number of agents is not that of the stations, or the time zone is unknown.
        """
        super().__init__(num_envs, constraints, episode_length)
        self.config = config
        self.table: SessionTable = read_sessions(config, resource_ids, episode_length)
        self._refuse_other_numbers()
        known = self.table.last.astype(float) if config.departures == "true" else self.table.announced
        self._announced = (
            known  # (J,) slot of the departure as far as anybody knows; infinite where nobody does
        )
        self.slot_hours = config.slot_minutes / 60.0
        self._read_prices()
        capacity = constraints.groups.least_over_groups(self.nominal_capacity)[0]  # (N or 1, R)
        self.full_rate = np.minimum(constraints.agent_limit, capacity)  # (N, R)
        self.num_features = _FEATURES + (len(self.lead_steps) if config.observe_forecasts else 0)
        self._planner: OwnPlanner | None = None
        self._choices: list[OwnPlanner] = []
        if config.plan is not None:
            self._planner = self.planner(config.plan.stay, config.plan.worth)
            self.num_features += _PLANNED
            choices = config.plan.choices or ()
            self._choices = [self.planner(stay, config.plan.worth) for stay in choices]
        self._angle = 2.0 * math.pi * self.slot_hours / 24.0
        self._played = 0
        self.days = self.price_days = np.zeros(num_envs, np.int64)  # (B,)
        self._capacity = self.nominal_capacity
        self._occupy()

    def restart(self) -> None:
        """Play from the first day on, where days are played in order."""
        self._played = 0

    def begin(self, rng: np.random.Generator) -> None:
        """Choose the days of new episodes, and their capacities."""
        number = len(self.table.midnights)
        if self.config.order == "random":
            self.days = rng.integers(number, size=self.num_envs)
        else:
            self.days = (self._played + np.arange(self.num_envs)) % number
        self._played += self.num_envs
        self.price_days = self.days
        if self.config.shuffle_prices:
            self.price_days = rng.integers(number, size=self.num_envs)
        low, high = self.config.capacity_range
        self._capacity = self.nominal_capacity
        if (low, high) != (1.0, 1.0):
            factor = rng.uniform(low, high, (self.num_envs, 1, 1))
            self._capacity = self.nominal_capacity * factor  # (B, K, R)
        self._occupy()

    def draw(self, rng: np.random.Generator, time: int) -> Draw:
        """Return the events of step ``time``."""
        session = self._occupant[time]  # (B, N) index into the table, -1 where there is none
        present = session >= 0
        last = np.where(present, self.table.last[session], 0)  # (B, N)
        new = present & (self.table.first[session] == time)
        return Draw(
            arrivals=np.where(new[..., None], self.table.amount[session], 0.0),
            capacity=self._capacity,
            price=np.repeat(self._prices[self.price_days, time, None], self.num_resources, axis=1),  # (B, R)
            present=present,
            leaving=present & (last == time + 1),
            features=self._outside_features(session, present, time),
            deadline=np.where(present, last - time, np.inf),
            announced=np.where(present, self._announced[session] - time, np.inf),
        )

    def features(self, draw: Draw, pending: np.ndarray) -> np.ndarray:
        """Return what agents observe besides their queues (B, N, X); zeros but for prices
        where nobody is present.

        In order: hours since the session's arrival; whether it announced its departure; hours until then;
            hours it takes to serve the rest at full rate; slack, hours until then less the hours it takes;
            the share of the time until then that it takes, at most 2 (all hours in units of 4); whether it is
            a weekend; and by how much each forecast is above the price of now, which is what waiting goes by.
            With a ``plan``, last, what the session's own says (see `Outlook`): the share of the full rate to
            serve now; how many hours gain more than this step beyond those that the rest takes; and by how
            much a unit gains more in the best later step.
        """
        out = np.array(draw.features)  # (B, N, X)
        need = (pending / self.full_rate).max(axis=2)  # (B, N) steps
        hours = self.slot_hours / _UNIT_HOURS
        known, left = out[..., 1] > 0.0, out[..., 2] / hours  # (B, N), (B, N) steps
        out[..., 3] = need * hours
        out[..., 4] = np.where(known, left - need, 0.0) * hours
        out[..., 5] = np.where(known, np.minimum(need / np.maximum(left, 0.5), 2.0), 0.0)
        if self._planner is not None:
            spare = np.where(need > 0.0, out[..., -2] - need, 0.0)  # (B, N) steps
            out[..., -3] = np.clip(-spare, 0.0, 1.0)
            out[..., -2] = spare * hours
        return out

    def planner(self, stay: float, worth: float) -> OwnPlanner:
        """Return what makes sessions' own plans by the forecasts of these prices, see `OwnPlanner`."""
        return OwnPlanner(self.lead_steps, self.episode_length, stay, worth)

    def outlook(self, planner: OwnPlanner, announced: np.ndarray, time: int) -> Outlook:
        """Return what sessions' own plans go by in step ``time``.

        ``announced`` (B, N) are the steps left as announced; who announced nothing, or is overdue, counts as
        about to leave.
        """
        known = np.where(np.isfinite(announced), announced, 0.0)
        most = max(self.episode_length - time, 1)
        left = np.clip(np.floor(known), 1, most).astype(np.int64)  # (B, N)
        return planner.outlook(left, self._prices[self.price_days, time], self.forecasts(time))

    def menu(self, state: EnvironmentState) -> np.ndarray:
        """Return what agents ask for (B, N, L, R) by each of the L plans of ``plan.choices``."""
        announced = state.draw.announced
        assert announced is not None
        need = (state.pending / self.full_rate).max(axis=2)  # (B, N)
        outlooks = [self.outlook(planner, announced, state.time) for planner in self._choices]
        shares = np.stack([outlook.share(need) for outlook in outlooks], axis=2)  # (B, N, L)
        return shares[..., None] * self.full_rate[:, None]

    def arrived(self, time: int) -> np.ndarray:
        """Return when each station's present session came (B, N), in steps; infinite where there is none."""
        session = self._occupant[time]
        return np.where(session >= 0, self.table.arrival[session], np.inf)

    def forecasts(self, time: int) -> np.ndarray:
        """Return the prices (B, F) forecast in step ``time`` for ``lead_steps`` later."""
        return self._forecasts[self.price_days, time]

    def prices(self) -> np.ndarray:
        """Return the prices (B, T + 1) of the episodes being played, the last one only observed."""
        return self._prices[self.price_days]

    def clock(self, time: int) -> tuple[float, float]:
        """Return sine and cosine of the time of day."""
        return math.sin(self._angle * time), math.cos(self._angle * time)

    def get_state(self) -> dict[str, Any]:
        """Return which days are being played."""
        return {
            "days": self.days.copy(),
            "price_days": self.price_days.copy(),
            "played": self._played,
            "capacity": self._capacity.copy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what ``get_state`` returned."""
        self.days, self.price_days = np.array(state["days"]), np.array(state["price_days"])
        self._played = int(state["played"])
        capacity = np.array(state["capacity"])
        same = np.array_equal(capacity, self.nominal_capacity)
        self._capacity = self.nominal_capacity if same else capacity
        self._occupy()

    def _refuse_other_numbers(self) -> None:
        """Raise where agents and stations are not as many."""
        number = len(self.table.stations)
        if number != self.num_agents:
            where = self.config.sessions if self.config.stations is None else "dynamics.sessions.stations"
            raise ConfigurationError(
                f"environment.num_agents: must be {number}, the number of stations in {where}, "
                f"got {self.num_agents}"
            )

    def _read_prices(self) -> None:
        """Look up prices and forecasts of all slots of all days."""
        config, midnights = self.config, self.table.midnights
        slot = round(config.slot_minutes * _MINUTE)
        if config.price is None:
            rows = np.zeros((len(midnights), self.episode_length + 1, 1))
            leads = np.zeros(0)
        else:
            series = PriceSeries.read(config.price, config.timezone)
            rows, leads = series.known_at(midnights, slot, self.episode_length), series.leads
        rows = config.price_base + config.price_scale * rows  # (D, T + 1, 1 + F)
        self._prices, self._forecasts = rows[..., 0], rows[..., 1:]
        self.lead_steps = leads / config.slot_minutes  # (F,)

    def _occupy(self) -> None:
        """Fill the table (T + 1, B, N) of which session occupies which station when."""
        table = self.table
        self._occupant = np.full((self.episode_length + 1, self.num_envs, self.num_agents), -1)
        begin = np.searchsorted(table.episode, self.days, side="left")  # (B,)
        end = np.searchsorted(table.episode, self.days, side="right")
        for b in range(self.num_envs):
            for j in range(begin[b], end[b]):
                self._occupant[table.first[j] : table.last[j], b, table.agent[j]] = j

    def _outside_features(self, session: np.ndarray, present: np.ndarray, time: int) -> np.ndarray:
        """Return the features (B, N, X) that do not depend on what is pending."""
        out = np.zeros((*session.shape, self.num_features))
        hours = self.slot_hours / _UNIT_HOURS
        announced = self._announced[session]  # (B, N)
        known = present & np.isfinite(announced)
        out[..., 0] = np.where(present, time - self.table.first[session], 0) * hours
        out[..., 1] = known
        out[..., 2] = np.where(known, announced - time, 0.0) * hours
        out[..., 6] = self.table.weekend[self.days][:, None]
        if self.config.observe_forecasts:
            now = self._prices[self.price_days, time]  # (B,)
            ahead = self.forecasts(time) - now[:, None]  # (B, F)
            out[..., _FEATURES : _FEATURES + ahead.shape[1]] = ahead[:, None, :]
        if self._planner is not None:
            outlook = self.outlook(self._planner, announced - time, time)
            out[..., -2] = outlook.better  # in steps, which `features` reckons with
            out[..., -1] = np.where(present, outlook.advantage, 0.0)
        return out
