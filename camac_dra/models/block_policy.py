"""Acting the same to the last bit, wherever and with whomever an agent is computed.

A matrix product may round a row differently when it has other neighbours: libraries choose their kernels by
the shape. Here every forward pass has one fixed shape, and an agent always stands in the same row of it, the
others being padding where they are elsewhere. So an agent that runs in a process of its own decides exactly
as it does in an evaluation of all. Messages between agents are computed so that they depend on the sender's
row alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from camac_dra.models.array_policy import ActingPart, SeparatePolicy, array_policy
from camac_dra.models.communicating import Listener
from camac_dra.utils.errors import ConfigurationError

ROWS = 64  # of every forward pass


class BlockPolicy:
    """The policies of N agents, which take the most likely action (the mean of continuous ones).

    Agents that share a module are computed by blocks of 64 in the order of their numbers; the module of a
    single agent is computed by blocks of 64 copies of the environment. It holds copies of the weights, and
    between calls what networks with memory remember, until `reset`.

    Attributes:
        listener: where agents communicate, what makes and takes in their messages; None: they do not.
    """

    def __init__(self, modules: Sequence[ActingPart], assignment: Sequence[int]) -> None:
        """``assignment[i]`` is the index of the module that decides for agent i.

        Raises:
            ConfigurationError: agents communicate and do not share one module.
        """
        self.head = modules[0].head
        self.input_shape = modules[0].input_shape
        self.num_agents = len(assignment)
        self.listener: Listener | None = None
        if modules[0].network.communicates:
            if len(modules) > 1:
                raise ConfigurationError(
                    "training.policies must be 'shared' for agents that communicate, which understand their "
                    f"own kind only, got {len(modules)} policies"
                )
            self.listener = Listener(modules[0])
            modules = [self.listener]
        self._policies = [array_policy([module], [0] * ROWS) for module in modules]
        self._memory_size = modules[0].network.memory_size
        self._memory: torch.Tensor | None = None  # (B, N, M)
        self._module_of = np.asarray(assignment)  # (N,)
        members = [np.flatnonzero(self._module_of == index) for index in range(len(modules))]
        self._alone = np.array([len(m) == 1 for m in members])  # (modules,)
        self._rank = np.empty(self.num_agents, int)  # (N,) place among the agents of the same module
        for group in members:
            self._rank[group] = np.arange(len(group))

    def reset(self) -> None:
        """Forget what was seen: episodes begin."""
        self._memory = None

    def act(
        self,
        observations: np.ndarray,
        agents: Sequence[int] | np.ndarray | None = None,
        masks: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the environment's actions (B, n, *action_shape) of n agents.

        Args:
            observations: (B, n, *shape) of those agents, float32.
            agents: (n,) their numbers, each once; None: all N in order.
            masks: (B, n, O) false where an action is impossible; None: all are possible.
        """
        numbers = np.arange(self.num_agents) if agents is None else np.asarray(agents, int)
        cells = (len(observations), len(numbers))
        rows = torch.from_numpy(
            np.ascontiguousarray(observations, np.float32).reshape(*cells, *self.input_shape)
        )
        if self.listener is not None:
            rows = self.listener.hear(rows)
        return self._act(rows, numbers, masks)

    def act_on_messages(
        self, rows: np.ndarray, messages: np.ndarray, mask: np.ndarray, agents: Sequence[int] | np.ndarray
    ) -> np.ndarray:
        """Return the environment's actions (1, n, *action_shape) of n agents that see only themselves.

        They are those of `act` to the last bit, where the messages are of the rows that it would be shown.

        Args:
            rows: (n, F + 1) float32, the first rows of their observations.
            messages: (n, M, C) that they received, as ``listener.speak`` made them.
            mask: (n, M) false where none was received.
            agents: (n,) their numbers, each once.
        """
        if self.listener is None:
            raise ConfigurationError(
                "agents must communicate to act on messages, got a network that does not"
            )
        heard = self.listener.heard(np.ascontiguousarray(rows, np.float32), messages, mask)
        return self._act(heard[None], np.asarray(agents, int), None)

    def _act(self, rows: torch.Tensor, numbers: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        """Return actions (B, n, *action_shape) for rows (B, n, ...) as the modules take them."""
        cells = (len(rows), len(numbers))
        given = None if masks is None else torch.from_numpy(np.ascontiguousarray(masks, bool))
        memory = self._remembered(cells[0])
        actions: torch.Tensor | None = None
        for module in np.unique(self._module_of[numbers]):
            mine = np.flatnonzero(self._module_of[numbers] == module)  # (m,) places among the n
            who = numbers[mine]
            inputs = _Rows(
                rows[:, mine],
                None if given is None else given[:, mine],
                None if memory is None else memory[:, who],
            )
            chosen = self._act_module(int(module), inputs, self._rank[who])
            if memory is not None and inputs.memory is not None:
                memory[:, who] = inputs.memory
            if actions is None:
                actions = chosen.new_zeros(*cells, *chosen.shape[2:])
            actions[:, mine] = chosen
        assert actions is not None
        return self.head.to_environment(actions)

    def _remembered(self, copies: int) -> torch.Tensor | None:
        """Return what is remembered (B, N, M), None where the networks have no memory."""
        if not self._memory_size:
            return None
        if self._memory is None or len(self._memory) != copies:
            self._memory = torch.zeros(copies, self.num_agents, self._memory_size)
        return self._memory

    def _act_module(self, module: int, rows: _Rows, ranks: np.ndarray) -> torch.Tensor:
        """Return actions (B, m, ...) for the rows (B, m, ...) of the agents with these ranks (m,)."""
        if not self._alone[module]:
            return self._in_blocks(module, rows, ranks)
        turned = rows.transposed()
        actions = self._in_blocks(module, turned, np.arange(rows.observations.shape[0])).transpose(0, 1)
        rows.memory = turned.transposed().memory
        return actions

    def _in_blocks(self, module: int, rows: _Rows, places: np.ndarray) -> torch.Tensor:
        """Return actions (C, m, ...) for rows (C, m, ...), of which row j stands at ``places[j]``."""
        actions: torch.Tensor | None = None
        for block in np.unique(places // ROWS):
            mine = np.flatnonzero(places // ROWS == block)
            inside = places[mine] % ROWS
            for copy in range(len(rows.observations)):
                chosen = self._act_block(module, rows, copy, mine, inside)  # (k, ...)
                if actions is None:
                    actions = chosen.new_zeros(len(rows.observations), len(places), *chosen.shape[1:])
                actions[copy, mine] = chosen
        assert actions is not None
        return actions

    def _act_block(
        self, module: int, rows: _Rows, copy: int, mine: np.ndarray, inside: np.ndarray
    ) -> torch.Tensor:
        """Return actions (k, ...) of the rows ``mine`` (k,) of a copy, standing at ``inside`` (k,) of 64."""
        policy = self._policies[module]
        observations = rows.observations.new_zeros(1, ROWS, *rows.observations.shape[2:])
        observations[0, inside] = rows.observations[copy, mine]
        masks = None
        if rows.masks is not None:
            masks = torch.ones(1, ROWS, rows.masks.shape[-1], dtype=torch.bool)
            masks[0, inside] = rows.masks[copy, mine]
        if rows.memory is not None and isinstance(policy, SeparatePolicy):
            memory = torch.zeros(1, ROWS, self._memory_size)
            memory[0, inside] = rows.memory[copy, mine]
            policy.set_memory(memory)
            chosen = policy.act(observations, None, explore=False, masks=masks)[0][0]
            rows.memory[copy, mine] = policy.memory(1)[0, inside]
            return chosen[inside]
        return policy.act(observations, None, explore=False, masks=masks)[0][0, inside]


@dataclass(slots=True)
class _Rows:
    """What agents of one module see, may do and remember; memory is written back here."""

    observations: torch.Tensor  # (C, m, ...)
    masks: torch.Tensor | None  # (C, m, O)
    memory: torch.Tensor | None  # (C, m, M)

    def transposed(self) -> _Rows:
        """Return the same with the first two axes exchanged."""
        parts = (self.observations, self.masks, self.memory)
        return _Rows(*(None if p is None else p.transpose(0, 1) for p in parts))  # type: ignore[arg-type]
