"""Acting the same to the last bit, wherever and with whomever an agent is computed.

A matrix product may round a row differently when it has other neighbours: libraries choose their kernels by
the shape. Here every forward pass has one fixed shape, and an agent always stands in the same row of it, the
others being padding where they are elsewhere. So an agent that runs in a process of its own decides exactly
as it does in an evaluation of all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from camac_dra.models.array_policy import ActingModule, ArrayPolicy

ROWS = 64  # of every forward pass


class BlockPolicy:
    """The policies of N agents, which take the most likely action (the mean of continuous ones).

    Agents that share a module are computed by blocks of 64 in the order of their numbers; the module of a
    single agent is computed by blocks of 64 copies of the environment. It holds copies of the weights, and
    nothing between calls.
    """

    def __init__(self, modules: Sequence[ActingModule], assignment: Sequence[int]) -> None:
        """``assignment[i]`` is the index of the module that decides for agent i."""
        self.head = modules[0].head
        self.observation_size = modules[0].observation_size
        self.num_agents = len(assignment)
        self._policies = [ArrayPolicy([module], [0] * ROWS) for module in modules]
        self._module_of = np.asarray(assignment)  # (N,)
        members = [np.flatnonzero(self._module_of == index) for index in range(len(modules))]
        self._alone = np.array([len(m) == 1 for m in members])  # (modules,)
        self._rank = np.empty(self.num_agents, int)  # (N,) place among the agents of the same module
        for group in members:
            self._rank[group] = np.arange(len(group))

    def act(self, observations: np.ndarray, agents: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Return the environment's actions (B, n, *action_shape) of n agents.

        Args:
            observations: (B, n, *shape) of those agents, float32.
            agents: (n,) their numbers, each once; None: all N in order.
        """
        numbers = np.arange(self.num_agents) if agents is None else np.asarray(agents, int)
        copies = len(observations)
        rows = torch.from_numpy(
            np.ascontiguousarray(observations, np.float32).reshape(
                copies, len(numbers), self.observation_size
            )
        )  # (B, n, F)
        actions: torch.Tensor | None = None
        for module in np.unique(self._module_of[numbers]):
            mine = np.flatnonzero(self._module_of[numbers] == module)  # (m,) places among the n
            chosen = self._act_module(int(module), rows[:, mine], self._rank[numbers[mine]])
            if actions is None:
                actions = chosen.new_zeros(copies, len(numbers), *chosen.shape[2:])
            actions[:, mine] = chosen
        assert actions is not None
        return self.head.to_environment(actions)

    def _act_module(self, module: int, rows: torch.Tensor, ranks: np.ndarray) -> torch.Tensor:
        """Return actions (B, m, ...) for the rows (B, m, F) of the agents with these ranks (m,)."""
        if self._alone[module]:
            return self._in_blocks(module, rows.transpose(0, 1), np.arange(len(rows))).transpose(0, 1)
        return self._in_blocks(module, rows, ranks)

    def _in_blocks(self, module: int, rows: torch.Tensor, places: np.ndarray) -> torch.Tensor:
        """Return actions (C, m, ...) for rows (C, m, F), of which row j stands at ``places[j]``."""
        parts: list[tuple[np.ndarray, torch.Tensor]] = []
        for block in np.unique(places // ROWS):
            mine = np.flatnonzero(places // ROWS == block)
            padded = rows.new_zeros(len(rows), ROWS, rows.shape[2])  # (C, 64, F)
            padded[:, places[mine] % ROWS] = rows[:, mine]
            chosen = [self._policies[module].act(one[None], None, explore=False)[0][0] for one in padded]
            parts.append((mine, torch.stack(chosen)[:, places[mine] % ROWS]))
        actions = parts[0][1].new_zeros(len(rows), len(places), *parts[0][1].shape[2:])
        for mine, chosen_there in parts:
            actions[:, mine] = chosen_there
        return actions
