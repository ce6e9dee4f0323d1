"""Measures of an episode against figures worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from camac_dra.environment.measures import jain_index, service_ratios
from camac_dra.environment.vector_environment import VectorEnvironment
from tests.environment.problems import CONSTANT, EVENTFUL, problem

EVERYBODY = np.ones((1, 4), bool)


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([1.0, 1.0, 1.0, 1.0], 1.0),
        ([0.5, 0.5, 0.5, 0.5], 1.0),
        ([1.0, 0.0, 0.0, 0.0], 0.25),
        ([1.0, 1.0, 0.0, 0.0], 0.5),
        ([1.0, 0.5, 0.0, 0.0], 1.5**2 / (4 * 1.25)),
        ([0.0, 0.0, 0.0, 0.0], 1.0),
    ],
)
def test_jain_index(ratios: list[float], expected: float) -> None:
    assert jain_index(np.array([ratios]), EVERYBODY) == pytest.approx([expected])


def test_jain_index_leaves_out_who_is_not_counted() -> None:
    ratios = np.array([[1.0, 0.5, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])  # (B, N)
    counted = np.array([[True, True, False, False], [False, False, False, False]])
    np.testing.assert_allclose(jain_index(ratios, counted), [1.5**2 / (2 * 1.25), 1.0])


@pytest.mark.parametrize("num_agents", [1, 4])
def test_sums_do_not_depend_on_how_often_they_are_made(num_agents: int) -> None:
    config = problem(
        EVENTFUL, num_agents=num_agents, num_resources=1, resource_limits={"cpu": 40.0}, max_episode_length=60
    )
    seen = []
    for often in (False, True):
        env = VectorEnvironment(config, 1, seed=0)
        env.reset()
        while not (result := env.step_requests(env.askable())).episodes:
            if often:
                env.get_state()
        seen.append(result.episodes)
    assert seen[0] == seen[1]


def test_service_ratios_count_resources_in_fair_shares() -> None:
    fair_share = np.array([[10.0, 2.0], [10.0, 2.0], [10.0, 2.0]])  # (N, R)
    demanded = np.array([[[10.0, 2.0], [20.0, 0.0], [0.0, 0.0]]])  # (B, N, R)
    served = np.array([[[10.0, 0.0], [5.0, 0.0], [0.0, 0.0]]])
    ratios, had = service_ratios(served, demanded, fair_share)
    np.testing.assert_allclose(ratios, [[0.5, 0.25, 1.0]])
    np.testing.assert_array_equal(had, [[True, True, False]])


def played(requests: list[list[float]], load: float = 1.0, **settings: Any) -> dict[str, float]:
    """Return the measures of two agents that each meet a demand of 5 ``load`` of 10 at every step."""
    config = problem(
        CONSTANT | {"load": load, "price_base": 0.5},
        num_agents=2,
        num_resources=1,
        resource_limits={"cpu": 10.0},
        max_episode_length=len(requests),
        weights=[1.0, 2.0],
        contention=0.0,
        holding_cost=0.0,
        **settings,
    )
    env = VectorEnvironment(config)
    env.reset()
    for wanted in requests:
        result = env.step_requests(np.array(wanted).reshape(1, 2, 1))
    return result.episodes[0]


def test_an_episode_by_hand() -> None:
    # Agent 0 gets all of its 10, agent 1 of its 10 the 5 that it asks for too late to keep what may not wait.
    measures = played([[5, 0], [5, 5]], backlog_limit=0.6)
    expected = {
        "demanded": 4.0,
        "served": 3.0,
        "granted": 3.0,
        "lost": 0.4,  # of the first 5 that agent 1 left, 3 may wait; of the 8 of which it took 5, too
        "lost_share": 0.1,
        "cost": 1.5,
        "success_rate": 0.5,
        "jain": 1.5**2 / (2 * 1.25),
        "utilisation": 0.75,
        "conflict_rate": 0.0,
        "efficiency": (10 * 1 + 5 * 2 - 15 * 0.5 - 2 * 2) / 5,
        "reward": (10 * 1 + 5 * 2 - 15 * 0.5 - 2 * 2) / 5,
        "objective_service": (10 * 1 + 5 * 2 - 2 * 2) / 5,
        "objective_cost": -15 * 0.5 / 5,
        "objective_fairness": 2 * (1.5**2 / (2 * 1.25) - 1),
    }
    assert measures == pytest.approx(expected)


def test_a_conflict_is_a_load_above_the_capacity_and_not_at_it() -> None:
    assert played([[5, 5], [5, 5]])["conflict_rate"] == 0.0
    assert played([[0, 0], [10, 5]])["conflict_rate"] == 0.5
    assert played([[0, 0], [10, 5]])["utilisation"] == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(8))
def test_a_service_that_adds_up_in_parts_reaches_the_target(seed: int) -> None:
    settings: dict[str, Any] = {"load": 0.07, "slo_target": 1.0, "backlog_limit": None}
    parts = np.random.default_rng(seed).random((50, 2)).tolist() + [[10.0, 10.0]] * 20
    assert played(parts, **settings)["success_rate"] == 1.0
    assert played([*parts, [0.0, 0.0]], **settings)["success_rate"] == 0.0


def test_without_demand_all_is_well() -> None:
    env = VectorEnvironment(problem(CONSTANT | {"load": 0.0}), 2)
    env.reset()
    for _ in range(12):
        result = env.step(np.full((2, 4), 9))
    for measures in result.episodes:
        assert measures["success_rate"] == measures["jain"] == 1.0
        for name in ("served", "lost", "lost_share", "utilisation", "conflict_rate", "efficiency"):
            assert measures[name] == 0.0, name


def test_only_groups_that_bind_are_counted() -> None:
    groups = [{"name": "cell", "agents": [0, 1], "limits": {"cpu": 4.0}}]  # its memory does not bind
    config = problem(
        CONSTANT | {"load": 1.0}, constraints={"groups": groups}, max_episode_length=1, contention=0.0
    )
    env = VectorEnvironment(config)
    env.reset()
    # Agents 0 and 1 have a fair share of 2 cpu; they may have all 4 and want 8. Others want their 10 of 40.
    requests = np.array([[[4.0, 0.0], [4.0, 0.0], [10.0, 2.0], [10.0, 2.0]]])
    env.state.pending[...] = requests
    measures = env.step_requests(requests).episodes[0]
    assert measures["conflict_rate"] == pytest.approx(1 / 3)  # pool cpu, pool memory, cell cpu
    assert measures["utilisation"] == pytest.approx((24 / 40 + 4 / 8 + 4 / 4) / 3)


@pytest.mark.parametrize("num_agents", [4, 400])  # sums are kept in two ways
def test_measures_are_sums_over_the_steps(num_agents: int) -> None:
    env = VectorEnvironment(problem(EVENTFUL, num_agents=num_agents, constraints={"num_groups": 2}), 2)
    env.reset()
    share = env.constraints.fair_share
    sums = dict.fromkeys(("demanded", "served", "granted", "lost", "cost", "efficiency", "reward"), 0.0)
    conflicts, granted, capacity = 0.0, 0.0, 0.0
    for _ in range(12):
        arrivals = env.state.draw.arrivals
        result = env.step(np.full((2, num_agents), 5))
        info = result.info
        amounts = {"demanded": arrivals, **{name: info[name] for name in ("served", "lost")}}
        amounts |= {"granted": info["grants"], "cost": info["grants"] * info["price"][:, None]}
        for name, amount in amounts.items():
            sums[name] += (amount / share).sum(axis=(1, 2))
        sums["efficiency"] += info["values"].sum(axis=1)
        sums["reward"] += result.rewards.sum(axis=1)
        conflicts += (info["overload"] > 1e-9).mean(axis=(1, 2)) / 12
        granted += env.constraints.groups.load(info["grants"])
        capacity += info["capacity"]
    sums |= {"conflict_rate": conflicts, "utilisation": (granted / capacity).mean(axis=(1, 2))}
    for copy, measures in enumerate(result.episodes):
        expected = {name: values[copy] for name, values in sums.items()}
        assert {name: measures[name] for name in expected} == pytest.approx(expected)
        assert measures["lost_share"] == pytest.approx(expected["lost"] / expected["demanded"])


def test_measures_do_not_depend_on_when_they_are_added_up() -> None:
    def measures(look: bool) -> list[dict[str, float]]:
        env = VectorEnvironment(problem(EVENTFUL, max_episode_length=40), 20)
        env.reset()
        for step in range(40):
            if look and step % 7 == 3:
                env.get_state()
            result = env.step(np.full((20, 4), 5))
        return result.episodes

    assert measures(look=True) == measures(look=False)
