"""Charging heuristics: by hand, against the optimum, and on the real month whose figures are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camac_dra.environment.oracle import record_episodes, solve_oracle
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.charging_heuristics import (
    CHARGING_HEURISTICS,
    ClairvoyantEarliestDeadline,
    ClairvoyantLeastLaxity,
    EarliestDeadline,
    EqualShare,
    FirstCome,
    LeastLaxity,
    heuristics_of,
)
from camac_dra.models.charging_planners import ClairvoyantPlan, InformedRollingPlan, OwnPlan, RollingPlan
from camac_dra.models.heuristics import HEURISTICS, Heuristic
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.validation import validated

DAY = "2019-07-01T"
ALL = (
    EarliestDeadline,
    LeastLaxity,
    ClairvoyantEarliestDeadline,
    ClairvoyantLeastLaxity,
    FirstCome,
    EqualShare,
    OwnPlan,
    RollingPlan,
    InformedRollingPlan,
    ClairvoyantPlan,
)


def problem(
    folder: Path, rows: list[str], prices: list[float] | None = None, **settings: Any
) -> dict[str, Any]:
    """Return an ``environment`` section: slots of an hour, 2 kW per station, 3 kW for all.

    ``rows`` are sessions, ``prices`` those of the slots; each hour's forecast for the next is the price then.
    """
    sessions = folder / "sessions.csv"
    sessions.write_text("\n".join(["station_id,arrival,departure,amount,estimated_departure", *rows]) + "\n")
    own: dict[str, Any] = {"sessions": str(sessions), "slot_minutes": 60.0, "order": "sequential"}
    if prices is not None:
        later = [*prices[1:], prices[-1]]
        lines = [f"{DAY}{h:02d}:00Z,{p},{n}" for h, (p, n) in enumerate(zip(prices, later, strict=True))]
        (folder / "prices.csv").write_text("\n".join(["time,price,forecast_60min", *lines]) + "\n")
        own["price"] = str(folder / "prices.csv")
    return {
        "num_agents": len({row.partition(",")[0] for row in rows}),
        "num_resources": 1,
        "resource_limits": {"power": 3.0},
        "max_episode_length": 8,
        "constraints": {"agent_limits": {"power": 2.0}},
        "dynamics": {"kind": "sessions", "sessions": own},
        "contention": 0.0,
        "backlog_limit": None,
        "max_multiple": None,
        "weight_values": [1.0],
        "weight_probabilities": [1.0],
        "holding_cost": 0.0,
        "loss_cost": 20.0,
        **settings,
    }


def session(station: str, arrival: int, departure: int, amount: float, announced: int | None = None) -> str:
    """Return a row with whole hours."""
    said = "" if announced is None else f"{DAY}{announced:02d}:00Z"
    return f"{station},{DAY}{arrival:02d}:00Z,{DAY}{departure:02d}:00Z,{amount},{said}"


def play(env: VectorEnvironment, policy: Heuristic) -> tuple[np.ndarray, np.ndarray]:
    """Return what was served (T, B, N), and the prices (T, B), of the first episodes after seeding."""
    env.reset(0)
    policy.begin(env)
    served, prices = [], []
    while True:
        requests = policy.requests(env)
        assert env.constraints.groups.load(requests) == pytest.approx(
            np.minimum(env.constraints.groups.load(requests), env.state.draw.capacity)
        )
        result = env.step_requests(requests)
        served.append(result.info["served"][..., 0])
        prices.append(result.info["price"][:, 0])
        if result.done.all():
            return np.stack(served), np.stack(prices)


def served_by(policy: Heuristic, config: dict[str, Any]) -> list[list[float]]:
    """Return what each station was served in each slot of one episode (T, N)."""
    return play(VectorEnvironment(config, autoreset=False), policy)[0][:, 0].round(9).tolist()


# By hand


@pytest.fixture
def crowded(tmp_path: Path) -> dict[str, Any]:
    """Return a problem in which the rules differ: a leaves last, b leaves first, c has the least slack."""
    rows = [
        session("a", 0, 6, 4.0, announced=3),
        session("b", 1, 3, 1.0, announced=5),
        session("c", 1, 4, 5.0, announced=4),
    ]
    return problem(tmp_path, rows)


# Of 3 kW, a has 2 in the first hour, and 2 kWh left then; each rule's next three hours follow.
@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (FirstCome(), [[2, 1, 0], [0, 0, 2], [0, 0, 2]]),
        (EqualShare(), [[1, 1, 1], [1, 0, 2], [0, 0, 2]]),
        # Announced: a in 2, c in 3, b in 4 hours.
        (EarliestDeadline(), [[2, 0, 1], [0, 1, 2], [0, 0, 2]]),
        # True: b in 2, c in 3, a in 5 hours.
        (ClairvoyantEarliestDeadline(), [[0, 1, 2], [1, 0, 2], [1, 0, 1]]),
        # Slack by the announced departures: c 0.5, a 1, b 3.5; then a 0.5, c 0.5, b 2.5.
        (LeastLaxity(), [[1, 0, 2], [1, 0, 2], [0, 0, 1]]),
        # By the true ones: c 0.5, b 1.5, a 4; then c 0.5, a 3.
        (ClairvoyantLeastLaxity(), [[0, 1, 2], [1, 0, 2], [1, 0, 1]]),
    ],
)
def test_who_is_served_when(crowded: dict[str, Any], policy: Heuristic, expected: list[list[float]]) -> None:
    served = served_by(policy, crowded)
    assert served[0] == [2, 0, 0]
    assert served[1:4] == expected


def test_ties_go_to_the_lower_index(tmp_path: Path) -> None:
    config = problem(tmp_path, [session(name, 0, 2, 2.0, announced=2) for name in "ab"])
    assert served_by(EarliestDeadline(), config)[:2] == [[2, 1], [0, 1]]


def test_sessions_that_announced_nothing_count_as_about_to_leave(tmp_path: Path) -> None:
    config = problem(tmp_path, [session("a", 0, 4, 4.0, announced=3), session("b", 0, 4, 4.0)])
    assert served_by(LeastLaxity(), config)[0] == [1, 2]
    assert served_by(EarliestDeadline(), config)[0] == [1, 2]


def test_every_group_has_its_own_queue(tmp_path: Path) -> None:
    rows = [session(name, 0, 2, 2.0, announced=1 + k % 2) for k, name in enumerate("abcd")]
    limits = {"num_groups": 2, "agent_limits": {"power": 2.0}}
    config = problem(tmp_path, rows, constraints=limits, resource_limits={"power": 4.0})
    assert served_by(EarliestDeadline(), config)[:2] == [[2, 0, 2, 0], [0, 2, 0, 2]]


# Plans


DIP = [3.0, 2.0, 4.0, 1.0, 5.0, 5.0, 5.0, 5.0]


def test_clairvoyant_plan_takes_the_cheapest_slots(tmp_path: Path) -> None:
    config = problem(tmp_path, [session("a", 0, 5, 3.0, announced=5), session("b", 0, 2, 2.0)], DIP)
    # a's 3 kWh: 2 in the cheapest slot, 1 in the next one, which it shares with b's 2 under the 3 kW.
    assert served_by(ClairvoyantPlan(), config)[:5] == [[0, 0], [1, 2], [0, 0], [2, 0], [0, 0]]


def test_rolling_plan_waits_for_what_is_forecast_to_be_cheaper(tmp_path: Path) -> None:
    config = problem(tmp_path, [session("a", 0, 5, 2.0, announced=5)], DIP)
    # At 0 the next hour is forecast to be cheaper, and all later ones the same; at 1 nothing better is in
    # sight.
    assert served_by(RollingPlan(stay=1.0), config)[:3] == [[0], [2], [0]]


def test_rolling_plan_trusts_announcements_only_so_far(tmp_path: Path) -> None:
    config = problem(tmp_path, [session("a", 0, 1, 2.0, announced=5)], DIP)
    assert (
        sum(map(sum, served_by(RollingPlan(stay=1.0), config))) == 0.0
    )  # it waited for a cheaper hour, and a left
    # To wait saves 1 of the price, but loses 21 less the price with probability 1 - stay.
    assert served_by(RollingPlan(stay=0.9), config)[0] == [2]
    assert served_by(RollingPlan(stay=0.99), config)[0] == [0]
    assert served_by(RollingPlan(), config)[0] == [0]
    assert served_by(InformedRollingPlan(), config)[0] == [2]


def test_rolling_plan_serves_at_once_who_is_overdue_or_silent(tmp_path: Path) -> None:
    rows = [session("a", 0, 5, 2.0, announced=0), session("b", 0, 5, 1.0)]
    assert served_by(RollingPlan(), problem(tmp_path, rows, DIP))[0] == [2, 1]


@pytest.mark.parametrize("stay", [1.0, 0.98, 0.9, 0.8])
def test_who_is_alone_plans_by_itself_as_a_planner_would(tmp_path: Path, stay: float) -> None:
    rows = [session("a", 0, 3, 3.0, announced=4), session("a", 3, 8, 5.0, announced=8)]
    config = problem(tmp_path, rows, list(np.random.default_rng(4).uniform(0.0, 5.0, 8)))
    own = served_by(OwnPlan(stay=stay), config)
    assert np.array(own) == pytest.approx(np.array(served_by(RollingPlan(stay=stay), config)))
    assert stay < 0.95 or own != served_by(LeastLaxity(), config)


def test_own_plans_think_of_nobody_else(tmp_path: Path) -> None:
    rows = [session(name, 0, 2, 2.0, announced=2) for name in "ab"]
    env = VectorEnvironment(problem(tmp_path, rows, [3.0, *[1.0] * 7]), autoreset=False)
    env.reset(0)
    policy = OwnPlan()
    policy.begin(env)
    asked = []
    for _ in range(2):
        asked.append(policy.requests(env)[0, :, 0].tolist())
        env.step_requests(np.array([[[asked[-1][0]], [asked[-1][1]]]]))
    assert asked == [[0, 0], [2, 2]]  # of 3 kW
    assert not OwnPlan.central


def random_days(folder: Path, prices: bool) -> dict[str, Any]:
    """Return a problem with sessions drawn at random on a crowded day of 5 stations."""
    rng = np.random.default_rng(6)
    rows = []
    for name in "abcde":
        free = 0
        while (first := free + int(rng.integers(0, 3))) < 7:
            last = min(first + int(rng.integers(1, 6)), 8)
            rows.append(session(name, first, last, float(rng.integers(1, 9)), announced=min(last + 1, 9)))
            free = last
    return problem(folder, rows, list(rng.uniform(0.0, 5.0, 9)) if prices else None)


@pytest.mark.parametrize("groups", [1, 2])
def test_clairvoyant_plan_is_the_oracle(tmp_path: Path, groups: int) -> None:
    config = random_days(tmp_path, prices=True)
    config["constraints"]["num_groups"] = groups
    env = VectorEnvironment(config, autoreset=False)
    env.reset(0)
    policy = ClairvoyantPlan()
    policy.begin(env)
    while not (result := env.step_requests(policy.requests(env))).done.all():
        pass
    optimum = solve_oracle(config, record_episodes(config, 1, 0)).efficiency[0]
    assert result.episodes[0]["efficiency"] == pytest.approx(optimum)


def test_clairvoyant_least_laxity_delivers_what_can_be_delivered(tmp_path: Path) -> None:
    config = random_days(tmp_path, prices=False) | {"resource_limits": {"power": 4.0}}
    total = [np.sum(served_by(policy, config)) for policy in (ClairvoyantLeastLaxity(), ClairvoyantPlan())]
    assert total[0] == pytest.approx(total[1])
    assert np.sum(served_by(FirstCome(), config)) < total[1]


# What they are for


@pytest.mark.parametrize("policy", [kind() for kind in ALL], ids=lambda policy: policy.name)
def test_other_dynamics_are_refused(policy: Heuristic) -> None:
    env = VectorEnvironment({"num_agents": 2, "num_resources": 1, "resource_limits": {"power": 3.0}})
    env.reset()
    with pytest.raises(ConfigurationError, match=rf"{policy.name} needs sessions .* got 'synthetic'"):
        policy.begin(env)
        policy.requests(env)


def test_a_problem_has_the_heuristics_that_fit_it(tmp_path: Path) -> None:
    config = problem(tmp_path, [session("a", 0, 1, 1.0)])
    names = list(heuristics_of(validated({"environment": config}).environment))
    assert names[: len(HEURISTICS)] == list(HEURISTICS)
    assert names[len(HEURISTICS) :] == list(CHARGING_HEURISTICS)
    two = config | {"num_resources": 2, "resource_limits": {"power": 3.0, "cooling": 1.0}}
    kept = heuristics_of(validated({"environment": two}).environment)
    assert "least_laxity" in kept
    assert "rolling_plan" not in kept
    assert list(heuristics_of(validated({}).environment)) == list(HEURISTICS)


def test_names_and_descriptions_differ() -> None:
    assert len({kind.name for kind in ALL}) == len({kind.description for kind in ALL}) == len(ALL)


# The real month whose figures are known


def july(cap: float) -> VectorEnvironment:
    """Return Caltech's July 2019, a day per copy."""
    sessions = {
        "sessions": "builtin:ev_acn/sessions_2019.csv.gz",
        "price": "builtin:ev_acn/emissions_2019.csv.gz",
        "start": "2019-07-01",
        "end": "2019-07-31",
        "order": "sequential",
    }
    config = {
        "num_agents": 52,
        "num_resources": 1,
        "resource_limits": {"power": cap},
        "max_episode_length": 288,
        "constraints": {"agent_limits": {"power": 6.656}},
        "dynamics": {"kind": "sessions", "sessions": sessions},
        "contention": 0.0,
        "backlog_limit": None,
        "max_multiple": None,
        "credit": "individual",
    }
    return VectorEnvironment(config, num_envs=31, autoreset=False)


def energy_and_emissions(env: VectorEnvironment, policy: Heuristic) -> tuple[float, float]:
    """Return kWh delivered, and kgCO2 per kWh."""
    served, rates = play(env, policy)
    energy = served.sum(axis=2)  # (T, B) kW-slots
    return float(energy.sum()) / 12.0, float((energy * rates).sum() / energy.sum())


def test_figures_of_july_2019_at_20_kw() -> None:
    env = july(20.0)
    assert len(env.dynamics.table.episode) == 820
    optimum, least = energy_and_emissions(env, ClairvoyantPlan())
    assert optimum == pytest.approx(5942.98, abs=0.01)
    assert least == pytest.approx(0.2843, abs=1e-4)
    for policy, share, rate in (
        (ClairvoyantLeastLaxity(), 1.0, 0.2953),
        (ClairvoyantEarliestDeadline(), 0.9927, None),
        (FirstCome(), 0.9287, None),
        (EqualShare(), 0.9269, None),
    ):
        energy, emissions = energy_and_emissions(env, policy)
        assert energy / optimum == pytest.approx(share, abs=5e-5)
        if rate is not None:
            assert emissions == pytest.approx(rate, abs=1e-4)


def test_figures_of_july_2019_at_40_kw() -> None:
    env = july(40.0)
    optimum, least = energy_and_emissions(env, ClairvoyantPlan())
    assert optimum == pytest.approx(6424.0, abs=0.5)
    assert least == pytest.approx(0.2559, abs=1e-4)
    assert energy_and_emissions(env, ClairvoyantLeastLaxity())[1] == pytest.approx(0.2759, abs=1e-4)
    assert energy_and_emissions(env, EqualShare())[0] / optimum == pytest.approx(0.982, abs=5e-4)
