"""The decision loop: observe, exchange, decide, agree, allocate, step; whatever fails, it goes on.

Axes: N agents, R resources, K capacity groups.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from camac_dra.coordination.agent_actor import HostSnapshot, HostSpec, PolicySource
from camac_dra.coordination.coordinator import CoordinatorThread
from camac_dra.coordination.message_bus import MessageBus
from camac_dra.coordination.plant import Outcome, Plant, PlantState
from camac_dra.coordination.protocol_carrier import MessageFaults
from camac_dra.coordination.protocols import plan_protocol
from camac_dra.coordination.runtime.chaos import Chaos, ChaosSpec, Cut, Heal, KillAgents, KillBus
from camac_dra.coordination.runtime.decision import Answer, Decided, Inputs, Missing, assemble
from camac_dra.coordination.runtime.fleet import Fleet
from camac_dra.coordination.runtime.supervision import Supervisor
from camac_dra.coordination.runtime.telemetry import Summary, Telemetry
from camac_dra.models.actor import PolicySpec
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema.coordination import CoordinationConfig

_ROUNDING = 1e-9
_LOOK = 0.2  # seconds between two looks at whether to stop

Report = Callable[[int, dict[str, float]], None]
"""Gets the number of a decision and its figures by tag."""


SECONDS_PER_ROUND = 33e-6
"""Of one core, that one agent's part in one round of averaging or gossip takes (measured, 4 neighbours)."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """How a deployment runs."""

    agents_per_actor: int = 1
    quorum: float = 0.5  # share of the present agents without whose answers everybody gets the fair share
    patience: float = 3.0  # message timeouts of silence after which a process is killed and started again
    interval: float = 0.0  # seconds from one decision to the next that `run` keeps, at least
    shadow: bool = False  # decide without applying: everybody gets the fair share
    chaos: ChaosSpec = field(default_factory=ChaosSpec)
    start_timeout: float = 180.0  # seconds in which the next process must be up

    def __post_init__(self) -> None:
        """Raise `ConfigurationError` where an option is out of range."""
        for name, value, fits, rule in (
            ("agents_per_actor", self.agents_per_actor, self.agents_per_actor >= 1, "at least 1"),
            ("quorum", self.quorum, 0.0 <= self.quorum <= 1.0, "from 0 to 1"),
            ("interval", self.interval, self.interval >= 0.0, "zero seconds or more"),
            ("patience", self.patience, self.patience >= 1.0, "at least 1"),
        ):
            if not fits:
                raise ConfigurationError(f"{name} must be {rule}, got {value}")


class Deployment:
    """Agents at work on a plant: `run` or `step` it, then `close` it.

    Guarantees: what is applied never exceeds a capacity; no decision takes longer than the message timeout
    (and the plant's own time); an agent that dies, hangs or answers nonsense costs its own part only.

    Used from one thread, on Ray.

    Attributes:
        telemetry, supervisor: figures and state so far.
        bus: what the agents talk over.
    """

    def __init__(
        self,
        plant: Plant,
        policy: PolicySource,
        coordination: CoordinationConfig,
        options: Options | None = None,
        *,
        bus: MessageBus | None = None,
        report: Report | None = None,
    ) -> None:
        """Start bus and agents; without a ``bus`` one is made, and closed in the end.

        Raises:
            FleetError: processes do not start.
        """
        self.plant, self.options = plant, options or Options()
        self._timeout = coordination.message_timeout
        self._own_rows = isinstance(policy, PolicySpec) and policy.communicates
        self._report = report
        _warn_of_long_agreements(plant, coordination, self.options.agents_per_actor)
        self.bus = bus or MessageBus(self._timeout, max_queue_size=coordination.max_queue_size)
        env = plant.env
        self._members = _split(env.num_agents, self.options.agents_per_actor)
        chaos = self.options.chaos
        faults = MessageFaults(chaos.drop, chaos.delay, chaos.seed) if chaos.message_faults else None
        names = env.agent_ids
        # A process has the mailbox of its first agent, so an agent by itself has its own.
        homes = {names[agent]: names[agents[0]] for agents in self._members for agent in agents}
        specs = [
            HostSpec(tuple(agents.tolist()), env.config, coordination, policy, homes, faults)
            for agents in self._members
        ]
        with contextlib.ExitStack() as undo:
            if bus is None:
                undo.callback(self.bus.close)
            self._coordinator = CoordinatorThread.needed_for(coordination, env, self.bus)
            if self._coordinator is not None:
                undo.callback(self._coordinator.close)
            self.fleet = Fleet(specs, self.bus, self.options.start_timeout)
            undo.callback(self.fleet.close)
            self._undo = undo.pop_all()  # nothing went wrong: it is for `close`
        self.telemetry = Telemetry()
        self.supervisor = Supervisor(self.options.patience * self._timeout)
        self._started = time.monotonic()
        self.supervisor.watch(len(self.fleet), self._started)
        self._chaos = Chaos(chaos, env.agent_ids, len(self.fleet), self.bus.num_shards)
        self._cut: frozenset[str] = frozenset()
        self._snapshots: dict[int, HostSnapshot] = {}
        self.problems: dict[str, int] = {}  # what agents' processes raised, and how often
        self.last_decided: Decided | None = None

    def run(self, decisions: int, stop: Callable[[], bool] = lambda: False) -> Summary:
        """Make so many decisions, or fewer where ``stop()`` is true before one; return the figures of all."""
        for _ in range(decisions):
            if stop():
                break
            begun = time.monotonic()
            self.step()
            self._pause(begun + self.options.interval, stop)
        return self.summary()

    def step(self) -> Outcome:
        """Make one decision and apply it."""
        begun = time.monotonic()
        self._supervise(begun)
        state = self.plant.observe()
        if self._own_rows:  # all else agents have to hear from each other
            state = state.of_own_rows()
        decided = self._decide(state)
        self.last_decided = decided
        requests = decided.requests
        if self.options.shadow:
            requests = np.minimum(state.askable, state.fair_share)
        grants = self.plant.allocate(requests)
        over = self._exceeds(grants, state.capacity)
        latency = time.monotonic() - begun
        outcome = self.plant.apply(grants)
        self.telemetry.add(decided, outcome, latency, time.monotonic() - begun, over)
        if self._report is not None:
            figures = self.telemetry.figures(decided, outcome)
            alive = len(self.supervisor.alive)
            lives = {"processes/alive": alive, "processes/deaths": self.supervisor.deaths}
            lives["processes/restarts"] = self.supervisor.restarts
            bus = {f"bus/{name}": float(value) for name, value in self.bus.stats(shards=False).items()}
            self._report(state.step, {**figures, **lives, **bus})
        return outcome

    @staticmethod
    def _pause(until: float, stop: Callable[[], bool]) -> None:
        """Wait for a time, or until there is reason to stop."""
        while (left := until - time.monotonic()) > 0.0 and not stop():
            time.sleep(min(left, _LOOK))

    def summary(self) -> Summary:
        """Return the figures of everything so far."""
        supervisor = self.supervisor
        return self.telemetry.summary(
            time.monotonic() - self._started,
            supervisor.deaths,
            supervisor.restarts,
            supervisor.recoveries,
            self.bus.stats(),
        )

    def close(self) -> None:
        """End agents and, where it was made here, the bus."""
        self._undo.close()

    def __enter__(self) -> Deployment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decide(self, state: PlantState) -> Decided:
        """Ask all processes, and make the best of what they answer."""
        alive = self.supervisor.alive
        if self._coordinator is not None:
            self._coordinator.begin(state, self._reporting(state, alive))
        names = self.plant.env.agent_ids
        gone = frozenset(names[agent] for process in self.supervisor.down for agent in self._members[process])
        inputs = {
            process: Inputs.of(state, self._members[process], self._timeout, gone, self._cut)
            for process in alive
        }
        for process in alive:
            if not self.fleet.is_overdue(process):  # silence counts from when something was asked
                self.supervisor.heard(process, time.monotonic())
        answers, problems = self.fleet.ask(inputs, self._timeout)
        now = time.monotonic()
        for process, answer in answers.items():
            if answer == "dead":
                self._mourn(process, now)
            elif isinstance(answer, Answer):
                self.supervisor.heard(process, now)
                if isinstance(answer.snapshot, HostSnapshot):
                    self._snapshots[process] = answer.snapshot
        for process, problem in problems.items():  # it raised: it lives
            self.supervisor.heard(process, now)
            self.problems[problem] = self.problems.get(problem, 0) + 1
        dead: dict[int, Answer | Missing] = dict.fromkeys(self.supervisor.down, "dead")
        return assemble(
            state, self._members, {**answers, **dead}, self.plant.env.constraints.groups, self.options.quorum
        )

    def _reporting(self, state: PlantState, alive: Sequence[int]) -> np.ndarray:
        """Return which agents (N,) the coordinator may expect to hear from."""
        expected = np.zeros(len(state.present), bool)
        for process in alive:
            expected[self._members[process]] = True
        return expected & state.present

    def _supervise(self, now: float) -> None:
        """Do what chaos asks for; kill who hangs, take back who returned."""
        for event in self._chaos.due(now - self._started):
            if isinstance(event, KillAgents):
                if self.supervisor.is_alive(event.process):  # else its number may be another process's by now
                    self.fleet.kill(event.process)
            elif isinstance(event, KillBus):
                self.bus.kill_shard(event.shard)
            elif isinstance(event, Cut):
                self._cut = event.side
            elif isinstance(event, Heal):
                self._cut = frozenset()
        for process in self.fleet.late_answers():
            self.supervisor.heard(process, now)
        for process in self.supervisor.hanging(now):
            self.fleet.kill(process)
            self.fleet.expect(process, self._snapshots.get(process))
        for process in self.fleet.returned():
            self.supervisor.back(process, now)

    def _mourn(self, process: int, now: float) -> None:
        if self.supervisor.died(process, now):
            self.fleet.expect(process, self._snapshots.get(process))

    def _exceeds(self, grants: np.ndarray, capacity: np.ndarray) -> bool:
        """Return whether grants (N, R) exceed a capacity (K, R)."""
        load = self.plant.env.constraints.groups.load(grants[None])[0]  # (K, R)
        return bool((load > capacity * (1.0 + _ROUNDING)).any())


def _split(num_agents: int, per_process: int) -> list[np.ndarray]:
    """Return the numbers of the agents of each process: consecutive, as even as can be."""
    processes = -(-num_agents // per_process)
    return np.array_split(np.arange(num_agents), processes)


def _warn_of_long_agreements(plant: Plant, coordination: CoordinationConfig, per_process: int) -> None:
    """Say so where the rounds of a protocol alone may take longer than a decision may."""
    if coordination.protocol in ("none", "centralized"):
        return
    rounds = plan_protocol(coordination, plant.env.topology).rounds
    agents = min(per_process, plant.env.num_agents)
    seconds = rounds * agents * SECONDS_PER_ROUND
    if seconds > coordination.message_timeout:
        _log.warning(
            "coordination.protocol: %s takes %d rounds on this topology; for the %d agents of a process that "
            "is about %.1f s of a core, more than message_timeout = %g s, after which they fall back to "
            "their fair share. Take fewer --agents_per_actor, set rounds, or take protocol 'centralized'",
            coordination.protocol,
            rounds,
            agents,
            seconds,
            coordination.message_timeout,
        )
