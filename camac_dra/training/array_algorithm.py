"""What all algorithms over array fragments share: sampling, counting, weights, state, rolling back."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.policy.sample_batch import MultiAgentBatch
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
    WEIGHTS_SEQ_NO,
)

from camac_dra.models.normalization import RunningMoments
from camac_dra.training.array_env_runner import ArrayEnvRunner
from camac_dra.training.array_learner import ArrayLearner
from camac_dra.training.fragments import Fragment
from camac_dra.training.history import LAG
from camac_dra.training.overlap import FragmentsAhead
from camac_dra.training.plain_state import arrays_of
from camac_dra.training.remote_learners import RemoteLearners
from camac_dra.training.rllib_bridge import (
    ArrayConfig,
    give_weights,
    refuse_unsupported,
    sample_fragments,
)
from camac_dra.utils.errors import CamacError, CapabilityError, CheckpointError, TrainingDivergedError
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
    measures of the episodes that ended in the last iteration. With ``overlap`` the env runners sample the
    next fragments meanwhile, with the weights before this update; ``off_policy_lag`` is the mean number of
    updates between the weights that sampled the last fragments and those that learned from them: at most 1.

    A loss, gradient, reward or observation that is not finite raises ``TrainingDivergedError``; the weights,
    optimisers and normalisers are then those after the last whole iteration.
    """

    config: ArrayConfig
    learns_elsewhere = False  # whether it can learn in other processes and on GPUs, by `update_learners` only

    def setup(self, config: AlgorithmConfig) -> None:
        """Build env runners and learner; set torch's threads in this process."""
        refuse_unsupported(self.config)
        self.settings = self.config.array_settings
        elsewhere = self.settings.num_learners > 0 or self.settings.num_gpus > 0
        if elsewhere and not self.learns_elsewhere:
            raise CapabilityError(
                f"training.num_learners and num_gpus must be 0 for {type(self).__name__}, which learns in "
                f"the main process, got {self.settings.num_learners} and {self.settings.num_gpus:g}"
            )
        torch.set_num_threads(self.settings.threads_to_learn)
        keep_freed_memory()
        self.counters = Counters()
        self.episodes: list[dict[str, float]] = []
        self.off_policy_lag = 0.0
        self._silent = 0  # iterations in a row in which no env runner answered
        self._ahead: FragmentsAhead | None = None
        super().setup(config)
        self._elsewhere: RemoteLearners | None = None
        if elsewhere:
            spec = self.config.get_multi_rl_module_spec(spaces=self.env_runner_group.get_spaces())
            self._elsewhere = RemoteLearners(self.config, self.learner_group, spec)
        if self.settings.overlap:
            self._ahead = FragmentsAhead(self.env_runner_group, self.config.sample_timeout_s)
            self._send_weights()
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
        """The learner, or its copy in this process where learning happens elsewhere."""
        return self.learner_group._learner if self._elsewhere is None else self._elsewhere.copy

    def update_learners(self, batch: MultiAgentBatch, env_steps: int, **options: Any) -> list[dict[str, Any]]:
        """Update on a batch of ``env_steps`` more steps, wherever the learners are; return their results.

        ``options`` are those of RLlib's ``Learner.update``.
        """
        timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: self.counters.env_steps + env_steps}
        if self._elsewhere is None:
            return self.learner_group.update(batch=batch, timesteps=timesteps, **options)
        return self._elsewhere.update(
            batch, env_steps=self.counters.env_steps, timesteps=timesteps, **options
        )

    def cleanup(self) -> None:
        """Stop everything that runs. RLlib calls it once, from ``stop()``."""
        learner = getattr(getattr(self, "learner_group", None), "_learner", None)
        if learner is not None:  # which learns in this process
            learner.close()
        super().cleanup()

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
            fragments, runner_metrics = self._sample()
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

    def _sample(self) -> tuple[list[Fragment], list[dict[str, Any]]]:
        """Return a fragment of every env runner that answers, and metrics; where sampling overlaps with
        learning, let them begin with the next ones.
        """
        if self._ahead is None:
            return sample_fragments(self.env_runner_group, self.config.sample_timeout_s)
        if not self._ahead.on_the_way:
            self._ahead.ask(self._acting)
        answers = self._ahead.take(self.counters.iterations)
        self._ahead.ask(self._acting)
        return answers

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
        lags = [self.counters.iterations - fragment.weights_number for fragment in fragments]
        self.off_policy_lag = float(np.mean(lags))
        self.metrics.log_value(LAG, self.off_policy_lag, window=1)
        self.episodes = [episode for fragment in fragments for episode in fragment.episodes]
        self.counters.iterations += 1
        self.counters.env_steps += sum(fragment.env_steps for fragment in fragments)
        self.counters.agent_steps += sum(fragment.agent_steps for fragment in fragments)
        self.counters.episodes += len(self.episodes)

    def _send_weights(self) -> None:
        """Send what acting needs to every env runner; without remote ones, past Ray's object store.

        Where sampling overlaps with learning, they get it with the next request for a fragment.
        """
        group, state = self.env_runner_group, self._acting_state()
        if group.num_remote_env_runners():
            self._acting = ray.put(state)
            if self._ahead is None:
                group.foreach_env_runner_async_fetch_ready(
                    func="set_state", tag="set_state", kwargs={"state": self._acting}
                )
        if group.local_env_runner is not None:  # restarted ones get their state from there
            group.local_env_runner.set_state(state)

    def _acting_state(self) -> dict[str, Any]:
        """Return an env runner's state with the weights of now and their number."""
        weights = self.learner.module.get_state(inference_only=True)
        return {COMPONENT_RL_MODULE: weights, WEIGHTS_SEQ_NO: self.counters.iterations}

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

        Where sampling overlaps with learning, fragments on the way are not part of it, but where they began
        and the weights that they are sampled with are: continuing samples them again.
        """
        return {
            "version": STATE_VERSION,
            "settings": self.settings.to_dict(),
            "learner": self.learner.get_learning_state(),
            "observation_moments": self._observation_moments.get_state(),
            "env_runners": self._sampling_states(),
            "ahead": None if self._ahead is None else self._ahead.get_weights(),
            "counters": asdict(self.counters),
            **self._own_state(),
        }

    def _sampling_states(self) -> dict[int, dict[str, Any]]:
        """Return the sampling states by worker index from which the fragments begin that are learned from
        next.
        """
        if self._ahead is not None and self._ahead.on_the_way:
            return self._ahead.get_sampling_states()
        pairs = self.env_runner_group.foreach_env_runner(
            lambda runner: (runner.worker_index, runner.get_sampling_state()),
            local_env_runner=self.env_runner_group.num_remote_env_runners() == 0,
        )
        return {index: state for index, state in sorted(pairs) if state is not None}

    def set_training_state(self, state: dict[str, Any]) -> None:
        """Continue from what ``get_training_state`` returned.

        Env runners that the state does not know (more workers than before) start with fresh episodes. Raises
        ``CheckpointError`` where the state is of another version or does not fit; nothing has changed then.
        """
        if state.get("version") != STATE_VERSION:
            raise CheckpointError(
                f"training state must be of version {STATE_VERSION}, got {state.get('version')!r}"
            )
        before, counters = self._snapshot(), self.counters
        ahead = None if self._ahead is None else self._ahead.get_weights()
        runners = self._sampling_states()
        if self._ahead is not None:
            self._ahead.drop()
        try:
            self._take_over(state)
        except (CheckpointError, KeyError, RuntimeError, TypeError, ValueError) as error:
            self.counters = counters
            self._roll_back(before)
            self._restore_env_runners(runners, ahead)
            raise CheckpointError(f"training state does not fit this algorithm: {error}") from error

    def _take_over(self, state: dict[str, Any]) -> None:
        self.counters = Counters(**state["counters"])
        self.learner.set_learning_state(state["learner"], env_steps=self.counters.env_steps)
        self._observation_moments = RunningMoments.from_state(state["observation_moments"])
        self._set_own_state(state)
        self._restore_env_runners(state["env_runners"], state.get("ahead"))
        self._iteration = self.counters.iterations

    def _restore_env_runners(
        self, states: dict[int, dict[str, Any]], ahead: dict[str, Any] | None = None
    ) -> None:
        """Bring the env runners there. With ``ahead``, older weights than the learner's, they begin with a
        fragment sampled with those.
        """
        acting = self._acting_state()

        def restore(runner: ArrayEnvRunner) -> None:
            give_weights(runner, acting)
            if runner.env is not None and runner.worker_index in states:
                runner.set_sampling_state(states[runner.worker_index])

        self.env_runner_group.foreach_env_runner(restore)
        if self._ahead is not None:
            if ahead is not None:
                self._ahead.ask(ray.put(arrays_of(ahead)))
            self._acting = ray.put(acting)
