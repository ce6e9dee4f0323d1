"""What algorithms that learn from replayed experience share: remembering, drawing, normalising, state."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.policy.sample_batch import MultiAgentBatch
from ray.rllib.utils.metrics import LEARNER_RESULTS

from camac_dra.models.normalization import RunningMoments
from camac_dra.training.array_algorithm import ArrayAlgorithm
from camac_dra.training.experience_buffer import ExperienceBuffer
from camac_dra.training.fragments import Fragment
from camac_dra.training.replay import ReplayMinibatches, check_finite, columns_of, remember
from camac_dra.training.replay_learner import ReplayConfig, ReplayLearner
from camac_dra.training.replay_settings import ReplaySettings
from camac_dra.utils.errors import CheckpointError, ExperienceError

TARGET_MEMORY = 20  # iterations after which targets are forgotten by the units of Q-values
REPLAY = "replay"  # key in the training state: states of the buffers by policy, or None


class ReplayAlgorithm(ArrayAlgorithm):
    """An algorithm that remembers what its env runners sample, and learns from draws of that.

    Every policy has a buffer of its own, ``buffers``, with the rows of its agents while they take part. An
    iteration makes as many updates as it takes to learn from every row ``num_epochs`` times on average, and
    one at least.
    """

    config: ReplayConfig
    learner: ReplayLearner
    settings: ReplaySettings

    def setup(self, config: AlgorithmConfig) -> None:
        """Build env runners, learner and buffers; set torch's threads in this process."""
        super().setup(config)
        self.buffers = self._make_buffers()
        self._owed = 0.0  # updates
        self._target_moments = {mid: RunningMoments.empty(1) for mid in self.config.module_ids}

    def _make_buffers(self) -> dict[str, ExperienceBuffer]:
        return {mid: self._make_buffer(number) for number, mid in enumerate(self.config.module_ids)}

    def _make_buffer(self, number: int) -> ExperienceBuffer:
        settings = self.settings
        head = self.learner.module[self.config.module_ids[number]].unwrapped().head
        return ExperienceBuffer(
            settings.replay_buffer_size,
            n_step=settings.n_step,
            gamma=settings.gamma,
            prioritized=settings.prioritized,
            alpha=settings.priority_alpha,
            beta=settings.priority_beta,
            action_shape=head.action_shape,
            action_dtype=np.dtype(str(head.action_dtype).removeprefix("torch.")),
            seed=int(np.random.SeedSequence([settings.seed, 2**31 + 2, number]).generate_state(1)[0]),
        )

    def _learn(self, fragments: list[Fragment]) -> None:
        """Remember the fragments, and learn from what is remembered."""
        rows = self._remember(fragments)
        self._renew_observation_moments(fragments)
        updates = self._due(rows)
        if not updates:
            return
        self._renew_units()
        replay = ReplayMinibatches(
            self.buffers, updates, self.settings.batch_size, lambda: self.learner.errors
        )
        env_steps = sum(fragment.env_steps for fragment in fragments)
        # RLlib asks for a batch; minibatches are drawn as they are needed.
        results = self.update_learners(MultiAgentBatch({}, 0), env_steps, replay=replay)
        self.metrics.aggregate(results, key=LEARNER_RESULTS)

    def _remember(self, fragments: list[Fragment]) -> int:
        """Add the fragments to the buffers; return the rows of all policies."""
        for fragment in fragments:
            check_finite(fragment)
        assignment = np.asarray(self.config.agent_modules)
        alone = len(self.config.module_ids) == 1
        return sum(
            remember(self.buffers[mid], fragment, None if alone else np.flatnonzero(assignment == index))
            for fragment in fragments
            for index, mid in enumerate(self.config.module_ids)
        )

    def _due(self, rows: int) -> int:
        """Return the updates to make after so many new rows; what is left over is owed."""
        settings, longest = self.settings, max(map(len, self.buffers.values()))
        if longest < max(1, settings.learning_starts):
            return 0
        self._owed += rows * settings.num_epochs / (settings.batch_size * len(self.buffers))
        updates = max(1, int(self._owed))
        self._owed -= updates
        return updates

    def _renew_units(self) -> None:
        """Adopt a batch of targets into the units of the Q-values."""
        if not self.settings.normalize_returns:
            return
        for mid, buffer in self.buffers.items():
            if not len(buffer):
                continue
            batch = columns_of(buffer.sample_batch(min(self.settings.batch_size, len(buffer))))
            targets = self.learner.real_targets(mid, batch)  # (rows,)
            self._target_moments[mid] = self._target_moments[mid].merge(
                RunningMoments.of(targets[:, None]), max_count=TARGET_MEMORY * len(targets)
            )
            self.learner.set_return_moments(mid, self._target_moments[mid])

    # State

    def _own_state(self) -> dict[str, Any]:
        moments = {mid: moments.get_state() for mid, moments in self._target_moments.items()}
        return {"target_moments": moments, "owed": self._owed}

    def _set_own_state(self, state: dict[str, Any]) -> None:
        self._owed = float(state["owed"])
        self._target_moments = {
            mid: RunningMoments.from_state(moments) for mid, moments in state["target_moments"].items()
        }

    def get_training_state(self) -> dict[str, Any]:
        """Return all that the rest of the training depends on.

        Only with ``checkpoint_replay`` what is remembered is part of it, and continuing from it is
        bit-identical to not having stopped.
        """
        replay = None
        if self.settings.checkpoint_replay:
            replay = {mid: buffer.get_state() for mid, buffer in self.buffers.items()}
        return {**super().get_training_state(), REPLAY: replay}

    def _take_over(self, state: dict[str, Any]) -> None:
        buffers, kept = self._make_buffers(), state[REPLAY]
        for mid, buffer in buffers.items() if kept is not None else ():
            try:
                buffer.set_state(kept[mid])
            except ExperienceError as error:
                raise CheckpointError(f"replay of policy {mid!r}: {error}") from None
        super()._take_over(state)
        self.buffers = buffers

    def lost_on_resume(self) -> str | None:
        """Say what a training that was just resumed begins without, None where it is exact."""
        if any(map(len, self.buffers.values())):
            return None
        return (
            "What was remembered is not in the checkpoint: replay begins empty "
            "(training.checkpoint_replay: true keeps it)"
        )
