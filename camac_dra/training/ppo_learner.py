"""The learner of PPO and of policy gradients, and RLlib's configuration of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from camac_dra.models.layers import LayerStack
from camac_dra.models.networks import DistributionNetwork
from camac_dra.models.normalization import RunningMoments
from camac_dra.models.rl_module import MASKS, ActorCriticModule
from camac_dra.models.value_network import ValueNetwork
from camac_dra.training.array_learner import MINIBATCH_LOSS, ArrayLearner
from camac_dra.training.helping_thread import HelpingThread
from camac_dra.training.losses import LossTerm, LossWeights, policy_term, value_term
from camac_dra.training.optimizer import Optimizer, PartialGradient
from camac_dra.training.rllib_bridge import ArrayConfig
from camac_dra.training.settings import PPOSettings

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm


Learn = Callable[[torch.Tensor], None]  # takes the gradient by outputs back into a network


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


@dataclass(frozen=True, slots=True)
class _Network:
    """A policy or a critic that is differentiated by itself."""

    gradient: PartialGradient
    layers: LayerStack | None  # None: torch's graph differentiates it

    @classmethod
    def of(cls, network: torch.nn.Module, stepper: Optimizer) -> _Network:
        layers = network.stack() if isinstance(network, (DistributionNetwork, ValueNetwork)) else None
        parameters = network.parameters() if layers is None else layers.parameters
        return cls(stepper.gradient_by(parameters), layers)

    def learn_from(self, outputs: list[torch.Tensor], by_last: torch.Tensor) -> None:
        """Take over the gradients by the layers, from that by the last of their outputs (rows, n)."""
        assert self.layers is not None
        self.gradient.take(self.layers.backward(outputs, by_last))


class ArrayPPOLearner(ArrayLearner, PPOTorchLearner):
    """RLlib's PPO learner over shuffled tensor minibatches.

    With two threads or more, a critic with layers of its own is differentiated beside its policy, each with
    half of the threads: that is faster than splitting every operation, and with two threads the numbers are
    those of one. Not so with networks that others wrote.

    The adaptive KL coefficient stays off (it would be missing from checkpoints).
    """

    config: ArrayPPOConfig

    def build(self) -> None:
        """Build modules and optimisers."""
        super().build()
        self._policies: dict[str, _Network] = {}
        self._critics: dict[str, _Network] = {}  # those that are apart from their policies
        for module_id, stepper in self._steppers.items():
            module = self.actor_critic(module_id)
            if module.critic_is_apart:
                self._policies[module_id] = _Network.of(module.policy, stepper)
                self._critics[module_id] = _Network.of(module.value, stepper)
            else:
                self._policies[module_id] = _Network(stepper.gradient_by(module.parameters()), None)
        # What others wrote may draw random numbers, whose order would depend on which thread is faster.
        own = not any(self.actor_critic(mid).network.is_custom for mid in self._critics)
        on_processor = self._device.type == "cpu"
        self._side_by_side = bool(self._critics) and own and on_processor and self._half_of_threads > 0
        self._helping: HelpingThread | None = None

    @property
    def _half_of_threads(self) -> int:
        return self.config.array_settings.threads_to_learn // 2

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Update as RLlib does, with a helping thread where it is worth it."""
        if self._side_by_side and self._helping is None:
            self._helping = HelpingThread(self._half_of_threads)
        with self.own_threads():
            return super().update(*args, **kwargs)

    @contextmanager
    def own_threads(self) -> Iterator[None]:
        """Let torch compute with half of the threads where a helping thread has the others."""
        before = torch.get_num_threads()
        if self._side_by_side:
            torch.set_num_threads(self._half_of_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def close(self) -> None:
        """End the helping thread."""
        if self._helping is not None:
            self._helping.close()
            self._helping = None

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
        rows = {mid: self.actor_critic(mid).counted(columns) for mid, columns in batch.items()}
        work = {mid: partial(self._learn_values, mid, rows[mid]) for mid in batch if mid in self._critics}
        critics = self._helping.offer(work) if self._helping else work
        try:
            return {
                mid: self._learn_policy(mid, columns, rows[mid], critics.get(mid))
                for mid, columns in batch.items()
            }
        finally:
            if self._helping is not None:
                self._helping.settle()

    def _gradient(self, module_id: str, loss: torch.Tensor) -> torch.Tensor:
        """Return the gradient that `_losses` computed; refuse a loss that is not finite."""
        stepper = self._steppers[module_id]
        stepper.refuse_unless_finite(loss.item())
        assert stepper.vector.grad is not None
        return stepper.vector.grad

    def _learn_policy(
        self,
        module_id: str,
        batch: dict[str, Any],
        rows: dict[str, Any],
        critic: Callable[[], LossTerm] | None,
    ) -> torch.Tensor:
        """Differentiate a policy, and its critic where that is not apart; return the loss of both.

        ``rows`` are those of ``batch`` that count, which are fewer where it is of sequences.
        """
        if critic is None:
            policy, value = self._learn_both(module_id, batch, rows)
        else:
            inputs, learn = self._run_policy(module_id, batch)
            policy = self._policy_term(module_id, inputs, rows)
            learn(policy.gradient)
            value = critic()
        loss = policy.loss + value.loss
        self.metrics.log_dict({**policy.figures, **value.figures}, key=module_id)
        self.metrics.log_value((module_id, MINIBATCH_LOSS), loss)
        return torch.tensor(loss)

    def _learn_both(
        self, module_id: str, batch: dict[str, Any], rows: dict[str, Any]
    ) -> tuple[LossTerm, LossTerm]:
        """Differentiate a policy and the critic that goes on from its layers; return their losses."""
        module = self.actor_critic(module_id)
        outputs = module.forward_train(batch)
        inputs = outputs[Columns.ACTION_DIST_INPUTS].t()  # (O, rows)
        values = module.compute_values(rows, embeddings=outputs[Columns.EMBEDDINGS])
        policy = self._policy_term(module_id, inputs.detach(), rows)
        value = self._value_term(module_id, values.detach(), rows)
        self._policies[module_id].gradient.differentiate([inputs, values], [policy.gradient, value.gradient])
        return policy, value

    def _learn_values(self, module_id: str, rows: dict[str, Any]) -> LossTerm:
        """Differentiate a critic that has layers of its own; return its loss."""
        values, learn = self._run_critic(module_id, rows)
        term = self._value_term(module_id, values, rows)
        learn(term.gradient)
        return term

    def _run_policy(self, module_id: str, batch: dict[str, Any]) -> tuple[torch.Tensor, Learn]:
        """Return what the policy says of a batch, distribution inputs (O, rows)."""
        module, policy = self.actor_critic(module_id), self._policies[module_id]
        if policy.layers is None or MASKS in batch:
            inputs = module.forward_train(batch)[Columns.ACTION_DIST_INPUTS].t()
            return inputs.detach(), lambda by_inputs: policy.gradient.differentiate([inputs], [by_inputs])
        kept = policy.layers.forward(module.scaled(batch[Columns.OBS]))
        return kept[-1].t(), lambda by_inputs: policy.learn_from(kept, by_inputs.t())

    def _run_critic(self, module_id: str, rows: dict[str, Any]) -> tuple[torch.Tensor, Learn]:
        """Return what the critic says of rows that count, values (rows,) or (rows, C)."""
        module, critic = self.actor_critic(module_id), self._critics[module_id]
        x = module.critic_inputs(rows)
        if critic.layers is None:
            values = module.shaped(module.value(x))
            return values.detach(), lambda by_values: critic.gradient.differentiate([values], [by_values])
        kept = critic.layers.forward(x)
        return module.shaped(kept[-1]), lambda by_values: critic.learn_from(
            kept, by_values.reshape(len(x), -1)
        )

    def _policy_term(self, module_id: str, inputs: torch.Tensor, rows: dict[str, Any]) -> LossTerm:
        return policy_term(
            self.actor_critic(module_id).head.distribution(inputs),
            actions=rows[Columns.ACTIONS],
            log_probs=rows[Columns.ACTION_LOGP],
            advantages=rows[Columns.ADVANTAGES],
            weights=self._loss_weights(module_id),
        )

    def _value_term(self, module_id: str, values: torch.Tensor, rows: dict[str, Any]) -> LossTerm:
        return value_term(values, rows[Columns.VALUE_TARGETS], self._loss_weights(module_id))

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
