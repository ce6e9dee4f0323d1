"""Everything that leans on how RLlib works inside, for the version that requirements.txt pins.

What all algorithms need is here, the learners are in ``array_learner.py`` and in a file each.
``tests/training/test_rllib_bridge.py`` holds the contract tests: run it first when Ray is updated.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule, MultiRLModuleSpec
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from camac_dra.training.settings import ArraySettings
from camac_dra.utils.errors import CamacError, CapabilityError

if TYPE_CHECKING:
    import torch
    from ray.rllib.env.env_runner_group import EnvRunnerGroup

    from camac_dra.training.array_env_runner import ArrayEnvRunner
    from camac_dra.training.fragments import Fragment

    Answer = tuple[Fragment, dict[str, Any]]  # what an env runner sampled, and its metrics


class ArrayConfig(AlgorithmConfig):
    """Part of the configuration of every algorithm over arrays: settings of ours, and who decides for whom.

    Mixed into RLlib's configuration of an algorithm, before it.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.array_settings = ArraySettings()
        self.module_ids: list[str] = []  # M names of policies
        self.agent_modules: list[int] = []  # N indices into module_ids


def modules_of(module: MultiRLModule, module_ids: Sequence[str]) -> list[Any]:
    """Return the policies of a multi-module in the order of ``module_ids``; RLlib's own order can be any."""
    return [module[module_id].unwrapped() for module_id in module_ids]


def acting_spec(config: ArrayConfig, spaces: dict[str, Any]) -> MultiRLModuleSpec:
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
    found = group.foreach_env_runner(attempt, local_env_runner=False, timeout_seconds=timeout)
    answers = good_answers(found)
    return [fragment for fragment, _ in answers], [metrics for _, metrics in answers]


def good_answers(answers: Sequence[Answer | Exception]) -> list[Answer]:
    """Return the answers by worker index; raise the first exception among them."""
    good = []
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
        good.append(answer)
    return sorted(good, key=lambda answer: answer[0].worker_index)


def attempt(runner: ArrayEnvRunner) -> Answer | Exception:
    """Sample one fragment; return it with the metrics, or what an environment or a callback raised."""
    try:
        return runner.sample(), runner.get_metrics()
    except Exception as error:  # noqa: BLE001 (whatever a user's environment raises)
        return (
            error
            if isinstance(error, CamacError)
            else RuntimeError("".join(traceback.format_exception(error)))
        )


def give_weights(runner: ArrayEnvRunner, state: dict[str, Any]) -> None:
    """Let an env runner take over weights with their number, older than its own though they may be."""
    runner._weights_seq_no = 0
    runner.set_state(state)


def notify(runner: ArrayEnvRunner, event: str, **kwargs: Any) -> None:
    """Call the RLlib callbacks of an env runner event that exists without episodes."""
    make_callback(
        event,
        callbacks_objects=runner.callbacks,
        callbacks_functions=getattr(runner.config, f"callbacks_{event}"),
        kwargs={"env_runner": runner, "metrics_logger": runner.metrics, **kwargs},
    )


def callback_classes(config: AlgorithmConfig) -> list[type[RLlibCallback]]:
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


def refuse_unsupported(config: AlgorithmConfig) -> None:
    """Raise ``CapabilityError`` for callbacks that wait for episode objects, where there are none."""
    if config.array_settings.sampler == "stock":
        return
    for event in EPISODE_EVENTS:
        overridden = any(
            getattr(c, event) is not getattr(RLlibCallback, event) for c in callback_classes(config)
        )
        if overridden or getattr(config, f"callbacks_{event}"):
            raise CapabilityError(
                f"callback {event} never fires without RLlib episodes, which array sampling does not make: "
                "use on_sample_end (gets the fragment) or on_train_result"
            )
