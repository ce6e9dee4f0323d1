"""The learner of DQN, and RLlib's configuration of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.algorithms.dqn.dqn import DQNConfig
from ray.rllib.algorithms.dqn.dqn_learner import (
    QF_MEAN_KEY,
    QF_NEXT_PREDS,
    QF_PREDS,
    QF_TARGET_NEXT_PREDS,
    TD_ERROR_MEAN_KEY,
)
from ray.rllib.algorithms.dqn.torch.dqn_torch_learner import DQNTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from camac_dra.models.q_module import QModule
from camac_dra.models.q_targets import best_values, huber_loss
from camac_dra.training.array_learner import MINIBATCH_LOSS
from camac_dra.training.replay import DISCOUNTS, NEXT_MASKS, WEIGHTS
from camac_dra.training.replay_learner import ReplayConfig, ReplayLearner
from camac_dra.training.replay_settings import DQNSettings

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm


class ArrayDQNConfig(ReplayConfig, DQNConfig):
    """RLlib's DQN configuration with the settings of array sampling and who decides for whom."""

    array_settings: DQNSettings

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.array_settings = DQNSettings()

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return a spec without RLlib's catalog, which our module does not use."""
        return RLModuleSpec(module_class=QModule)

    def get_default_learner_class(self) -> type[Learner]:
        """Return the learner that draws from array buffers."""
        return ArrayDQNLearner


class ArrayDQNLearner(ReplayLearner, DQNTorchLearner):
    """RLlib's DQN learner over transitions with discounts of their own.

    RLlib's loss knows one number of steps per row; here a transition that an episode's end cut short has the
    discount of its own length, 0 where the episode terminated.
    """

    config: ArrayDQNConfig

    def set_epsilon(self, epsilon: float) -> None:
        """Set the exploration rate of all policies."""
        for module in self._module.values():
            module.unwrapped().epsilon.fill_(epsilon)

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> torch.Tensor:
        """Return the mean Huber loss of the chosen actions' Q-values; keep the rows' errors."""
        module: QModule = self._module[module_id].unwrapped()
        targets = self._targets(module, batch, fwd_out)  # (rows,) real units
        if module.return_scaler is not None:
            targets = module.return_scaler.from_returns(targets)
        actions = batch[Columns.ACTIONS].reshape(len(targets), -1, 1)  # (rows, D, 1)
        chosen = module.by_component(fwd_out[QF_PREDS]).gather(-1, actions).mean((1, 2))  # (rows,)
        loss, self.errors[module_id] = huber_loss(chosen, targets, batch.get(WEIGHTS))
        figures = {
            QF_MEAN_KEY: chosen.detach().mean(),
            TD_ERROR_MEAN_KEY: self.errors[module_id].abs().mean(),
            "epsilon": module.epsilon,
        }
        self.metrics.log_dict(figures, key=module_id)
        self.metrics.log_value((module_id, MINIBATCH_LOSS), loss)
        return loss

    @torch.no_grad()
    def real_targets(self, module_id: str, batch: dict[str, Any]) -> torch.Tensor:
        """Return what the chosen actions' Q-values should be (rows,), in real units."""
        module = self._module[module_id].unwrapped()
        return self._targets(module, batch, module.next_q_values(batch))

    @torch.no_grad()
    def _targets(self, module: QModule, batch: dict[str, Any], fwd_out: dict[str, Any]) -> torch.Tensor:
        online, masks = fwd_out.get(QF_NEXT_PREDS), batch.get(NEXT_MASKS)
        best = best_values(
            module.by_component(fwd_out[QF_TARGET_NEXT_PREDS], masks),
            None if online is None else module.by_component(online, masks),
        ).mean((1, 2))  # (rows,)
        if module.return_scaler is not None:
            best = module.return_scaler.to_returns(best)
        return batch[Columns.REWARDS] + batch[DISCOUNTS] * best
