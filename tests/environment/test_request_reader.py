"""What actions mean, and which are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from camac_dra.environment.request_reader import RequestReader
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.errors import ActionError
from tests.environment.problems import CONSTANT, EVENTFUL, problem

CELLS = (2, 4, 2)  # (B, N, R)


def started(synthetic: dict[str, Any] | None = None, **settings: Any) -> VectorEnvironment:
    env = VectorEnvironment(problem(synthetic, **settings), CELLS[0])
    env.reset()
    return env


def test_spaces_are_those_of_one_agent() -> None:
    assert started(action_size=7).single_action_space == spaces.Discrete(7)
    levels = started(action_type="multi_discrete", action_size=7).single_action_space
    assert levels == spaces.MultiDiscrete([7, 7])
    assert started(action_type="continuous").single_action_space == spaces.Box(0.0, 1.0, (2,), np.float32)


@pytest.mark.parametrize(
    ("action_type", "action"),
    [("discrete", 2), ("multi_discrete", [2, 2]), ("continuous", [0.5, 0.5])],
)
def test_actions_are_multiples_of_the_fair_share(action_type: str, action: Any) -> None:
    env = started(CONSTANT | {"load": 10.0}, action_type=action_type, action_size=5, max_multiple=3.0)
    # Fair shares are 40 / 4 and 8 / 4; level 2 of 0 to 4 is half of 3 of them, and far more is pending.
    requests = env.requests_from_actions(np.full((2, 4, *np.shape(action)), action))
    np.testing.assert_allclose(requests, np.broadcast_to([15.0, 3.0], CELLS))


def test_nobody_asks_for_more_than_is_pending() -> None:
    env = started(CONSTANT | {"load": 0.5})
    requests = env.requests_from_actions(np.full((2, 4), 9))
    np.testing.assert_allclose(requests, np.broadcast_to([5.0, 1.0], CELLS))


def test_nobody_asks_for_more_than_its_limit() -> None:
    env = started(CONSTANT | {"load": 10.0}, constraints={"agent_limits": {"cpu": 12.0}})
    requests = env.requests_from_actions(np.full((2, 4), 9))
    np.testing.assert_allclose(requests, np.broadcast_to([12.0, 6.0], CELLS))
    np.testing.assert_allclose(env.askable(), np.broadcast_to([12.0, 20.0], CELLS))


def test_without_a_multiple_levels_are_parts_of_the_limit_or_of_what_is_pending() -> None:
    limits = {"agent_limits": {"cpu": 12.0}}
    env = started(CONSTANT | {"load": 10.0}, constraints=limits, action_size=5, max_multiple=None)
    requests = env.requests_from_actions(np.full((2, 4), 1))
    np.testing.assert_allclose(requests, np.broadcast_to([3.0, 5.0], CELLS))


def test_fair_shares_are_those_of_the_present_agents() -> None:
    env = started(
        CONSTANT | {"load": 10.0, "leave_probability": 0.5, "join_probability": 0.0}, max_multiple=1.0
    )
    while env.present.all():
        env.step(np.zeros((2, 4), int))
    requests = env.requests_from_actions(np.full((2, 4), 9))
    for copy in range(2):
        here = env.present[copy]
        assert (requests[copy, here] == np.array([40.0, 8.0]) / max(here.sum(), 1)).all()
        assert not requests[copy, ~here].any()


def test_requests_in_units_are_cut_to_what_may_be_asked_for() -> None:
    env = started(CONSTANT | {"load": 1.0}, constraints={"agent_limits": {"cpu": 7.0}})
    wanted = np.array([[[3.0, 1.0], [8.0, 1.0], [np.inf, 5.0], [0.0, 0.0]]] * 2)
    requests = env.step_requests(wanted).info["requests"]
    np.testing.assert_allclose(requests[0], [[3.0, 1.0], [7.0, 1.0], [7.0, 2.0], [0.0, 0.0]])


@pytest.mark.parametrize(
    ("action_type", "actions", "message"),
    [
        ("discrete", np.zeros((2, 3), int), r"actions must have the shape \(2, 4\), got \(2, 3\)"),
        ("discrete", np.zeros((2, 4, 1), int), r"actions must have the shape \(2, 4\), got \(2, 4, 1\)"),
        ("discrete", [[0, 0, 0, 10], [0] * 4], r"levels from 0 to 9, got 10 at \[0, 3\]"),
        ("discrete", [[0] * 4, [0, -1, 0, 0]], r"levels from 0 to 9, got -1 at \[1, 1\]"),
        ("discrete", np.full((2, 4), 1.5), r"actions must be levels, .* integer type, got float64"),
        ("discrete", np.full((2, 4), np.nan), r"actions must be levels, .* integer type, got float64"),
        ("discrete", np.full((2, 4), True), r"actions must be levels, .* integer type, got bool"),
        ("discrete", [[None] * 4] * 2, r"actions must be levels, .* integer type, got object"),
        ("multi_discrete", np.zeros((2, 4), int), r"shape \(2, 4, 2\), got \(2, 4\)"),
        ("multi_discrete", np.full(CELLS, 10), r"levels from 0 to 9, got 10 at \[0, 0, 0\]"),
        ("continuous", np.zeros((2, 4)), r"actions must have the shape \(2, 4, 2\), got \(2, 4\)"),
        ("continuous", np.full(CELLS, 1.5), r"actions must be numbers from 0 to 1, got 1.5 at \[0, 0, 0\]"),
        ("continuous", np.full(CELLS, -0.5), r"actions must be numbers from 0 to 1, got -0.5"),
        ("continuous", np.full(CELLS, np.nan), r"actions must be numbers from 0 to 1, got nan"),
        ("continuous", "much", r"actions must be an array of numbers, got 'much'"),
    ],
)
def test_wrong_actions_are_refused_and_change_nothing(action_type: str, actions: Any, message: str) -> None:
    env = started(action_type=action_type)
    pending = env.state.pending.copy()
    with pytest.raises(ActionError, match=message):
        env.step(actions)
    assert env.state.time == 0
    np.testing.assert_array_equal(env.state.pending, pending)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (np.zeros((2, 4)), r"requests must have the shape \(2, 4, 2\), got \(2, 4\)"),
        (np.full(CELLS, -1.0), r"requests must be numbers from 0 up, got -1.0 at \[0, 0, 0\]"),
        (np.full(CELLS, np.nan), r"requests must be numbers from 0 up, got nan"),
    ],
)
def test_wrong_requests_are_refused(requests: np.ndarray, message: str) -> None:
    with pytest.raises(ActionError, match=message):
        started().step_requests(requests)


@pytest.mark.parametrize(
    ("action_type", "wrong"), [("discrete", 99), ("multi_discrete", -1), ("continuous", np.nan)]
)
def test_whatever_absent_agents_do_is_ignored(action_type: str, wrong: float) -> None:
    env = started(EVENTFUL, action_type=action_type)
    idle = np.zeros(CELLS[:2] if action_type == "discrete" else CELLS, type(wrong))
    while env.present.all():
        env.step(idle)
    absent = idle.copy()
    absent[~env.present] = wrong
    assert not env.requests_from_actions(absent).any()
    absent[env.present] = wrong
    with pytest.raises(ActionError, match=f"got {wrong}"):
        env.requests_from_actions(absent)
    amounts = np.zeros(CELLS)
    amounts[~env.present] = np.nan
    assert not env.step_requests(amounts).info["requests"].any()


@pytest.mark.parametrize("action_type", ["discrete", "multi_discrete", "continuous"])
@pytest.mark.parametrize("limits", [{}, {"max_multiple": None}, {"max_multiple": None, "limited": True}])
def test_some_agents_actions_mean_what_they_mean_among_all(action_type: str, limits: dict[str, Any]) -> None:
    limits = dict(limits)
    if limits.pop("limited", False):
        limits["constraints"] = {"agent_limits": {"cpu": 0.7}}
    env = started(action_type=action_type, **limits)
    rng = np.random.default_rng(0)
    actions = np.array([[env.single_action_space.sample() for _ in range(4)] for _ in range(2)])
    if action_type == "continuous":
        actions = rng.random(CELLS).astype(np.float32)
    expected = env.requests_from_actions(actions)
    reader = RequestReader(env.config, env.constraints, 1)
    agents = np.array([3, 1])
    share = np.broadcast_to(env.state.fair_share, CELLS)
    for copy in range(2):
        requests = reader.of_agents(
            actions[copy][agents], agents, env.askable()[copy][agents], share[copy][agents]
        )
        np.testing.assert_array_equal(requests, expected[copy][agents])
    with pytest.raises(ActionError, match="must have the shape"):
        reader.of_agents(actions[0][:3], agents, env.askable()[0][agents], share[0][agents])
