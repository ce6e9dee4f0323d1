"""The process of agents without Ray: what it decides, and what of it survives a death."""

from __future__ import annotations

import numpy as np
import pytest

from camac_dra.coordination.agent_actor import AgentHost, HostSpec
from camac_dra.coordination.message_bus import MessageBus
from camac_dra.coordination.plant import SimulatedPlant
from camac_dra.coordination.runtime.decision import Inputs
from tests.coordination.small_deployments import Fixed, config_of

HOMES = {"agent_0": "agent_0", "agent_1": "agent_0", "agent_2": "agent_2", "agent_3": "agent_2"}


@pytest.fixture
def hosts():
    config = config_of(sync_interval=1)
    with MessageBus(backend="local") as bus:
        specs = [
            HostSpec(agents, config.environment, config.coordination, Fixed(3), HOMES)
            for agents in ((0, 1), (2, 3))
        ]
        yield [AgentHost(spec, bus) for spec in specs]


def decide(hosts: list[AgentHost], decisions: int) -> SimulatedPlant:
    plant = SimulatedPlant(config_of().environment, 1)
    for _ in range(decisions):
        state = plant.observe()
        answers = [host.decide(Inputs.of(state, host.numbers, 1.0)) for host in hosts]
        plant.apply(plant.allocate(np.concatenate([answer.requests for answer in answers])))
    return plant


def test_every_agent_of_a_process_keeps_what_it_knew_over_a_death(hosts) -> None:
    decide(hosts, 4)
    before = hosts[0].known_states()
    assert set(before["agent_0"]) == {"agent_0", "agent_1", "agent_3"}  # on the ring
    assert set(before["agent_1"]) == {"agent_1", "agent_0", "agent_2"}
    snapshot = hosts[0].snapshot()
    with MessageBus(backend="local") as bus:
        config = config_of(sync_interval=1)
        spec = HostSpec((0, 1), config.environment, config.coordination, Fixed(3), HOMES)
        again = AgentHost(spec, bus)
        assert again.known_states()["agent_1"] == {"agent_1": {}}
        again.restore(snapshot)
        after = again.known_states()
    assert again.step == 3
    for agent, known in before.items():
        assert set(after[agent]) == set(known)
        for other, state in known.items():
            assert state["step"] == after[agent][other]["step"]


def test_absent_agents_ask_for_nothing(hosts) -> None:
    state = SimulatedPlant(config_of().environment, 1).observe()
    inputs = Inputs.of(state, hosts[0].numbers, 1.0)
    object.__setattr__(inputs, "present", np.array([True, False]))
    requests = hosts[0].decide(inputs).requests
    assert requests[0].any()
    assert not requests[1].any()
