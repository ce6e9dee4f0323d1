"""Sessions' own plans: against a linear programme solved for each station, by hand, and as observations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linprog

from camac_dra.coordination.plant import SimulatedPlant
from camac_dra.coordination.runtime.decision import Inputs
from camac_dra.environment.dynamics.own_plan import OwnPlanner
from camac_dra.environment.dynamics.sessions import SessionsDynamics
from camac_dra.environment.request_reader import RequestReader
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.errors import ActionError, ConfigurationError
from camac_dra.utils.validation import validated

DAY = "2019-07-01T"
LEADS = np.array([2.0, 5.0, 9.0])


def served_now(prices: np.ndarray, need: float, left: int, stay: float, worth: float) -> float:
    """Return what a linear programme serves in the first of ``left`` steps."""
    gain = stay ** np.arange(left) * (worth - prices[:left])
    found = linprog(-gain, A_ub=np.ones((1, left)), b_ub=[need], bounds=(0.0, 1.0), method="highs")
    return float(found.x[0])


@pytest.mark.parametrize("stay", [1.0, 0.994, 0.9])
def test_share_is_what_a_linear_programme_serves_first(stay: float) -> None:
    rng = np.random.default_rng(3)
    copies, agents, horizon, worth = 6, 7, 20, 8.0
    planner = OwnPlanner(LEADS, horizon, stay, worth)
    price, forecasts = rng.uniform(0.0, 3.0, copies), rng.uniform(0.0, 3.0, (copies, 3))
    left = rng.integers(1, horizon + 1, (copies, agents))
    outlook = planner.outlook(left, price, forecasts)
    need = np.maximum(outlook.better + rng.uniform(-1.0, 2.0, left.shape), 0.0)
    share = outlook.share(need)
    assert ((share > 0.0) & (share < 1.0)).any()  # all three kinds of plans occur
    assert (share == 0.0).any()
    assert (share == 1.0).any()
    for b in range(copies):
        prices = np.interp(np.arange(horizon), [0.0, *LEADS], [price[b], *forecasts[b]])
        for n in range(agents):
            expected = served_now(prices, need[b, n], int(left[b, n]), stay, worth)
            assert share[b, n] == pytest.approx(expected, abs=1e-6)


def test_outlook_by_hand() -> None:
    # Prices 3, 2, 1, 2, 3, 3 in six steps, everybody stays.
    planner = OwnPlanner(np.array([2.0, 4.0]), 6, 1.0, 10.0)
    left = np.array([[1, 2, 3, 6]])
    outlook = planner.outlook(left, np.array([3.0]), np.array([[1.0, 3.0]]))
    assert outlook.better.tolist() == [[0, 1, 2, 3]]
    assert outlook.advantage.tolist() == [[0.0, 1.0, 2.0, 2.0]]
    assert outlook.share(np.array([[0.5, 0.5, 2.25, 4.0]])).tolist() == [[0.5, 0.0, 0.25, 1.0]]


def test_who_may_leave_is_served_sooner() -> None:
    left, price, forecasts = np.full((1, 1), 10), np.array([2.0]), np.array([[1.9, 1.8, 1.7]])
    patient = OwnPlanner(LEADS, 10, 1.0, 10.0).outlook(left, price, forecasts)
    careful = OwnPlanner(LEADS, 10, 0.9, 10.0).outlook(left, price, forecasts)
    assert patient.better.item() == 9
    assert careful.better.item() == 0
    assert careful.advantage.item() < 0.0 < patient.advantage.item()


def test_without_forecasts_the_price_stays() -> None:
    outlook = OwnPlanner(np.zeros(0), 4, 1.0, 5.0).outlook(
        np.full((1, 1), 4), np.array([1.0]), np.zeros((1, 0))
    )
    assert outlook.share(np.full((1, 1), 3.0)).item() == 1.0  # of equal steps the first


def problem(folder: Path, **settings: Any) -> dict[str, Any]:
    """Return an ``environment`` section: slots of an hour, two stations of 2 kW, 2 kW for both.

    Station a announces to leave in an hour and needs all of it, b has until 4:00; the price falls at 2:00.
    """
    (folder / "sessions.csv").write_text(
        "station_id,arrival,departure,amount,estimated_departure\n"
        f"a,{DAY}00:00:00Z,{DAY}04:00:00Z,2.0,{DAY}01:00:00Z\n"
        f"b,{DAY}00:00:00Z,{DAY}04:00:00Z,2.0,{DAY}04:00:00Z\n"
    )
    prices = [3.0, 3.0, 1.0, 3.0, 3.0]
    rows = [f"{DAY}{h:02d}:00Z,{p},{prices[min(h + 2, 4)]}" for h, p in enumerate(prices)]
    (folder / "prices.csv").write_text("\n".join(["time,price,forecast_120min", *rows]) + "\n")
    sessions = {
        "sessions": str(folder / "sessions.csv"),
        "price": str(folder / "prices.csv"),
        "slot_minutes": 60.0,
        "order": "sequential",
        "plan": {"stay": 1.0, "worth": 10.0},
    }
    sessions |= settings.pop("sessions", {})
    return {
        "num_agents": 2,
        "num_resources": 1,
        "resource_limits": {"power": 2.0},
        "max_episode_length": 4,
        "constraints": {"agent_limits": {"power": 2.0}},
        "dynamics": {"kind": "sessions", "sessions": sessions},
        "contention": 0.0,
        "backlog_limit": None,
        "max_multiple": None,
        "weights": [1.0, 1.0],
        "credit": "individual",
        **settings,
    }


def test_agents_see_their_plan(tmp_path: Path) -> None:
    env = VectorEnvironment(problem(tmp_path), autoreset=False)
    env.reset(0)
    assert isinstance(env.dynamics, SessionsDynamics)
    features = env.dynamics.features(env.state.draw, env.state.pending)
    # a serves now, having no later step; b may choose among three that gain more (prices 2, 1, 1) and needs
    # one, the best of which saves 2. Hours are in units of 4.
    assert features[0, :, -3:].tolist() == [[1.0, -1 / 4, 0.0], [0.0, 2 / 4, 2.0]]
    end = 8 + 5 + env.dynamics.num_features  # of the own row, as `observation` lays it out
    assert env.observations[0, :, end - 3 : end].tolist() == features[0, :, -3:].tolist()
    served = env.dynamics.features(env.state.draw, np.zeros((1, 2, 1)))
    assert not served[0, :, -3:-1].any()  # nothing is left to plan


def test_plans_are_seen_only_where_they_are_asked_for(tmp_path: Path) -> None:
    with_plan = VectorEnvironment(problem(tmp_path)).dynamics.num_features
    without = VectorEnvironment(problem(tmp_path, sessions={"plan": None})).dynamics.num_features
    assert with_plan == without + 3


def test_a_restored_environment_shows_the_same_plans(tmp_path: Path) -> None:
    env, other = (VectorEnvironment(problem(tmp_path), autoreset=False) for _ in range(2))
    env.reset(0)
    env.step_requests(np.ones((1, 2, 1)))
    other.reset(1)
    other.set_state(env.get_state())
    results = [one.step_requests(np.ones((1, 2, 1))).observations for one in (env, other)]
    assert np.array_equal(*results)


@pytest.mark.parametrize("plan", [{"stay": 0.0}, {"stay": 1.5}, {"worth": 0.0}, {"patience": 1.0}])
def test_plans_that_make_no_sense_are_refused(tmp_path: Path, plan: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"dynamics\.sessions\.plan\." + next(iter(plan))):
        validated({"environment": problem(tmp_path, sessions={"plan": plan})})


def chooser(folder: Path) -> dict[str, Any]:
    """Return the problem in which an action chooses between a careful plan and a patient one."""
    plan = {"stay": 1.0, "worth": 10.0, "choices": [0.5, 1.0]}
    return problem(folder, sessions={"plan": plan}, action_size=2)


def test_agents_may_choose_how_far_they_trust_their_session_to_stay(tmp_path: Path) -> None:
    env = VectorEnvironment(chooser(tmp_path), autoreset=False)
    env.reset(0)
    asked = [env.requests_from_actions(np.full((1, 2), level))[0, :, 0].tolist() for level in (0, 1)]
    # b gains 10 - 3 now, at most 10 - 1 two hours later; nobody waits who stays with a half only.
    assert asked == [[2.0, 2.0], [2.0, 0.0]]
    menu = env.menu()
    assert menu is not None
    assert menu[0, :, :, 0].tolist() == [[2.0, 2.0], [2.0, 0.0]]
    assert env.step(np.array([[0, 1]])).info["requests"][0, :, 0].tolist() == [2.0, 0.0]
    assert VectorEnvironment(problem(tmp_path)).single_action_space.n == 10  # type: ignore[attr-defined]


def test_choices_are_read_alike_where_agents_run_by_themselves(tmp_path: Path) -> None:
    env = VectorEnvironment(chooser(tmp_path), autoreset=False)
    env.reset(0)
    menu, share = env.menu(), env.state.fair_share
    assert menu is not None
    apart = RequestReader(env.config, env.constraints, 1)
    levels, agents = np.array([1, 0]), np.array([1, 0])
    together = env.requests_from_actions(levels[agents][None])[0]
    given = (levels, agents, env.askable()[0][agents], np.broadcast_to(share, (1, 2, 1))[0][agents])
    assert np.array_equal(apart.of_agents(*given, menu[0][agents]), together[agents])
    with pytest.raises(ActionError, match="must come with the menu"):
        apart.of_agents(*given)


@pytest.mark.parametrize("changes", [{"action_size": 3}, {"action_type": "continuous"}])
def test_there_must_be_as_many_choices_as_levels(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"plan\.choices: must be as many as action_size"):
        validated({"environment": chooser(tmp_path) | changes})


def test_agents_elsewhere_are_told_what_they_choose_from(tmp_path: Path) -> None:
    plant = SimulatedPlant(chooser(tmp_path), 0)
    state = plant.observe()
    told = Inputs.of(state, np.array([1]), 1.0).menu
    assert told is not None
    assert told[:, :, 0].tolist() == [[2.0, 0.0]]
    plant.close()
    other = SimulatedPlant(problem(tmp_path), 0)
    assert other.observe().menu is None
    other.close()
