"""Learned messages over the bus: parity with evaluation, delays, losses, silence, and what is counted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from camac_dra.coordination.agent_actor import AgentHost, HostSpec
from camac_dra.coordination.message_bus import MessageBus
from camac_dra.coordination.message_exchange import MESSAGES, Heard, MessageExchange, Talk
from camac_dra.coordination.plant import SimulatedPlant
from camac_dra.coordination.protocol_carrier import MessageFaults
from camac_dra.coordination.runtime.decision import Inputs
from camac_dra.environment.topology import Topology
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.block_policy import BlockPolicy
from camac_dra.utils.errors import ConfigurationError
from tests.coordination.small_deployments import talking_config, talking_policy

F32 = np.dtype(np.float32)


class TestAgainstEvaluation:
    """Hosts that see own rows only decide as evaluation does, which is shown the neighbours' rows."""

    @pytest.mark.parametrize("per_actor", [1, 2, 4])
    @pytest.mark.parametrize(
        "problem",
        [
            {},
            {"topology": "fully_connected"},
            {"message_delay": 1.0},
            {"message_delay": 2.0, "topology_options": {"edge_weight": 0.7}},
            {"topology": "star", "max_neighbors": 2},
        ],
        ids=["ring", "all", "late", "later", "nearest"],
    )
    def test_every_decision_is_the_same_to_the_bit(self, problem: dict[str, Any], per_actor: int) -> None:
        config = talking_config(**problem)
        spec = talking_policy(config)
        policy = spec.build()
        env = VectorEnvironment(config.environment, 1, autoreset=True)
        env.reset(3)
        distinct = set()
        with MessageBus(backend="local") as bus:
            hosts = make_hosts(config, spec, bus, per_actor)
            plant = SimulatedPlant(config.environment, 3)
            for _ in range(24):  # one episode
                expected = env.requests_from_actions(policy.act(env.observations))[0]
                env.step_requests(expected[None])
                requests, _ = decide(hosts, plant)
                np.testing.assert_array_equal(requests, expected)
                plant.apply(plant.allocate(requests))
                distinct.add(requests.tobytes())
        assert len(distinct) > 12

    @pytest.mark.parametrize("bits", [1, 4, 12])
    def test_rounded_messages_are_small_and_say_the_same(self, bits: int) -> None:
        config = talking_config()
        spec = talking_policy(config, message_bits=bits)
        policy = spec.build()
        with MessageBus(backend="local") as bus:
            hosts = make_hosts(config, spec, bus, 2)
            plant = SimulatedPlant(config.environment, 3)
            full = plant.env.observations.copy()
            requests, talk = decide(hosts, plant)
        np.testing.assert_array_equal(requests, plant.env.requests_from_actions(policy.act(full))[0])
        assert talk == Talk(8, 8 * 5 * (1 if bits <= 8 else 2), 0)

    def test_agents_decide_by_what_they_are_told(self) -> None:
        """Else parity would prove nothing about messages."""
        config = talking_config()
        policy = talking_policy(config).build()
        plant = SimulatedPlant(config.environment, 3)
        differs = 0
        for _ in range(10):
            full = plant.env.observations.copy()
            alone = full.copy()
            alone[:, :, 1:] = 0.0
            actions = policy.act(full)
            differs += int((actions != policy.act(alone)).sum())
            plant.apply(plant.allocate(plant.env.requests_from_actions(actions)[0]))
        assert differs > 10


def make_hosts(config: Any, spec: Any, bus: MessageBus, per_actor: int) -> list[AgentHost]:
    names = config.environment.agent_ids
    groups = [range(first, first + per_actor) for first in range(0, len(names), per_actor)]
    homes = {names[agent]: names[group[0]] for group in groups for agent in group}
    return [
        AgentHost(HostSpec(tuple(group), config.environment, config.coordination, spec, homes), bus)
        for group in groups
    ]


def decide(hosts: list[AgentHost], plant: SimulatedPlant) -> tuple[np.ndarray, Talk]:
    """Let all decide at the same time, as processes do: what they have to wait for comes meanwhile."""
    state = plant.observe().of_own_rows()
    assert state.observations.shape[1] == 1
    with ThreadPoolExecutor(len(hosts)) as pool:
        answers = list(pool.map(lambda host: host.decide(Inputs.of(state, host.numbers, 20.0)), hosts))
    return np.concatenate([a.requests for a in answers]), sum((a.talk for a in answers), Talk())


class Ring:
    """Three processes of one agent each in a ring, with the first under test; the others speak by hand."""

    def __init__(self, bus: MessageBus, faults: MessageFaults | None = None, **problem: Any) -> None:
        config = talking_config(num_agents=3, **problem).environment
        self.bus, self.now = bus, 100.0
        names = config.agent_ids
        for name in names:
            bus.register(name)
        topology = Topology.generate(config.topology, names, config.topology_options)
        homes = dict(zip(names, names, strict=True))
        self.exchange = MessageExchange(
            [0], config, topology, bus, homes, (2, F32), faults, clock=lambda: self.now, sleep=self._sleep
        )
        self.waited: list[float] = []
        latest = bus.latest_many

        def spy(keys: Any, *, at_least: int | None = None, timeout: float = 0.0) -> Any:
            self.waited.append(timeout)
            return latest(keys, at_least=at_least, timeout=0.0)

        bus.latest_many = spy  # type: ignore[method-assign]

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def say(self, agent: int, step: int, value: Any, slot: int = 0) -> None:
        said = np.full((1, 2), value, np.float32) if isinstance(value, float) else value
        self.bus.publish(f"agent_{agent}", f"{MESSAGES}/{slot}", {MESSAGES: said}, version=step)

    def hear(self, step: int, seconds: float = 2.0, **options: Any) -> Heard:
        return self.exchange.run(step, np.zeros((1, 2), np.float32), self.now + seconds, **options)


@pytest.fixture
def bus():
    with MessageBus(backend="local") as made:
        yield made


def values(heard: Heard) -> list[float | None]:
    return [float(m[0]) if ok else None for m, ok in zip(heard.messages[0], heard.mask[0], strict=True)]


def test_what_does_not_come_leaves_what_was_heard_before_and_is_counted(bus: MessageBus) -> None:
    ring = Ring(bus)
    ring.say(1, 0, 1.0)
    first = ring.hear(0)
    assert values(first) == [1.0, None]
    assert first.talk == Talk(messages=2, message_bytes=16, missed=1)
    ring.say(2, 1, 2.0)
    second = ring.hear(1)
    assert values(second) == [1.0, 2.0]
    assert second.talk.missed == 1


def test_the_silent_and_the_dead_are_not_waited_for(bus: MessageBus) -> None:
    ring = Ring(bus)
    ring.say(1, 0, 1.0)
    ring.hear(0)
    assert ring.waited == [2.0]
    ring.say(1, 1, 1.0)
    ring.hear(1)
    assert ring.waited[1:] == [2.0, 0.0]  # agent_2 said nothing
    ring.say(2, 1, 2.0)  # late, but it lives
    ring.say(1, 2, 1.0)
    assert values(ring.hear(2)) == [1.0, 2.0]
    ring.hear(3, gone=frozenset(["agent_1"]))
    assert ring.waited[-2:] == [2.0, 0.0]


def test_delayed_messages_wait_as_long_as_the_problem_says(bus: MessageBus) -> None:
    ring = Ring(bus, message_delay=2.0)
    heard = []
    for step in range(6):
        for agent in (1, 2):
            ring.say(agent, step, float(10 * agent + step), slot=step % 3)
        result = ring.hear(step)
        assert result.talk.missed == 0
        heard.append(values(result))
    assert heard == [[None, None]] * 2 + [[10.0 + step, 20.0 + step] for step in range(4)]


def test_what_is_no_message_is_not_taken_in(bus: MessageBus) -> None:
    ring = Ring(bus)
    bad = [np.zeros((2, 2), np.float32), np.full((1, 2), np.nan, np.float32), np.zeros((1, 2)), "hello"]
    for step, message in enumerate(bad):
        ring.say(1, step, message)
        ring.say(2, step, float(step))
        assert values(ring.hear(step)) == [None, float(step)]


def test_nothing_passes_a_cut(bus: MessageBus) -> None:
    ring = Ring(bus)
    ring.say(1, 0, 1.0)
    ring.say(2, 0, 2.0)
    assert values(ring.hear(0, cut=frozenset(["agent_0", "agent_2"]))) == [None, 2.0]


def test_faults_lose_their_share_and_nothing_else(bus: MessageBus) -> None:
    ring = Ring(bus, MessageFaults(drop=0.3, seed=4))
    missed = 0
    for step in range(300):
        for agent in (1, 2):
            ring.say(agent, step, float(step + agent))
        result = ring.hear(step)
        missed += result.talk.missed
        for agent, value in enumerate(values(result), 1):
            assert value is None or value <= step + agent
    assert 0.2 < missed / 600 < 0.4


def test_lateness_on_purpose_is_waited_for_until_the_deadline(bus: MessageBus) -> None:
    ring = Ring(bus, MessageFaults(delay=1.0, seed=1))
    missed = waits = 0
    for step in range(100):
        ring.say(1, step, float(step))
        ring.say(2, step, float(step))
        before = ring.now
        missed += ring.hear(step, 1.0).talk.missed
        assert ring.now <= before + 1.0
        waits += ring.now > before
    assert waits > 50
    assert 0.25 < missed / 200 < 0.5  # exp(-1)


def test_policies_that_do_not_share_a_network_cannot_talk() -> None:
    config = talking_config()
    spec = talking_policy(config)
    parts = [spec._actor(spec.weights[0]) for _ in range(2)]
    with pytest.raises(ConfigurationError, match=r"training\.policies must be 'shared' .* got 2 policies"):
        BlockPolicy(parts, [0, 0, 1, 1])
