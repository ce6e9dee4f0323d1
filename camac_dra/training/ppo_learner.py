"""The learner of PPO and of policy gradients, and RLlib's configuration of both."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
from camac_dra.training.helping_thread import HelpingThread
from camac_dra.training.losses import LossTerm, LossWeights, policy_term, value_term
from camac_dra.training.optimizer import PartialGradient
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

    With two threads or more, a critic with layers of its own is differentiated beside its policy, each with
    half of the threads: that is faster than splitting every operation, and with two threads the numbers are
    those of one.

    The adaptive KL coefficient stays off (it would be missing from checkpoints).
    """

    config: ArrayPPOConfig

    def build(self) -> None:
        """Build modules and optimisers; halve torch's threads between two that compute side by side."""
        super().build()
        self._by_policy: dict[str, PartialGradient] = {}
        self._by_critic: dict[str, PartialGradient] = {}  # of those that have layers of their own
        for module_id, stepper in self._steppers.items():
            module = self.actor_critic(module_id)
            if module.critic_is_apart:
                self._by_policy[module_id] = stepper.gradient_by(module.policy)
                self._by_critic[module_id] = stepper.gradient_by(module.value)
            else:
                self._by_policy[module_id] = stepper.gradient_by(module)
        self._helping: HelpingThread | None = None
        threads = self.config.array_settings.threads_to_learn
        if threads > 1 and self._by_critic and self._device.type == "cpu":
            torch.set_num_threads(threads // 2)
            self._helping = HelpingThread(threads // 2)

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

    def _losses(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return RLlib's PPO losses.

        Their gradients by the networks' outputs are known in closed form, so that policies and critics are
        differentiated here already, side by side where there is a helping thread.
        """
        work = {mid: partial(self._learn_values, mid, batch[mid]) for mid in batch if mid in self._by_critic}
        critics = {mid: self._helping.offer(w) if self._helping else w for mid, w in work.items()}
        return {mid: self._learn_policy(mid, columns, critics.get(mid)) for mid, columns in batch.items()}

    def _gradient(self, module_id: str, loss: torch.Tensor) -> torch.Tensor:
        """Return the gradient that `_losses` computed; refuse a loss that is not finite."""
        stepper = self._steppers[module_id]
        stepper.refuse_unless_finite(loss.item())
        assert stepper.vector.grad is not None
        return stepper.vector.grad

    def _learn_policy(
        self, module_id: str, batch: dict[str, Any], critic: Callable[[], LossTerm] | None
    ) -> torch.Tensor:
        """Differentiate a policy, and its critic where that is not apart; return the loss of both."""
        module, weights = self.actor_critic(module_id), self._loss_weights(module_id)
        outputs = module.forward_train(batch)
        inputs = outputs[Columns.ACTION_DIST_INPUTS].t()  # (O, rows)
        batch = module.counted(batch)
        policy = policy_term(
            module.head.distribution(inputs.detach()),
            actions=batch[Columns.ACTIONS],
            log_probs=batch[Columns.ACTION_LOGP],
            advantages=batch[Columns.ADVANTAGES],
            weights=weights,
        )
        if critic is None:
            values = module.compute_values(batch, embeddings=outputs[Columns.EMBEDDINGS])
            value = value_term(values.detach(), batch[Columns.VALUE_TARGETS], weights)
            self._by_policy[module_id].take([inputs, values], [policy.gradient, value.gradient])
        else:
            self._by_policy[module_id].take([inputs], [policy.gradient])
            value = critic()
        loss = policy.loss + value.loss
        self.metrics.log_dict({**policy.figures, **value.figures}, key=module_id)
        self.metrics.log_value((module_id, MINIBATCH_LOSS), loss)
        return inputs.new_tensor(loss)

    def _learn_values(self, module_id: str, batch: dict[str, Any]) -> LossTerm:
        """Differentiate a critic that has layers of its own; return its loss."""
        module = self.actor_critic(module_id)
        batch = module.counted(batch)
        values = module.compute_values(batch)  # (rows,) or (rows, C)
        term = value_term(values.detach(), batch[Columns.VALUE_TARGETS], self._loss_weights(module_id))
        self._by_critic[module_id].take([values], [term.gradient])
        return term

    def _loss_weights(self, module_id: str) -> LossWeights:
        config = self.config
        return LossWeights(
            config.clip_param if config.array_settings.loss == "clipped" else None,
            config.vf_clip_param,
            config.vf_loss_coeff,
            float(self.entropy_coeff_schedulers_per_module[module_id].get_current_value()),
        )

    def _set_schedules(self, env_steps: int) -> None:
        for module_id in self._steppers:
            self.entropy_coeff_schedulers_per_module[module_id].update(timestep=env_steps)
