"""State machines of several processes over a bus, with losses, late messages and a cut."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from camac_dra.coordination.agreements import make_agreement
from camac_dra.coordination.coordinator import CoordinatorThread
from camac_dra.coordination.message_bus import MessageBus
from camac_dra.coordination.plant import SimulatedPlant
from camac_dra.coordination.protocol_carrier import MessageFaults, ProtocolCarrier
from camac_dra.coordination.protocols import Start, machine_factory
from camac_dra.environment.agreement import AgreementContext
from tests.coordination.small_deployments import config_of

PROCESSES = ((0, 1), (2,), (3,))
HOMES = ("first", "second", "third")


class World:
    """Carriers of three processes on one bus; requests are the same in every decision."""

    def __init__(self, protocol: str, faults: MessageFaults | None = None, timeout: float = 3.0, **settings):
        self.config = config_of(protocol, message_timeout=timeout, **settings)
        self.plant = SimulatedPlant(self.config.environment, 1)
        env = self.plant.env
        self.bus = MessageBus(backend="local")
        factory = machine_factory(self.config.coordination, env.topology, env.constraints)
        assert factory is not None
        self.names = env.agent_ids
        homes = {self.names[i]: HOMES[number] for number, process in enumerate(PROCESSES) for i in process}
        for home in HOMES:
            self.bus.register(home)
        self.carriers = [
            ProtocolCarrier(
                {self.names[i]: factory.machine(self.names[i]) for i in process},
                self.bus,
                HOMES[number],
                homes,
                faults,
            )
            for number, process in enumerate(PROCESSES)
        ]
        self.coordinator = CoordinatorThread.needed_for(self.config.coordination, env, self.bus)
        self.state = self.plant.observe()
        self.requests = self.state.capacity[0] * np.array(
            [[0.9], [0.1], [0.7], [0.3]]
        )  # (N, R) twice too much
        self.decision = 0

    def decide(self, running=(0, 1, 2), seconds: float = 3.0, **where) -> dict:
        self.decision += 1
        if self.coordinator is not None:
            expected = np.zeros(4, bool)
            for process in running:
                expected[list(PROCESSES[process])] = True
            state = self.state
            object.__setattr__(state, "step", self.decision)
            self.coordinator.begin(state, expected)

        def run(process: int) -> dict:
            now = time.monotonic()
            starts = {
                self.names[i]: Start(self.decision, now, self.requests[i], np.ones(1), self.state.capacity)
                for i in PROCESSES[process]
            }
            return self.carriers[process].run(starts, now + seconds, **where)

        with ThreadPoolExecutor(3) as pool:
            parts = list(pool.map(run, running))
        return {name: done for part in parts for name, done in part.items()}

    def expected(self) -> np.ndarray:
        env = self.plant.env
        context = AgreementContext(
            self.state.capacity[None],
            env.constraints.groups,
            np.ones((1, 4)),
            np.ones((1, *self.requests.shape)),
            np.ones((1, 4), bool),
            0,
            np.random.default_rng(0),
        )
        agreement = make_agreement(self.config)
        assert agreement is not None
        return agreement(self.requests[None], context)[0]

    def close(self) -> None:
        if self.coordinator is not None:
            self.coordinator.close()
        self.bus.close()


@pytest.fixture
def make_world():
    worlds = []

    def make(*args, **settings) -> World:
        worlds.append(World(*args, **settings))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


@pytest.mark.parametrize("protocol", ["centralized", "distributed_consensus"])
def test_processes_agree_as_arrays_do(make_world, protocol: str) -> None:
    world = make_world(protocol)
    for _ in range(3):
        done = world.decide()
        agreed = np.array([done[name].agreed for name in world.names])
        np.testing.assert_allclose(agreed, world.expected(), rtol=1e-9)
        assert sum(part.report.missing for part in done.values()) == 0


def test_gossip_fits_as_well(make_world) -> None:
    world = make_world("gossip")
    done = world.decide()
    agreed = np.array([done[name].agreed for name in world.names])
    np.testing.assert_allclose(agreed.sum(axis=0), world.state.capacity[0], rtol=0.02)


@pytest.mark.parametrize("protocol", ["distributed_consensus", "gossip"])
def test_losses_and_lateness_slow_things_down_and_nothing_more(make_world, protocol: str) -> None:
    world = make_world(protocol, MessageFaults(drop=0.1, delay=0.002, seed=3), timeout=2.0, rounds=60)
    done = world.decide(seconds=5.0)
    assert sum(part.report.missing for part in done.values()) > 0
    agreed = np.array([done[name].agreed for name in world.names])
    np.testing.assert_allclose(agreed.sum(axis=0), world.state.capacity[0], rtol=0.05)


def test_what_is_dropped_on_the_way_to_a_coordinator_comes_late(make_world) -> None:
    world = make_world("centralized", MessageFaults(drop=0.3, seed=2), timeout=20.0)
    for _ in range(3):
        done = world.decide(seconds=20.0)
        agreed = np.array([done[name].agreed for name in world.names])
        np.testing.assert_allclose(agreed, world.expected(), rtol=1e-9)


def test_lost_requests_are_sent_again(make_world) -> None:
    world = make_world("centralized", MessageFaults(drop=0.5, seed=1), message_loss=0.5)
    done = world.decide(seconds=5.0)
    assert len(done) == 4
    total = np.array([done[name].agreed for name in world.names]).sum(axis=0)
    assert (total <= world.state.capacity[0] * 2.0).all()


@pytest.mark.parametrize("protocol", ["centralized", "distributed_consensus"])
def test_nobody_waits_for_the_dead(make_world, protocol: str) -> None:
    world = make_world(protocol)
    world.decide()
    began = time.monotonic()
    done = world.decide((0, 1), gone=frozenset({world.names[3]}))
    assert set(done) == set(world.names[:3])
    assert time.monotonic() - began < 1.5  # the rounds' own timeouts add up to more than two seconds
    total = np.array([done[name].agreed for name in world.names[:3]]).sum(axis=0)
    assert (total <= world.state.capacity[0] * (1 + 1e-9)).all()


def test_whoever_is_late_is_left_out_and_takes_part_again(make_world) -> None:
    world = make_world("centralized")
    alone = world.decide((2,), seconds=0.001)  # nobody could answer in that time
    assert alone == {} or set(alone) == {world.names[3]}
    done = world.decide()
    np.testing.assert_allclose(
        np.array([done[name].agreed for name in world.names]), world.expected(), rtol=1e-9
    )


def test_a_cut_lets_nothing_pass_and_heals(make_world) -> None:
    world = make_world("distributed_consensus", timeout=1.0)
    cut = frozenset(world.names[:2])
    done = world.decide(cut=cut)
    assert sum(part.report.missing for part in done.values()) > 0
    healed = world.decide()
    np.testing.assert_allclose(
        np.array([healed[name].agreed for name in world.names]), world.expected(), rtol=1e-9
    )
