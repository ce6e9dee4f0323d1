"""What the learners of DQN and SAC share: minibatches from replay, and target networks that follow."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns

from camac_dra.models.normalization import RunningMoments
from camac_dra.training.array_learner import ArrayLearner
from camac_dra.training.minibatches import Minibatch
from camac_dra.training.replay import ReplayMinibatches
from camac_dra.training.replay_settings import ReplaySettings
from camac_dra.training.rllib_bridge import ArrayConfig


class ReplayConfig(ArrayConfig):
    """Part of the configuration of algorithms with replay."""

    array_settings: ReplaySettings


class ReplayLearner(ArrayLearner):
    """Learns from the minibatches it is given, one per update; mixed in before RLlib's learner.

    After every ``target_update_freq`` updates the target networks move towards the online ones. The errors of
    the last update are in ``errors`` (rows,) by policy.
    """

    config: ReplayConfig

    def build(self) -> None:
        """Build modules and optimisers."""
        self.updates = 0
        self.errors: dict[str, torch.Tensor] = {}
        super().build()

    def _create_iterator_if_necessary(  # type: ignore[override]
        self, *, replay: ReplayMinibatches, **kwargs: Any
    ) -> ReplayMinibatches:
        return replay

    def _log_steps_trained_metrics(self, batch: Minibatch) -> None:
        self._rows_trained += sum(len(columns[Columns.OBS]) for columns in batch.policy_batches.values())

    def apply_gradients(self, gradients_dict: dict[torch.nn.Parameter, torch.Tensor]) -> None:
        """Step the optimisers; let the target networks follow when it is time."""
        super().apply_gradients(gradients_dict)
        self.updates += 1
        settings = self.config.array_settings
        if self.updates % settings.target_update_freq == 0:
            self.update_targets(settings.target_step)

    @torch.no_grad()
    def update_targets(self, rate: float) -> None:
        """Move all target networks towards their online ones by the share ``rate``."""
        for module in self._module.values():
            for online, target in module.unwrapped().get_target_network_pairs():
                mine, theirs = list(online.parameters()), list(target.parameters())
                if rate == 1.0:
                    torch._foreach_copy_(theirs, mine)
                else:
                    torch._foreach_lerp_(theirs, mine, rate)

    def set_return_moments(self, module_id: str, moments: RunningMoments) -> None:
        """Change the units of a policy's Q-values, keeping its predictions in real units."""
        self._module[module_id].unwrapped().set_return_moments(moments)

    def get_learning_state(self) -> dict[str, Any]:
        """Return weights, optimiser states and the number of updates: copies, plain values and tensors."""
        return {**super().get_learning_state(), "updates": self.updates}

    def set_learning_state(self, state: dict[str, Any], *, env_steps: int) -> None:
        """Continue exactly from what ``get_learning_state`` returned, at ``env_steps`` of the schedules."""
        super().set_learning_state(state, env_steps=env_steps)
        self.updates = int(state["updates"])
