"""The process in which agents run: it loads their policy, decides for all of them, and lets them agree.

`AgentHost` is that process without Ray; `AgentActor` is the Ray actor around it, one agent or many.

Axes: n agents of one process, R resources, K capacity groups.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import ray
import torch

from camac_dra.coordination.message_bus import Envelope, MessageBus
from camac_dra.coordination.message_exchange import MessageExchange, Talk
from camac_dra.coordination.protocol_carrier import MessageFaults, ProtocolCarrier, Toll
from camac_dra.coordination.protocols import Start, machine_factory
from camac_dra.coordination.protocols.objectives import OBJECTIVES
from camac_dra.coordination.runtime.decision import Answer, Inputs
from camac_dra.coordination.state_sync import StateSync, merged
from camac_dra.environment.agreement import in_fair_shares
from camac_dra.environment.constraints import Constraints
from camac_dra.environment.request_reader import RequestReader
from camac_dra.environment.topology import Topology
from camac_dra.models.block_policy import BlockPolicy
from camac_dra.utils.errors import StateSyncError, UnpreparedError
from camac_dra.utils.schema.coordination import CoordinationConfig
from camac_dra.utils.schema.environment import EnvironmentConfig

STATES = "states"  # key of messages between replicas of states
_MOST_STATES = 64  # of neighbours that an agent keeps
_TALKING = 0.5  # share of a decision's time in which learned messages are waited for; the rest is to decide
_FANOUT = 3  # neighbours that an agent exchanges states with at a time


class BatchPolicy(Protocol):
    """Decides for agents in rows; `BlockPolicy` is one."""

    def act(self, observations: np.ndarray, agents: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Return the environment's actions (1, n, *action_shape) for observations (1, n, *shape)."""
        ...


class PolicySource(Protocol):
    """What a policy can be built from in another process, as often as needed; `PolicySpec` is one."""

    def build(self) -> BatchPolicy:
        """Return the policy, with its weights."""
        ...


@dataclass(frozen=True)
class HostSpec:
    """Everything that a process of agents is made from, at first and after every death."""

    agents: tuple[int, ...]  # numbers of those it hosts
    environment: EnvironmentConfig
    coordination: CoordinationConfig
    policy: PolicySource
    homes: Mapping[str, str]  # of every agent, the mailbox of its process on the bus
    faults: MessageFaults | None = None


@dataclass(frozen=True, slots=True)
class Pulse:
    """Sign of life of a process."""

    pid: int
    node: str
    step: int  # that it decided last; -1: none in this life


@dataclass(slots=True)
class HostSnapshot:
    """What agents go on from in a new life of their process, besides their weights."""

    step: int
    states: dict[str, dict[str, Any]]  # of each agent, what it shares
    known: dict[str, Any]  # what all of them together know of others, as a message between replicas


def _nearest(name: str, topology: Topology) -> list[str]:
    """Return the neighbours whose states an agent keeps: all, of very many those that follow it in order."""
    neighbors = topology.get_neighbors(name)
    if len(neighbors) <= _MOST_STATES:
        return neighbors
    names = set(neighbors)
    start = topology.agents.index(name)
    following = (topology.agents[(start + k) % len(topology.agents)] for k in range(1, len(topology.agents)))
    return list(itertools.islice((other for other in following if other in names), _MOST_STATES))


class AgentHost:
    """Hosts n agents: one forward pass, one carrier of their protocol, one replica of states for each."""

    def __init__(self, spec: HostSpec, bus: MessageBus) -> None:
        """Load the policy and enter the bus."""
        environment = spec.environment
        self.numbers = np.array(spec.agents)  # (n,)
        self.agent_ids = [environment.agent_ids[number] for number in spec.agents]
        self._policy = spec.policy.build()
        constraints = Constraints.from_config(environment)
        self._fair_share = constraints.fair_share[self.numbers]  # (n, R), nominal
        topology = Topology.generate(
            environment.topology, environment.agent_ids, environment.topology_options
        )
        self._reader = RequestReader(environment, constraints, 1)
        self._neighbors = {name: _nearest(name, topology) for name in self.agent_ids}
        self._bus, self._homes = bus, spec.homes
        self._home = spec.homes[self.agent_ids[0]]
        bus.register(self._home)
        self._exchange: MessageExchange | None = None
        if isinstance(self._policy, BlockPolicy) and (listener := self._policy.listener) is not None:
            message = (listener.message_size, listener.dtype)
            self._exchange = MessageExchange(
                spec.agents, environment, topology, bus, spec.homes, message, spec.faults
            )
        self._posted: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}  # states, by mailbox
        self._aside: deque[Envelope] = deque()  # messages that came while agents agreed
        self._interval = spec.coordination.sync_interval
        self.replicas = {
            name: StateSync(name, self._interval, keep=self._neighbors[name]) for name in self.agent_ids
        }
        factory = machine_factory(spec.coordination, topology, constraints)
        self._carrier: ProtocolCarrier | None = None
        self._centralized = spec.coordination.protocol == "centralized"
        self._objective = OBJECTIVES[spec.coordination.objective]
        if factory is not None:
            machines = {name: factory.machine(name) for name in self.agent_ids}
            self._carrier = ProtocolCarrier(machines, bus, self._home, spec.homes, spec.faults)
            self._aside = self._carrier.aside
        self.step = -1

    def decide(self, inputs: Inputs) -> Answer:
        """Return what these agents ask for: observe, tell each other, decide, agree, exchange states."""
        begun = time.monotonic()
        actions, talk = self._act(inputs, begun + _TALKING * inputs.seconds)
        intended = self._reader.of_agents(
            actions, self.numbers, inputs.askable, inputs.fair_share, inputs.menu
        )  # (n, R)
        intended = np.where(inputs.present[:, None], intended, 0.0)
        self.step = inputs.step
        answer = replace(self._agree(inputs, intended, begun + inputs.seconds), talk=talk)
        self._share_states(inputs, answer.requests)
        return answer

    def _act(self, inputs: Inputs, deadline: float) -> tuple[np.ndarray, Talk]:
        """Return actions (n, *action_shape), after an exchange of learned messages where there are any."""
        if self._exchange is None or not isinstance(self._policy, BlockPolicy):
            return self._policy.act(inputs.observations[None], self.numbers)[0], Talk()
        assert self._policy.listener is not None
        rows = inputs.observations[:, 0]  # (n, F + 1): whatever else there is, agents know only their own
        said = self._policy.listener.speak(np.ascontiguousarray(rows))
        heard = self._exchange.run(inputs.step, said, deadline, gone=inputs.gone, cut=inputs.cut)
        actions = self._policy.act_on_messages(rows, heard.messages, heard.mask, self.numbers)
        return actions[0], heard.talk

    def snapshot(self) -> HostSnapshot:
        """Return what these agents go on from in a new life."""
        states = {name: replica.get(name) or {} for name, replica in self.replicas.items()}
        return HostSnapshot(self.step, states, merged(r.full_state() for r in self.replicas.values()))

    def restore(self, snapshot: HostSnapshot) -> None:
        """Go on from where an earlier life was."""
        for name, replica in self.replicas.items():
            replica.receive(name, snapshot.known)
            replica.update(snapshot.states.get(name, {}))
        self.step = snapshot.step

    def known_states(self) -> dict[str, dict[str, dict[str, Any] | None]]:
        """Return what each agent here knows of everybody's state."""
        return {
            name: {other: replica.get(other) for other in replica.known_agents}
            for name, replica in self.replicas.items()
        }

    def _agree(self, inputs: Inputs, intended: np.ndarray, deadline: float) -> Answer:
        """Return what is agreed on from what is intended (n, R), by the protocol."""
        snapshot = self.snapshot() if self._interval and inputs.step % self._interval == 0 else None
        if self._carrier is None:
            return Answer(inputs.step, intended, snapshot=snapshot)
        now = time.monotonic()
        queues = in_fair_shares(inputs.askable, self._fair_share)
        worth = self._objective.worth(inputs.weights, queues)  # (n, 1 or R)
        starts = {
            name: Start(inputs.step, now, intended[row], worth[row], inputs.capacity)
            for row, name in enumerate(self.agent_ids)
        }
        agreed = self._carrier.run(starts, deadline, gone=inputs.gone, cut=inputs.cut)
        requests = intended.copy()
        for row, name in enumerate(self.agent_ids):
            # Who came to no agreement in time asks for no more than its part.
            alone = np.minimum(intended[row], inputs.fair_share[row])
            requests[row] = agreed[name].agreed if name in agreed else alone
        toll = Toll.of(agreed.values(), centralized=self._centralized)
        return Answer(
            inputs.step, requests, toll.rounds, toll.messages, toll.message_bytes, toll.residual, snapshot
        )

    def _share_states(self, inputs: Inputs, requests: np.ndarray) -> None:
        """Tell neighbours of these agents' states and hear of theirs, every ``sync_interval`` steps."""
        for envelope in [*self._aside, *self._bus.receive_envelopes(self._home, timeout=0.0)]:
            if STATES in envelope.message:
                self._take_states(envelope)
        self._aside.clear()
        if inputs.step % self._interval == 0:
            for row, (name, replica) in enumerate(self.replicas.items()):
                present = bool(inputs.present[row])
                replica.update({"step": inputs.step, "requested": requests[row], "present": present})
                self._post(name, replica.tick(inputs.step, self._peers(name, inputs.step // self._interval)))
        if self._posted:
            items = [(home, {STATES: parts}) for home, parts in self._posted.items()]
            self._bus.send_many(self._home, items, timeout=0.0)  # what is lost comes with the next digest
            self._posted = {}

    def _take_states(self, envelope: Envelope) -> None:
        """Hand what replicas elsewhere said to those that it is for."""
        try:
            for sender, recipient, message in envelope.message[STATES]:
                if recipient in self.replicas:
                    self._post(recipient, self.replicas[recipient].receive(sender, message))
        except (StateSyncError, TypeError, ValueError) as error:
            self._bus.reject(envelope, str(error))

    def _post(self, sender: str, messages: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Put messages of a replica on their way: agents of this process get them at once."""
        waiting = [(sender, recipient, message) for recipient, message in messages]
        while waiting:
            sender, recipient, message = waiting.pop()
            if recipient in self.replicas:
                answers = self.replicas[recipient].receive(sender, message)
                waiting += [(recipient, to, answer) for to, answer in answers]
            else:
                self._posted.setdefault(self._homes[recipient], []).append((sender, recipient, message))

    def _peers(self, name: str, turn: int) -> list[str]:
        """Return the neighbours whose turn it is to hear of this agent: a few at a time, all in a circle."""
        neighbors = self._neighbors[name]
        return [neighbors[(turn * _FANOUT + k) % len(neighbors)] for k in range(min(_FANOUT, len(neighbors)))]


@ray.remote(max_restarts=-1, max_task_retries=0, num_cpus=0)
class AgentActor:
    """The Ray actor that hosts agents. After its start, and after every death, it has to be prepared."""

    def __init__(self) -> None:
        self._host: AgentHost | None = None

    def prepare(self, spec: HostSpec, bus: MessageBus, snapshot: HostSnapshot | None) -> Pulse:
        """Load policy and state; return a sign of life."""
        torch.set_num_threads(1)
        self._host = AgentHost(spec, bus)
        if snapshot is not None:
            self._host.restore(snapshot)
        return self.pulse()

    def pulse(self) -> Pulse:
        """Return a sign of life."""
        step = -1 if self._host is None else self._host.step
        return Pulse(os.getpid(), ray.get_runtime_context().get_node_id(), step)

    def decide(self, inputs: Inputs) -> Answer:
        """Decide; see `AgentHost`."""
        return self._prepared().decide(inputs)

    def known_states(self) -> dict[str, dict[str, dict[str, Any] | None]]:
        """Return what the agents know of each other; see `AgentHost`."""
        return self._prepared().known_states()

    def _prepared(self) -> AgentHost:
        if self._host is None:
            raise UnpreparedError("a process of agents must be prepared before it decides, got a decision")
        return self._host
