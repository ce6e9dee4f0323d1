"""One copy of the problem for the faces that speak dicts; they add names and shapes to it, never rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from camac_dra.environment.agreement import Agreement
from camac_dra.environment.dict_actions import ActionReader
from camac_dra.environment.vector_api import StepResult
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.errors import ActionError
from camac_dra.utils.schema.environment import EnvironmentConfig


class SingleCopy:
    """A core with B = 1 that never starts episodes by itself and takes actions by agent.

    Attributes:
        core: the vectorised environment.
        observation_space, action_space: of every agent, always the same objects.
        running: whether an episode has begun and not ended.
        observations: (N, *observation_shape) float32, what was seen last; None before the first reset.
        last: result of the last step of this episode; None before the first one.
        episode_measures: measures of the last episode that ended; empty before that.
    """

    def __init__(
        self, config: EnvironmentConfig | Mapping[str, Any], agreement: Agreement | None = None
    ) -> None:
        """Build the core from the `environment` section or a whole configuration."""
        self.core = VectorEnvironment(config, num_envs=1, agreement=agreement, autoreset=False)
        self.agent_ids = self.core.agent_ids
        self.observation_space = self.core.single_observation_space
        self.action_space = self.core.single_action_space
        self.running = False
        self.observations: np.ndarray | None = None
        self.last: StepResult | None = None
        self.episode_measures: dict[str, float] = {}
        self._reader = ActionReader(self.agent_ids, self.action_space)

    @property
    def present(self) -> np.ndarray:
        """(N,) bool: who takes part in the next decision."""
        return self.core.present[0]

    @property
    def everybody(self) -> bool:
        """Whether all agents take part in the next decision."""
        present = self.core.state.draw.present
        return present is None or bool(present.all())

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Start an episode and return observations (N, *observation_shape)."""
        self.observations = self.core.reset(seed)[0]
        self.running, self.last = True, None
        return self.observations

    def step(self, actions: Mapping[str, Any], refuse_absent: bool = True) -> StepResult:
        """Advance by one step; see `ActionReader.read` for the actions.

        Raises:
            ActionError: no episode is running, or an action does not fit; then nothing has changed.
        """
        self._refuse_if_over()
        present = None if self.everybody else self.present
        array = self._reader.read(actions, present, refuse_absent)
        try:
            result = self.core.step(array)
        except ActionError:
            self._reader.explain(actions, present, refuse_absent)
            raise
        return self._keep(result)

    def step_requests(self, requests: np.ndarray) -> StepResult:
        """Take requests (N, R) in the resources' units; see `VectorEnvironment.step_requests`.

        Raises:
            ActionError: no episode is running, or a request does not fit; then nothing has changed.
        """
        self._refuse_if_over()
        return self._keep(self.core.step_requests(np.asarray(requests)[None]))

    def _refuse_if_over(self) -> None:
        if not self.running:
            raise ActionError("step needs a running episode, got none: call reset() first, and after an end")

    def _keep(self, result: StepResult) -> StepResult:
        """Keep what the faces show of a step."""
        self.observations, self.last = result.observations[0], result
        if result.done[0]:
            self.running = False
            self.episode_measures = result.episodes[0]
        return result

    def close(self) -> None:
        """End the episode."""
        self.running = False
        self.core.close()
