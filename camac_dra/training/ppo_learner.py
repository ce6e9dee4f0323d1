"""The learner of PPO and of policy gradients, and RLlib's configuration of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from camac_dra.models.normalization import RunningMoments
from camac_dra.models.rl_module import ActorCriticModule
from camac_dra.training.array_learner import MINIBATCH_LOSS, ArrayLearner
from camac_dra.training.losses import KnownGradient, LossWeights, ppo_terms
from camac_dra.training.rllib_bridge import ArrayConfig
from camac_dra.training.settings import PPOSettings

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm


class ArrayPPOConfig(ArrayConfig, PPOConfig):
    """RLlib's PPO configuration with the settings of array sampling and who decides for whom."""

    array_settings: PPOSettings

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.array_settings = PPOSettings()

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return a spec without RLlib's catalog, which our module does not use."""
        return RLModuleSpec(module_class=ActorCriticModule)

    def get_default_learner_class(self) -> type[Learner]:
        """Return the learner with cheap minibatches."""
        return ArrayPPOLearner


class ArrayPPOLearner(ArrayLearner, PPOTorchLearner):
    """RLlib's PPO learner over shuffled tensor minibatches.

    The adaptive KL coefficient stays off (it would be missing from checkpoints).
    """

    config: ArrayPPOConfig

    def actor_critic(self, module_id: str) -> ActorCriticModule:
        """Return the networks of a policy."""
        return self._module[module_id].unwrapped()

    def set_return_moments(self, module_id: str, moments: RunningMoments) -> None:
        """Change the units of a policy's critic, keeping its predictions in real units."""
        module = self._module[module_id].unwrapped()
        module.return_scaler.set_moments(moments, module.value.output)

    def normalized_targets(self, module_id: str, targets: torch.Tensor) -> torch.Tensor:
        """Return value targets (rows,) in the units of a policy's critic."""
        scaler = self._module[module_id].unwrapped().return_scaler
        return targets if scaler is None else scaler.from_returns(targets)

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> torch.Tensor:
        """Return RLlib's PPO loss, whose gradients by network outputs are known in closed form."""
        module = self._module[module_id].unwrapped()
        settings = self.config.array_settings
        inputs = fwd_out[Columns.ACTION_DIST_INPUTS].t()  # (O, rows)
        batch = module.counted(batch)
        values = module.compute_values(batch, embeddings=fwd_out[Columns.EMBEDDINGS])  # (rows,)
        entropy_coeff = self.entropy_coeff_schedulers_per_module[module_id].get_current_value()
        terms = ppo_terms(
            module.head.distribution(inputs.detach()),
            values.detach(),
            actions=batch[Columns.ACTIONS],
            log_probs=batch[Columns.ACTION_LOGP],
            advantages=batch[Columns.ADVANTAGES],
            targets=batch[Columns.VALUE_TARGETS],
            weights=LossWeights(
                config.clip_param if settings.loss == "clipped" else None,
                config.vf_clip_param,
                config.vf_loss_coeff,
                float(entropy_coeff),
            ),
        )
        self.metrics.log_dict(terms.figures, key=module_id)
        self.metrics.log_value((module_id, MINIBATCH_LOSS), terms.loss)
        return KnownGradient.apply(inputs, values, terms.loss, terms.by_inputs, terms.by_values)

    def _set_schedules(self, env_steps: int) -> None:
        for module_id in self._steppers:
            self.entropy_coeff_schedulers_per_module[module_id].update(timestep=env_steps)
