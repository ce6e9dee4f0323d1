"""From outputs of models to discrete actions; `camac_dra.models.base` says how models give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from camac_dra.models.base import BaseModel, class_path
from camac_dra.models.checks import finite, sizes, whole_number
from camac_dra.models.networks import MLP, Seed, generator_of, linear
from camac_dra.models.registry import known_class
from camac_dra.utils.errors import ActionError, ModelError


@runtime_checkable
class Policy(Protocol):
    """What acts on observations."""

    def act(self, observation: np.ndarray) -> Any:
        """Return the action for one observation."""
        ...


class ActionHeadModel(BaseModel):
    """A model whose outputs another one's feed: layers of ``hidden_sizes`` and a score per action."""

    def __init__(
        self,
        body: BaseModel | Mapping[str, Any],
        action_size: int,
        *,
        hidden_sizes: Sequence[int] = (64,),
        activation: str = "relu",
        seed: Seed = None,
    ) -> None:
        """``body`` is the model below, or its class and configuration as `get_config` returns them."""
        model = body if isinstance(body, BaseModel) else _described(body)
        super().__init__(model.input_size, whole_number("action_size", action_size))
        if not model.can_take_action_head:
            raise ModelError(
                f"model must leave room for an action head, got a "
                f"{type(model).__name__}: its outputs are final"
            )
        generator = generator_of(seed)
        self.body = model
        self.hidden_sizes, self.activation = sizes("hidden_sizes", hidden_sizes), activation
        self.memory_size = model.memory_size
        self.mlp = MLP(model.output_size, self.hidden_sizes, activation, generator)
        self.scores = linear(self.mlp.output_size, action_size, 1.0, generator)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Map states, of the shapes that the body takes, to scores (..., action_size)."""
        return self.scores(self.mlp(self.body(state)))

    def outputs(self, observations: torch.Tensor) -> torch.Tensor:
        """Map observations (rows, *shape) to scores (rows, action_size)."""
        return self.scores(self.mlp(self.body.outputs(observations)))

    def step(self, observations: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scores (rows, action_size) and the memories (rows, M) of the body."""
        outputs, memory = self.body.step(observations, memory)
        return self.scores(self.mlp(outputs)), memory

    @property
    def can_take_action_head(self) -> bool:
        """It is one."""
        return False

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "body": {"class": class_path(type(self.body)), "config": self.body.get_config()},
            "action_size": self.output_size,
            "hidden_sizes": list(self.hidden_sizes),
            "activation": self.activation,
        }


def _described(body: Mapping[str, Any]) -> BaseModel:
    if set(body) != {"class", "config"}:
        raise ModelError(f"body must be a model, or its class and config, got {body!r}")
    return known_class(body["class"]).from_config(body["config"])


def with_action_head(
    model: BaseModel,
    action_size: int,
    *,
    hidden_sizes: Sequence[int] = (64,),
    activation: str = "relu",
    seed: Seed = None,
) -> ActionHeadModel:
    """Return a model that scores ``action_size`` actions by the outputs of ``model``, its part from now on.

    Raises:
        ModelError: the model's outputs are actions or values already.
    """
    return ActionHeadModel(model, action_size, hidden_sizes=hidden_sizes, activation=activation, seed=seed)


def greedy(scores: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
    """Return the best actions (rows,) of scores (rows, A), the lowest of equals.

    Where ``action_mask`` (rows, A) or (A,) is false, an action is not taken.

    Raises:
        ModelError: a score is not a number.
        ActionError: no action is possible, or the mask has another shape.
    """
    if np.isnan(scores).any():
        raise ModelError(f"scores of actions must be numbers, got {scores}")
    if action_mask is not None:
        mask = np.asarray(action_mask, bool)
        if mask.shape not in (scores.shape, scores.shape[-1:]):
            raise ActionError(f"action_mask must have shape {scores.shape[-1:]}, got {mask.shape}")
        if not mask.any(-1).all():
            raise ActionError("action_mask must allow at least one action, got none")
        scores = np.where(mask, scores, -np.inf)
    return scores.argmax(-1)


class DiscretePolicy:
    """Takes the best action of any model; a model with memory remembers until `reset`.

    The model is used, not copied: what it learns shows at once. It is put in evaluation mode.
    """

    def __init__(self, model: nn.Module, action_size: int) -> None:
        """``model`` must score ``action_size`` actions."""
        self.model, self.action_size = model, action_size
        self._parameter = next(model.parameters(), None)  # is where the others are
        self._memory: torch.Tensor | None = None  # (rows, M)

    def reset(self) -> None:
        """Forget what was seen: an episode begins."""
        self._memory = None

    @torch.no_grad()
    def scores(self, observations: np.ndarray) -> np.ndarray:
        """Return scores (rows, action_size) of observations (rows, *shape).

        Raises:
            ModelError: the model does not take such observations, they are not finite, or it has another
                number of outputs.
        """
        observations = np.ascontiguousarray(observations, dtype=np.float32)
        finite(observations, by_row=True)
        device = torch.device("cpu") if self._parameter is None else self._parameter.device
        rows = torch.as_tensor(observations, device=device)
        if self.model.training:  # dropout and the like are for learning
            self.model.eval()
        scores = self._ask(rows)
        if scores.shape != (len(rows), self.action_size):
            raise ModelError(
                f"model must give scores of shape ({len(rows)}, {self.action_size}) for observations of "
                f"shape {tuple(rows.shape)}, got {tuple(scores.shape)}"
            )
        return scores.cpu().numpy()

    def _ask(self, rows: torch.Tensor) -> torch.Tensor:
        if not isinstance(self.model, BaseModel):
            return self.model(rows)
        if not self.model.memory_size:
            return self.model.outputs(rows)
        if self._memory is None:
            self._memory = self.model.initial_memory(len(rows))
        if len(self._memory) != len(rows):
            raise ModelError(
                f"observations must be {len(self._memory)} rows as before, got {len(rows)}: the model "
                "remembers what each saw; call reset() first"
            )
        scores, self._memory = self.model.step(rows, self._memory)
        return scores

    def act(self, observation: np.ndarray, action_mask: np.ndarray | None = None) -> int:
        """Return the best action for one observation (*shape)."""
        return int(self.act_many(np.asarray(observation)[None], action_mask)[0])

    def act_many(self, observations: np.ndarray, action_masks: np.ndarray | None = None) -> np.ndarray:
        """Return the best actions (rows,) int64 for observations (rows, *shape), in one forward pass."""
        return greedy(self.scores(observations), action_masks)


def as_policy(model: Any, action_size: int, *, seed: Seed = None) -> DiscretePolicy | Policy:
    """Return what acts with ``model``: the best of ``action_size`` actions by its scores.

    Takes a `BaseModel`, to which an action head is added, with initial weights from ``seed``, where its
    outputs are no scores; another torch module that maps (rows, *shape) to (rows, action_size); or what has a
    method ``act`` already, which is returned as it is.

    Raises:
        ModelError: it is none of these, or scores another number of actions.
    """
    if not isinstance(model, nn.Module):
        if isinstance(model, Policy):
            return model
        raise ModelError(f"model must be a torch module or have a method act, got {type(model).__name__}")
    if not isinstance(model, BaseModel):
        return DiscretePolicy(model, action_size)
    if model.action_size is None:
        return DiscretePolicy(with_action_head(model, action_size, seed=seed), action_size)
    if model.action_size != action_size:
        raise ModelError(
            f"model must score {action_size} actions, got a {type(model).__name__} of {model.action_size} "
            f"outputs; with_action_head(model, {action_size}) puts scores on top of other outputs"
        )
    return DiscretePolicy(model, action_size)
