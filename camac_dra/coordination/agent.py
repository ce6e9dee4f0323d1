"""An agent in this process: a policy, a state, and a mailbox on a bus."""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from camac_dra.coordination.message_bus import MessageBus, default_bus
from camac_dra.environment.environment import Environment
from camac_dra.models.acting import Policy, as_policy
from camac_dra.models.policy_loading import CheckpointPolicy
from camac_dra.utils.arguments import check_kind, check_text, check_whole
from camac_dra.utils.errors import AgentError, BusClosedError, did_you_mean

Handler = Callable[[str | None, dict[str, Any]], None]
"""Gets the sender's id (None where it is not known) and the message."""

STATE_UPDATE = "state_update"
"""Type of the messages whose `data` is the sender's state."""


class Agent:
    """Decides on observations, keeps a state, and talks to other agents.

    An agent enters itself into ``env.agents`` and registers with its bus; `close` takes it out of both. It is
    used from one thread.

    Attributes:
        agent_id, id: its name, one of the environment's.
        env: the environment.
        model: what decides, as given.
        bus: what carries its messages.
        state: (*shape) float32, the last observation that was decided on, or what `update_state` was given.
        neighbor_states: the last state that each other agent has told.
        messages: other messages that came, oldest first, as (sender, message); the oldest give way.
    """

    def __init__(
        self,
        agent_id: str,
        env: Environment,
        model: Any,
        *,
        bus: MessageBus | None = None,
        keep_messages: int = 1000,
        seed: int | None = None,
    ) -> None:
        """Enter the environment and the bus.

        Args:
            agent_id: one of ``env.agent_ids``.
            env: where it acts.
            model: a `BaseModel`, another torch module that maps (rows, *shape) to scores of actions, or what
                has a method ``act(observation)``. Where a model's outputs are no scores of actions, as those
                of an `AttentionNetwork`, an action head with initial weights is put on top.
            bus: None takes the process's default bus.
            keep_messages: size of `messages`.
            seed: of the weights of an added action head.

        Raises:
            AgentError: the environment has no such agent, or has one of that name already; or an argument is
                of another kind.
            ModelError: the model does not fit the actions.
        """
        check_kind("env", env, Environment, AgentError)
        check_whole("keep_messages", keep_messages, 0, AgentError)
        check_whole("seed", seed, 0, AgentError, optional="for others in every run")
        if bus is not None:
            check_kind("bus", bus, MessageBus, AgentError)
        if agent_id not in env.agent_ids:
            raise AgentError(
                f"agent_id must be one of the environment's ({_few(env.agent_ids)}), got {agent_id!r}."
                + did_you_mean(str(agent_id), env.agent_ids)
            )
        if agent_id in env.agents:
            raise AgentError(f"agent_id must be new to the environment, got {agent_id!r}, which is there")
        self.agent_id = self.id = agent_id
        self.env, self.model = env, model
        self._policy = _policy_for(model, env.action_space, seed)
        self.bus = default_bus() if bus is None else bus
        self._shape = env.observation_space.shape
        self.state: np.ndarray = np.zeros(self._shape, np.float32)
        self.neighbor_states: dict[str, np.ndarray] = {}
        self.messages: deque[tuple[str | None, dict[str, Any]]] = deque(maxlen=keep_messages)
        self._handlers: dict[str, Handler] = {STATE_UPDATE: self._take_state}
        self._counts: Counter[str] = Counter()
        self.bus.register(agent_id)
        env.agents[agent_id] = self

    @property
    def neighbors(self) -> list[str]:
        """Those whom it hears, by the topology."""
        return self.env.topology.get_neighbors(self.agent_id)

    def act(self, observation: np.ndarray) -> Any:
        """Return the best action for an observation (*shape); it becomes the agent's state.

        Raises:
            AgentError: the observation has another shape or is not finite.
        """
        self.update_state(observation)
        self._counts["decisions"] += 1
        if isinstance(self._policy, CheckpointPolicy) and self.agent_id in self._policy.agent_ids:
            return self._policy.act(self.state, self.agent_id)
        return self._policy.act(self.state)

    def update_state(self, new_state: np.ndarray) -> None:
        """Replace the state by a copy of ``new_state`` (*shape).

        Raises:
            AgentError: it has another shape or is not finite; then the state is as it was.
        """
        try:
            state = np.array(new_state, dtype=np.float32)
        except (TypeError, ValueError):
            raise AgentError(
                f"{self.agent_id}: state must be an array of numbers, got {new_state!r}"
            ) from None
        if state.shape != self._shape:
            raise AgentError(f"{self.agent_id}: state must have the shape {self._shape}, got {state.shape}")
        if not np.isfinite(state).all():
            place = [int(index) for index in np.argwhere(~np.isfinite(state))[0]]
            raise AgentError(f"{self.agent_id}: state must be finite, got {state[tuple(place)]} at {place}")
        self.state = state

    def send_message(self, recipient_id: str, content: dict[str, Any]) -> bool:
        """Send a message; return whether the bus admitted it, after which it is not lost."""
        sent = self.bus.send(self.agent_id, recipient_id, content)
        self._counts["sent" if sent else "not_sent"] += 1
        return sent

    def receive_message(self, message: dict[str, Any], sender_id: str | None = None) -> None:
        """Take in a message: the handler of its `type` gets it, or else `messages`.

        Raises:
            AgentError: the message is no dict, or its data are no state where they should be one.
        """
        if not isinstance(message, dict):
            raise AgentError(f"{self.agent_id}: message must be a dict, got {type(message).__name__}")
        handler = self._handlers.get(str(message.get("type")))
        if handler is None:
            self.messages.append((sender_id, message))
        else:
            handler(sender_id, message)
        self._counts["received"] += 1

    def on_message(self, kind: str, handler: Handler) -> None:
        """Have messages of a `type` handled by ``handler(sender_id, message)`` from now on.

        Raises:
            AgentError: the type is no text, or the handler cannot be called.
        """
        check_text("type of messages", kind, AgentError)
        if not callable(handler):
            raise AgentError(f"{self.agent_id}: handler must be callable, got {handler!r}")
        self._handlers[kind] = handler

    def poll(self, timeout: float = 0.0, max_messages: int | None = None) -> int:
        """Take in what waits on the bus; return how many messages that were.

        Waits up to ``timeout`` seconds for the first. A message whose handler raises becomes a dead letter on
        the bus; the others are taken in, and the agent goes on.
        """
        envelopes = self.bus.receive_envelopes(self.agent_id, max_messages, timeout)
        for envelope in envelopes:
            try:
                self.receive_message(envelope.message, envelope.sender)
            except Exception as error:  # noqa: BLE001 - a handler's fault is the message's end, not the agent's
                self._counts["rejected"] += 1
                self.bus.reject(envelope, f"{type(error).__name__}: {error}")
        return len(envelopes)

    def get_status(self) -> dict[str, Any]:
        """Return who it is, how much it has done, and what waits for it."""
        counts = ("decisions", "sent", "not_sent", "received", "rejected")
        return {
            "agent_id": self.agent_id,
            "neighbors": len(self.neighbors),
            "known_states": len(self.neighbor_states),
            "kept_messages": len(self.messages),
            **{name: self._counts[name] for name in counts},
        }

    def close(self) -> None:
        """Leave environment and bus; messages that still wait become dead letters."""
        if self.env.agents.pop(self.agent_id, None) is not None:
            with contextlib.suppress(BusClosedError):  # with the bus went its mailboxes
                self.bus.unregister(self.agent_id)

    def __repr__(self) -> str:
        return f"Agent({self.agent_id!r}, {type(self.model).__name__})"

    def _take_state(self, sender_id: str | None, message: dict[str, Any]) -> None:
        data = np.asarray(message.get("data"))
        if data.dtype.kind not in "fiub":
            raise AgentError(f"{self.agent_id}: data of a state_update must be numbers, got {data.dtype}")
        if not np.isfinite(data).all():
            raise AgentError(f"{self.agent_id}: data of a state_update must be finite, got {data}")
        if sender_id is not None:
            self.neighbor_states[sender_id] = data


def _policy_for(model: Any, space: spaces.Space[Any], seed: int | None) -> Policy:
    """Return what acts with ``model`` on one observation at a time."""
    if isinstance(space, spaces.Discrete):
        return as_policy(model, int(space.n), seed=seed)
    if isinstance(model, Policy):
        return model
    raise AgentError(
        f"model must have a method act(observation) where actions are {space}, got {type(model).__name__}"
    )


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{names[0]} to {names[-1]}"
