"""Days of sessions: hand-made tables, prices with forecasts, clocks that change, malformed files."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camac_dra.environment.dynamics.sessions import SessionsDynamics
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import ConfigurationError, TraceError
from camac_dra.utils.schema import EnvironmentConfig

HEADER = "station_id,arrival,departure,amount,estimated_departure"
DAY = "2019-07-01T"
NEXT = "2019-07-02T"
# Slots of an hour. Station a: from 1:20 to 4:50, so in slots 2 and 3; then from 6:00 to 8:00. Station b: from
# 2:00 past midnight, and it announces nothing; the second day has one session only.
SESSIONS = [
    f"a,{DAY}01:20:00-07:00,{DAY}04:50:00-07:00,3.0,{DAY}06:00:00-07:00",
    f"b,{DAY}02:00:00-07:00,{NEXT}03:00:00-07:00,8.0,",
    f"a,{DAY}06:00:00-07:00,{DAY}08:00:00-07:00,1.0,{DAY}05:00:00-07:00",
    f"b,{NEXT}00:00:00-07:00,{NEXT}01:00:00-07:00,2.0,{NEXT}01:00:00-07:00",
]


def write(path: Path, rows: list[str], header: str = HEADER) -> str:
    """Write a CSV file and return its path."""
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def problem(sessions: str, **settings: Any) -> dict[str, Any]:
    """Return an ``environment`` section: two stations, slots of an hour, episodes of eight."""
    own = {"sessions": sessions, "slot_minutes": 60.0, "order": "sequential"}
    own |= {name: settings.pop(name) for name in list(settings) if name in SESSION_SETTINGS}
    return {
        "num_agents": 2,
        "num_resources": 1,
        "resource_limits": {"power": 4.0},
        "max_episode_length": 8,
        "constraints": {"agent_limits": {"power": 2.0}},
        "dynamics": {"kind": "sessions", "sessions": own},
        "contention": 0.0,
        "backlog_limit": None,
        "max_multiple": None,
        "weights": [1.0, 1.0],
        "holding_cost": 0.0,
        "loss_cost": 5.0,
        "credit": "individual",
        **settings,
    }


SESSION_SETTINGS = (
    "price start end order timezone stations departures slot_minutes observe_forecasts price_scale "
    "price_base capacity_range evaluation shuffle_prices"
).split()


@pytest.fixture
def sessions(tmp_path: Path) -> str:
    """Return the path of the sessions above."""
    return write(tmp_path / "sessions.csv", SESSIONS)


def dynamics_of(config: dict[str, Any], num_envs: int = 1) -> SessionsDynamics:
    """Return the dynamics of a problem whose first episodes were begun."""
    env = VectorEnvironment(config, num_envs=num_envs, seed=0)
    env.reset()
    assert isinstance(env.dynamics, SessionsDynamics)
    return env.dynamics


def test_table_holds_whole_slots_within_each_stay(sessions: str) -> None:
    table = dynamics_of(problem(sessions)).table
    assert table.stations == ("a", "b")
    assert len(table.midnights) == 2
    assert table.episode.tolist() == [0, 0, 0, 1]
    assert table.agent.tolist() == [0, 0, 1, 1]
    assert table.first.tolist() == [2, 6, 2, 0]
    assert table.last.tolist() == [4, 8, 8, 1]  # b's first one is cut at the end of the episode
    assert table.amount[:, 0].tolist() == [3.0, 1.0, 8.0, 2.0]
    assert table.announced.tolist() == [6.0, 5.0, np.inf, 1.0]
    assert table.arrival.tolist() == [pytest.approx(4 / 3), 6.0, 2.0, 0.0]
    assert table.left_out == 0


def test_episode_by_hand(sessions: str) -> None:
    env = VectorEnvironment(problem(sessions), seed=0, autoreset=False)
    env.reset()
    arrivals, present, leaving, deadline, lost = [], [], [], [], []
    for _ in range(8):
        draw = env.state.draw
        assert draw.present is not None
        assert draw.leaving is not None
        assert draw.deadline is not None
        arrivals.append(draw.arrivals[0, :, 0].tolist())
        present.append(draw.present[0].tolist())
        leaving.append(draw.leaving[0].tolist())
        deadline.append(draw.deadline[0].tolist())
        result = env.step_requests(np.full((1, 2, 1), 9.0))
        lost.append(result.info["lost"][0, :, 0].tolist())
    no, yes, inf = False, True, np.inf
    assert arrivals == [[0, 0], [0, 0], [3, 8], [0, 0], [0, 0], [0, 0], [1, 0], [0, 0]]
    assert present == [[no, no]] * 2 + [[yes, yes]] * 2 + [[no, yes]] * 2 + [[yes, yes]] * 2
    assert leaving == [[no, no]] * 3 + [[yes, no]] + [[no, no]] * 3 + [[yes, yes]]
    assert deadline == [[inf, inf]] * 2 + [[2, 6], [1, 5], [inf, 4], [inf, 3], [2, 2], [1, 1]]
    # Both charge at 2 kW: a gets its 3 kWh in two hours, b its 8 in four.
    assert lost == [[0, 0]] * 8
    assert result.episodes[0]["demanded"] == pytest.approx(12.0 / 2.0)  # in fair shares of 2 kW
    assert result.episodes[0]["served"] == pytest.approx(12.0 / 2.0)


def test_what_is_left_on_leaving_is_lost_and_paid_for(sessions: str) -> None:
    env = VectorEnvironment(problem(sessions), seed=0, autoreset=False)
    env.reset()
    rewards, lost = np.zeros(2), np.zeros(2)
    for step in range(8):
        asked = np.full((1, 2, 1), 1.0 if step < 4 else 0.0)
        result = env.step_requests(asked)
        rewards += result.rewards[0]
        lost += result.info["lost"][0, :, 0]
    # a is served 2 of 3 in slots 2 and 3 and nothing of 1 later; b 2 of 8, the rest is lost with the episode.
    assert lost.tolist() == [2.0, 6.0]
    fair_share = 2.0
    assert rewards.tolist() == pytest.approx([(2.0 - 5.0 * 2.0) / fair_share, (2.0 - 5.0 * 6.0) / fair_share])


def test_nobody_is_left_after_the_last_slot(sessions: str) -> None:
    dynamics = dynamics_of(problem(sessions))
    last = dynamics.draw(np.random.default_rng(0), 8)
    assert last.present is not None
    assert not last.present.any()
    assert not last.arrivals.any()


def test_features_show_what_may_be_known(sessions: str) -> None:
    dynamics = dynamics_of(problem(sessions))
    draw = dynamics.draw(np.random.default_rng(0), 3)
    pending = np.array([[[1.0], [6.0]]])
    a, b = dynamics.features(draw, pending)[0]
    # a came a slot ago, announced to leave in 3 hours and needs half an hour at 2 kW; hours are in units of
    # 4.
    assert a.tolist() == pytest.approx([1 / 4, 1.0, 3 / 4, 0.5 / 4, 2.5 / 4, 0.5 / 3, 0.0])
    assert b.tolist() == pytest.approx([1 / 4, 0.0, 0.0, 3 / 4, 0.0, 0.0, 0.0])


def test_agents_may_be_told_the_true_departures(sessions: str) -> None:
    draw = dynamics_of(problem(sessions, departures="true")).draw(np.random.default_rng(0), 3)
    assert draw.announced is not None
    assert draw.announced[0].tolist() == [1.0, 5.0]
    draw = dynamics_of(problem(sessions)).draw(np.random.default_rng(0), 3)
    assert draw.announced is not None
    assert draw.announced[0].tolist() == [3.0, np.inf]


def test_observations_end_with_the_features(sessions: str) -> None:
    env = VectorEnvironment(problem(sessions, observation_size=1), seed=0)
    env.reset()
    for _ in range(2):
        env.step_requests(np.zeros((1, 2, 1)))
    observed = env.observations[0]  # (N, F)
    features = env.dynamics.features(env.state.draw, env.state.pending)[0]  # (N, X)
    own = 8 + 5
    assert observed[:, own : own + 7] == pytest.approx(features.astype(np.float32))


def test_amounts_are_unit_hours(sessions: str) -> None:
    table = dynamics_of(problem(sessions, slot_minutes=30.0, max_episode_length=16)).table
    assert table.amount[:, 0].tolist() == [6.0, 2.0, 16.0, 4.0]  # kW and half hours
    assert table.first.tolist() == [3, 12, 4, 0]
    assert table.last.tolist() == [9, 16, 16, 2]


def test_several_resources_have_a_column_each(tmp_path: Path) -> None:
    header = "station_id,arrival,departure,amount_cpu,amount_memory"
    rows = [f"m{i},{DAY}00:00Z,{DAY}02:00Z,{i + 1},{2 * i}" for i in range(2)]
    config = problem(write(tmp_path / "jobs.csv", rows, header))
    config |= {"num_resources": 2, "resource_limits": {"cpu": 4.0, "memory": 4.0}, "constraints": {}}
    draw = dynamics_of(config).draw(np.random.default_rng(0), 0)
    assert draw.arrivals[0].tolist() == [[1.0, 0.0], [2.0, 2.0]]


# Which days are played


def played(config: dict[str, Any], num_envs: int, episodes: int, seed: int = 0) -> list[list[int]]:
    """Return the days of each copy in the first episodes after seeding."""
    env = VectorEnvironment(config, num_envs=num_envs)
    env.reset(seed)
    days = [env.dynamics.days.tolist()]
    for _ in range(episodes - 1):
        env.reset()
        days.append(env.dynamics.days.tolist())
    return days


@pytest.fixture
def week(tmp_path: Path) -> str:
    """Return the path of sessions on each day of a week, at two stations."""
    rows = [f"{s},2019-07-0{d}T10:00Z,2019-07-0{d}T12:00Z,{d},"[:-1] for d in range(1, 8) for s in "ab"]
    return write(tmp_path / "week.csv", rows, "station_id,arrival,departure,amount")


def test_days_in_order_go_copy_by_copy_and_begin_again(week: str) -> None:
    config = problem(week, max_episode_length=24)
    assert played(config, 3, 3) == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]


def test_seeding_begins_with_the_first_day_again(week: str) -> None:
    env = VectorEnvironment(problem(week, max_episode_length=24), num_envs=3)
    env.reset(5)
    env.reset()
    env.reset(6)
    assert env.dynamics.days.tolist() == [0, 1, 2]


def test_days_at_random_are_all_played_and_follow_the_seed(week: str) -> None:
    config = problem(week, max_episode_length=24, order="random")
    days = played(config, 4, 30)
    assert set(np.ravel(days)) == set(range(7))
    assert days == played(config, 4, 30)
    assert days != played(config, 4, 30, seed=1)


def test_range_of_days(week: str) -> None:
    table = dynamics_of(problem(week, max_episode_length=24, start="2019-07-03", end="2019-07-05")).table
    assert table.amount[:, 0].tolist() == [3, 3, 4, 4, 5, 5]
    assert table.weekend.tolist() == [False] * 3
    assert dynamics_of(problem(week, max_episode_length=24, start="2019-07-06")).table.weekend.all()


def test_evaluation_plays_its_own_days(week: str) -> None:
    own = {"start": "2019-07-06", "capacity_range": [0.5, 0.5]}
    section = problem(week, max_episode_length=24, end="2019-07-05", order="random", evaluation=own)
    config = EnvironmentConfig.model_validate(section)
    env = VectorEnvironment(config.held_out(), num_envs=2)
    env.reset(0)
    assert env.dynamics.table.amount[:, 0].tolist() == [6, 6, 7, 7]
    assert env.dynamics.days.tolist() == [0, 1]
    assert env.state.draw.capacity.tolist() == [[[2.0]]] * 2
    assert len(VectorEnvironment(config).dynamics.table.midnights) == 5


def test_capacity_is_drawn_per_episode_within_its_range(week: str) -> None:
    env = VectorEnvironment(problem(week, max_episode_length=24, capacity_range=[0.25, 0.75]), num_envs=50)
    env.reset(0)
    factor = env.state.draw.capacity[:, 0, 0] / 4.0  # (B,)
    assert factor.min() > 0.25
    assert factor.max() < 0.75
    assert np.ptp(factor) > 0.3
    env.step_requests(np.zeros((50, 2, 1)))
    assert (env.state.draw.capacity[:, 0, 0] / 4.0 == factor).all()


def test_stations_can_be_listed(week: str) -> None:
    config = problem(week, max_episode_length=24, stations=["b", "elsewhere"])
    table = dynamics_of(config).table
    assert table.stations == ("b", "elsewhere")
    assert set(table.agent) == {0}
    assert len(table.agent) == 7


# Overlaps, stays too short, long episodes


def test_a_session_waits_for_the_plug(tmp_path: Path) -> None:
    rows = [f"a,{DAY}0{a}:00Z,{DAY}0{d}:00Z,1" for a, d in ((0, 4), (1, 3), (2, 6), (5, 7))] + [
        f"b,{DAY}01:00Z,{DAY}02:00Z,1"
    ]
    table = dynamics_of(problem(write(tmp_path / "s.csv", rows, "station_id,arrival,departure,amount"))).table
    # The second one never gets the plug; the third has it from 4 to 6, the fourth from 6 on.
    assert table.first.tolist() == [0, 4, 6, 1]
    assert table.last.tolist() == [4, 6, 7, 2]
    assert table.left_out == 1


def test_a_stay_without_a_whole_slot_is_left_out(tmp_path: Path) -> None:
    rows = [f"a,{DAY}01:10Z,{DAY}02:50Z,1", f"a,{DAY}04:00Z,{DAY}05:00Z,2", f"b,{DAY}07:30Z,{DAY}09:00Z,1"]
    table = dynamics_of(problem(write(tmp_path / "s.csv", rows, "station_id,arrival,departure,amount"))).table
    assert table.amount[:, 0].tolist() == [2.0]
    assert table.left_out == 2


def test_episodes_longer_than_a_day_hold_the_next_day_too(sessions: str) -> None:
    table = dynamics_of(problem(sessions, max_episode_length=30)).table
    # b is plugged in until 3:00 of the second day: what comes there at midnight never gets the plug.
    assert table.episode.tolist() == [0, 0, 0, 1]
    assert table.last.tolist() == [4, 8, 27, 1]


# Clocks and time zones


CALIFORNIA = "America/Los_Angeles"


def clock_change(tmp_path: Path, rows: list[str], **settings: Any) -> SessionsDynamics:
    """Return the dynamics of sessions around a change of clocks, in slots of an hour."""
    path = write(tmp_path / "clocks.csv", rows, "station_id,arrival,departure,amount")
    return dynamics_of(problem(path, max_episode_length=24, **settings))


def test_slots_are_elapsed_hours_when_clocks_go_forward(tmp_path: Path) -> None:
    rows = [
        "a,2019-03-10T01:00:00-08:00,2019-03-10T04:00:00-07:00,1",
        "b,2019-03-10T12:00:00-07:00,2019-03-11T09:00:00-07:00,1",
    ]
    table = clock_change(tmp_path, rows, timezone=CALIFORNIA).table
    # Two hours pass from 1:00 to 4:00, and it is 12:00 eleven hours after midnight.
    assert table.first.tolist() == [1, 11]
    assert table.last.tolist() == [3, 24]


def test_slots_are_elapsed_hours_when_clocks_go_back(tmp_path: Path) -> None:
    rows = [
        "a,2019-11-03T01:30:00-07:00,2019-11-03T01:30:00-08:00,1",
        "b,2019-11-03T12:00:00-08:00,2019-11-03T13:00:00-08:00,1",
    ]
    table = clock_change(tmp_path, rows, timezone=CALIFORNIA, slot_minutes=30.0).table
    assert table.first.tolist() == [3]  # b comes after 26 half hours, when the episode of 24 is over
    assert table.last.tolist() == [5]
    assert table.left_out == 1


def test_zones_do_not_matter_only_instants_do(tmp_path: Path) -> None:
    local = [
        "a,2019-07-01T20:00:00-07:00,2019-07-01T22:00:00-07:00,1",
        "b,2019-07-02T08:00:00-07:00,2019-07-02T10:00:00-07:00,1",
    ]
    other = [
        "a,2019-07-02T03:00Z,2019-07-02T07:00:00+02:00,1",
        "b,2019-07-02T08:00:00,2019-07-02T10:00:00,1",
    ]
    tables = [clock_change(tmp_path, rows, timezone=CALIFORNIA).table for rows in (local, other)]
    assert tables[0].midnights.tolist() == tables[1].midnights.tolist()
    assert tables[0].first.tolist() == tables[1].first.tolist() == [20, 8]
    assert tables[0].last.tolist() == tables[1].last.tolist() == [22, 10]


def test_a_local_time_that_clocks_skip_is_refused(tmp_path: Path) -> None:
    rows = ["a,2019-03-10T01:00:00,2019-03-10T02:30:00,1"]
    message = rf"clocks\.csv, line 2: departure must be a time that {CALIFORNIA} has once"
    with pytest.raises(TraceError, match=message):
        clock_change(tmp_path, rows, timezone=CALIFORNIA)


def test_offsets_that_differ_need_a_time_zone(tmp_path: Path) -> None:
    rows = [
        "a,2019-03-10T01:00:00-08:00,2019-03-10T04:00:00-07:00,1",
        "b,2019-03-10T12:00:00-07:00,2019-03-10T13:00:00-07:00,1",
    ]
    message = r"line 3: arrival must have the offset from UTC of line 2, unless dynamics"
    with pytest.raises(TraceError, match=message):
        clock_change(tmp_path, rows)


def test_unknown_time_zone(sessions: str) -> None:
    with pytest.raises(ConfigurationError, match=r"timezone: must be a time zone .* got 'Mars/Olympus'"):
        dynamics_of(problem(sessions, timezone="Mars/Olympus"))


# Prices


def priced(tmp_path: Path, sessions: str, rows: list[str], header: str, **settings: Any) -> SessionsDynamics:
    """Return dynamics with prices from these rows."""
    return dynamics_of(problem(sessions, price=write(tmp_path / "prices.csv", rows, header), **settings))


@pytest.fixture
def half_hours() -> list[str]:
    """Return prices 0, 1, 2, ... of half hours from 23:00 the day before; forecasts add 100 and 200."""
    first = np.datetime64("2019-07-01T06:00")
    return [f"{first + np.timedelta64(30 * i, 'm')}Z,{i},{200 + i},{100 + i}" for i in range(80)]


FORECASTS = "time,price,forecast_120min,forecast_60min"


def test_price_is_the_latest_known_at_the_beginning_of_a_slot(
    tmp_path: Path, sessions: str, half_hours: list[str]
) -> None:
    dynamics = priced(tmp_path, sessions, half_hours, FORECASTS, price_scale=2.0, price_base=1.0)
    draw = dynamics.draw(np.random.default_rng(0), 3)
    # Slot 3 begins at 3:00, four hours after the first row.
    assert draw.price.tolist() == [[1.0 + 2.0 * 8]]
    assert dynamics.prices()[0, :3].tolist() == [5.0, 9.0, 13.0]
    assert dynamics.lead_steps.tolist() == [1.0, 2.0]
    assert dynamics.forecasts(3).tolist() == [[1.0 + 2.0 * 108, 1.0 + 2.0 * 208]]
    assert dynamics.num_features == 9
    assert dynamics.features(draw, np.ones((1, 2, 1)))[0, :, 7:].tolist() == [[200.0, 400.0]] * 2


def test_prices_can_be_those_of_another_day(tmp_path: Path, sessions: str, half_hours: list[str]) -> None:
    prices = write(tmp_path / "prices.csv", half_hours, FORECASTS)
    envs = [
        VectorEnvironment(problem(sessions, price=prices, shuffle_prices=shuffle), num_envs=16, seed=0)
        for shuffle in (False, True)
    ]
    for env in envs:
        env.reset()
        assert env.dynamics.days.tolist() == [0, 1] * 8
    as_they_were, shuffled = (env.dynamics for env in envs)
    assert as_they_were.price_days.tolist() == as_they_were.days.tolist()
    assert sorted(set(zip(shuffled.days, shuffled.price_days, strict=True))) == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    by_day = as_they_were.prices()[:2]  # (D, T + 1)
    assert np.array_equal(shuffled.prices(), by_day[shuffled.price_days])
    assert np.array_equal(envs[1].state.draw.price[:, 0], by_day[shuffled.price_days, 0])
    assert np.array_equal(shuffled.forecasts(0), as_they_were.forecasts(0)[:2][shuffled.price_days])


def test_evaluation_plays_days_as_they_were(sessions: str) -> None:
    for evaluation in (None, {"start": "2019-07-02"}):
        section = problem(sessions, shuffle_prices=True, evaluation=evaluation)
        config = EnvironmentConfig.model_validate(section)
        assert config.dynamics.sessions.shuffle_prices
        assert not config.held_out().dynamics.sessions.shuffle_prices


def test_forecasts_need_not_be_shown(tmp_path: Path, sessions: str, half_hours: list[str]) -> None:
    dynamics = priced(tmp_path, sessions, half_hours, FORECASTS, observe_forecasts=False)
    draw = dynamics.draw(np.random.default_rng(0), 3)
    assert dynamics.num_features == 7
    assert dynamics.features(draw, np.ones((1, 2, 1))).shape == (1, 2, 7)
    assert dynamics.forecasts(3).tolist() == [[108.0, 208.0]]


def test_what_is_known_in_a_slot_does_not_depend_on_later_rows(
    tmp_path: Path, sessions: str, half_hours: list[str]
) -> None:
    known = 2 + 2 * 3 + 1  # rows up to 3:00
    changed = half_hours[:known] + [f"{row.split(',')[0]},7,7,7" for row in half_hours[known:]]
    shown = []
    for rows in (half_hours, changed):
        dynamics = priced(tmp_path, sessions, rows, FORECASTS)
        draw = dynamics.draw(np.random.default_rng(0), 3)
        shown.append((draw.price.tolist(), dynamics.features(draw, np.ones((1, 2, 1))).tolist()))
    assert shown[0] == shown[1]


def test_prices_have_to_cover_the_days(tmp_path: Path, sessions: str, half_hours: list[str]) -> None:
    message = r"prices\.csv: must cover every day that is played, .* 2019-07-02T07:00"
    with pytest.raises(TraceError, match=message):
        priced(tmp_path, sessions, half_hours[:40], FORECASTS)


@pytest.mark.parametrize(
    ("line", "row", "message"),
    [
        (4, "2019-07-01T07:15Z,1,1,1", "time must come 30 minutes after the line above, without gaps"),
        (3, "2019-07-01T06:30Z,nan,1,1", "price must be a finite number, got 'nan'"),
        (3, "2019-07-01T06:30Z,1,-1,1", "forecast_120min must be zero or more, got -1"),
        (
            3,
            "yesterday,1,1,1",
            "time must be a date and time as in 2019-05-01T08:15:00-07:00, got 'yesterday'",
        ),
    ],
)
def test_malformed_prices(
    tmp_path: Path, sessions: str, half_hours: list[str], line: int, row: str, message: str
) -> None:
    half_hours[line - 2] = row
    with pytest.raises(TraceError, match=rf"prices\.csv, line {line}: {message}"):
        priced(tmp_path, sessions, half_hours, FORECASTS)


# Malformed sessions


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,,2019-07-01T05:00Z,1,", r"line 3: arrival must not be empty"),
        ("a,2019-07-01T04:00Z,noon,1,", r"line 3: departure must be a date and time as in"),
        ("a,2019-07-01T04:00Z,2019-07-01T03:00Z,1,", r"line 3: departure must not be before arrival"),
        ("a,2019-07-01T04:00Z,2019-07-01T05:00Z,-1,", r"line 3: amount must be zero or more, got -1"),
        ("a,2019-07-01T04:00Z,2019-07-01T05:00Z,inf,", r"line 3: amount must be a finite number, got 'inf'"),
        ("a,2019-07-01T04:00Z,2019-07-01T05:00Z,,", r"line 3: amount must be a finite number, got ''"),
        (" ,2019-07-01T04:00Z,2019-07-01T05:00Z,1,", r"line 3: station_id must not be empty"),
        ("a,2019-07-01T04:00Z", r"line 3 has 2 cells, where the header has 5"),
    ],
)
def test_malformed_sessions(tmp_path: Path, row: str, message: str) -> None:
    good = "a,2019-07-01T00:00Z,2019-07-01T01:00Z,1,"
    with pytest.raises(TraceError, match=r"s\.csv.*" + message):
        dynamics_of(problem(write(tmp_path / "s.csv", [good, row, good])))


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    good = "a,2019-07-01T00:00Z,2019-07-01T01:00Z,1,"
    with pytest.raises(TraceError, match=r"line 5: amount"):
        dynamics_of(problem(write(tmp_path / "s.csv", [good, "", "", good.replace(",1,", ",x,")])))


def test_missing_columns_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", ["a,1,2"], "station,arrival,departures")
    message = (
        r"line 1: must have the columns station_id, departure, amount, got station, arrival, departures\. "
        r"Did you mean 'station'\?"
    )
    with pytest.raises(TraceError, match=message):
        dynamics_of(problem(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"station_id,arrival,departure,amount\n", "must have rows below its header, got none"),
        (b"station_id,arrival,arrival\n", "a header that names a column twice"),
        (b"\xff\xfe\x00", "must be a readable CSV file"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "s.csv").write_bytes(content)
    with pytest.raises(TraceError, match=message):
        dynamics_of(problem(str(tmp_path / "s.csv")))


def test_a_truncated_archive(tmp_path: Path) -> None:
    whole = gzip.compress(("\n".join([HEADER, *SESSIONS * 50])).encode())
    (tmp_path / "s.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TraceError, match=r"s\.csv\.gz: must be a readable CSV file"):
        dynamics_of(problem(str(tmp_path / "s.csv.gz")))


def test_a_missing_file_and_an_unknown_builtin() -> None:
    with pytest.raises(TraceError, match=r"nowhere\.csv: must be a readable CSV file .* No such file"):
        dynamics_of(problem("nowhere.csv"))
    with pytest.raises(TraceError, match=r"Did you mean 'builtin:ev_acn/sessions_2021\.csv\.gz'\?"):
        dynamics_of(problem("builtin:ev_acn/sessions_2018.csv.gz"))
    with pytest.raises(TraceError, match=r"builtin:\.\./measures\.py: must be one of"):
        dynamics_of(problem("builtin:../measures.py"))


def test_agents_and_stations_must_be_as_many(sessions: str) -> None:
    message = r"num_agents: must be 2, the number of stations in .*, got 3"
    with pytest.raises(ConfigurationError, match=message):
        dynamics_of(problem(sessions, num_agents=3, weights=None))


def test_a_range_without_sessions(sessions: str) -> None:
    message = r"must have a session of at least one slot .* from 2020-01-01 to its last day"
    with pytest.raises(TraceError, match=message):
        dynamics_of(problem(sessions, start="2020-01-01"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": "2019-7-1"}, r"start: must be a day as YYYY-MM-DD, got '2019-7-1'"),
        ({"start": "2019-07-02", "end": "2019-07-01"}, r"end: must not be before start \(2019-07-02\)"),
        ({"capacity_range": [2.0, 1.0]}, r"capacity_range: must be \[low, high\] with low <= high"),
        ({"stations": ["a", "b", "a"]}, r"stations: must name each station once, got 'a' 2 times"),
        ({"evaluation": {"end": "soon"}}, r"evaluation\.end: must be a day"),
    ],
)
def test_contradictory_settings(sessions: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        VectorEnvironment(problem(sessions, **settings))


# State


def test_state_restores_the_days_being_played(week: str, tmp_path: Path) -> None:
    start = np.datetime64("2019-06-30T06:00")
    rows = [f"{start + np.timedelta64(hour, 'h')}Z,{hour % 7}" for hour in range(24 * 10)]
    prices = write(tmp_path / "hours.csv", rows, "time,price")
    config = problem(
        week,
        price=prices,
        shuffle_prices=True,
        max_episode_length=24,
        order="random",
        capacity_range=[0.5, 1.0],
    )
    env, other = (VectorEnvironment(config, num_envs=3, seed=seed) for seed in (1, 2))
    for one in (env, other):
        one.reset()
    for _ in range(5):
        env.step_requests(env.askable() / 2)
    other.set_state(env.get_state())
    for _ in range(24 + 5):
        expected = env.step_requests(env.askable() / 2)
        got = other.step_requests(other.askable() / 2)
        assert np.array_equal(got.observations, expected.observations)
        assert np.array_equal(got.rewards, expected.rewards)


# The data that come with the package


@pytest.mark.parametrize(
    ("year", "days", "sessions", "stations"), [(2019, 123, 3527, 52), (2021, 123, 1829, 40)]
)
def test_builtin_sessions(year: int, days: int, sessions: int, stations: int) -> None:
    config = problem(f"builtin:ev_acn/sessions_{year}.csv.gz", max_episode_length=288, slot_minutes=5.0)
    config |= {"num_agents": stations, "weights": None}
    config["dynamics"]["sessions"]["price"] = f"builtin:ev_acn/emissions_{year}.csv.gz"
    dynamics = dynamics_of(config)
    assert len(dynamics.table.midnights) == days
    assert len(dynamics.table.episode) + dynamics.table.left_out == sessions
    assert dynamics.lead_steps.tolist() == [6.0, 12.0, 24.0, 36.0]
    assert 0.0 <= dynamics.prices().min() < dynamics.prices().max() < 1.0


def test_smart_grid_trains_on_one_year_and_is_tested_on_the_other(root: Path) -> None:
    config = build_config(root / "rllib_configs" / "smart_grid.yaml").environment
    trained, tested = (
        VectorEnvironment(section, num_envs=4, seed=0) for section in (config, config.held_out())
    )
    for env in (trained, tested):
        env.reset()
    years = [
        env.dynamics.table.midnights.astype("datetime64[ns]").astype("datetime64[Y]")
        for env in (trained, tested)
    ]
    assert {str(year) for year in years[0]} == {"2019"}
    assert {str(year) for year in years[1]} == {"2021"}
    assert trained.dynamics.table.stations == tested.dynamics.table.stations
    assert "11900388" not in trained.dynamics.table.stations  # a fast charger, which 2019 did not have
    assert tested.dynamics.days.tolist() == [0, 1, 2, 3]
    assert tested.state.draw.capacity.ravel() == pytest.approx([14.0] * 4)
    assert ((trained.state.draw.capacity >= 14.0) & (trained.state.draw.capacity <= 40.0)).all()
    assert trained.observations.shape == tested.observations.shape
