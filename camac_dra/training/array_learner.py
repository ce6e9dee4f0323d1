"""What the learners of all algorithms over arrays share: optimisers, minibatches, the update loop, state."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.metrics import ALL_MODULES, NUM_MODULE_STEPS_TRAINED

from camac_dra.models.normalization import RunningMoments
from camac_dra.models.rl_module import ACTIVE
from camac_dra.training.gradient_average import GradientAverage
from camac_dra.training.minibatches import LossRecorder, Minibatch, ShuffledMinibatches
from camac_dra.training.optimizer import Optimizer
from camac_dra.training.rllib_bridge import ArrayConfig
from camac_dra.utils.errors import TrainingDivergedError
from camac_dra.utils.memory import keep_freed_memory

MINIBATCH_LOSS = "minibatch_loss"


class ArrayLearner(TorchLearner):
    """RLlib's learner, with its schedules and update loop, over tensor minibatches; mixed in before the
    learner of an algorithm.

    A loss or gradient that is not finite raises ``TrainingDivergedError`` before the optimiser steps. Several
    learners share every minibatch: each works on its part, and their gradients are averaged over all rows.
    """

    config: ArrayConfig

    def build(self) -> None:
        """Build modules and optimisers; seed the generator that orders minibatches."""
        self._steppers: dict[str, Optimizer] = {}  # by policy
        settings = self.config.array_settings
        if self.config.num_learners > 0:  # in a process of its own
            torch.set_num_threads(settings.threads_to_learn)
            keep_freed_memory()
        super().build()
        self._average: GradientAverage | None = None
        if self.config.num_learners > 1:
            sizes = {mid: stepper.vector.numel() for mid, stepper in self._steppers.items()}
            self._average = GradientAverage(sizes, self._device)
        seed = np.random.SeedSequence([settings.seed, 2**31]).generate_state(1)
        self.shuffle_generator = torch.Generator().manual_seed(int(seed[0]))
        self._rllib_metrics = self.metrics
        self._rows_trained = 0

    @property
    def rank(self) -> int:
        """Which of the learners this is, from 0."""
        return torch.distributed.get_rank() if self.config.num_learners > 1 else 0

    def _make_modules_ddp_if_necessary(self) -> None:
        """Leave the modules as they are: `GradientAverage` does what wrapping them is for."""

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Register the optimiser that the settings name; RLlib keeps its learning rate on schedule."""
        settings = self.config.array_settings
        self._steppers[module_id] = stepper = Optimizer(
            self._module[module_id].unwrapped(),
            settings.optimizer,
            settings.learning_rate,
            settings.grad_clip,
            name=f"policy {module_id!r}",
        )
        self.register_optimizer(
            module_id=module_id,
            optimizer=stepper.torch_optimizer,
            params=[stepper.vector],
            lr_or_lr_schedule=settings.learning_rate_for_rllib(),
        )

    def learning_rate(self, module_id: str) -> float:
        """Return the step size of a policy's next update."""
        return self._steppers[module_id].learning_rate

    def set_observation_moments(self, module_id: str, moments: RunningMoments) -> None:
        """Freeze the scaling of a policy's observations until the next call."""
        self._module[module_id].unwrapped().observation_scaler.set_moments(moments)

    # The update loop of RLlib's Learner.update, piece by piece

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Keep RLlib's metrics logger out of the minibatch loop."""
        super().before_gradient_based_update(timesteps=timesteps)
        self.metrics = LossRecorder()
        self._rows_trained = 0

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Log the means over all minibatches once, and advance the schedules."""
        recorder, self.metrics = self.metrics, self._rllib_metrics
        means = recorder.means()
        for module_id in self._steppers:  # RLlib logs the total loss of the last minibatch only
            if (module_id, MINIBATCH_LOSS) in means:
                means[module_id, self.TOTAL_LOSS_KEY] = means.pop((module_id, MINIBATCH_LOSS))
        for key, value in means.items():
            self.metrics.log_value(key, value, window=1)
        self.metrics.log_value((ALL_MODULES, NUM_MODULE_STEPS_TRAINED), self._rows_trained, reduce="sum")
        super().after_gradient_based_update(timesteps=timesteps)

    def _create_iterator_if_necessary(
        self, *, training_data: Any, num_epochs: int = 1, minibatch_size: int | None = None, **kwargs: Any
    ) -> ShuffledMinibatches:
        columns = {
            mid: {name: column.to(self._device) for name, column in batch.items()}
            for mid, batch in training_data.batch.policy_batches.items()
        }
        rows = max(len(batch) for batch in training_data.batch.policy_batches.values())
        return ShuffledMinibatches(
            columns,
            num_epochs=num_epochs,
            minibatch_size=minibatch_size or rows,
            generator=self.shuffle_generator,
            part=(self.rank, max(1, self.config.num_learners)),
        )

    def _set_slicing_by_batch_id(self, batch: Any, *, value: bool) -> Any:
        return batch

    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Make one step, as RLlib does, without what it asks of modules wrapped for several learners."""
        self._rows = {mid: _num_rows(columns) for mid, columns in batch.items()}
        losses = self._losses(batch)
        self.apply_gradients(self.postprocess_gradients(self.compute_gradients(losses)))
        return {}, losses, {}

    def _losses(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the loss () of every policy in the batch, whose gradient `_gradient` returns."""
        return self.compute_losses(fwd_out=self.module.forward_train(batch), batch=batch)

    def _gradient(self, module_id: str, loss: torch.Tensor) -> torch.Tensor:
        """Return the gradient by all parameters of a policy; refuse a loss that is not finite."""
        return self._steppers[module_id].differentiate(loss)

    def _log_metrics(self, batch: Minibatch) -> None:
        pass

    def _log_steps_trained_metrics(self, batch: Minibatch) -> None:
        self._rows_trained += sum(
            columns[ACTIVE].numel() if ACTIVE in columns else len(columns[Columns.ACTION_LOGP])
            for columns in batch.policy_batches.values()
        )

    def compute_gradients(
        self, loss_per_module: dict[str, torch.Tensor], **kwargs: Any
    ) -> dict[torch.nn.Parameter, torch.Tensor]:
        """Refuse losses that are not finite, then differentiate; the gradient of a policy is one vector.

        With several learners it is the mean over the rows of all, and one loss that is not finite spoils it
        for all: nobody is left waiting for the others.
        """
        if self._average is None:
            return {
                self._steppers[mid].vector: self._gradient(mid, loss) for mid, loss in loss_per_module.items()
            }
        own = {mid: self._gradient_or_nan(mid, loss) for mid, loss in loss_per_module.items()}
        averages = self._average.over_learners(own, self._rows)
        return {self._steppers[mid].vector: self._steppers[mid].take(mean) for mid, mean in averages.items()}

    def _gradient_or_nan(self, module_id: str, loss: torch.Tensor) -> torch.Tensor:
        """Return the gradient; NaN where the loss is not finite, for `Optimizer.clip` to refuse."""
        try:
            return self._gradient(module_id, loss)
        except TrainingDivergedError:
            return torch.full_like(self._steppers[module_id].vector, torch.nan)

    def postprocess_gradients(
        self, gradients_dict: dict[torch.nn.Parameter, torch.Tensor]
    ) -> dict[torch.nn.Parameter, torch.Tensor]:
        """Clip each policy's gradient to the global norm ``grad_clip``; refuse norms that are not finite."""
        for module_id, stepper in self._steppers.items():
            if stepper.vector in gradients_dict:
                self.metrics.log_value((module_id, "gradient_norm"), stepper.clip())
        return gradients_dict

    def apply_gradients(self, gradients_dict: dict[torch.nn.Parameter, torch.Tensor]) -> None:
        """Step the optimisers of the policies that have gradients."""
        for optimizer, (vector,) in self._optimizer_parameters.items():
            if vector in gradients_dict:
                optimizer.step()

    def close(self) -> None:
        """Let go of what lives outside of this object."""

    # State

    def get_learning_state(self) -> dict[str, Any]:
        """Return weights, optimiser states and the minibatch generator: copies, plain
        values and tensors only.
        """
        return {
            "weights": {mid: _copy(m.unwrapped().state_dict()) for mid, m in self._module.items()},
            "optimizers": {name: _copy(o.state_dict()) for name, o in self._named_optimizers.items()},
            "shuffle_generator": self.shuffle_generator.get_state(),
            "weights_seq_no": self._weights_seq_no,
        }

    def set_learning_state(self, state: dict[str, Any], *, env_steps: int) -> None:
        """Continue exactly from what ``get_learning_state`` returned, at ``env_steps`` of the schedules.

        Raises ``KeyError`` where a policy is missing and ``RuntimeError`` where its network is another one.
        """
        for module_id in self._steppers:
            self._module[module_id].unwrapped().load_state_dict(state["weights"][module_id])
        for name, optimizer in self._named_optimizers.items():
            optimizer.load_state_dict(_copy(state["optimizers"][name]))
        self.shuffle_generator.set_state(state["shuffle_generator"])
        self._weights_seq_no = state["weights_seq_no"]
        self.metrics = self._rllib_metrics
        self._set_schedules(env_steps)

    def _set_schedules(self, env_steps: int) -> None:
        """Bring schedules other than the learning rate's, which is the optimiser's, to ``env_steps``."""


def _num_rows(columns: dict[str, torch.Tensor]) -> int:
    """Return how many rows the mean loss of a minibatch is over."""
    active = columns.get(ACTIVE)
    return len(next(iter(columns.values()))) if active is None else int(active.sum())


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value
