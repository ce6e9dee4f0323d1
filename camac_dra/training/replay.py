"""From fragments to replay buffers, and from replay buffers to minibatches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns

from camac_dra.training.experience_buffer import Batch, ExperienceBuffer
from camac_dra.training.fragments import Fragment
from camac_dra.training.minibatches import Minibatch
from camac_dra.utils.errors import TrainingDivergedError

DISCOUNTS, WEIGHTS, NEXT_MASKS = "discounts", "weights", "next_masks"  # columns besides RLlib's


def remember(buffer: ExperienceBuffer, fragment: Fragment, agents: np.ndarray | None) -> int:
    """Add the rows of some agents (their indices; None: all) to a buffer; return how many were active.

    Steps whose transition is not complete yet wait for the next fragment of the same env runner, and are
    forgotten where that does not follow (because the env runner died meanwhile).
    """
    who = slice(None) if agents is None else agents
    observations = fragment.observations[:, :, who]  # (T + 1, B, n, *shape)
    active = fragment.active[:, :, who]  # (T, B, n)
    shape = active.shape
    streams = (shape[1] * shape[2], *observations.shape[3:])
    source = fragment.worker_index
    if not buffer.follows(observations[0].reshape(streams), source):
        size = 0 if fragment.masks is None else fragment.masks.shape[-1]
        buffer.begin(observations[0].reshape(streams), source, size)
    finals = fragment.final_observations[:, who]  # (D, n, *shape)
    ended = np.cumsum([0, *fragment.done.sum(1)])  # (T + 1,) of them before each step
    last = np.ones(shape[1:], bool) if fragment.present is None else fragment.present[:, who]  # (B, n)
    for t in range(shape[0]):
        buffer.add_steps(
            fragment.actions[t][:, who].reshape(streams[0], *fragment.actions.shape[3:]),
            fragment.rewards[t][:, who].reshape(-1),
            observations[t + 1].reshape(streams),
            terminated=fragment.terminated[t][:, who].reshape(-1),
            ended=fragment.done[t].repeat(shape[2]),
            final_observations=finals[ended[t] : ended[t + 1]].reshape(-1, *streams[1:]),
            active=active[t].reshape(-1),
            present=(active[t + 1] if t + 1 < shape[0] else last).reshape(-1),
            next_masks=_next_masks(fragment, t, who),
            source=source,
        )
    return int(np.count_nonzero(active))


def _next_masks(fragment: Fragment, t: int, who: slice | np.ndarray) -> np.ndarray | None:
    """Return which actions are possible after step ``t``, (B * n, O); None: all, as after episodes' ends."""
    if fragment.masks is None:
        return None
    after = fragment.masks[t + 1] if t + 1 < len(fragment.masks) else fragment.next_masks
    assert after is not None
    masks = after[:, who] | fragment.done[t][:, None, None]  # (B, n, O)
    return masks.reshape(-1, masks.shape[-1])


def check_finite(fragment: Fragment) -> None:
    """Refuse rewards and observations that are not finite, before anything is remembered of them.

    Raises:
        TrainingDivergedError: some are not.
    """
    arrays = {"rewards": fragment.rewards[fragment.active], "observations": fragment.observations}
    names = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if names:
        raise TrainingDivergedError(
            f"{' and '.join(names)} must be finite to be learned from, got NaN or infinity; weights were not "
            "changed"
        )


def columns_of(batch: Batch) -> dict[str, torch.Tensor]:
    """Return drawn transitions as the columns of a minibatch."""
    t = batch.transitions
    columns = {
        Columns.OBS: t.states,
        Columns.NEXT_OBS: t.next_states,
        Columns.ACTIONS: t.actions,
        Columns.REWARDS: t.rewards,
        DISCOUNTS: t.discounts,
    }
    if batch.weights is not None:
        columns[WEIGHTS] = batch.weights
    if t.next_masks is not None:
        columns[NEXT_MASKS] = t.next_masks
    return {name: torch.from_numpy(column) for name, column in columns.items()}


class ReplayMinibatches:
    """Minibatches drawn one after the other, each when the update on the last one is done.

    ``errors()`` returns the errors (rows,) of the last update by policy; they become priorities.
    """

    def __init__(
        self,
        buffers: Mapping[str, ExperienceBuffer],
        updates: int,
        batch_size: int,
        errors: Callable[[], Mapping[str, torch.Tensor]],
    ) -> None:
        self._buffers = {mid: buffer for mid, buffer in buffers.items() if len(buffer)}
        self._updates, self._batch_size, self._errors = updates, batch_size, errors

    def __iter__(self) -> Iterator[Minibatch]:
        for _ in range(self._updates):
            drawn = {
                mid: buffer.sample_batch(min(self._batch_size, len(buffer)))
                for mid, buffer in self._buffers.items()
            }
            yield Minibatch({mid: columns_of(batch) for mid, batch in drawn.items()})
            self._renew_priorities(drawn)

    def _renew_priorities(self, drawn: dict[str, Any]) -> None:
        errors = self._errors()
        for mid, batch in drawn.items():
            if self._buffers[mid].prioritized:
                self._buffers[mid].update_priorities(batch.places, errors[mid].numpy())
