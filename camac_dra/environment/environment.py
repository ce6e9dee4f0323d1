"""The environment as dicts by agent: one episode at a time, for loops written by hand and for agents with a
bus.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from camac_dra.environment.agreement import Agreement
from camac_dra.environment.resource_pool import ResourcePool
from camac_dra.environment.single_copy import SingleCopy
from camac_dra.environment.vector_api import StepResult
from camac_dra.utils.errors import ActionError, ConfigurationError, did_you_mean
from camac_dra.utils.schema.environment import EnvironmentConfig

Observations = dict[str, np.ndarray]
Step = tuple[Observations, dict[str, float], dict[str, bool], dict[str, dict[str, Any]]]

_PER_RESOURCE = {
    "demand": "pending",
    "requested": "requests",
    "granted": "grants",
    "served": "served",
    "lost": "lost",
    "backlog": "backlog",
}  # name in the info of an agent: name in the core's


class Environment:
    """N agents that share R resources, one episode at a time.

    `VectorEnvironment` has the same rules for many copies at once and is what training uses; this face is for
    loops written by hand. Agents enter themselves into `agents`; the environment never looks at them.

    Attributes:
        config: the `environment` section with all its defaults, as a dict.
        agents: agents by id, empty until somebody enters.
        resources: nominal capacities, and what was granted in the last step (at most the capacity).
        topology: who hears whom.
        core: the vectorised environment with one copy.
        agent_ids, resource_ids: names, in the order of all arrays.
        observation_space, action_space: of every agent.
    """

    def __init__(
        self, config: EnvironmentConfig | Mapping[str, Any], agreement: Agreement | None = None
    ) -> None:
        """Build the environment of a whole configuration or of its `environment` section.

        Args:
            config: a dict (or the typed section).
            agreement: what happens between requests and contention; None: nothing.

        Raises:
            ConfigurationError: a setting is wrong.
            TraceError, TopologyError: a file named by a setting is wrong.
        """
        self._copy = SingleCopy(config, agreement)
        self.core = self._copy.core
        self.config: dict[str, Any] = self.core.config.model_dump()
        self.agents: dict[str, Any] = {}
        self.topology = self.core.topology
        self.agent_ids, self.resource_ids = self.core.agent_ids, self.core.resource_ids
        self.observation_space, self.action_space = self._copy.observation_space, self._copy.action_space
        limits, otherwise = self.core.config.resource_limits, self.core.config.default_resource_limit
        self.resources = ResourcePool({name: limits.get(name, otherwise) for name in self.resource_ids})
        self._capacity = self.resources.as_array("capacity")  # (R,)

    @property
    def episode_measures(self) -> dict[str, float]:
        """Measures of the last episode that ended (`measures.episode_measures`); empty before that."""
        return self._copy.episode_measures

    def reset(self, seed: int | None = None) -> Observations:
        """Start an episode and return the observations of the present agents.

        With a `seed` the episode and those after it are the same every time. Without one the first episode is
        that of `config["seed"]`, and each reset brings the next.

        Raises:
            ConfigurationError: the seed is negative or no whole number; then nothing has changed.
        """
        self._copy.reset(seed)
        self.resources.set_allocated({})
        return self._observations()

    def step(self, actions: Mapping[str, Any] | None) -> Any:
        """Advance by one step with an action for every present agent, or perceive with None.

        Args:
            actions: by agent; a level, an array of levels, or an array of numbers, as `action_space` says.
                None returns the current observations, like `reset`, and changes nothing; it starts the first
                episode where there has been none.

        Returns:
            observations: of the agents present in the next decision, (*observation_shape) float32; at the end
                of an episode what would be decided upon next.
            rewards: of every agent; 0 for those who did not take part.
            dones: of every agent, and `__all__`. Episodes are cut off after `max_episode_length` steps, all
                agents at once; nobody's task ends for good, so bootstrap from the last observations.
            info: of every agent, a dict with `demand` (what was pending), `requested`, `granted`, `served`,
                `lost` and `backlog` (what waits now) as arrays (R,) in the resources' own units and the order
                of `resource_ids`; `active` (took part in this step), `present` (takes part in the next one)
                and `truncated` (the episode was cut off). With reward_function `weighted` also `objectives`
                (O,), what the agent earned in each, in the order of `OBJECTIVES`.

        Raises:
            ActionError: an action is missing, of an unknown or absent agent, out of range or not finite, or
                the episode is over; then nothing has changed.
        """
        if actions is None:
            return self._observations() if self._copy.observations is not None else self.reset()
        return self._stepped(self._copy.step(actions))

    def step_requests(self, requests: Mapping[str, Any]) -> Step:
        """Advance by one step with what agents ask for, instead of actions; returns what `step` does.

        Args:
            requests: by agent, an array (R,) in the resources' units and the order of `resource_ids`; what is
                not pending or allowed is cut off. Agents that are left out ask for nothing.

        Raises:
            ActionError: an unknown agent, a request that is negative or NaN or of another length, or the
                episode is over; then nothing has changed.
        """
        asked = np.zeros((len(self.agent_ids), len(self.resource_ids)))  # (N, R)
        index = {agent: number for number, agent in enumerate(self.agent_ids)}
        for agent, request in requests.items():
            row = np.asarray(request, np.float64)
            if agent not in index:
                raise ActionError(
                    f"requests must be of agents of the environment, got {agent!r}."
                    + did_you_mean(str(agent), self.agent_ids)
                )
            if row.shape != asked.shape[1:]:
                raise ActionError(
                    f"request of {agent!r} must have the shape {asked.shape[1:]}, got {row.shape}"
                )
            asked[index[agent]] = row
        return self._stepped(self._copy.step_requests(asked))

    @property
    def running(self) -> bool:
        """Whether an episode has begun and not ended."""
        return self._copy.running

    def _stepped(self, result: StepResult) -> Step:
        """Return the result of a step by agent."""
        granted = result.info["grants"][0].sum(axis=0)  # (R,)
        self.resources.set_allocated(np.minimum(granted, self._capacity))
        done = bool(result.done[0])
        dones = {**dict.fromkeys(self.agent_ids, done), "__all__": done}
        rewards = dict(zip(self.agent_ids, result.rewards[0].tolist(), strict=True))
        return self._observations(), rewards, dones, self._info(result)

    def render(self, mode: str = "human") -> np.ndarray | None:
        """Show the last step: `human` prints a table, `rgb_array` returns a picture (H, W, 3) uint8.

        Both are drawn without a display. Before the first reset there is nothing to show but the capacities.

        Raises:
            ConfigurationError: another mode.
        """
        from camac_dra.environment import rendering

        if mode == "human":
            sys.stdout.write(rendering.table(self.core, self._copy.last))
            return None
        if mode == "rgb_array":
            return rendering.frame(self.core, self._copy.last)
        raise ConfigurationError(f"mode must be one of human, rgb_array, got {mode!r}")

    def close(self) -> None:
        """End the episode and forget the agents; `reset` starts anew."""
        self._copy.close()
        self.agents.clear()
        self.resources.set_allocated({})

    def __enter__(self) -> Environment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _observations(self) -> Observations:
        """Return what the present agents see; copies, so that nobody can change another's view of the
        past.
        """
        rows = self._copy.observations
        assert rows is not None
        present = self._copy.present.tolist()
        named = zip(self.agent_ids, rows.copy(), present, strict=True)
        return {agent: row for agent, row, here in named if here}

    def _info(self, result: StepResult) -> dict[str, dict[str, Any]]:
        """Return what became of every agent's request."""
        # (N, R) each, and (N, O)
        columns = {name: result.info[source][0] for name, source in _PER_RESOURCE.items()}
        if "objectives" in result.info:
            columns["objectives"] = result.info["objectives"][0]
        active, present = result.active[0].tolist(), result.present[0].tolist()
        truncated = bool(result.truncated[0])
        return {
            agent: {
                **{name: column[index] for name, column in columns.items()},
                "active": active[index],
                "present": present[index],
                "truncated": truncated,
            }
            for index, agent in enumerate(self.agent_ids)
        }
