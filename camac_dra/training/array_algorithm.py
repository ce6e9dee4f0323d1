"""What all algorithms over array fragments share: sampling, counting, weights, state, rolling back."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_UPDATE_TIMER,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

from camac_dra.models.normalization import RunningMoments
from camac_dra.training.array_env_runner import ArrayEnvRunner
from camac_dra.training.array_learner import ArrayLearner
from camac_dra.training.fragments import Fragment
from camac_dra.training.rllib_bridge import ArrayConfig, refuse_unsupported, sample_fragments
from camac_dra.utils.errors import CamacError, CheckpointError, TrainingDivergedError
from camac_dra.utils.memory import keep_freed_memory

STATE_VERSION = 1
MOST_SILENT = 5
LOGDIR = "logdir"  # key in ``env_config``: the folder for files of RLlib's own, which writes none at present


@dataclass
class Counters:
    """How far a training has come."""

    iterations: int = 0
    env_steps: int = 0
    agent_steps: int = 0
    episodes: int = 0


class ArrayAlgorithm(Algorithm):
    """An algorithm whose samples are arrays from the environment to the minibatch; mixed in before RLlib's.

    One ``train()`` samples a fragment from every env runner, learns from them through RLlib's learner group
    and sends the new weights to the env runners. ``counters`` says how far it came and ``episodes`` holds the
    measures of the episodes that ended in the last iteration.

    A loss, gradient, reward or observation that is not finite raises ``TrainingDivergedError``; the weights,
    optimisers and normalisers are then those after the last whole iteration.
    """

    config: ArrayConfig

    def setup(self, config: AlgorithmConfig) -> None:
        """Build env runners and learner; set torch's threads in this process."""
        refuse_unsupported(self.config)
        self.settings = self.config.array_settings
        torch.set_num_threads(self.settings.torch_threads)
        keep_freed_memory()
        self.counters = Counters()
        self.episodes: list[dict[str, float]] = []
        self._silent = 0  # iterations in a row in which no env runner answered
        super().setup(config)
        features = self.settings.network.num_features(self.config.observation_space.shape)
        self._observation_moments = RunningMoments.empty(features)

    def _setup_logdir(self) -> None:
        """Write nothing into the home folder, as Tune's trainables do where Tune does not run them."""
        folder = self.config.env_config.get(LOGDIR)
        if self._storage or folder is None:
            super()._setup_logdir()
        else:
            self._logdir = str(folder)  # type: ignore[assignment]

    @property
    def learner(self) -> ArrayLearner:
        """The learner, which lives in this process."""
        return self.learner_group._learner

    # What an algorithm is

    @abstractmethod
    def _learn(self, fragments: list[Fragment]) -> None:
        """Learn from new fragments, and renew the normalisers."""

    def _own_state(self) -> dict[str, Any]:
        """Return what the rest of the training depends on besides weights, optimisers, observation scaling
        and sampling: plain values and tensors, copied or immutable.
        """
        return {}

    def _set_own_state(self, state: dict[str, Any]) -> None:
        """Go on from what `_own_state` returned."""

    def lost_on_resume(self) -> str | None:
        """Say what a training that was just resumed begins without, None where it is exact."""
        return None

    # One iteration

    def training_step(self) -> None:
        """Sample, learn, send weights. RLlib calls it once per ``train()``."""
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            fragments, runner_metrics = sample_fragments(self.env_runner_group, self.config.sample_timeout_s)
        self._refuse_silence(fragments)
        if not fragments:
            return  # every env runner is down; RLlib restarts them before the next step
        self.metrics.aggregate(runner_metrics, key=ENV_RUNNER_RESULTS)
        last_good = self._snapshot()
        try:
            with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
                self._learn(fragments)
        except TrainingDivergedError:
            self._roll_back(last_good)
            raise
        self._count(fragments)
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self._send_weights()

    def _refuse_silence(self, fragments: list[Fragment]) -> None:
        """Raise ``CamacError`` where no env runner answered several times in a row."""
        self._silent = 0 if fragments else self._silent + 1
        if self._silent >= MOST_SILENT:
            raise CamacError(
                f"sampling: some env runner must answer, got nothing from any of {self.settings.num_workers} "
                f"in {self._silent} iterations; Ray's logs say what they died of"
            )

    def _renew_observation_moments(self, fragments: list[Fragment]) -> None:
        """Merge what all env runners saw; all policies share one scaling, as they
        share one observation space.
        """
        if not self.settings.normalize_observations:
            return
        for fragment in fragments:
            assert fragment.moments is not None
            self._observation_moments = self._observation_moments.merge(fragment.moments)
        for module_id in self.config.module_ids:
            self.learner.set_observation_moments(module_id, self._observation_moments)

    def _count(self, fragments: list[Fragment]) -> None:
        self.episodes = [episode for fragment in fragments for episode in fragment.episodes]
        self.counters.iterations += 1
        self.counters.env_steps += sum(fragment.env_steps for fragment in fragments)
        self.counters.agent_steps += sum(fragment.agent_steps for fragment in fragments)
        self.counters.episodes += len(self.episodes)

    def _send_weights(self) -> None:
        """Send what acting needs to every env runner; without remote ones, past Ray's object store."""
        group = self.env_runner_group
        if group.num_remote_env_runners():
            group.sync_weights(from_worker_or_learner_group=self.learner_group, inference_only=True)
        else:
            weights = self.learner.module.get_state(inference_only=True)
            group.local_env_runner.set_state({COMPONENT_RL_MODULE: weights})

    def _snapshot(self) -> dict[str, Any]:
        """Return what a diverging update is rolled back to."""
        return {
            "learner": self.learner.get_learning_state(),
            "observation_moments": self._observation_moments,  # immutable: a reference is enough
            "own": self._own_state(),
        }

    def _roll_back(self, last_good: dict[str, Any]) -> None:
        self.learner.set_learning_state(last_good["learner"], env_steps=self.counters.env_steps)
        self._observation_moments = last_good["observation_moments"]
        self._set_own_state(last_good["own"])

    # State

    def get_training_state(self) -> dict[str, Any]:
        """Return all that the rest of the training depends on: weights, optimisers, normalisers, env runners
        (environments, running episodes, generators), counters.

        Copies made of plain values and tensors, which ``torch.load(weights_only=True)`` reads. With
        ``num_workers`` 0, continuing from it is bit-identical to not having stopped.
        """
        return {
            "version": STATE_VERSION,
            "settings": self.settings.to_dict(),
            "learner": self.learner.get_learning_state(),
            "observation_moments": self._observation_moments.get_state(),
            "env_runners": self._sampling_states(),
            "counters": asdict(self.counters),
            **self._own_state(),
        }

    def _sampling_states(self) -> dict[int, dict[str, Any]]:
        """Return the sampling states of all env runners by worker index."""
        pairs = self.env_runner_group.foreach_env_runner(
            lambda runner: (runner.worker_index, runner.get_sampling_state()),
            local_env_runner=self.env_runner_group.num_remote_env_runners() == 0,
        )
        return dict(sorted(pairs))

    def set_training_state(self, state: dict[str, Any]) -> None:
        """Continue from what ``get_training_state`` returned.

        Env runners that the state does not know (more workers than before) start with fresh episodes. Raises
        ``CheckpointError`` where the state is of another version or does not fit; nothing has changed then.
        """
        if state.get("version") != STATE_VERSION:
            raise CheckpointError(
                f"training state must be of version {STATE_VERSION}, got {state.get('version')!r}"
            )
        before, runners, counters = self._snapshot(), self._sampling_states(), self.counters
        try:
            self._take_over(state)
        except (CheckpointError, KeyError, RuntimeError, TypeError, ValueError) as error:
            self.counters = counters
            self._roll_back(before)
            self._restore_env_runners(runners)
            raise CheckpointError(f"training state does not fit this algorithm: {error}") from error

    def _take_over(self, state: dict[str, Any]) -> None:
        self.counters = Counters(**state["counters"])
        self.learner.set_learning_state(state["learner"], env_steps=self.counters.env_steps)
        self._observation_moments = RunningMoments.from_state(state["observation_moments"])
        self._set_own_state(state)
        self._restore_env_runners(state["env_runners"])
        self._iteration = self.counters.iterations

    def _restore_env_runners(self, states: dict[int, dict[str, Any]]) -> None:
        weights = self.learner.module.get_state(inference_only=True)

        def restore(runner: ArrayEnvRunner) -> None:
            runner.set_state({COMPONENT_RL_MODULE: weights})
            if runner.env is not None and runner.worker_index in states:
                runner.set_sampling_state(states[runner.worker_index])

        self.env_runner_group.foreach_env_runner(restore)
