"""A model in the place of a policy: what evaluation asks, answered by the network as it is now."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces

from camac_dra.environment.agreement import Agreement
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.acting import DiscretePolicy
from camac_dra.models.base import BaseModel
from camac_dra.models.policy_network import PolicyNetwork
from camac_dra.utils.errors import ModelError


class ModelPolicy:
    """All agents decide by one model, each taking the most likely action (the mean of continuous ones).

    It is a ``RequestPolicy``, as heuristics are. The model is used, not copied: what it learns shows at once.
    What models remember lasts until `begin`.
    """

    name = "trained"
    agreement: Agreement | None = None

    def __init__(self, model: BaseModel, action_space: spaces.Space) -> None:
        """Act in ``action_space`` with a `PolicyNetwork` over it, or a model that scores its actions.

        Raises:
            ModelError: the model has other actions.
        """
        own = model.action_space if isinstance(model, PolicyNetwork) else None
        scored: spaces.Space | None = None
        if model.action_size is not None:
            scored = spaces.Discrete(model.action_size)
        if action_space != (own or scored):
            raise ModelError(
                f"model must decide on {action_space}, as the environment has, got a {type(model).__name__} "
                f"with {own or scored or 'no actions'}"
            )
        self.model = model
        self._scores: DiscretePolicy | None = None
        self._memory: torch.Tensor | None = None  # (B * N, M)
        if not isinstance(model, PolicyNetwork) and model.action_size is not None:
            self._scores = DiscretePolicy(model, model.action_size)

    @torch.no_grad()
    def actions(self, observations: np.ndarray) -> np.ndarray:
        """Return the environment's actions for observations (B, N, *shape) float32."""
        lead, rows = observations.shape[:2], observations.reshape(-1, *observations.shape[2:])
        if self._scores is not None:
            return self._scores.act_many(rows).reshape(lead)
        assert isinstance(self.model, PolicyNetwork)
        states = torch.from_numpy(np.ascontiguousarray(rows.reshape(len(rows), -1)))
        if self._memory is None or len(self._memory) != len(states):
            self._memory = self.model.initial_memory(len(states))
        outputs, self._memory = self.model.step(states, self._memory)
        actions = self.model.read(outputs).mode()  # (B * N, *action_shape)
        return self.model.head.to_environment(actions.unflatten(0, lead))

    def begin(self, env: VectorEnvironment) -> None:
        """Forget what was seen."""
        self._memory = None
        if self._scores is not None:
            self._scores.reset()

    def requests(self, env: VectorEnvironment) -> np.ndarray:
        """Return requests (B, N, R) in the resources' units for the environment's last observations."""
        return env.requests_from_actions(self.actions(env.observations))
