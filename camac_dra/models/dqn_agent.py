"""Deep Q-learning for one agent, complete in itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from camac_dra.models.base import BaseModel
from camac_dra.models.checks import number, whole_number
from camac_dra.models.networks import generator_of
from camac_dra.models.q_network import QNetwork
from camac_dra.models.q_targets import best_values, huber_loss
from camac_dra.models.transitions import NStepSums, TransitionMemory, Transitions
from camac_dra.utils.errors import ActionError, ModelError, TrainingDivergedError


class DQNAgent(BaseModel):
    """Deep Q-Network agent (Mnih et al. 2015): epsilon-greedy, with replay and a target network.

    ``double`` lets the online network choose the next action that the target network values (van Hasselt et
    al. 2016), ``dueling`` separates the state's value from advantages (Wang et al. 2016), ``n_step`` sums
    rewards over several steps. ``epsilon`` is a schedule: it begins at ``epsilon_start`` and is multiplied by
    ``epsilon_decay`` at the end of every episode that `update` sees, down to ``epsilon_end``.

    As a model its outputs are the online network's Q-values. `save` keeps the networks, the optimiser, the
    schedule and the generator, but not the replayed transitions.
    """

    def __init__(
        self,
        state_size: int,
        action_size: int,
        learning_rate: float = 1e-3,
        *,
        hidden_sizes: Sequence[int] = (128, 128),
        activation: str = "relu",
        gamma: float = 0.99,
        double: bool = True,
        dueling: bool = True,
        n_step: int = 1,
        target_update_freq: int = 1000,
        batch_size: int = 32,
        replay_buffer_size: int = 10_000,
        epsilon_start: float = 1.0,
        epsilon_end: float = 0.01,
        epsilon_decay: float = 0.995,
        grad_clip: float | None = 10.0,
        seed: int | None = None,
    ) -> None:
        """``target_update_freq`` counts updates; ``seed`` decides initial weights and all that is drawn."""
        super().__init__(whole_number("state_size", state_size), whole_number("action_size", action_size))
        self.learning_rate = number("learning_rate", learning_rate, 0.0, above=True)
        self.gamma = number("gamma", gamma, 0.0, 1.0)
        self.double_q = double  # a torch module has a method `double`
        self.n_step = whole_number("n_step", n_step)
        self.target_update_freq = whole_number("target_update_freq", target_update_freq)
        self.batch_size = whole_number("batch_size", batch_size)
        self.replay_buffer_size = whole_number("replay_buffer_size", replay_buffer_size)
        self.epsilon_start = number("epsilon_start", epsilon_start, 0.0, 1.0)
        self.epsilon_end = number("epsilon_end", epsilon_end, 0.0, 1.0)
        self.epsilon_decay = number("epsilon_decay", epsilon_decay, 0.0, 1.0)
        self.grad_clip = None if grad_clip is None else number("grad_clip", grad_clip, 0.0, above=True)
        self.online, self.target = (
            QNetwork(
                state_size,
                action_size,
                hidden_sizes=hidden_sizes,
                activation=activation,
                dueling=dueling,
                seed=generator_of(seed),
            )
            for _ in range(2)
        )
        self.target.requires_grad_(False)
        self.update_target()
        self._optimizer: torch.optim.Optimizer | None = None
        self._optimizer_state: dict[str, Any] = {}  # to go on from, until there is an optimiser
        self.updates = 0  # gradient steps so far
        self.epsilon = self.epsilon_start
        self._rng = np.random.default_rng(seed)
        self._last: tuple[np.ndarray, np.ndarray] | None  # the latest next state and its number (1,)
        self._forget()

    # Acting

    def forward(self, state: torch.Tensor, action_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Map (..., state_size) to Q-values (..., action_size), very low where the mask is false."""
        return self.online(state, action_mask)

    @property
    def can_take_action_head(self) -> bool:
        """Its outputs are Q-values already."""
        return False

    @torch.no_grad()
    def get_q_values(self, state: np.ndarray) -> np.ndarray:
        """Return the Q-values (..., action_size) float32 of states (..., state_size)."""
        rows = torch.as_tensor(np.asarray(state, np.float32), device=self.device)
        return self.online(rows).cpu().numpy()

    def select_action(
        self, state: np.ndarray, epsilon: float = 0.0, action_mask: np.ndarray | None = None
    ) -> int:
        """Return a random action with probability ``epsilon``, else the one of the highest Q-value.

        ``state`` is (state_size,); where ``action_mask`` (action_size,) is false, an action is not taken.

        Raises:
            ActionError: no action is possible.
        """
        number("epsilon", epsilon, 0.0, 1.0)
        possible = self._possible(action_mask)  # (A,) bool
        if epsilon > 0.0 and self._rng.random() < epsilon:
            return int(self._rng.choice(np.flatnonzero(possible)))
        q = self.get_q_values(self._state("state", state))  # (A,)
        return int(np.where(possible, q, -np.inf).argmax())

    # Learning

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of the online network, made when it is first needed.

        Agents that only act are spared it: the first one of a process takes seconds to import.
        """
        if self._optimizer is None:
            self._optimizer = torch.optim.Adam(self.online.parameters(), lr=self.learning_rate, fused=True)
            if self._optimizer_state:
                self._optimizer.load_state_dict(self._optimizer_state)
        return self._optimizer

    def update(
        self,
        state: np.ndarray,
        action: int,
        reward: float,
        next_state: np.ndarray,
        done: bool,
        *,
        truncated: bool = False,
        next_action_mask: np.ndarray | None = None,
    ) -> float:
        """Learn from one step and up to ``batch_size`` - 1 remembered ones; return the loss.

        ``done`` ends the episode with nothing after it; ``truncated`` cuts it off, and what would come after
        ``next_state`` is valued. The loss is the mean Huber loss of the temporal-difference errors; 0 while
        no transition over ``n_step`` steps is complete.

        Raises:
            ActionError: the action does not exist.
            ModelError: a state has another size, or a state or the reward is not finite.
            TrainingDivergedError: the loss is not finite; nothing was changed.
        """
        if not 0 <= action < self.output_size or int(action) != action:
            raise ActionError(f"action must be an integer from 0 to {self.output_size - 1}, got {action!r}")
        if not math.isfinite(reward):
            raise ModelError(f"reward must be finite, got {reward}")
        state, following = self._state("state", state), self._state("next_state", next_state)
        possible = None if next_action_mask is None else self._possible(next_action_mask)
        added = self._remember(state, int(action), float(reward), following, possible, done, truncated)
        if done or truncated:
            self.epsilon = max(self.epsilon_end, self.epsilon * self.epsilon_decay)
        if not len(self._memory):
            return 0.0
        return self.learn(self._memory.latest_and_random(added, self.batch_size, self._rng))[0]

    def _remember(
        self,
        state: np.ndarray,
        action: int,
        reward: float,
        following: np.ndarray,
        possible: np.ndarray | None,
        done: bool,
        truncated: bool,
    ) -> int:
        """Keep a step, its state only where it is not the last one's next; return what is complete now."""
        if self._last is None or not np.array_equal(self._last[0], state):
            self._last = (state, self._memory.store(state[None]))
        number = self._last[1]
        self._last = (following, self._memory.store(following[None]))
        complete = self._sums.add(
            number,
            np.array([action]),
            np.array([reward]),
            terminated=np.array([bool(done)]),
            cut=np.array([bool(truncated)]),
        )
        masks = None if possible is None else np.tile(possible, (len(complete.states), 1))
        self._memory.add(complete, self._last[1].repeat(len(complete.states)), masks)
        return len(complete.states)

    def learn(
        self,
        batch: Transitions,
        weights: np.ndarray | None = None,
        step: Callable[[torch.Tensor], object] | None = None,
    ) -> tuple[float, np.ndarray]:
        """Make one gradient step on transitions of anywhere; return the loss and the errors (rows,).

        ``weights`` (rows,) weigh the rows' losses, as prioritised replay needs; every
        ``target_update_freq`` updates the target network becomes a copy of the online one. ``step`` makes
        the gradient step for the loss instead of the agent's own optimiser.

        Raises:
            TrainingDivergedError: the loss is not finite; nothing was changed.
        """
        device = self.device
        targets = self.targets(batch)  # (rows,)
        q = self.online(torch.as_tensor(batch.states, device=device))  # (rows, A)
        chosen = q.gather(1, torch.as_tensor(batch.actions, device=device)[:, None])[:, 0]
        weighing = None if weights is None else torch.as_tensor(weights, dtype=q.dtype, device=device)
        loss, errors = huber_loss(chosen, targets, weighing)
        if not torch.isfinite(loss):
            raise TrainingDivergedError(f"loss of the Q-values must be finite, got {loss.item()}")
        (step or self._gradient_step)(loss)
        self.updates += 1
        if self.updates % self.target_update_freq == 0:
            self.update_target()
        return loss.item(), errors.cpu().numpy()

    def _gradient_step(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        if self.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.online.parameters(), self.grad_clip)
        self.optimizer.step()

    @torch.no_grad()
    def targets(self, batch: Transitions) -> torch.Tensor:
        """Return what the Q-values of the transitions' actions should be (rows,)."""
        device = self.device
        states = torch.as_tensor(batch.next_states, device=device)
        mask = None if batch.next_masks is None else torch.as_tensor(batch.next_masks, device=device)
        values = self.target(states, mask)  # (rows, A)
        best = best_values(values, self.online(states, mask) if self.double_q else None)[:, 0]
        discounts = torch.as_tensor(batch.discounts, device=device)
        return torch.as_tensor(batch.rewards, device=device) + discounts * best

    def update_target(self) -> None:
        """Make the target network a copy of the online one."""
        self.target.load_state_dict(self.online.state_dict())

    # Configuration and state

    @classmethod
    def build(cls, input_size: int, output_size: int, **options: Any) -> Self:
        """Return a new agent of these sizes."""
        return cls.from_config({"state_size": input_size, "action_size": output_size, **options})

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        same = (
            "learning_rate",
            "gamma",
            "n_step",
            "target_update_freq",
            "batch_size",
            "replay_buffer_size",
            "epsilon_start",
            "epsilon_end",
            "epsilon_decay",
            "grad_clip",
        )
        network = self.online.get_config()
        del network["branches"]  # an agent's action is one choice
        return {
            "state_size": network.pop("input_size"),
            "action_size": network.pop("output_size"),
            **network,
            "double": self.double_q,
            **{name: getattr(self, name) for name in same},
        }

    def training_state(self) -> dict[str, Any]:
        """Return optimiser, schedule and generator."""
        optimizer = self._optimizer_state if self._optimizer is None else self._optimizer.state_dict()
        return {
            "optimizer": optimizer,
            "updates": self.updates,
            "epsilon": self.epsilon,
            "generator": self._rng.bit_generator.state,
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Continue from what ``training_state`` returned, with nothing remembered."""
        self._optimizer, self._optimizer_state = None, state["optimizer"]
        self.updates, self.epsilon = state["updates"], state["epsilon"]
        self._rng.bit_generator.state = state["generator"]
        self._forget()

    def _forget(self) -> None:
        """Begin with an empty memory, between episodes."""
        self._memory = TransitionMemory(
            self.replay_buffer_size, self.input_size, self.output_size, margin=self.n_step + 2
        )
        self._sums = NStepSums(self.n_step, self.gamma)
        self._last = None

    def _state(self, name: str, state: np.ndarray) -> np.ndarray:
        array = np.asarray(state, np.float32)
        if array.shape != (self.input_size,):
            raise ModelError(f"{name} must have shape ({self.input_size},), got {array.shape}")
        if not np.isfinite(array).all():
            raise ModelError(f"{name} must be finite, got {array}")
        return array

    def _possible(self, action_mask: np.ndarray | None) -> np.ndarray:
        if action_mask is None:
            return np.ones(self.output_size, bool)
        mask = np.asarray(action_mask, bool)
        if mask.shape != (self.output_size,):
            raise ActionError(f"action_mask must have shape ({self.output_size},), got {mask.shape}")
        if not mask.any():
            raise ActionError("action_mask must allow at least one action, got none")
        return mask
