"""From episode to episode: seeds, resets, ends, and what may be changed between steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from camac_dra.environment.agreement import PerfectAgreement
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.errors import ActionError, AllocationError, ConfigurationError
from tests.environment.problems import EVENTFUL, problem, random_actions

RANDOM_EVERYWHERE: dict[str, Any] = {
    "synthetic": EVENTFUL,
    "mechanism": "weighted_random",
    "topology": "ring",
    "message_loss": 0.3,
}


def play(env: VectorEnvironment, steps: int, policy_seed: int = 0) -> list[np.ndarray]:
    """Return all that an environment shows over some steps under random actions."""
    rng = np.random.default_rng(policy_seed)
    shown = []
    for _ in range(steps):
        result = env.step(random_actions(env.config, env.num_envs, rng))
        shown += [result.observations, result.rewards, result.active, result.present, result.done]
        shown += list(result.info.values())
        if result.done.any():
            shown.append(result.final_observations)
            shown += [np.array(list(measures.values())) for measures in result.episodes]
    return shown


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))


def test_the_same_seed_brings_the_same_episodes() -> None:
    config = problem(**RANDOM_EVERYWHERE)
    first, second = (VectorEnvironment(config, 3, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.reset(), second.reset())
    episodes = play(first, 30)
    assert same(episodes, play(second, 30))

    np.testing.assert_array_equal(first.reset(seed=5), VectorEnvironment(config, 3).reset(seed=5))
    assert same(episodes, play(first, 30))


def test_other_seeds_bring_other_episodes() -> None:
    config = problem(**RANDOM_EVERYWHERE)
    envs = [VectorEnvironment(config, 3, seed) for seed in (0, 1)]
    assert not np.array_equal(envs[0].reset(), envs[1].reset())
    assert not same(play(envs[0], 5), play(envs[1], 5))


def test_the_configured_seed_is_used_when_none_is_given() -> None:
    one, other = problem(seed=7), problem(seed=8)
    np.testing.assert_array_equal(VectorEnvironment(one).reset(), VectorEnvironment(other, seed=7).reset())


def test_a_reset_without_a_seed_goes_on() -> None:
    env = VectorEnvironment(problem(), 2)
    first, second = env.reset(), env.reset()
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(env.reset(seed=0), first)
    np.testing.assert_array_equal(env.reset(), second)


def test_copies_meet_different_events() -> None:
    env = VectorEnvironment(problem(), 2)
    env.reset()
    assert not np.array_equal(env.state.draw.arrivals[0], env.state.draw.arrivals[1])


@pytest.mark.parametrize("mechanism", ["proportional", "weighted_random"])
def test_events_do_not_depend_on_what_agents_do(mechanism: str) -> None:
    config = problem(EVENTFUL, mechanism=mechanism, topology="ring", message_loss=0.5)

    def events(level: int, agreement: PerfectAgreement | None) -> list[np.ndarray]:
        env = VectorEnvironment(config, 3, agreement=agreement)
        env.reset()
        met = []
        for _ in range(30):
            draw = env.state.draw
            met += [draw.arrivals, draw.capacity, draw.price, draw.present, draw.leaving, draw.service_yield]
            met.append(env.state.weights)
            env.step(np.full((3, 4), level))
        return met

    assert same(events(0, None), events(9, PerfectAgreement()))


def test_an_episode_that_ends_is_followed_by_the_next_at_once() -> None:
    config = problem(max_episode_length=3)
    env, apart = VectorEnvironment(config, 2), VectorEnvironment(config, 2, autoreset=False)
    env.reset(), apart.reset()
    actions = np.full((2, 4), 4)
    for _ in range(2):
        result, end = env.step(actions), apart.step(actions)
        assert not result.done.any()
        assert not result.truncated.any()
        assert result.final_observations is None
        assert result.episodes == []
    result, end = env.step(actions), apart.step(actions)
    for last in (result, end):
        assert last.done.all()
        assert last.truncated.all()
        assert not last.terminated.any()
        assert len(last.episodes) == 2
    np.testing.assert_array_equal(result.final_observations, end.observations)
    np.testing.assert_array_equal(end.final_observations, end.observations)
    np.testing.assert_array_equal(result.observations, apart.reset())
    assert env.state.time == 0
    assert not env.state.backlog.any()


def test_measures_are_those_of_one_episode() -> None:
    env = VectorEnvironment(problem(max_episode_length=4), 2)
    env.reset()
    sums = []
    for _ in range(2):
        demanded = np.zeros(2)
        for _ in range(4):
            demanded += (env.state.draw.arrivals / env.constraints.fair_share).sum(axis=(1, 2))
            result = env.step(np.full((2, 4), 4))
        np.testing.assert_allclose([measures["demanded"] for measures in result.episodes], demanded)
        sums.append(demanded)
    assert not np.allclose(*sums)


def test_stepping_needs_a_running_episode() -> None:
    env = VectorEnvironment(problem(max_episode_length=1), autoreset=False)
    actions, requests = np.zeros((1, 4), int), np.zeros((1, 4, 2))
    for _ in range(2):
        with pytest.raises(ActionError, match=r"no episode is running; call reset\(\) first"):
            env.step(actions)
        with pytest.raises(ActionError, match=r"no episode is running; call reset\(\) first"):
            env.step_requests(requests)
        env.reset()
        env.step(actions)
    env.reset()
    env.close()
    with pytest.raises(ActionError, match="no episode is running"):
        env.step(actions)


def test_contention_can_be_changed_between_steps() -> None:
    env = VectorEnvironment(problem({"load": 3.0}, contention=0.0, contention_floor=0.0))
    env.reset()
    everything = np.full((1, 4), 9)
    calm = env.step(everything).info
    assert (calm["overload"] > 0.1).all()
    np.testing.assert_allclose(calm["grants"].sum(axis=1), calm["capacity"][:, 0])
    env.set_contention(100.0)
    assert env.contention == 100.0
    assert not env.step(everything).info["grants"].any()


def test_the_mechanism_can_be_changed_between_steps() -> None:
    env = VectorEnvironment(problem({"load": 3.0}, contention=0.0, weights=[1.0, 1.0, 1.0, 4.0]))
    env.reset()
    everything = np.full((1, 4), 9)
    assert env.step(everything).info["grants"][0, 0].all()
    env.set_mechanism("priority")
    assert env.mechanism == "priority"
    info = env.step(everything).info
    np.testing.assert_allclose(info["grants"][0, 3], np.minimum(info["requests"][0, 3], [40.0, 8.0]))


@pytest.mark.parametrize("contention", [-0.1, np.nan, np.inf])
def test_contention_must_be_a_number_from_zero_up(contention: float) -> None:
    env = VectorEnvironment(problem())
    with pytest.raises(ConfigurationError, match=r"contention must be a finite number, zero or more, got"):
        env.set_contention(contention)
    assert env.contention == 1.0


def test_unknown_and_unfit_mechanisms_are_refused() -> None:
    env = VectorEnvironment(problem(credit="marginal"))
    with pytest.raises(AllocationError, match=r"got 'max_mim'\. Did you mean 'max_min'"):
        env.set_mechanism("max_mim")
    with pytest.raises(
        ConfigurationError, match=r"deterministic with credit 'marginal', got 'weighted_random'"
    ):
        env.set_mechanism("weighted_random")
    assert env.mechanism == "proportional"


@pytest.mark.parametrize("num_envs", [0, -1])
def test_there_must_be_copies(num_envs: int) -> None:
    with pytest.raises(ConfigurationError, match=f"num_envs must be at least 1, got {num_envs}"):
        VectorEnvironment(problem(), num_envs)
