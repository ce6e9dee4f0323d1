"""Protocols as state machines: events in, instructions out, one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from camac_dra.coordination.protocols import (
    COORDINATOR,
    AveragingMachine,
    Done,
    Gather,
    Lots,
    MachineFactory,
    Publish,
    Received,
    Send,
    SetTimer,
    Start,
    Tick,
    plan_protocol,
)
from camac_dra.environment.constraints import Constraints
from camac_dra.environment.topology import Topology
from camac_dra.utils.errors import ActionError, TopologyError
from camac_dra.utils.schema import CoordinationConfig, EnvironmentConfig

from .fake_network import FakeNetwork

CAPACITY = np.array([[10.0]])  # (K, R) of one pool of one resource


def factory(agents: int = 2, topology: str = "fully_connected", **coordination: Any) -> MachineFactory:
    """Return the machines of agents that share 10 units of one resource, with rounds of a second."""
    section = {
        "num_agents": agents,
        "num_resources": 1,
        "resource_limits": {"cpu": 10.0},
        "topology": topology,
    }
    config = EnvironmentConfig.model_validate(section)
    graph = Topology.generate(config.topology, config.agent_ids, config.topology_options)
    plan = plan_protocol(CoordinationConfig(**coordination), graph)
    return MachineFactory(plan, graph, Constraints.from_config(config), round_timeout=1.0)


def start(request: float, decision: int = 0, now: float = 0.0, weight: float = 1.0) -> Start:
    return Start(decision, now, np.array([request]), np.array([weight]), CAPACITY)


def heard(
    sums: list[float], decision: int = 0, number: int = 1, sender: str = "agent_1", now: float = 0.5
) -> Received:
    return Received(sender, {"decision": decision, "round": number, "sums": np.array(sums)}, now)


def plain(instruction: Any) -> Any:
    """Return an instruction as values that compare."""
    if isinstance(instruction, Publish):
        content = {**instruction.content, "sums": instruction.content["sums"].tolist()}
        return ("publish", instruction.topic, content, instruction.version, instruction.recipients)
    if isinstance(instruction, Send):
        content = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in instruction.content.items()}
        return ("send", instruction.recipient, content)
    if isinstance(instruction, Done):
        return ("done", instruction.decision, instruction.agreed.round(9).tolist())
    return instruction


def plainly(instructions: list[Any]) -> list[Any]:
    return [plain(one) for one in instructions]


def published(
    number: int, sums: list[float], version: int, topic: str = "consensus", decision: int = 0
) -> Any:
    content = {"decision": decision, "round": number, "sums": sums}
    return ("publish", topic, content, version, ("agent_1",))


# Average consensus


def test_a_decision_of_two_instruction_by_instruction() -> None:
    machine = factory(protocol="distributed_consensus", rounds=2).machine("agent_0")
    # It holds its request and the weight 1, gives all of it away and keeps half.
    assert plainly(machine.handle(start(12.0))) == [published(1, [12.0, 1.0], 1), SetTimer(1.0)]
    # Half of what the other gave makes (10, 1), which it adds to the sum of all that it gave.
    assert plainly(machine.handle(heard([8.0, 1.0]))) == [published(2, [22.0, 2.0], 2), SetTimer(1.5)]
    done = machine.handle(heard([18.0, 2.0], number=2))
    # The mean is 10 of 2 agents, twice the capacity: half of 12 remains.
    assert plainly(done) == [("done", 0, [6.0])]
    report = done[0].report  # type: ignore[union-attr]
    assert (report.rounds, report.messages, report.bytes, report.missing, report.residual) == (
        2,
        2,
        32,
        0,
        0.0,
    )


def test_what_a_lost_message_brought_comes_with_the_next() -> None:
    machine = factory(protocol="distributed_consensus", rounds=2).machine("agent_0")
    machine.handle(start(12.0))
    assert machine.handle(Tick(0.9)) == []
    assert plainly(machine.handle(Tick(1.0))) == [published(2, [18.0, 1.5], 2), SetTimer(2.0)]
    # Its own (3, 0.25), and half of the other's sum of both rounds (18, 2).
    done = machine.handle(heard([18.0, 2.0], number=2))
    assert plainly(done) == [("done", 0, [pytest.approx(12.0 * 10.0 / (2 * 12.0 / 1.25))])]
    assert done[0].report.missing == 1  # type: ignore[union-attr]


def test_late_and_double_messages_change_nothing() -> None:
    machine = factory(protocol="distributed_consensus", rounds=3).machine("agent_0")
    machine.handle(start(12.0))
    machine.handle(heard([8.0, 1.0]))
    assert machine.handle(heard([8.0, 1.0])) == []  # twice
    third = plainly(machine.handle(heard([18.0, 2.0], number=2)))
    assert third == [published(3, [32.0, 3.0], 3), SetTimer(1.5)]
    assert machine.handle(heard([8.0, 1.0], number=1)) == []  # long known
    assert plainly(machine.handle(heard([28.0, 3.0], number=3))) == [("done", 0, [6.0])]
    assert machine.handle(heard([28.0, 3.0], number=3)) == []
    assert machine.handle(Tick(99.0)) == []


def test_messages_of_later_rounds_and_decisions_are_kept_until_then() -> None:
    machine = factory(protocol="distributed_consensus", rounds=2).machine("agent_0")
    assert machine.handle(heard([8.0, 1.0])) == []  # before the start
    first = plainly(machine.handle(start(12.0)))
    assert first == [published(1, [12.0, 1.0], 1), published(2, [22.0, 2.0], 2), SetTimer(1.0)]
    # The other is a decision ahead: it says nothing more in this one.
    assert plainly(machine.handle(heard([1.0, 1.0], decision=1))) == [("done", 0, [6.0])]
    second = plainly(machine.handle(start(3.0, decision=1, now=5.0)))
    assert second == [
        published(1, [3.0, 1.0], 4, decision=1),
        published(2, [5.0, 2.0], 5, decision=1),
        SetTimer(6.0),
    ]
    assert machine.handle(heard([99.0, 9.0], decision=0, number=2)) == []  # of the decision that is over


@pytest.mark.parametrize("sums", [[np.nan, 1.0], [np.inf, 1.0]])
def test_nonsense_is_as_good_as_lost(sums: list[float]) -> None:
    machine = factory(protocol="distributed_consensus", rounds=1).machine("agent_0")
    machine.handle(start(12.0))
    assert machine.handle(heard(sums)) == []
    assert machine.handle(heard([8.0, 1.0], sender="stranger")) == []
    assert plainly(machine.handle(Tick(1.0))) == [("done", 0, [5.0])]  # as if both asked for 12


def test_a_delay_is_bridged_by_messages_on_their_way() -> None:
    machine = factory(protocol="distributed_consensus", rounds=3, message_delay=1).machine("agent_0")
    # Under delays half of the weights are kept: a quarter is given, three quarters stay.
    first = plainly(machine.handle(start(12.0)))
    assert first == [published(1, [12.0, 1.0], 1), published(2, [21.0, 1.75], 2), SetTimer(1.0)]
    third = plainly(machine.handle(heard([8.0, 1.0])))
    assert third == [published(3, [29.75, 2.5625], 3), SetTimer(1.5)]


@pytest.mark.parametrize("request_", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize("protocol", ["distributed_consensus", "gossip", "centralized"])
def test_requests_must_make_sense(protocol: str, request_: float) -> None:
    machine = factory(protocol=protocol).machine("agent_0")
    with pytest.raises(ActionError, match="request must be finite numbers from 0 up, got"):
        machine.handle(start(request_))


def test_the_dead_are_taken_for_as_greedy_as_the_others() -> None:
    made = factory(4, protocol="distributed_consensus", rounds=12)
    network = FakeNetwork(made)
    requests = np.array([[4.0], [4.0], [4.0], [4.0]])
    agreed = network.decide(requests, np.ones(4), CAPACITY, dead=["agent_3"])
    np.testing.assert_allclose(agreed[:, 0], [2.5, 2.5, 2.5, 0.0], rtol=1e-6)


def test_agents_end_their_wait_in_any_order_of_delivery() -> None:
    made = factory(6, "ring", protocol="distributed_consensus", rounds=60)
    requests = np.array([[9.0], [1.0], [4.0], [0.0], [7.0], [2.0]])
    for order in range(3):
        network = FakeNetwork(made, order=order)
        for decision in range(2):
            agreed = network.decide(requests, np.ones(6), CAPACITY, decision=decision)
            np.testing.assert_allclose(agreed, requests * 10.0 / 23.0, rtol=1e-3)


# Gossip


class Always(Lots):
    """Everybody draws the neighbour at the place 0."""

    def place(self, agent: int, decision: int, round_number: int, count: int) -> int:
        return 0


def gossip(agents: int = 2, rounds: int = 2) -> MachineFactory:
    made = factory(agents, protocol="gossip", rounds=rounds)
    return MachineFactory(made.plan, made.topology, made.constraints, 1.0, Always(0))


def test_gossip_gives_half_to_whom_it_draws() -> None:
    machine = gossip().machine("agent_0")
    topic = "gossip/agent_1"
    assert plainly(machine.handle(start(12.0))) == [published(1, [6.0, 0.5], 1, topic), SetTimer(1.0)]
    second = plainly(machine.handle(heard([4.0, 0.5])))
    assert second == [published(2, [11.0, 1.0], 2, topic), SetTimer(1.5)]
    assert plainly(machine.handle(heard([9.0, 1.0], number=2))) == [("done", 0, [6.0])]


def test_nobody_waits_for_who_draws_another() -> None:
    machines = gossip(3, rounds=1).machines()
    # Everybody draws its first neighbour: 1 and 2 draw 0, and 0 draws 1. Nobody draws 2.
    waits = machines["agent_0"].handle(start(3.0))
    assert isinstance(waits[-1], SetTimer)
    alone = plainly(machines["agent_2"].handle(start(3.0)))
    content = {"decision": 0, "round": 1, "sums": [1.5, 0.5]}
    assert alone == [("publish", "gossip/agent_0", content, 1, ("agent_0",)), ("done", 0, [3.0])]


def test_lots_are_the_same_for_everybody_and_fall_on_all() -> None:
    lots = Lots(3)
    draws = [lots.place(agent, 5, number, 4) for agent in range(10) for number in range(200)]
    assert draws == [Lots(3).place(agent, 5, number, 4) for agent in range(10) for number in range(200)]
    np.testing.assert_allclose(np.bincount(draws, minlength=4) / len(draws), 0.25, atol=0.05)
    assert draws != [Lots(4).place(agent, 5, number, 4) for agent in range(10) for number in range(200)]
    neighbours = [lots.place(0, 5, number, 4) == lots.place(1, 5, number, 4) for number in range(2000)]
    assert np.mean(neighbours) == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("order", range(3))
def test_gossip_agrees_in_any_order_of_delivery(order: int) -> None:
    network = FakeNetwork(factory(6, protocol="gossip", rounds=120), order=order)
    requests = np.array([[9.0], [1.0], [4.0], [0.0], [7.0], [2.0]])
    agreed = network.decide(requests, np.ones(6), CAPACITY)
    np.testing.assert_allclose(agreed, requests * 10.0 / 23.0, rtol=1e-2)


# Centralized


def test_a_member_asks_again_and_makes_do_with_its_fair_share() -> None:
    machine = factory(protocol="centralized", rounds=4).machine("agent_0")
    asks = ("send", COORDINATOR, {"decision": 3, "request": [12.0]})
    assert plainly(machine.handle(start(12.0, decision=3))) == [asks, SetTimer(2.0)]
    assert machine.handle(Tick(1.0)) == []
    assert plainly(machine.handle(Tick(2.0))) == [asks, SetTimer(4.0)]
    done = machine.handle(Tick(4.0))
    assert plainly(done) == [("done", 3, [5.0])]
    report = done[0].report  # type: ignore[union-attr]
    assert (report.rounds, report.messages, report.missing) == (4, 2, 1)


def test_a_member_does_as_it_is_told_but_never_asks_for_more() -> None:
    machine = factory(protocol="centralized").machine("agent_0")
    machine.handle(start(6.0))
    old = Received(COORDINATOR, {"decision": -1, "agreed": np.array([1.0])}, 0.1)
    assert machine.handle(old) == []
    answer = Received(COORDINATOR, {"decision": 0, "agreed": np.array([7.0])}, 0.1)
    assert plainly(machine.handle(answer)) == [("done", 0, [6.0])]
    assert machine.handle(answer) == []


def asked(agent: str, request: float, decision: int = 0) -> Received:
    return Received(agent, {"decision": decision, "request": np.array([request])}, 0.1)


def told(agent: str, amount: float, decision: int = 0) -> Any:
    return ("send", agent, {"decision": decision, "agreed": [amount]})


def gather(agents: int, decision: int = 0, dead: int | None = None) -> Gather:
    expected = np.array([i != dead for i in range(agents)])
    return Gather(decision, 0.0, CAPACITY, np.ones(agents), expected)


def test_a_coordinator_answers_when_all_were_heard_and_again_on_demand() -> None:
    coordinator = factory(2, protocol="centralized", rounds=4).coordinator()
    assert coordinator is not None
    assert coordinator.handle(asked("agent_1", 30.0)) == []  # before it begins
    assert coordinator.handle(gather(2)) == [SetTimer(2.0)]
    answers = plainly(coordinator.handle(asked("agent_0", 10.0)))
    assert answers == [told("agent_0", 2.5), told("agent_1", 7.5)]
    assert plainly(coordinator.handle(asked("agent_1", 30.0))) == [told("agent_1", 7.5)]
    assert coordinator.handle(Tick(2.0)) == []
    assert coordinator.handle(asked("stranger", 1.0)) == []
    assert coordinator.handle(asked("agent_1", 30.0, decision=-1)) == []


def test_a_coordinator_keeps_a_fair_share_for_whom_it_did_not_hear() -> None:
    coordinator = factory(2, protocol="centralized", rounds=4).coordinator()
    assert coordinator is not None
    coordinator.handle(gather(2))
    coordinator.handle(asked("agent_0", 10.0))
    assert coordinator.handle(asked("agent_1", np.nan)) == []  # is no request
    assert plainly(coordinator.handle(Tick(2.0))) == [told("agent_0", 5.0), told("agent_1", 5.0)]


def test_a_coordinator_does_not_wait_for_the_dead() -> None:
    coordinator = factory(2, protocol="centralized", rounds=4).coordinator()
    assert coordinator is not None
    coordinator.handle(gather(2, dead=1))
    assert plainly(coordinator.handle(asked("agent_0", 10.0))) == [told("agent_0", 10.0)]


# All of them


@pytest.mark.parametrize("protocol", ["distributed_consensus", "gossip", "centralized"])
@pytest.mark.parametrize("loss", [0.0, 0.05, 0.2])
def test_under_losses_what_is_agreed_on_is_the_true_share(protocol: str, loss: float) -> None:
    rng = np.random.default_rng(5)
    more = {"centralized": {}, "gossip": {"rounds": 200}}.get(protocol, {"rounds": 40})
    made = factory(6, protocol=protocol, message_loss=loss, **more)
    network = FakeNetwork(made, lambda sender, recipient, number: bool(rng.random() >= loss))
    requests = np.array([[9.0], [1.0], [4.0], [0.0], [7.0], [2.0]])
    for decision in range(3):
        agreed = network.decide(requests, np.ones(6), CAPACITY, decision=decision)
        np.testing.assert_allclose(agreed, requests * 10.0 / 23.0, rtol=1e-3)


@pytest.mark.parametrize("protocol", ["distributed_consensus", "gossip", "centralized"])
def test_machines_of_agents_that_do_not_exist_are_refused(protocol: str) -> None:
    with pytest.raises(TopologyError, match="got 'agent_7'"):
        factory(protocol=protocol).machine("agent_7")


def test_what_is_awaited_can_be_polled() -> None:
    machine = factory(3, protocol="distributed_consensus", rounds=2).machine("agent_0")
    assert isinstance(machine, AveragingMachine)
    assert machine.awaited().senders == ()
    machine.handle(start(12.0, decision=2))
    awaited = machine.awaited()
    assert (awaited.round, awaited.version, awaited.topic) == (1, 7, "consensus")
    assert awaited.senders == ("agent_1", "agent_2")
    machine.handle(heard([8.0, 1.0], decision=2))
    assert machine.awaited().senders == ("agent_2",)


def test_one_agent_asks_for_what_there_is() -> None:
    for protocol in ("distributed_consensus", "gossip", "centralized"):
        network = FakeNetwork(factory(1, protocol=protocol))
        agreed = network.decide(np.array([[40.0]]), np.ones(1), CAPACITY)
        np.testing.assert_allclose(agreed, [[10.0]])
        assert network.sent == (2 if protocol == "centralized" else 0)


def test_weighted_machines_find_the_price_of_the_perfect_agreement() -> None:
    made = factory(5, protocol="distributed_consensus", objective="weighted")
    weights = np.array([1.0, 2.0, 4.0, 1.0, 2.0])
    requests = np.array([[3.0], [3.0], [3.0], [3.0], [3.0]])
    agreed = FakeNetwork(made).decide(requests, weights, CAPACITY)
    # At the price 16 / 7 whoever weighs 4 keeps all, and the others 6 over 7 per 2 of weight.
    price = (3 + 6 + 3 + 6) / (10 - 3)
    np.testing.assert_allclose(agreed[:, 0], 3.0 * np.minimum(1.0, weights / price), rtol=3e-3)
    assert agreed.sum() <= 10.0 + 1e-9
