"""Sessions at stations as whole slots of episodes: who stays from when to when, and what each asks for."""

from __future__ import annotations

from dataclasses import dataclass
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd

from camac_dra.environment.dynamics.trace_files import Trace
from camac_dra.utils.errors import ConfigurationError, TraceError
from camac_dra.utils.schema.traces import SessionsConfig

_MINUTE = 60_000_000_000  # nanoseconds
_DAY = 24 * 60 * _MINUTE
NEVER = np.iinfo(np.int64).min  # an announced departure that is not there


@dataclass(frozen=True, slots=True)
class SessionTable:
    """Sessions by episode, arrival and station. J sessions, D episodes, each from local midnight of one day.

    A session occupies the slots that lie within its stay entirely, from ``first`` up to but without ``last``,
    cut at the end of the episode. One that arrives while the station's last one is still there waits for it
    to leave.

    Attributes:
        episode: (J,) index into ``midnights``.
        agent: (J,) index into ``stations``.
        arrival: (J,) slot, with its fraction, in which the session came.
        first, last: (J,) slots of the episode.
        amount: (J, R) in unit-slots, such as kW-slots: unit-hours over the hours of a slot.
        announced: (J,) slot, with its fraction, in which the session said it would leave; infinite where it
            did not.
        midnights: (D,) beginnings of the episodes, nanoseconds since 1970 UTC.
        weekend: (D,) bool, the day is a Saturday or Sunday.
        stations: the station of each agent.
        left_out: sessions of these days that have no whole slot.
    """

    episode: np.ndarray
    agent: np.ndarray
    arrival: np.ndarray
    first: np.ndarray
    last: np.ndarray
    amount: np.ndarray
    announced: np.ndarray
    midnights: np.ndarray
    weekend: np.ndarray
    stations: tuple[str, ...]
    left_out: int


def read_sessions(config: SessionsConfig, resource_ids: list[str], episode_length: int) -> SessionTable:
    """Return the sessions of ``config``'s days, cut to episodes of ``episode_length`` slots.

    Only days on which a session arrives become episodes. Episodes longer than a day hold the sessions of the
    days that follow, too; those that are there already when an episode begins are not part of it.

    Raises:
        TraceError: a column is missing, a cell is empty, malformed, negative or not finite, a session leaves
            before it arrives, offsets from UTC differ without a time zone, or no session is left.
        ConfigurationError: the time zone is unknown.
    """
    zone = _zone(config.timezone)
    amounts = ["amount"] if len(resource_ids) == 1 else [f"amount_{name}" for name in resource_ids]
    trace = Trace(config.sessions, ("station_id", "arrival", "departure", *amounts))
    arrival = trace.times("arrival", config.timezone)  # (J,) ns
    departure = trace.times("departure", config.timezone)
    trace.refuse(departure < arrival, "departure", "must not be before arrival", trace.text("departure"))
    announced = np.full(len(trace), NEVER)
    if "estimated_departure" in trace.columns:
        announced = trace.times("estimated_departure", config.timezone, optional=True)
    station = trace.text("station_id")  # (J,)
    stay = _Stays(
        station=station,
        arrival=arrival,
        departure=departure,
        announced=announced,
        amount=np.stack([trace.amounts(name) for name in amounts], axis=1) * (60.0 / config.slot_minutes),
        day=(arrival + _offsets(trace, arrival, zone)) // _DAY,
    )
    stations = sorted(set(station)) if config.stations is None else config.stations
    stay = stay.of(np.isin(station, stations))
    days = _wanted(np.unique(stay.day), config)  # (D,)
    slot = round(config.slot_minutes * _MINUTE)
    table = _cut(stay, tuple(stations), days, _midnights(trace, days, zone), slot, episode_length)
    if not len(table.episode):
        raise TraceError(
            f"{config.sessions}: must have a session of at least one slot ({config.slot_minutes:g} minutes) "
            f"from {config.start or 'its first day'} to {config.end or 'its last day'}, got none"
        )
    return table


@dataclass(frozen=True, slots=True)
class _Stays:
    """The trace as arrays, one entry per session; times in nanoseconds since 1970 UTC."""

    station: np.ndarray  # (J,)
    arrival: np.ndarray  # (J,)
    departure: np.ndarray  # (J,)
    announced: np.ndarray  # (J,)
    amount: np.ndarray  # (J, R) unit-slots
    day: np.ndarray  # (J,) local day since 1970

    def of(self, kept: np.ndarray) -> _Stays:
        """Return those that are kept, given as bool (J,) or as indices."""
        return _Stays(*(getattr(self, name)[kept] for name in self.__slots__))


def _zone(name: str | None) -> ZoneInfo | None:
    """Return the time zone of that name."""
    try:
        return None if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigurationError(
            "environment.dynamics.sessions.timezone: must be a time zone that this machine knows, such as "
            f"America/Los_Angeles, got {name!r}"
        ) from error


def _offsets(trace: Trace, arrival: np.ndarray, zone: ZoneInfo | None) -> np.ndarray:
    """Return what local time is ahead of UTC (J,) at each arrival, in nanoseconds."""
    if zone is not None:
        local = pd.DatetimeIndex(arrival, tz="UTC").tz_convert(zone).tz_localize(None)
        return local.as_unit("ns").asi8 - arrival
    offsets = trace.offsets("arrival")
    rule = f"must have the offset from UTC of line {trace.line(0)}, unless dynamics.sessions.timezone is set"
    trace.refuse(offsets != offsets[0], "arrival", rule, trace.text("arrival"))
    return offsets


def _midnights(trace: Trace, days: np.ndarray, zone: ZoneInfo | None) -> np.ndarray:
    """Return when the local days (D,) begin, in nanoseconds since 1970 UTC; where clocks
    skip midnight, after it.
    """
    if zone is None:
        return days * _DAY - trace.offsets("arrival")[0]
    local = pd.DatetimeIndex(days * _DAY)
    first = np.ones(len(days), bool)  # of two midnights the one in summer time, which is the first
    return local.tz_localize(zone, ambiguous=first, nonexistent="shift_forward").as_unit("ns").asi8


def _wanted(days: np.ndarray, config: SessionsConfig) -> np.ndarray:
    """Return the days (D,) of the configured range."""
    for bound, outside in ((config.start, np.less), (config.end, np.greater)):
        if bound is not None:
            days = days[~outside(days, np.datetime64(bound, "D").astype(np.int64))]
    return days


def _cut(
    stay: _Stays,
    stations: tuple[str, ...],
    days: np.ndarray,
    midnights: np.ndarray,
    slot: int,
    episode_length: int,
) -> SessionTable:
    """Return the sessions in whole slots of ``slot`` nanoseconds of the episodes that
    begin at ``midnights`` (D,).
    """
    places = {name: place for place, name in enumerate(stations)}
    agent = np.array([places[name] for name in stay.station], np.int64)  # (J,)
    # Midnights at most so long before an arrival that the slot after it is one of the episode's.
    earliest = np.searchsorted(midnights, stay.arrival - (episode_length - 1) * slot, side="left")  # (J,)
    count = np.searchsorted(midnights, stay.arrival, side="right") - earliest  # (J,) episodes it is part of
    row = np.repeat(np.arange(len(count)), count)
    episode = earliest[row] + np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    order = np.lexsort((stay.departure[row], stay.arrival[row], agent[row], episode))
    row, episode = row[order], episode[order]
    part, midnight = stay.of(row), midnights[episode]
    first = -((midnight - part.arrival) // slot)
    last = np.minimum((part.departure - midnight) // slot, episode_length)
    _wait_for_the_plug(episode, agent[row], first, last)
    never = part.announced == NEVER
    announced = (np.where(never, midnight, part.announced) - midnight) / slot
    whole = first < last
    return SessionTable(
        episode=episode[whole],
        agent=agent[row][whole],
        arrival=((part.arrival - midnight) / slot)[whole],
        first=first[whole],
        last=last[whole],
        amount=part.amount[whole],
        announced=np.where(never, np.inf, announced)[whole],
        midnights=midnights,
        weekend=(days + 3) % 7 >= 5,  # 1970 began on a Thursday
        stations=stations,
        left_out=int(np.isin(stay.day, days).sum() - len(np.unique(row[whole]))),
    )


def _wait_for_the_plug(episode: np.ndarray, agent: np.ndarray, first: np.ndarray, last: np.ndarray) -> None:
    """Move ``first`` (J,) of sessions, ordered by episode, agent and arrival, to when the
    one before has left.
    """
    same = (np.diff(episode) == 0) & (np.diff(agent) == 0)
    if not (same & (first[1:] < last[:-1])).any():
        return
    free, here = 0, (-1, -1)
    for j, place in enumerate(zip(episode.tolist(), agent.tolist(), strict=True)):
        free = free if place == here else 0
        here = place
        first[j] = max(first[j], free)
        free = max(free, int(last[j]))
