"""Coordination of agents in one process: exchange, decide, agree, allocate, one call per step."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from camac_dra.coordination.agent import Agent
from camac_dra.coordination.conflict_resolver import Conflict, ConflictResolver
from camac_dra.coordination.message_bus import MessageBus
from camac_dra.coordination.protocol_carrier import ProtocolCarrier, Toll
from camac_dra.coordination.protocols import COORDINATOR, Gather, Machine, Start, machine_factory
from camac_dra.coordination.protocols.objectives import OBJECTIVES
from camac_dra.coordination.scheduler import Scheduler
from camac_dra.coordination.state_sync import DELTA, DIGEST, StateSync
from camac_dra.environment.agreement import in_fair_shares
from camac_dra.environment.environment import Environment
from camac_dra.environment.request_reader import RequestReader
from camac_dra.utils.arguments import check_kind, check_list
from camac_dra.utils.errors import BusClosedError, ProtocolError, did_you_mean
from camac_dra.utils.schema.coordination import CoordinationConfig
from camac_dra.utils.validation import validated

Strategy = Literal["centralized", "distributed_consensus", "gossip"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

_log = logging.getLogger(__name__)


class Protocol:
    """Lets agents of one environment agree on what they ask for, and carries it out.

    `coordinate` is one step: agents take in their messages, decide on what they see, agree over their bus by
    the strategy's state machines, and the environment grants what fits, never more than a capacity. Agents of
    the environment that are not among those given ask for nothing.

    Used from one thread. One protocol serves one team of agents at a time.

    Attributes:
        strategy: how they agree.
        resolver: what `resolve_conflicts` goes by.
        scheduler: the order in which agents decide.
    """

    def __init__(
        self,
        strategy: Strategy = "distributed_consensus",
        *,
        rounds: int | None = None,
        objective: Literal["proportional", "weighted", "max_weight"] = "proportional",
        timeout: float = 5.0,
        resolver: ConflictResolver | None = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        """Agree by ``strategy``.

        Args:
            strategy: `centralized`, `distributed_consensus` or `gossip`.
            rounds: exchanges per decision; None: as many as leave a thousandth of the error, 200 at most.
            objective: what gives way where requests do not fit: all in proportion, the cheaper more,
                or what has less weight times what waits.
            timeout: seconds that an agreement may take; who has none by then asks for its fair share.
            resolver: for `resolve_conflicts`; None: by `weighted_random`.
            scheduler: None: all at once.

        Raises:
            ProtocolError: an unknown strategy.
            ConfigurationError: another setting is out of range.
        """
        if strategy not in STRATEGIES:
            raise ProtocolError(
                f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}."
                + did_you_mean(str(strategy), STRATEGIES)
            )
        self.strategy: Strategy = strategy
        settings = {
            "protocol": strategy,
            "rounds": rounds,
            "objective": objective,
            "message_timeout": timeout,
        }
        self._settings: CoordinationConfig = validated({"coordination": settings}).coordination
        for name, given, kind in (
            ("resolver", resolver, ConflictResolver),
            ("scheduler", scheduler, Scheduler),
        ):
            if given is not None and not isinstance(given, kind):
                raise ProtocolError(f"{name} must be a {kind.__name__} or None, got {given!r}")
        self.resolver = ConflictResolver() if resolver is None else resolver
        self.scheduler = Scheduler() if scheduler is None else scheduler
        self._team: list[Agent] = []
        self._carrier: ProtocolCarrier | None = None
        self._replicas: dict[str, StateSync] = {}
        self._parts: dict[str, int] = {}  # which part of the team's graph each agent belongs to
        self._decision = 0
        self._home = ""  # mailbox of the machines

    def initiate(self, agents: Sequence[Agent] | None = None) -> bool:
        """Make ready for decisions of these agents (None: of those coordinated last); return whether it is.

        `coordinate` does it by itself. It is not ready where there are no agents.

        Raises:
            ProtocolError: agents of several environments or buses, or one twice.
            ConfigurationError: the topology does not suit the strategy.
        """
        team = self._team if agents is None else _agents(agents)
        if not team:
            return False
        env, bus = _common(team)
        self.close()
        core = env.core
        factory = machine_factory(self._settings, core.topology, core.constraints)
        assert factory is not None  # there is no strategy without machines
        machines: dict[str, Machine] = {agent.id: factory.machine(agent.id) for agent in team}
        coordinator = factory.coordinator()
        if coordinator is not None:
            machines[COORDINATOR] = coordinator
        home = f"protocol_{uuid.uuid4().hex}"
        homes = dict.fromkeys([*core.agent_ids, COORDINATOR], home)
        bus.register(home)
        self._carrier, self._home = ProtocolCarrier(machines, bus, home, homes, direct=False), home
        self._replicas = {agent.id: StateSync(agent.id, sync_interval=1) for agent in team}
        for agent in team:
            for kind in (DIGEST, DELTA):
                agent.on_message(kind, self._take_sync(agent))
        self._team, self._parts = team, _parts({agent.id: agent.neighbors for agent in team})
        return True

    def coordinate(self, agents: Sequence[Agent]) -> dict[str, Any]:
        """Make one decision of these agents and carry it out in their environment.

        Returns:
            `allocation`: by agent and resource, what it was granted; `requests`: what it asked for after
            agreeing; `intended`: before; `rewards`, `dones`: by agent, as `Environment.step`; `rounds`,
            `messages`, `bytes`: what the agreement took; `residual`: how far it was from settled;
            `fallbacks`: agents that came to no agreement in time; `faults`: by agent, what was wrong with its
            decision, instead of which its fair share is asked for. A new episode begins where none is
            running.

        Raises:
            ProtocolError: agents of several environments or buses, or one twice.
        """
        agents = _agents(agents)
        if not agents:
            empty = ("allocation", "requests", "intended", "rewards", "dones")
            return {**{name: {} for name in empty}, **_report(Toll(), []), "faults": {}}
        if agents != self._team or self._carrier is None:
            self.initiate(agents)
        env = self._team[0].env
        for agent in self._team:
            while agent.poll():
                pass
        intended, faults = self._decide(env)
        agreed, report = self._agree(env, intended)
        _, rewards, dones, info = env.step_requests(agreed)
        names = env.resource_ids
        return {
            "allocation": {a.id: _named(names, info[a.id]["granted"]) for a in self._team},
            "requests": {a.id: _named(names, agreed.get(a.id, np.zeros(len(names)))) for a in self._team},
            "intended": {a.id: _named(names, intended.get(a.id, np.zeros(len(names)))) for a in self._team},
            "rewards": rewards,
            "dones": dones,
            **report,
            "faults": faults,
        }

    def resolve_conflicts(self, conflicts: Sequence[Conflict]) -> dict[Any, float]:
        """Share what is contested: returns amounts by agent, for several resources by (agent, resource)."""
        if len({conflict[1] for conflict in conflicts}) > 1:
            return dict(self.resolver.resolve_all(conflicts))
        return dict(self.resolver.resolve(conflicts))

    def synchronize(self) -> bool:
        """Exchange the agents' states until all know all that are within reach; return whether they do.

        Gives up after the timeout. Without agents there is nothing to do.
        """
        if not self._team:
            return True
        deadline = time.monotonic() + self._settings.message_timeout
        for agent in self._team:
            self._replicas[agent.id].update({"state": agent.state})
        step = 0
        while not self._in_sync():
            if time.monotonic() > deadline:
                return False
            for agent in self._team:
                neighbors = [name for name in agent.neighbors if name in self._replicas]
                for recipient, message in self._replicas[agent.id].tick(step, neighbors):
                    agent.send_message(recipient, message)
            step += 1
            self._settle(deadline)
        for agent in self._team:
            for other in self._replicas[agent.id].known_agents:
                state = self._replicas[agent.id].get(other)
                if other != agent.id and state:
                    agent.neighbor_states[other] = state["state"]
        return True

    def close(self) -> None:
        """Leave the bus; the agents stay."""
        if self._carrier is not None:
            with contextlib.suppress(BusClosedError):  # with the bus went its mailboxes
                self._team[0].bus.unregister(self._home)
            self._carrier = None

    def _decide(self, env: Environment) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Return what each present agent intends to ask for (R,), and whose model failed, how."""
        observations = env.step(None) if env.running else env.reset()
        by_id = {agent.id: agent for agent in self._team if agent.id in observations}
        core, reader = env.core, RequestReader(env.core.config, env.core.constraints, 1)
        intended: dict[str, np.ndarray] = {}
        menu = core.menu()
        faults: dict[str, str] = {}
        share = np.broadcast_to(core.state.fair_share[0], core.askable()[0].shape)
        for turn in self.scheduler.schedule(list(by_id)):
            for name in turn:
                number = np.array([env.agent_ids.index(name)])
                few = None if menu is None else menu[0][number]
                askable = core.askable()[0][number]  # (1, R)
                try:
                    action = np.asarray(by_id[name].act(observations[name]))[None]
                    intended[name] = reader.of_agents(action, number, askable, share[number], few)[0]
                except Exception as error:  # noqa: BLE001 - a model's fault is no reason to stop the others
                    faults[name] = f"{type(error).__name__}: {error}"
                    intended[name] = np.minimum(askable, share[number])[0]
        if faults:
            _log.warning("Models failed, and their agents ask for their fair share: %s", faults)
        return intended, faults

    def _agree(
        self, env: Environment, intended: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return what the agents agreed to ask for, and what it took."""
        core, carrier = env.core, self._carrier
        assert carrier is not None
        self._decision += 1
        now, capacity, weights = time.monotonic(), core.state.draw.capacity[0], core.state.weights[0]
        number = {name: env.agent_ids.index(name) for name in self._replicas}
        nothing = np.zeros(core.num_resources)
        starts: dict[str, Start | Gather] = {}
        if self.strategy == "centralized":
            expected = np.isin(env.agent_ids, list(number))
            starts[COORDINATOR] = Gather(self._decision, now, capacity, weights, expected)
        queues = in_fair_shares(core.askable()[0], core.constraints.fair_share)  # (N, R)
        worth = OBJECTIVES[self._settings.objective].worth(weights, queues)  # (N, 1 or R)
        for name, index in number.items():
            request = intended.get(name, nothing)
            starts[name] = Start(self._decision, now, request, worth[index], capacity)
        gone = frozenset(env.agent_ids) - set(number)
        done = carrier.run(starts, now + self._settings.message_timeout, gone=gone)
        share = np.broadcast_to(core.state.fair_share[0], queues.shape)
        agreed = {
            name: done[name].agreed if name in done else np.minimum(request, share[number[name]])
            for name, request in intended.items()
        }
        toll = Toll.of(done.values(), centralized=self.strategy == "centralized")
        return agreed, _report(toll, [name for name in intended if name not in done])

    def _take_sync(self, agent: Agent) -> Any:
        def take(sender: str | None, message: dict[str, Any]) -> None:
            if sender is not None and agent.id in self._replicas:
                for recipient, answer in self._replicas[agent.id].receive(sender, message):
                    agent.send_message(recipient, answer)

        return take

    def _settle(self, deadline: float) -> None:
        """Let everybody take in what is on its way."""
        quiet = False
        while not quiet and time.monotonic() < deadline:
            quiet = sum(agent.poll() for agent in self._team) == 0

    def _in_sync(self) -> bool:
        """Return whether everybody has the newest state of all that it can hear of."""
        newest = {name: replica.version(name) for name, replica in self._replicas.items()}
        return all(
            replica.version(other) == version
            for name, replica in self._replicas.items()
            for other, version in newest.items()
            if self._parts[name] == self._parts[other]
        )


def _agents(given: Sequence[Agent]) -> list[Agent]:
    return [
        check_kind("each of agents", agent, Agent, ProtocolError)
        for agent in check_list("agents", given, "Agent", ProtocolError)
    ]


def _common(team: Sequence[Agent]) -> tuple[Environment, MessageBus]:
    """Return the environment and bus that all agents share."""
    if len({agent.id for agent in team}) != len(team):
        raise ProtocolError(f"agents must be given once each, got {[agent.id for agent in team]}")
    envs, buses = {id(agent.env) for agent in team}, {id(agent.bus) for agent in team}
    if len(envs) > 1 or len(buses) > 1:
        raise ProtocolError(
            "agents must share one environment and one bus, "
            f"got {len(envs)} environments and {len(buses)} buses"
        )
    return team[0].env, team[0].bus


def _parts(neighbors: dict[str, list[str]]) -> dict[str, int]:
    """Return for each agent the number of the part of the graph that it is in."""
    part: dict[str, int] = {}
    for number, name in enumerate(neighbors):
        reached = [name] if name not in part else []
        while reached:
            here = reached.pop()
            if here in neighbors and here not in part:
                part[here] = number
                reached += neighbors[here]
    return part


def _named(names: Sequence[str], amounts: np.ndarray) -> dict[str, float]:
    return dict(zip(names, np.asarray(amounts).tolist(), strict=True))


def _report(toll: Toll, fallbacks: list[str]) -> dict[str, Any]:
    return {
        "rounds": toll.rounds,
        "messages": toll.messages,
        "bytes": toll.message_bytes,
        "residual": toll.residual,
        "fallbacks": fallbacks,
    }
