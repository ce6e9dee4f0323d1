"""Agents in one process: deciding, talking, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from camac_dra.coordination.agent import Agent
from camac_dra.coordination.message_bus import MessageBus
from camac_dra.environment import Environment
from camac_dra.models import AttentionNetwork, DQNAgent
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import AgentError, ModelError


@pytest.fixture
def bus():
    with MessageBus(timeout=1.0, backend="local") as opened:
        yield opened


@pytest.fixture
def env():
    settings = {"environment.num_agents": 4, "environment.topology": "ring"}
    return Environment(build_config(None, settings).environment)


def team(env: Environment, bus: MessageBus) -> list[Agent]:
    size = env.observation_space.shape[0]
    model = DQNAgent(size, int(env.action_space.n), seed=0)
    return [Agent(name, env, model, bus=bus) for name in env.agent_ids]


def test_agents_decide_and_the_environment_steps(env, bus) -> None:
    agents = team(env, bus)
    assert list(env.agents.values()) == agents
    observations = env.step(None)
    actions = {agent.id: agent.act(observations[agent.id]) for agent in agents}
    assert all(type(action) is int for action in actions.values())
    env.step(actions)
    np.testing.assert_array_equal(agents[1].state, observations["agent_1"])
    assert agents[0].get_status()["decisions"] == 1


def test_any_model_can_decide(env, bus) -> None:
    size, actions = env.observation_space.shape[0], int(env.action_space.n)
    observation = env.reset()["agent_0"]
    plain = torch.nn.Linear(size, actions)

    class Fixed:
        def act(self, observation: np.ndarray) -> int:
            return 3

    models = [AttentionNetwork(input_dim=size, num_heads=8), plain, Fixed(), DQNAgent(size, actions)]
    for name, model in zip(env.agent_ids, models, strict=True):
        assert env.action_space.contains(Agent(name, env, model, bus=bus, seed=1).act(observation))
    assert env.agents["agent_2"].act(observation) == 3
    with torch.no_grad():
        assert env.agents["agent_1"].act(observation) == int(plain(torch.from_numpy(observation)).argmax())


def test_states_are_told_to_neighbours(env, bus) -> None:
    agents = team(env, bus)
    agents[0].update_state(np.full_like(agents[0].state, 2.0))
    assert agents[0].neighbors == ["agent_1", "agent_3"]
    for neighbor in agents[0].neighbors:
        assert agents[0].send_message(neighbor, {"type": "state_update", "data": agents[0].state})
    assert agents[1].poll(timeout=1.0) == 1
    np.testing.assert_array_equal(agents[1].neighbor_states["agent_0"], agents[0].state)
    assert agents[2].poll() == 0
    assert not agents[0].send_message("nobody", {"type": "hello"})
    assert agents[0].get_status()["sent"] == 2
    assert agents[0].get_status()["not_sent"] == 1


def test_other_messages_are_kept_or_handled(env, bus) -> None:
    agents = team(env, bus)
    heard = []
    agents[1].on_message("bid", lambda sender, message: heard.append((sender, message["price"])))
    agents[0].send_message("agent_1", {"type": "bid", "price": 3})
    agents[0].send_message("agent_1", {"note": "hello"})
    assert agents[1].poll(timeout=1.0) >= 1
    agents[1].poll(timeout=0.2)
    assert heard == [("agent_0", 3)]
    assert list(agents[1].messages) == [("agent_0", {"note": "hello"})]
    agents[1].receive_message({"note": "by hand"})
    assert agents[1].messages[-1] == (None, {"note": "by hand"})


def test_a_poisoned_message_is_a_dead_letter_and_the_agent_lives(env, bus) -> None:
    agents = team(env, bus)

    def poisoned(sender: str | None, message: dict) -> None:
        raise RuntimeError("cannot swallow")

    agents[1].on_message("poison", poisoned)
    agents[0].send_message("agent_1", {"type": "poison"})
    agents[0].send_message("agent_1", {"type": "state_update", "data": "no numbers"})
    agents[0].send_message("agent_1", {"note": "fine"})
    while agents[1].get_status()["received"] < 1:
        assert agents[1].poll(timeout=1.0)
    bus.flush(1.0)
    letters = bus.dead_letters("agent_0")
    assert [letter.message for letter in letters] == [
        {"type": "poison"},
        {"type": "state_update", "data": "no numbers"},
    ]
    assert "RuntimeError: cannot swallow" in letters[0].reason
    assert "data of a state_update must be numbers" in letters[1].reason
    assert agents[1].get_status()["rejected"] == 2


def test_leaving_takes_an_agent_out_of_environment_and_bus(env, bus) -> None:
    agents = team(env, bus)
    agents[3].close()
    agents[3].close()
    assert list(env.agents) == ["agent_0", "agent_1", "agent_2"]
    assert not agents[0].send_message("agent_3", {"note": "gone"})
    Agent("agent_3", env, agents[0].model, bus=bus)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (np.zeros(3), r"agent_0: state must have the shape \(64,\), got \(3,\)"),
        ("full", "agent_0: state must be an array of numbers, got 'full'"),
        (np.full(64, np.nan), r"agent_0: state must be finite, got nan at \[0\]"),
    ],
)
def test_states_without_sense_change_nothing(env, bus, state: np.ndarray, message: str) -> None:
    agent = team(env, bus)[0]
    before = agent.state
    for act in (agent.update_state, agent.act):
        with pytest.raises(AgentError, match=message):
            act(state)
    assert agent.state is before


def test_wrong_agents_are_refused(env, bus) -> None:
    size, actions = env.observation_space.shape[0], int(env.action_space.n)
    with pytest.raises(AgentError, match=r"got 'agent_9'\. Did you mean"):
        Agent("agent_9", env, DQNAgent(size, actions), bus=bus)
    Agent("agent_0", env, DQNAgent(size, actions), bus=bus)
    with pytest.raises(AgentError, match="got 'agent_0', which is there"):
        Agent("agent_0", env, DQNAgent(size, actions), bus=bus)
    with pytest.raises(ModelError, match=f"must score {actions} actions"):
        Agent("agent_1", env, DQNAgent(size, actions + 1), bus=bus)
    assert list(env.agents) == ["agent_0"]
    model = DQNAgent(size, actions)
    for options, message in (
        ({"bus": "bus"}, "bus must be a MessageBus, got 'bus'"),
        ({"bus": bus, "keep_messages": -1}, "keep_messages must be a whole number of at least 0, got -1"),
        ({"bus": bus, "seed": "x"}, "seed must be a whole number of at least 0, .* got 'x'"),
    ):
        with pytest.raises(AgentError, match=message):
            Agent("agent_1", env, model, **options)
    with pytest.raises(AgentError, match="env must be an Environment, got None"):
        Agent("agent_1", None, model, bus=bus)
    with pytest.raises(AgentError, match="handler must be callable, got 'x'"):
        env.agents["agent_0"].on_message("offer", "x")
    assert list(env.agents) == ["agent_0"]
    with pytest.raises(AgentError, match="message must be a dict, got str"):
        env.agents["agent_0"].receive_message("hello")
