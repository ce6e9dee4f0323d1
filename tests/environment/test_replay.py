"""Replay of hand-made traces: what is played when, which stretches, and what malformed traces get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camac_dra.environment.dynamics.replay import ReplayDynamics
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.errors import ConfigurationError, TraceError
from camac_dra.utils.schema import EnvironmentConfig

HEADER = "timestamp,agent_id,resource_type,amount,utilization"
# Five steps of 10; agent_1 asks for nothing at 20, and twice for cpu at 30.
ROWS = [
    "0,agent_0,cpu,1,0.5",
    "0,agent_1,memory,2,0.5",
    "10,agent_0,cpu,3,0.5",
    "20,agent_0,memory,4,0.5",
    "30,agent_1,cpu,5,0.5",
    "30,agent_1,cpu,6,0.5",
    "40,agent_0,cpu,7,0.5",
]


def write(path: Path, rows: list[str], header: str = HEADER) -> str:
    """Write a CSV file and return its path."""
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def problem(
    demand: str, length: int = 2, replay: dict[str, Any] | None = None, **settings: Any
) -> dict[str, Any]:
    """Return an ``environment`` section: two agents, two resources."""
    return {
        "num_agents": 2,
        "num_resources": 2,
        "resource_limits": {"cpu": 4.0, "memory": 8.0},
        "max_episode_length": length,
        "dynamics": {"kind": "replay", "replay": {"demand": demand, "order": "sequential", **(replay or {})}},
        "weights": [1.0, 1.0],
        **settings,
    }


@pytest.fixture
def demand(tmp_path: Path) -> str:
    """Return the path of the trace above."""
    return write(tmp_path / "demand.csv", ROWS)


def begun(config: dict[str, Any], num_envs: int = 1, seed: int = 0) -> VectorEnvironment:
    """Return an environment in the first step of its first episodes."""
    env = VectorEnvironment(config, num_envs=num_envs)
    env.reset(seed)
    return env


def replay_of(config: dict[str, Any]) -> ReplayDynamics:
    """Return the dynamics of a problem."""
    dynamics = VectorEnvironment(config).dynamics
    assert isinstance(dynamics, ReplayDynamics)
    return dynamics


# What is played


def test_episode_replays_the_trace(demand: str) -> None:
    env = begun(problem(demand, 5))
    arrivals = []
    for _ in range(5):
        arrivals.append(env.state.draw.arrivals[0].tolist())
        env.step_requests(env.askable())
    assert arrivals == [
        [[1, 0], [0, 2]],
        [[3, 0], [0, 0]],
        [[0, 4], [0, 0]],
        [[0, 0], [11, 0]],
        [[7, 0], [0, 0]],
    ]


def test_nothing_arrives_after_the_last_step(demand: str) -> None:
    env = VectorEnvironment(problem(demand, 5), autoreset=False)
    env.reset()
    for _ in range(5):
        env.step_requests(env.askable())
    assert env.state.time == 5
    assert not env.state.draw.arrivals.any()


def test_rows_may_come_in_any_order(tmp_path: Path, demand: str) -> None:
    shuffled = write(tmp_path / "shuffled.csv", ROWS[::-1])
    steps = [
        begun(problem(path, 5)).dynamics.draw(np.random.default_rng(0), 3) for path in (demand, shuffled)
    ]
    assert steps[0].arrivals.tolist() == steps[1].arrivals.tolist()


def test_prices_and_capacities_are_replayed(tmp_path: Path, demand: str) -> None:
    prices = [f"{10 * t},memory,{t / 2}" for t in range(5)]
    capacities = [f"{10 * t},cpu,{t + 2}" for t in range(5)]
    config = problem(
        demand,
        5,
        {
            "price": write(tmp_path / "price.csv", prices, "timestamp,resource_type,price"),
            "capacity": write(tmp_path / "capacity.csv", capacities, "timestamp,resource_type,amount"),
            "price_base": 0.25,
        },
    )
    dynamics, rng = begun(config).dynamics, np.random.default_rng(0)
    draws = [dynamics.draw(rng, t) for t in range(6)]
    assert [draw.price[0].tolist() for draw in draws] == [[0.25, t / 2] for t in (0, 1, 2, 3, 4, 4)]
    assert [draw.capacity[0, 0].tolist() for draw in draws] == [[t, 8.0] for t in (2, 3, 4, 5, 6, 6)]


def test_racks_share_the_recorded_capacity_and_other_groups_keep_theirs(tmp_path: Path, demand: str) -> None:
    capacities = [f"{10 * t},cpu,{2 + t}" for t in range(5)]
    replay = {"capacity": write(tmp_path / "capacity.csv", capacities, "timestamp,resource_type,amount")}
    racks = begun(problem(demand, 5, replay, constraints={"num_groups": 2}))
    assert racks.dynamics.draw(np.random.default_rng(0), 2).capacity[0].tolist() == [[2.0, 4.0]] * 2
    cell = {"name": "cell", "agents": [0], "limits": {"cpu": 1.0}}
    groups = begun(problem(demand, 5, replay, constraints={"groups": [cell]}))
    drawn = groups.dynamics.draw(np.random.default_rng(0), 2).capacity[0]
    assert drawn.tolist() == [[4.0, 8.0], [1.0, np.inf]]


def test_without_a_capacity_trace_the_nominal_array_is_drawn(demand: str) -> None:
    env = begun(problem(demand))
    assert env.state.draw.capacity is env.dynamics.nominal_capacity


# Which stretch is played


def test_stretches_in_order_go_copy_by_copy_and_begin_again(demand: str) -> None:
    env = begun(problem(demand, 1), num_envs=2)
    starts = [env.dynamics.starts.tolist()]
    for _ in range(3):
        env.reset()
        starts.append(env.dynamics.starts.tolist())
    assert starts == [[0, 1], [2, 3], [4, 0], [1, 2]]
    env.reset(7)
    assert env.dynamics.starts.tolist() == [0, 1]


def test_stretches_do_not_overlap(demand: str) -> None:
    env = begun(problem(demand, 2), num_envs=3)
    assert env.dynamics.starts.tolist() == [0, 2, 0]


def test_random_starts_leave_room_for_a_whole_episode(demand: str) -> None:
    config = problem(demand, 3, {"order": "random"})
    env = begun(config, num_envs=200)
    assert set(env.dynamics.starts) == {0, 1, 2}
    again = begun(config, num_envs=200)
    assert again.dynamics.starts.tolist() == env.dynamics.starts.tolist()
    assert begun(config, num_envs=200, seed=1).dynamics.starts.tolist() != env.dynamics.starts.tolist()


def test_a_range_of_the_trace(demand: str) -> None:
    env = begun(problem(demand, 2, {"start": 10, "end": 30}))
    assert env.state.draw.arrivals[0].tolist() == [[3, 0], [0, 0]]
    assert set(
        begun(problem(demand, 2, {"start": 10, "end": 30, "order": "random"}), 50).dynamics.starts
    ) == {0, 1}


def test_evaluation_replays_its_own_range(demand: str) -> None:
    section = problem(demand, 2, {"end": 20, "order": "random", "evaluation": {"start": 30}})
    config = EnvironmentConfig.model_validate(section)
    env = VectorEnvironment(config.held_out())
    env.reset(0)
    assert env.state.draw.arrivals[0].tolist() == [[0, 0], [11, 0]]


# Time of day


DATES = [f"2019-07-01T{6 * t % 24:02d}:00:00-07:00,agent_0,cpu,1" for t in range(4)]
SHORT = "timestamp,agent_id,resource_type,amount"


def test_dates_show_the_local_time_of_day(tmp_path: Path) -> None:
    env = begun(problem(write(tmp_path / "d.csv", DATES, SHORT), observation_size=1))
    assert env.dynamics.num_features == 2
    shown = [
        env.dynamics.draw(np.random.default_rng(0), t).features[0, 1].round(9).tolist() for t in range(2)
    ]
    assert shown == [[0.0, 1.0], [1.0, 0.0]]  # midnight, and six in the morning
    assert env.dynamics.clock(1) == (0.0, 0.0)


def test_a_cycle_of_steps_is_shown_where_it_is_named(demand: str) -> None:
    assert replay_of(problem(demand)).num_features == 0
    env = begun(problem(demand, 1, {"day_length": 4}), num_envs=4)
    features = env.state.draw.features[:, 0]  # (B, 2)
    assert features.round(9).tolist() == [[0, 1], [1, 0], [0, -1], [-1, 0]]


def test_ranges_of_dates(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", DATES, SHORT)
    assert replay_of(problem(path, 2, {"start": "2019-07-01T13:00Z"})).starts.tolist() == [0]
    with pytest.raises(TraceError, match=r"at least 3 timestamps .* from 2019-07-01T19:00Z to None, got 2"):
        replay_of(problem(path, 3, {"start": "2019-07-01T19:00Z"}))
    with pytest.raises(
        TraceError, match=r"replay\.start: must be a date and time in ISO 8601, as the timestamps of"
    ):
        replay_of(problem(path, 2, {"start": 3}))


# Malformed traces


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "20,agent_2,cpu,1,0",
            r"line 5: agent_id must be one of agent_0, agent_1, got 'agent_2'\. Did you mean 'agent_1'\?",
        ),
        ("20,agent_0,gpu,1,0", "line 5: resource_type must be one of cpu, memory.*, got 'gpu'"),
        ("20,agent_0,cpu,-1,0", "line 5: amount must be zero or more, got -1"),
        ("20,agent_0,cpu,nan,0", "line 5: amount must be a finite number, got 'nan'"),
        ("20,agent_0,cpu,,0", "line 5: amount must be a finite number, got ''"),
        ("20,agent_0,cpu,1e400,0", "line 5: amount must be a finite number, got '1e400'"),
        ("soon,agent_0,cpu,1,0", "line 5: timestamp must be a finite number, got 'soon'"),
        (
            "25,agent_0,cpu,1,0",
            r"line 5: timestamps must be 10 apart without gaps, got 25 after 10 \(line 4\)",
        ),
        (
            "30,agent_0,cpu,1,0",
            r"line 5: timestamps must be 10 apart without gaps, got 30 after 10 \(line 4\)",
        ),
        ("20,agent_0,cpu,1", "line 5 has 4 cells, where the header has 5"),
    ],
)
def test_malformed_rows(tmp_path: Path, row: str, message: str) -> None:
    rows = [*ROWS[:3], row, *ROWS[4:]]
    with pytest.raises(TraceError, match=r"demand\.csv.*" + message):
        replay_of(problem(write(tmp_path / "demand.csv", rows)))


def test_missing_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "demand.csv", ["0,agent_0,cpu,1"], "time,agent,resource_type,amount")
    with pytest.raises(
        TraceError, match=r"demand\.csv, line 1: must have the columns timestamp, agent_id, got time"
    ):
        replay_of(problem(path))


def test_too_short(demand: str) -> None:
    assert replay_of(problem(demand, 5)).starts.tolist() == [0]
    with pytest.raises(
        TraceError, match=r"must have at least 6 timestamps \(environment\.max_episode_length\), got 5"
    ):
        replay_of(problem(demand, 6))


def test_demand_without_access(demand: str) -> None:
    with pytest.raises(
        TraceError, match=r"line 3: amount must be 0 where environment\.constraints give the agent no"
    ):
        replay_of(problem(demand, constraints={"access": {"memory": [0]}}))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ["0,cpu,1", "10,cpu,1", "20,cpu,1", "40,cpu,1"],
            "must have price of cpu for every timestamp .* none for 30",
        ),
        (["0,cpu,1", "0,cpu,2"], "line 3: price must be given once per timestamp and resource, got 2"),
        (["0,cpu,1", "15,cpu,2"], "line 3: timestamp must be a timestamp of the demand trace, got '15'"),
        (["0,disk,1"], "line 2: resource_type must be one of cpu, memory"),
        (["0,cpu,-1"], "line 2: price must be zero or more, got -1"),
    ],
)
def test_malformed_prices(tmp_path: Path, demand: str, rows: list[str], message: str) -> None:
    price = write(tmp_path / "price.csv", rows, "timestamp,resource_type,price")
    with pytest.raises(TraceError, match=r"price\.csv.*" + message):
        replay_of(problem(demand, replay={"price": price}))


def test_prices_may_reach_beyond_the_demand(tmp_path: Path, demand: str) -> None:
    rows = [f"{10 * t},cpu,{t}" for t in range(-3, 9)]
    rows = [row.replace(",-", ",") for row in rows]
    price = write(tmp_path / "price.csv", rows, "timestamp,resource_type,price")
    env = begun(problem(demand, 5, {"price": price}))
    assert env.state.draw.price[0].tolist() == [0.0, 1.0]


def test_settings_of_another_kind_are_refused(demand: str) -> None:
    config = problem(demand)
    config["dynamics"]["kind"] = "synthetic"
    with pytest.raises(ConfigurationError, match=r"replay: has no effect with dynamics\.kind 'synthetic'"):
        VectorEnvironment(config)


# State


def test_state_restores_the_stretches_being_played(demand: str) -> None:
    config = problem(demand, 3, {"order": "random"})
    env, other = begun(config, 4, seed=1), begun(config, 4, seed=2)
    env.step_requests(env.askable())
    other.set_state(env.get_state())
    for _ in range(7):
        expected, got = (one.step_requests(one.askable()) for one in (env, other))
        assert np.array_equal(got.observations, expected.observations)
        assert np.array_equal(got.rewards, expected.rewards)
