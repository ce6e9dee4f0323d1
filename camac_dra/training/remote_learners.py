"""Learning in other processes or on GPUs, with a copy of everything in the main process."""

from __future__ import annotations

import traceback
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from ray.rllib.policy.sample_batch import MultiAgentBatch

from camac_dra.training.array_learner import ArrayLearner
from camac_dra.training.plain_state import read_only_tensor
from camac_dra.training.rllib_bridge import ArrayConfig, train_batch
from camac_dra.utils.errors import CamacError

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner_group import LearnerGroup

UPDATE_TIMEOUT = 600.0  # seconds until an update is given up


class RemoteLearners:
    """Lets a learner group update what a learner in this process, the copy, holds.

    The copy is where values are estimated, normalisers renewed and states read and written, on the processor.
    Every update carries its whole state (weights, optimisers, order of minibatches) to all learners, and
    brings the first one's back; the others have the same. So learners remember nothing between updates, and
    rolling the copy back is all that a diverging update needs.

    Every learner gets the whole batch, and works on its part of each minibatch of it; gradients are averaged
    over the rows of all. The update is that of one learner but for the rounding of sums: no row is left out,
    and all learners make equally many steps, whatever the numbers of rows are.
    """

    def __init__(self, config: ArrayConfig, group: LearnerGroup, module_spec: Any) -> None:
        """Build the copy, with the weights that the learners have at the start."""
        own = config.copy(copy_frozen=False)
        own.learners(num_learners=0, num_gpus_per_learner=0)
        self._group = group
        self.copy: ArrayLearner = own.learner_class(config=own, module_spec=module_spec)
        self.copy.build()

    def update(self, batch: MultiAgentBatch, *, env_steps: int, **options: Any) -> list[dict[str, Any]]:
        """Update on a batch; return the learners' results.

        ``env_steps`` is how far the schedules are that the update begins with; ``options`` are those of
        RLlib's ``Learner.update``.

        Raises:
            TrainingDivergedError: a loss or gradient is not finite; the copy is as it was.
            CamacError: a learner died or did not answer; the copy is as it was.
        """
        task = {
            "state": self.copy.get_learning_state(),
            "columns": {mid: _arrays(columns) for mid, columns in batch.policy_batches.items()},
            "rows": batch.count,
            "env_steps": env_steps,
            "options": options,
        }
        answers = self._ask(ray.put(task) if self._group.is_remote else task)
        results = [results for results, _ in answers]
        state = next(state for _, state in answers if state is not None)
        self.copy.set_learning_state(state, env_steps=env_steps)
        return results

    def _ask(self, task: Any) -> list[Any]:
        found = self._group.foreach_learner(partial(_learn, task=task), timeout_seconds=UPDATE_TIMEOUT)
        results = [result.get() for result in found]
        wrong = [result for result in results if isinstance(result, Exception)]
        for error in sorted(wrong, key=lambda error: not isinstance(error, CamacError)):
            if isinstance(error, CamacError):
                raise error
            raise CamacError(f"learning: a learner failed: {error}") from error
        if len(results) < len(self._group):
            raise CamacError(
                f"learning: {len(self._group)} learners must answer within {UPDATE_TIMEOUT:g} s, got "
                f"{len(results)} answers"
            )
        return results


def _learn(learner: ArrayLearner, task: Any) -> Any:
    """Take the state over, update; return results, and the first learner's state. Return what is raised."""
    try:
        task = ray.get(task) if isinstance(task, ray.ObjectRef) else task
        learner.set_learning_state(task["state"], env_steps=task["env_steps"])
        columns = {
            mid: {name: read_only_tensor(array) for name, array in arrays.items()}
            for mid, arrays in task["columns"].items()
        }
        results = learner.update(batch=train_batch(columns, task["rows"]), **task["options"])
        return results, learner.get_learning_state() if learner.rank == 0 else None
    except CamacError as error:
        return error
    except Exception as error:  # noqa: BLE001 (whatever a loss or torch's communication raises)
        return RuntimeError("".join(traceback.format_exception(error)))


def _arrays(columns: dict[str, Any]) -> dict[str, Any]:
    """Return tensors as arrays on the same memory, which Ray's store hands out without copying."""
    return {name: column.numpy() for name, column in columns.items()}
