"""Every feature of an observation at its documented place, against loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.schema.environment import EnvironmentConfig
from tests.environment.problems import EVENTFUL, problem, random_actions

COPIES = 2
OVERLAPPING = {
    "groups": [
        {"name": "cell", "agents": [0, 1, 2], "limits": {"cpu": 6.0}},
        {"name": "feeder", "agents": [2, 3], "limits": {"memory": 1.0}},
    ]
}
KINDS: dict[str, dict[str, Any]] = {
    "one pool": {},
    "racks": {"num_groups": 2},
    "overlapping": OVERLAPPING,
    "access": {"access": {"cpu": [0, 2]}},
}


def nominal_share(env: VectorEnvironment, agent: int, resource: int) -> tuple[float, float]:
    """Return an agent's fair share, and the capacity that it is a part of."""
    constraints = env.constraints
    shares = []
    for k in range(env.num_groups):
        if constraints.membership[k, agent]:
            members = [
                j
                for j in range(env.num_agents)
                if constraints.membership[k, j]
                and (constraints.access is None or constraints.access[j, resource])
            ]
            capacity = constraints.capacity[k, resource]
            shares.append((capacity / max(len(members), 1), capacity))
    return min(shares)


def own_row(env: VectorEnvironment, copy: int, agent: int) -> list[float]:
    """Return the agent's own row as documented."""
    state, constraints = env.state, env.constraints
    groups = [k for k in range(env.num_groups) if constraints.membership[k, agent]]
    shares = [nominal_share(env, agent, r)[0] for r in range(env.num_resources)]
    amounts = (state.draw.arrivals, state.backlog, state.last_request, state.last_grant)
    row = [amount[copy, agent, r] / shares[r] for amount in amounts for r in range(env.num_resources)]
    for values in (state.last_load, state.last_overload):
        row += [max(values[copy, k, r] for k in groups) for r in range(env.num_resources)]
    row += [state.draw.price[0, r] for r in range(env.num_resources)]
    capacity = np.broadcast_to(state.draw.capacity, (COPIES, *constraints.capacity.shape))[copy]
    for r in range(env.num_resources):
        now = []
        for k in groups:
            scale = constraints.capacity[k, r] / nominal_members(env, k, r)
            now.append(
                capacity[k, r] / constraints.capacity[k, r] * scale if np.isfinite(scale) else math.inf
            )
        row.append(min(now) / shares[r])
    synthetic = env.config.dynamics.synthetic
    hour = 2.0 * math.pi * state.time / synthetic.day_length
    mean_weight = 1.0 * 0.5 + 2.0 * 0.3 + 4.0 * 0.2
    row += [math.sin(hour), math.cos(hour), state.time / env.episode_length]
    row += [state.weights[copy, agent] / mean_weight, float(env.present[copy, agent])]
    return row


def nominal_members(env: VectorEnvironment, group: int, resource: int) -> int:
    access = env.constraints.access
    allowed = np.ones(env.num_agents) if access is None else access[:, resource]
    return max(int((env.constraints.membership[group] * allowed).sum()), 1)


def rows(env: VectorEnvironment) -> np.ndarray:
    """Return everybody's own row (B, N, F)."""
    return np.array([[own_row(env, b, i) for i in range(env.num_agents)] for b in range(COPIES)])


def neighbour_sums(env: VectorEnvironment) -> np.ndarray:
    """Return the neighbours' pending demand (B, N, 3 R) above, at and below one's own weight."""
    sums = np.zeros((COPIES, env.num_agents, 3, env.num_resources))
    for b in range(COPIES):
        for i, name in enumerate(env.agent_ids):
            for neighbour in env.topology.get_neighbors(name):
                j = env.agent_ids.index(neighbour)
                mine, theirs = env.state.weights[b, i], env.state.weights[b, j]
                kind = 0 if theirs > mine else 1 if theirs == mine else 2
                for r in range(env.num_resources):
                    sums[b, i, kind, r] += env.state.pending[b, j, r] / nominal_share(env, i, r)[1]
    return sums.reshape(COPIES, env.num_agents, -1)


def walk(config: EnvironmentConfig) -> Any:
    """Yield an environment and what it shows, over some steps under random actions."""
    env = VectorEnvironment(config, COPIES, seed=3)
    rng = np.random.default_rng(0)
    observations = env.reset()
    for _ in range(8):
        assert observations.dtype == np.float32
        assert observations.shape == (COPIES, config.num_agents, *env.single_observation_space.shape)
        yield env, observations
        observations = env.step(random_actions(config, COPIES, rng)).observations


@pytest.mark.parametrize("synthetic", [{}, EVENTFUL], ids=["calm", "eventful"])
@pytest.mark.parametrize("constraints", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("topology", ["fully_connected", "ring"])
def test_partial(synthetic: Any, constraints: Any, topology: str) -> None:
    config = problem(synthetic, num_agents=5, constraints=constraints, topology=topology)
    size = 8 * 2 + 5
    for env, observations in walk(config):
        assert env.single_observation_space.shape == (64,)
        np.testing.assert_allclose(observations[..., :size], rows(env), rtol=1e-5, atol=1e-6)
        sums = observations[..., size : size + 6]
        np.testing.assert_allclose(sums, neighbour_sums(env), rtol=1e-5, atol=1e-6)
        assert not observations[..., size + 6 :].any()


def test_partial_is_padded_only_where_fewer_features_are_needed() -> None:
    def width(**settings: Any) -> int:
        return VectorEnvironment(problem(**settings)).single_observation_space.shape[0]

    needed = 8 * 2 + 5 + 3 * 2
    assert width() == 64
    assert width(observation_size=needed) == width(observation_size=1) == needed
    assert width(num_resources=5, resource_limits={"cpu": 40.0}) == 64
    assert width(num_resources=6, resource_limits={"cpu": 40.0}) == 8 * 6 + 5 + 3 * 6


@pytest.mark.parametrize("synthetic", [{}, EVENTFUL], ids=["calm", "eventful"])
def test_full(synthetic: Any) -> None:
    config = problem(synthetic, num_agents=5, observation_type="full", constraints=OVERLAPPING)
    for env, observations in walk(config):
        expected = rows(env)  # (B, N, F)
        size = expected.shape[-1]
        assert observations.shape[-1] == 6 * size
        np.testing.assert_allclose(observations[..., :size], expected, rtol=1e-5, atol=1e-6)
        for agent in range(5):
            everybody = observations[:, agent, size:].reshape(COPIES, 5, size)
            np.testing.assert_allclose(everybody, expected, rtol=1e-5, atol=1e-6)


def test_full_is_padded() -> None:
    config = problem(num_agents=1, observation_type="full")
    for env, observations in walk(config):
        assert observations.shape[-1] == 64
        np.testing.assert_allclose(observations[..., :42], np.tile(rows(env), 2), rtol=1e-5, atol=1e-6)
        assert not observations[..., 42:].any()


@pytest.mark.parametrize("max_neighbors", [None, 2, 6])
@pytest.mark.parametrize(("topology", "degree"), [("star", 4), ("ring", 2), ("fully_connected", 4)])
def test_graph(topology: str, degree: int, max_neighbors: int | None) -> None:
    config = problem(
        EVENTFUL, num_agents=5, observation_type="graph", topology=topology, max_neighbors=max_neighbors
    )
    width = degree if max_neighbors is None else max_neighbors
    for env, observations in walk(config):
        expected = rows(env)  # (B, N, F)
        assert observations.shape[2:] == (1 + width, expected.shape[-1] + 1)
        np.testing.assert_allclose(observations[:, :, 0, :-1], expected, rtol=1e-5, atol=1e-6)
        assert (observations[:, :, 0, -1] == 1.0).all()
        for i, name in enumerate(env.agent_ids):
            neighbours = [env.agent_ids.index(other) for other in env.topology.get_neighbors(name)]
            real = observations[0, i, 1:, -1]
            assert real.tolist() == [1.0] * min(len(neighbours), width) + [0.0] * (width - len(neighbours))
            if len(neighbours) <= width:
                shown = observations[:, i, 1 : 1 + len(neighbours), :-1]
                np.testing.assert_allclose(shown, expected[:, neighbours], rtol=1e-5, atol=1e-6)
            assert not observations[:, i, 1:][:, real == 0.0].any()


def test_graph_rows_come_late() -> None:
    config = problem(observation_type="graph", topology="ring", message_delay=2.0)
    sent = []
    for env, observations in walk(config):
        sent.append(rows(env))
        heard = observations[:, 0, 1:, :-1]  # (B, M, F) of agents 1 and 3
        if env.state.time < 2:
            assert not heard.any()
            assert not observations[:, :, 1:, -1].any()  # nobody was heard yet
        else:
            np.testing.assert_allclose(heard, sent[-3][:, [1, 3]], rtol=1e-5, atol=1e-6)
            assert observations[:, :, 1:, -1].all()
        assert observations[:, :, 0, -1].all()


def test_neighbours_whose_rows_are_all_lost_are_not_shown() -> None:
    config = problem(observation_type="graph", topology="ring", message_loss=0.5)
    ever = None
    for env, observations in walk(config):
        shown = observations[:, :, 1:, -1]  # (B, N, M)
        if env.state.time == 0:
            assert 0.0 < shown.mean() < 1.0
            ever = shown
        assert (shown >= ever).all()  # who was heard stays
        assert not observations[:, :, 1:, :-1][shown == 0.0].any()
        ever = shown


@pytest.mark.parametrize("observation_type", ["partial", "graph"])
def test_new_episodes_start_without_rows_of_the_old(observation_type: str) -> None:
    config = problem(
        observation_type=observation_type, topology="ring", message_delay=1.0, max_episode_length=3
    )
    env = VectorEnvironment(config, COPIES)
    env.reset()
    for _ in range(3):
        result = env.step(np.full((COPIES, 4), 4))
    first = result.observations if observation_type == "partial" else result.observations[:, :, 1:, :-1]
    size = 8 * 2 + 5
    assert not (first[..., size:] if observation_type == "partial" else first).any()
    assert (result.final_observations[..., size:] if observation_type == "partial" else first + 1).any()


def test_fixed_weights_are_shown_over_their_mean() -> None:
    env = VectorEnvironment(problem(weights=[1.0, 1.0, 2.0, 4.0]), COPIES)
    np.testing.assert_allclose(env.reset()[0, :, 8 * 2 + 3], [0.5, 0.5, 1.0, 2.0])


def test_the_load_of_a_group_without_capacity_is_a_number_for_networks() -> None:
    outages = {"outage_probability": 1.0, "outage_fraction": 1.0, "load": 2.0}
    config = problem(outages, max_multiple=None)
    for env, observations in walk(config):
        assert np.abs(observations).max() <= 100.0
        if env.state.time:
            assert observations.max() == 100.0
