"""Rewards of the user's own, and those that a team shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camac_dra.environment.reward import load_reward_fn, share_among_team
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.errors import ConfigurationError
from tests.environment.problems import EVENTFUL, problem

NOT_CALLABLE = 3


def share_of_the_pool(agent_id: str, allocation: np.ndarray, resources: np.ndarray) -> np.ndarray:
    """Return an array, which is averaged; spoil the arguments, which must not matter."""
    share = allocation / resources + float(agent_id[-1])
    allocation[:] = resources[:] = np.nan
    return share


def stepped(level: int = 5, **settings: Any) -> Any:
    env = VectorEnvironment(problem(max_episode_length=3, **settings), 2)
    env.reset()
    return env.step(np.full((2, 4), level))


@pytest.mark.parametrize("reward_fn", [share_of_the_pool, f"{__name__}.share_of_the_pool"])
def test_the_users_reward_is_of_grants_and_capacities(reward_fn: Any) -> None:
    result = stepped(reward_fn=reward_fn)
    expected = (result.info["grants"] / np.array([40.0, 8.0])).mean(axis=2) + np.arange(4)
    np.testing.assert_allclose(result.rewards, expected)
    assert np.isfinite(result.info["backlog"]).all()


def test_the_users_reward_can_be_shared_by_the_team() -> None:
    own, team = stepped(reward_fn=share_of_the_pool), stepped(reward_fn=share_of_the_pool, credit="team")
    np.testing.assert_allclose(team.rewards, np.repeat(own.rewards.mean(axis=1, keepdims=True), 4, axis=1))


@pytest.mark.parametrize("returned", [np.nan, np.inf, None, "much", [], [1.0, np.nan], {}])
def test_the_users_reward_must_be_finite(returned: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"reward_fn: must return a finite number .* for 'agent_0' with"
    ):
        stepped(reward_fn=lambda *_: returned)


def broken(agent_id: str, allocation: np.ndarray, resources: np.ndarray) -> float:
    raise KeyError("cpu")


def of_two_arguments(agent_id: str, allocation: np.ndarray) -> float:
    return 0.0


@pytest.mark.parametrize(
    ("reward_fn", "message"),
    [
        (
            broken,
            r"broken\(agent_id, allocation, resources\) must return a number, but raised KeyError: 'cpu'",
        ),
        (
            of_two_arguments,
            r"of_two_arguments\(.*\) must return a number, but raised TypeError: .* 2 positional",
        ),
    ],
)
def test_errors_of_the_users_reward_name_the_setting(reward_fn: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"environment\.reward_fn: {message}") as raised:
        stepped(reward_fn=reward_fn)
    assert isinstance(raised.value.__cause__, KeyError | TypeError)


@pytest.mark.parametrize("path", ["nowhere", "nowhere.at_all", f"{__name__}.missing", "", "math."])
def test_a_path_must_lead_somewhere(path: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"environment.reward_fn: must be the dotted path of a function"
    ):
        load_reward_fn(path)


@pytest.mark.parametrize("text", ["def reward(:", "raise RuntimeError('no key')"])
def test_a_module_that_cannot_be_imported_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "broken_rewards.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    message = (
        r"environment\.reward_fn: must be .* got 'broken_rewards\.reward' \((SyntaxError|RuntimeError: no)"
    )
    with pytest.raises(ConfigurationError, match=message):
        load_reward_fn("broken_rewards.reward")


def test_a_path_must_lead_to_a_function() -> None:
    with pytest.raises(ConfigurationError, match=r"NOT_CALLABLE' must be callable, got int"):
        load_reward_fn(f"{__name__}.NOT_CALLABLE")


def test_a_team_is_who_is_present() -> None:
    rewards = np.array([[1.0, 2.0, 6.0], [1.0, 2.0, 3.0]])  # (B, N)
    np.testing.assert_allclose(share_among_team(rewards, None), [[3.0] * 3, [2.0] * 3])
    present = np.array([[True, True, False], [False, False, False]])
    np.testing.assert_allclose(share_among_team(rewards, present), [[1.5] * 3, [0.0] * 3])


def test_fairness_rewards_add_up_to_the_change_of_jains_index() -> None:
    env = VectorEnvironment(problem(EVENTFUL, reward_function="fairness", credit="team"), 2)
    env.reset()
    rng = np.random.default_rng(0)
    total = np.zeros(2)
    for _ in range(12):
        result = env.step(rng.integers(10, size=(2, 4)))
        present = np.flatnonzero(result.active.any(axis=1))
        total[present] += result.rewards.max(axis=1, where=result.active, initial=-1.0)[present]
    np.testing.assert_allclose(total, [measures["jain"] - 1.0 for measures in result.episodes])
