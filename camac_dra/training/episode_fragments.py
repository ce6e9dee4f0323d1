"""From RLlib's multi-agent episodes to the time-major arrays that learners take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from camac_dra.training.fragments import Fragment
from camac_dra.utils.errors import CapabilityError


@dataclass(frozen=True)
class Layout:
    """The axes of a fragment, and what an action is."""

    steps: int
    copies: int
    agents: tuple[str, ...]
    observation_shape: tuple[int, ...]
    action_shape: tuple[int, ...]
    action_dtype: np.dtype

    def empty(self) -> Fragment:
        """Return a fragment in which nobody took part."""
        rows = (self.steps, self.copies, len(self.agents))
        return Fragment(
            observations=np.zeros((self.steps + 1, *rows[1:], *self.observation_shape), np.float32),
            actions=np.zeros((*rows, *self.action_shape), self.action_dtype),
            log_probs=np.zeros(rows, np.float32),
            rewards=np.zeros(rows, np.float32),
            terminated=np.zeros(rows, bool),
            active=np.zeros(rows, bool),
            done=np.zeros(rows[:2], bool),
            final_observations=np.zeros((0, len(self.agents), *self.observation_shape), np.float32),
            moments=None,
        )


def fragment_of(
    episodes: Sequence[MultiAgentEpisode],
    layout: Layout,
    copies: Mapping[str, int],
    measures: Mapping[str, dict[str, float]],
) -> Fragment:
    """Return what chunks of episodes hold, in the order in which each copy played them.

    ``copies`` says which copy an episode, by its id, belongs to, ``measures`` what an ended one measured.
    What an absent agent would have seen is unknown to RLlib, and zero here.

    Raises:
        CapabilityError: copies made different numbers of steps, since their episodes end at different times.
    """
    fragment = layout.empty()
    clock = [0] * layout.copies
    ends: list[tuple[int, int, np.ndarray, dict[str, float]]] = []  # (t, copy, last observations, measures)
    for episode in episodes:
        copy = copies[episode.id_]
        start = clock[copy]
        clock[copy] += len(episode)
        if clock[copy] > layout.steps:
            break
        last = _fill(fragment, episode, layout.agents, copy, start)
        if episode.is_done:
            t = clock[copy] - 1
            fragment.done[t, copy] = True
            ends.append((t, copy, last, measures.get(episode.id_, {})))
    if clock != [layout.steps] * layout.copies:
        raise CapabilityError(
            f"training.sampler: 'stock' needs copies whose episodes end together, or training.num_envs 1: of "
            f"{layout.steps} steps the copies made {clock}"
        )
    ends.sort(key=lambda end: end[:2])
    if ends:
        fragment.final_observations = np.stack([last for _, _, last, _ in ends])
    fragment.episodes = [found for *_, found in ends if found]
    return fragment


def _fill(
    fragment: Fragment, episode: MultiAgentEpisode, agents: Sequence[str], copy: int, start: int
) -> np.ndarray:
    """Write a chunk from step ``start`` on; return the last observations (N, *shape)."""
    steps, index = len(episode), {agent: i for i, agent in enumerate(agents)}
    seen: list[dict[str, Any]] = episode.get_observations(slice(0, steps + 1), return_list=True)
    taken = episode.get_actions(slice(0, steps), return_list=True)
    earned = episode.get_rewards(slice(0, steps), return_list=True)
    likely = episode.get_extra_model_outputs(Columns.ACTION_LOGP, slice(0, steps), return_list=True)
    last = np.zeros(fragment.observations.shape[2:], np.float32)
    for agent, observation in seen[-1].items():
        last[index[agent]] = observation
    for t in range(steps):
        for agent, observation in seen[t].items():
            fragment.observations[start + t, copy, index[agent]] = observation
        for agent, action in taken[t].items():
            place = (start + t, copy, index[agent])
            fragment.active[place] = True
            fragment.actions[place] = action
            fragment.rewards[place] = earned[t][agent]
            fragment.log_probs[place] = likely[t][agent]
    _mark_terminated(fragment, episode, index, copy, start)
    if not episode.is_done:
        fragment.observations[start + steps, copy] = last
    return last


def _mark_terminated(
    fragment: Fragment, episode: MultiAgentEpisode, index: Mapping[str, int], copy: int, start: int
) -> None:
    """Mark the last step of every agent that was done for good in this chunk."""
    for agent, own in episode.agent_episodes.items():
        active = np.flatnonzero(fragment.active[start : start + len(episode), copy, index[agent]])
        if own.is_terminated and len(active):
            fragment.terminated[start + active[-1], copy, index[agent]] = True
