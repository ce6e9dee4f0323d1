"""The bus's state machines keep the promise, whatever dies, overtakes or gets lost, and whenever."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.coordination.bus_world import World

AGENTS = "abc"
SHARDS = 2
CAPACITY = 5
agents, shards = st.sampled_from(AGENTS), st.integers(0, SHARDS - 1)


class BusMachine(RuleBasedStateMachine):
    """Three agents in a process each, on two shards, with queues of five."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(AGENTS, SHARDS, CAPACITY)
        self.undisturbed = True

    @rule(sender=agents, recipient=agents, count=st.integers(1, 4), ttl=st.none() | st.just(2.0))
    def send(self, sender: str, recipient: str, count: int, ttl: float | None) -> None:
        for _ in range(count):
            if not self.world.send(sender, recipient, ttl):
                self.ask_for_credit(sender, recipient)

    @rule(sender=agents, recipient=agents, count=st.integers(2, 4))
    def send_many(self, sender: str, recipient: str, count: int) -> None:
        if self.world.send_many(sender, recipient, count) < count:
            self.ask_for_credit(sender, recipient)

    def ask_for_credit(self, sender: str, recipient: str) -> None:
        """Without credit nothing happens at all: let the question and its answer arrive at once."""
        number = self.world.processes[sender].core.outlet(recipient).shard
        for agent in (sender, *AGENTS, sender):
            self.world.push(agent, number)
            self.world.carry_up(agent, number)
            self.world.carry_down(agent, number)

    @rule(agent=agents, most=st.integers(1, 4), reject=st.booleans())
    def handle(self, agent: str, most: int, reject: bool) -> None:
        self.world.handle(agent, most, reject)

    @rule(agent=agents)
    def snapshot(self, agent: str) -> None:
        self.world.snapshot(agent)

    @rule(agent=agents, number=shards)
    def push(self, agent: str, number: int) -> None:
        self.world.push(agent, number)

    @rule(agent=agents, number=shards, index=st.integers(0, 3))
    def carry_up(self, agent: str, number: int, index: int) -> None:
        self.world.carry_up(agent, number, index)

    @rule(agent=agents, number=shards)
    def carry_down(self, agent: str, number: int) -> None:
        self.world.carry_down(agent, number)

    @rule(seconds=st.sampled_from([0.1, 1.5, 30.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule()
    def carry_everything(self) -> None:
        for agent in AGENTS:
            for number in range(SHARDS):
                self.world.push(agent, number)
                self.world.carry_up(agent, number)
        for agent in AGENTS:
            for number in range(SHARDS):
                self.world.carry_down(agent, number)

    @rule(number=shards)
    def kill_shard(self, number: int) -> None:
        self.world.kill_shard(number)
        self.undisturbed = False

    @rule(agent=agents)
    def kill_agent(self, agent: str) -> None:
        self.world.kill_agent(agent)
        self.undisturbed = False

    @rule(agent=agents, number=shards)
    def lose_connection(self, agent: str, number: int) -> None:
        """What was under way is lost though both ends live."""
        self.world.processes[agent].under_way[number].clear()
        self.world.greet(agent, number)

    @rule(agent=agents, number=shards)
    def greet(self, agent: str, number: int) -> None:
        if not self.world.processes[agent].core.links[number].ready:
            self.world.greet(agent, number)

    @precondition(lambda self: self.undisturbed)
    @invariant()
    def nobody_exceeds_a_queue(self) -> None:
        for agent in AGENTS:
            assert self.world.outstanding(agent) <= CAPACITY

    def teardown(self) -> None:
        self.world.heal()
        assert self.world.unsettled() == 0
        self.world.check()


TestBusMachine = BusMachine.TestCase
TestBusMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def test_what_was_rejected_is_no_dead_letter_before_it_is_acknowledged() -> None:
    """Else a recipient that dies in between is handed it once more, and it is dead and received."""
    machine = BusMachine()
    machine.send(sender="a", recipient="a", count=2, ttl=None)  # the first asks for credit
    machine.carry_everything()
    machine.lose_connection(agent="a", number=1)
    machine.handle(agent="a", most=1, reject=True)
    machine.carry_everything()
    machine.kill_agent(agent="a")
    machine.teardown()


def test_what_was_rejected_and_acknowledged_is_a_dead_letter() -> None:
    machine = BusMachine()
    machine.send(sender="a", recipient="b", count=2, ttl=None)  # the first asks for credit
    machine.carry_everything()
    machine.handle(agent="b", most=1, reject=True)
    machine.snapshot(agent="b")
    machine.carry_everything()
    assert len(machine.world.processes["a"].core.dead.newest()) == 1
    machine.kill_agent(agent="b")
    machine.teardown()
