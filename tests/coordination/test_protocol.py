"""Agents of one process that agree by each strategy, over a bus."""

from __future__ import annotations

import numpy as np
import pytest

from camac_dra.coordination.agent import Agent
from camac_dra.coordination.agreements import make_agreement
from camac_dra.coordination.conflict_resolver import ConflictResolver
from camac_dra.coordination.message_bus import MessageBus
from camac_dra.coordination.protocol import STRATEGIES, Protocol
from camac_dra.coordination.scheduler import Scheduler
from camac_dra.environment import Environment
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import ConfigurationError, ProtocolError

SETTINGS = {
    "environment.num_agents": 5,
    "environment.topology": "ring",
    "environment.max_episode_length": 8,
    "environment.credit": "individual",
}


class Greedy:
    """Asks for as much as can be asked for."""

    def act(self, observation: np.ndarray) -> int:
        return 9


@pytest.fixture
def bus():
    with MessageBus(timeout=1.0, backend="local") as opened:
        yield opened


def make_env(**more) -> Environment:
    return Environment(build_config(None, {**SETTINGS, **more}).environment)


def team(env: Environment, bus: MessageBus, names=None) -> list[Agent]:
    return [Agent(name, env, Greedy(), bus=bus) for name in names or env.agent_ids]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_agents_agree_on_what_the_vectorised_protocol_says(bus, strategy: str) -> None:
    env = make_env()
    agents, protocol = team(env, bus), Protocol(strategy)
    section = env.core.config.model_dump()
    whole = {"environment": section, "coordination": {"protocol": strategy}}
    other = Environment(section, agreement=make_agreement(whole))
    other.reset()
    for _ in range(3):
        outcome = protocol.coordinate(agents)
        _, rewards, _, info = other.step(dict.fromkeys(env.agent_ids, 9))
        asked = np.array([list(outcome["requests"][name].values()) for name in env.agent_ids])
        expected = np.array([info[name]["requested"] for name in env.agent_ids])
        tolerance = 1e-9 if strategy != "gossip" else 0.02  # the two draw different lots
        np.testing.assert_allclose(asked, expected, rtol=tolerance)
        assert outcome["fallbacks"] == []
        if strategy != "gossip":
            assert list(outcome["rewards"].values()) == pytest.approx(list(rewards.values()))
            assert (outcome["rounds"], outcome["messages"]) == (
                other.core.agreement.rounds,
                other.core.agreement.messages,
            )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_allocated_never_exceeds_a_capacity(bus, strategy: str) -> None:
    env = make_env()
    agents, protocol = team(env, bus), Protocol(strategy)
    for _ in range(12):  # over the end of an episode
        outcome = protocol.coordinate(agents)
        for resource, capacity in env.resources.capacities.items():
            granted = sum(amounts[resource] for amounts in outcome["allocation"].values())
            assert granted <= capacity * (1 + 1e-9)
    assert all(agent.get_status()["decisions"] == 12 for agent in agents)


def test_agents_that_are_not_given_ask_for_nothing(bus) -> None:
    env = make_env()
    agents = team(env, bus, ["agent_0", "agent_1", "agent_3"])
    outcome = Protocol("centralized").coordinate(agents)
    assert list(outcome["allocation"]) == ["agent_0", "agent_1", "agent_3"]
    granted = sum(amounts["cpu"] for amounts in outcome["allocation"].values())
    assert env.resources.allocated["cpu"] == pytest.approx(granted)


@pytest.mark.parametrize("answer", ["all of it", None, 99, float("nan"), [1, 2], OSError("no model")])
def test_a_model_that_answers_nonsense_costs_its_own_agent_only(bus, answer, caplog) -> None:
    class Nonsense:
        def act(self, observation: np.ndarray) -> object:
            if isinstance(answer, Exception):
                raise answer
            return answer

    env = make_env()
    first, *others = env.agent_ids
    agents = [Agent(first, env, Nonsense(), bus=bus), *team(env, bus, others)]
    outcome = Protocol("centralized").coordinate(agents)
    assert list(outcome["faults"]) == [first]
    assert outcome["fallbacks"] == []
    share = env.core.state.draw.capacity[0, 0] / len(agents)
    asked = np.array(list(outcome["intended"][first].values()))
    assert (asked > 0.0).any()
    assert (asked <= share * (1 + 1e-9)).all()
    assert "their fair share" in caplog.text


def test_messages_are_taken_in_before_deciding(bus) -> None:
    env = make_env()
    agents = team(env, bus)
    for agent in agents:
        for neighbor in env.topology.get_neighbors(agent.agent_id):
            agent.send_message(neighbor, {"type": "state_update", "data": agent.state})
    Protocol("centralized").coordinate(agents)
    assert all(len(agent.neighbor_states) == 2 for agent in agents)
    assert bus.get_message_queue("agent_0") == []


def test_agents_decide_in_their_turns(bus) -> None:
    env = make_env()
    order: list[str] = []

    class Noting:
        def __init__(self, name: str) -> None:
            self.name = name

        def act(self, observation: np.ndarray) -> int:
            order.append(self.name)
            return 0

    agents = [Agent(name, env, Noting(name), bus=bus) for name in env.agent_ids]
    protocol = Protocol("centralized", scheduler=Scheduler("round_robin"))
    protocol.coordinate(agents)
    protocol.coordinate(agents)
    assert order == [*env.agent_ids, *env.agent_ids[1:], "agent_0"]


def test_states_are_the_same_everywhere_after_synchronising(bus) -> None:
    env = make_env()
    agents, protocol = team(env, bus), Protocol()
    assert protocol.synchronize()  # nobody is there yet
    protocol.initiate(agents)
    for number, agent in enumerate(agents):
        agent.update_state(np.full_like(agent.state, number))
    assert protocol.synchronize()
    for agent in agents:
        others = {other.id: other.state for other in agents if other is not agent}
        assert set(agent.neighbor_states) == set(others)  # everybody's, over others where need be
        for name, state in others.items():
            np.testing.assert_array_equal(agent.neighbor_states[name], state)


def test_conflicts_are_resolved_by_the_resolver() -> None:
    protocol = Protocol(resolver=ConflictResolver("equal", 4.0))
    claims = [("a", "cpu", 3.0, 1.0), ("b", "cpu", 9.0, 1.0)]
    assert protocol.resolve_conflicts(claims) == {"a": 2.0, "b": 2.0}
    both = protocol.resolve_conflicts([*claims, ("a", "disk", 1.0, 1.0)])
    assert both == {("a", "cpu"): 2.0, ("b", "cpu"): 2.0, ("a", "disk"): 1.0}


def test_there_is_something_to_initiate_where_there_are_agents(bus) -> None:
    protocol = Protocol()
    assert not protocol.initiate()
    assert protocol.coordinate([])["allocation"] == {}
    assert protocol.initiate(team(make_env(), bus))
    assert protocol.initiate()
    protocol.close()
    protocol.close()


def test_wrong_teams_and_settings_are_refused(bus) -> None:
    one, two = make_env(), make_env()
    agents = team(one, bus, ["agent_0"])
    with MessageBus(backend="local") as other:
        with pytest.raises(ProtocolError, match="got 2 environments and 2 buses"):
            Protocol().coordinate([*agents, *team(two, other, ["agent_1"])])
    with pytest.raises(ProtocolError, match="once each, got"):
        Protocol().coordinate([*agents, *agents])
    with pytest.raises(ProtocolError, match=r"got 'gosip'\. Did you mean 'gossip'"):
        Protocol("gosip")
    with pytest.raises(ProtocolError, match="scheduler must be a Scheduler or None, got 'random'"):
        Protocol(scheduler="random")
    with pytest.raises(ConfigurationError, match=r"coordination\.rounds: "):
        Protocol(rounds=0)


def test_leaving_after_the_bus_was_closed_is_no_error() -> None:
    env = make_env()
    with MessageBus(backend="local") as bus:
        agents, protocol = team(env, bus), Protocol("centralized")
        protocol.coordinate(agents)
    protocol.close()
    for agent in agents:
        agent.close()
    assert env.agents == {}
