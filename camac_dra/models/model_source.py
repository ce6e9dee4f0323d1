"""Any model as the policy of agents in other processes: it travels whole, and acts on rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from camac_dra.models.acting import DiscretePolicy, Policy, as_policy


class RowPolicy:
    """Acts with one policy for all agents of a process, in one forward pass where the policy can do that."""

    def __init__(self, policy: DiscretePolicy | Policy) -> None:
        """Take what acts on one observation, and perhaps on many."""
        self._policy = policy

    def act(self, observations: np.ndarray, agents: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Return actions (1, n, *action_shape) for observations (1, n, *shape) of any agents."""
        rows = observations[0]
        if isinstance(self._policy, DiscretePolicy):
            return self._policy.act_many(rows)[None]
        return np.array([self._policy.act(row) for row in rows])[None]


@dataclass(frozen=True)
class ModelSource:
    """A model that all agents share, for processes of agents: any `BaseModel`, torch module or `Policy`.

    It is pickled as it is, so use it within a cluster that trusts itself; files are for ``BaseModel.save``.
    """

    model: Any
    action_size: int

    def build(self) -> RowPolicy:
        """Return what acts on rows.

        Raises:
            ModelError: the model does not score ``action_size`` actions.
        """
        return RowPolicy(as_policy(self.model, self.action_size, seed=0))
