"""Everything that leans on how RLlib works inside, for the version that requirements.txt pins.

``tests/training/test_rllib_bridge.py`` holds the contract tests: run it first when Ray is updated.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import torch
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule, MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import ALL_MODULES, NUM_MODULE_STEPS_TRAINED

from camac_dra.models.normalization import RunningMoments
from camac_dra.models.rl_module import ActorCriticModule
from camac_dra.training.losses import KnownGradient, LossWeights, ppo_terms
from camac_dra.training.minibatches import LossRecorder, Minibatch, ShuffledMinibatches
from camac_dra.training.optimizer import Optimizer
from camac_dra.training.settings import PPOSettings
from camac_dra.utils.errors import CamacError, CapabilityError

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.env.env_runner_group import EnvRunnerGroup

    from camac_dra.training.array_env_runner import ArrayEnvRunner
    from camac_dra.training.fragments import Fragment

MINIBATCH_LOSS = "minibatch_loss"
VALUE_ROWS = 1024  # rows per value forward; their activations stay in cache


class ArrayPPOConfig(PPOConfig):
    """RLlib's PPO configuration with the settings of array sampling and who decides for whom."""

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.array_settings = PPOSettings()
        self.module_ids: list[str] = []  # M names of policies
        self.agent_modules: list[int] = []  # N indices into module_ids

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return a spec without RLlib's catalog, which our module does not use."""
        return RLModuleSpec(module_class=ActorCriticModule)

    def get_default_learner_class(self) -> type[Learner]:
        """Return the learner with cheap minibatches."""
        return ArrayPPOLearner


class ArrayPPOLearner(PPOTorchLearner):
    """RLlib's PPO learner, with its loss, schedules and update loop, over shuffled tensor minibatches.

    The adaptive KL coefficient stays off (it would be missing from checkpoints). A loss or gradient that is
    not finite raises ``TrainingDivergedError`` before the optimiser steps.
    """

    config: ArrayPPOConfig

    def build(self) -> None:
        """Build modules and optimisers; seed the generator that orders minibatches."""
        self._steppers: dict[str, Optimizer] = {}  # by policy
        super().build()
        settings = self.config.array_settings
        seed = np.random.SeedSequence([settings.seed, 2**31]).generate_state(1)
        self.shuffle_generator = torch.Generator().manual_seed(int(seed[0]))
        self._rllib_metrics = self.metrics
        self._rows_trained = 0

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
            lr_or_lr_schedule=config.lr,
        )

    @torch.inference_mode()
    def expected_returns(self, module_id: str, observations: torch.Tensor) -> torch.Tensor:
        """Return values (rows,) of raw observations (rows, *shape) in real units."""
        module = self._module[module_id].unwrapped()
        return torch.cat([module.expected_returns(block) for block in observations.split(VALUE_ROWS)])

    def set_observation_moments(self, module_id: str, moments: RunningMoments) -> None:
        """Freeze the scaling of a policy's observations until the next call."""
        self._module[module_id].unwrapped().observation_scaler.set_moments(moments)

    def set_return_moments(self, module_id: str, moments: RunningMoments) -> None:
        """Change the units of a policy's critic, keeping its predictions in real units."""
        module = self._module[module_id].unwrapped()
        module.return_scaler.set_moments(moments, module.value.output)

    def normalized_targets(self, module_id: str, targets: torch.Tensor) -> torch.Tensor:
        """Return value targets (rows,) in the units of a policy's critic."""
        scaler = self._module[module_id].unwrapped().return_scaler
        return targets if scaler is None else scaler.from_returns(targets)

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
        columns = {mid: dict(batch) for mid, batch in training_data.batch.policy_batches.items()}
        rows = max(len(batch) for batch in training_data.batch.policy_batches.values())
        return ShuffledMinibatches(
            columns,
            num_epochs=num_epochs,
            minibatch_size=minibatch_size or rows,
            generator=self.shuffle_generator,
        )

    def _set_slicing_by_batch_id(self, batch: Any, *, value: bool) -> Any:
        return batch

    def _log_metrics(self, batch: Minibatch) -> None:
        pass

    def _log_steps_trained_metrics(self, batch: Minibatch) -> None:
        self._rows_trained += sum(
            len(columns[Columns.ACTION_LOGP]) for columns in batch.policy_batches.values()
        )

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> torch.Tensor:
        """Return RLlib's PPO loss, whose gradients by network outputs are known in closed form."""
        module = self._module[module_id].unwrapped()
        inputs = fwd_out[Columns.ACTION_DIST_INPUTS].t()  # (O, rows)
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
                config.clip_param, config.vf_clip_param, config.vf_loss_coeff, float(entropy_coeff)
            ),
        )
        self.metrics.log_dict(terms.figures, key=module_id)
        self.metrics.log_value((module_id, MINIBATCH_LOSS), terms.loss)
        return KnownGradient.apply(inputs, values, terms.loss, terms.by_inputs, terms.by_values)

    def compute_gradients(
        self, loss_per_module: dict[str, torch.Tensor], **kwargs: Any
    ) -> dict[torch.nn.Parameter, torch.Tensor]:
        """Refuse losses that are not finite, then differentiate; the gradient of a policy is one vector."""
        steppers = {module_id: self._steppers[module_id] for module_id in loss_per_module}
        return {
            stepper.vector: stepper.differentiate(loss_per_module[module_id])
            for module_id, stepper in steppers.items()
        }

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
        for module_id in self._steppers:
            self.entropy_coeff_schedulers_per_module[module_id].update(timestep=env_steps)


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


def modules_of(module: MultiRLModule, module_ids: Sequence[str]) -> list[ActorCriticModule]:
    """Return the policies of a multi-module in the order of ``module_ids``; RLlib's own order can be any."""
    return [module[module_id].unwrapped() for module_id in module_ids]


def acting_spec(config: ArrayPPOConfig, spaces: dict[str, Any]) -> MultiRLModuleSpec:
    """Return the specs of the policies without what acting does not need.

    RLlib passes ``inference_only`` on to specs that it makes itself, but not to those that it is given.
    """
    spec = config.get_multi_rl_module_spec(spaces=spaces, inference_only=True)
    spec.inference_only = True
    for policy_spec in spec.rl_module_specs.values():
        policy_spec.inference_only = True
    return spec


def train_batch(columns: dict[str, dict[str, torch.Tensor]], env_steps: int) -> MultiAgentBatch:
    """Return flat columns per policy as the batch that ``LearnerGroup.update`` takes."""
    batches = {mid: SampleBatch(policy_columns) for mid, policy_columns in columns.items()}
    return MultiAgentBatch(batches, env_steps)


def sample_fragments(
    group: EnvRunnerGroup, timeout: float | None
) -> tuple[list[Fragment], list[dict[str, Any]]]:
    """Ask every healthy env runner for one fragment; return fragments by worker index, and metrics.

    Dead actors are missing from the answer. What an environment or a callback raised is raised here: RLlib
    would log it, take the actor out of service and bring it back, again and again.
    """
    if group.num_remote_env_runners() == 0:
        runner = group.local_env_runner
        return [runner.sample()], [runner.get_metrics()]
    answers = group.foreach_env_runner(_attempt, local_env_runner=False, timeout_seconds=timeout)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    answers.sort(key=lambda answer: answer[0].worker_index)
    return [fragment for fragment, _ in answers], [metrics for _, metrics in answers]


def _attempt(runner: ArrayEnvRunner) -> tuple[Fragment, dict[str, Any]] | Exception:
    try:
        return runner.sample(), runner.get_metrics()
    except Exception as error:  # noqa: BLE001 (whatever a user's environment raises)
        return (
            error
            if isinstance(error, CamacError)
            else RuntimeError("".join(traceback.format_exception(error)))
        )


def notify(runner: ArrayEnvRunner, event: str, **kwargs: Any) -> None:
    """Call the RLlib callbacks of an env runner event that exists without episodes."""
    make_callback(
        event,
        callbacks_objects=runner.callbacks,
        callbacks_functions=getattr(runner.config, f"callbacks_{event}"),
        kwargs={"env_runner": runner, "metrics_logger": runner.metrics, **kwargs},
    )


def callback_classes(config: PPOConfig) -> list[type[RLlibCallback]]:
    """Return the configured callback classes, of which RLlib allows one or a list."""
    classes = config.callbacks_class
    return list(classes) if isinstance(classes, (list, tuple)) else [classes]


def actor_was_restarted() -> bool:
    """Whether this process is an actor that Ray started again after it had died."""
    if not ray.is_initialized() or ray.get_runtime_context().worker.mode != ray.WORKER_MODE:
        return False  # a driver is no actor, and Ray asserts that it is not asked
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the only property that tells it asks a deprecated one
        return bool(ray.get_runtime_context().was_current_actor_reconstructed)


EPISODE_EVENTS = ("on_episode_created", "on_episode_start", "on_episode_step", "on_episode_end")


def refuse_unsupported(config: PPOConfig) -> None:
    """Raise ``CapabilityError`` for callbacks that wait for episode objects, and for learners elsewhere."""
    if config.num_learners > 0:
        raise CapabilityError(
            f"num_learners must be 0 (learn in the main process) in this version, got {config.num_learners}"
        )
    for event in EPISODE_EVENTS:
        overridden = any(
            getattr(c, event) is not getattr(RLlibCallback, event) for c in callback_classes(config)
        )
        if overridden or getattr(config, f"callbacks_{event}"):
            raise CapabilityError(
                f"callback {event} never fires without RLlib episodes, which array sampling does not make: "
                "use on_sample_end (gets the fragment) or on_train_result"
            )
