"""The learner of SAC, and RLlib's configuration of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.algorithms.sac.sac import SACConfig
from ray.rllib.algorithms.sac.sac_learner import QF_MEAN_KEY, QF_PREDS, QF_TARGET_NEXT, QF_TWIN_PREDS
from ray.rllib.algorithms.sac.torch.sac_torch_learner import SACTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import POLICY_LOSS_KEY, Learner
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from camac_dra.models.q_targets import huber_loss
from camac_dra.models.sac_module import LOGP, NEXT_LOGP, Q_CURRENT, SACModule
from camac_dra.training.array_learner import MINIBATCH_LOSS
from camac_dra.training.replay import DISCOUNTS, WEIGHTS
from camac_dra.training.replay_learner import ReplayConfig, ReplayLearner
from camac_dra.training.replay_settings import SACSettings

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm


class ArraySACConfig(ReplayConfig, SACConfig):
    """RLlib's SAC configuration with the settings of array sampling and who decides for whom."""

    array_settings: SACSettings

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.array_settings = SACSettings()

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return a spec without RLlib's catalog, which our module does not use."""
        return RLModuleSpec(module_class=SACModule)

    def get_default_learner_class(self) -> type[Learner]:
        """Return the learner that draws from array buffers."""
        return ArraySACLearner


class ArraySACLearner(ReplayLearner, SACTorchLearner):
    """RLlib's SAC learner with one optimiser step for policy, critics and temperature together.

    The losses of the three have gradients by their own parameters only, so that their sum is one loss.
    """

    config: ArraySACConfig

    def build(self) -> None:
        """Build modules and optimiser; draw actions with the learner's generator."""
        super().build()
        for module in self._module.values():
            module.unwrapped().generator = self.shuffle_generator

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> torch.Tensor:
        """Return the losses of both critics, policy and temperature together; keep the rows' errors."""
        module: SACModule = self._module[module_id].unwrapped()
        targets = self._targets(module, batch, fwd_out)  # (rows,) real units
        if module.return_scaler is not None:
            targets = module.return_scaler.from_returns(targets)
        weights = batch.get(WEIGHTS)
        first_loss, first = huber_loss(fwd_out[QF_PREDS], targets, weights)
        second_loss, second = huber_loss(fwd_out[QF_TWIN_PREDS], targets, weights)
        self.errors[module_id] = 0.5 * (first.abs() + second.abs())
        temperature = module.log_temperature.detach().exp()
        policy_loss = (temperature * fwd_out[LOGP] - fwd_out[Q_CURRENT]).mean()
        surplus = fwd_out[LOGP].detach().mean() + self._target_entropy(module)
        temperature_loss = -(module.log_temperature * surplus).sum()
        loss = first_loss + second_loss + policy_loss + temperature_loss
        figures = {
            POLICY_LOSS_KEY: policy_loss,
            "entropy": -fwd_out[LOGP].mean(),
            "temperature": temperature,
            QF_MEAN_KEY: fwd_out[QF_PREDS].mean(),
            "td_error_mean": self.errors[module_id].mean(),
        }
        self.metrics.log_dict(figures, key=module_id)
        self.metrics.log_value((module_id, MINIBATCH_LOSS), loss)
        return loss

    def _target_entropy(self, module: SACModule) -> float:
        given = self.config.array_settings.target_entropy
        return -float(module.head.size) if given is None else given

    @torch.no_grad()
    def real_targets(self, module_id: str, batch: dict[str, Any]) -> torch.Tensor:
        """Return what the values of what was done should be (rows,), in real units."""
        module = self._module[module_id].unwrapped()
        return self._targets(module, batch, module.forward_target(batch))

    @torch.no_grad()
    def _targets(self, module: SACModule, batch: dict[str, Any], fwd_out: dict[str, Any]) -> torch.Tensor:
        soft = fwd_out[QF_TARGET_NEXT] - module.log_temperature.exp() * fwd_out[NEXT_LOGP]  # (rows,)
        if module.return_scaler is not None:
            soft = module.return_scaler.to_returns(soft)
        return batch[Columns.REWARDS] + batch[DISCOUNTS] * soft
