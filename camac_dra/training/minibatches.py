"""Minibatches of a train batch, and the record of what they yielded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


class Minibatch:
    """What ``Learner.update`` reads of a ``MultiAgentBatch``, without its bookkeeping."""

    __slots__ = ("policy_batches",)

    def __init__(self, policy_batches: dict[str, dict[str, torch.Tensor]]) -> None:
        self.policy_batches = policy_batches


class ShuffledMinibatches:
    """Epochs over a batch, every one in a new order, the first included.

    Each policy's rows are dealt into equally many minibatches (fewer where it has few rows), of
    nearly equal sizes of at most ``minibatch_size`` rows for the largest policy, so that every row is
    used once per epoch. The order comes from ``generator`` alone. RLlib's ``MiniBatchCyclicIterator``
    does not shuffle its first epoch, draws from NumPy's global generator and slices every column of
    every minibatch through ``SampleBatch``.
    """

    def __init__(
        self,
        columns: dict[str, dict[str, torch.Tensor]],
        *,
        num_epochs: int,
        minibatch_size: int,
        generator: torch.Generator,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._columns = columns
        self._sizes = {mid: len(next(iter(c.values()))) for mid, c in columns.items()}
        self._num_epochs = num_epochs
        self._generator = generator
        self._part, self._parts = part
        self.per_epoch = max(-(-size // minibatch_size) for size in self._sizes.values())

    def __iter__(self) -> Iterator[Minibatch]:
        for _ in range(self._num_epochs):
            dealt = {mid: self._deal(size) for mid, size in self._sizes.items()}
            for k in range(self.per_epoch):
                own = {mid: self._own(parts[k]) for mid, parts in dealt.items() if k < len(parts)}
                yield Minibatch({mid: self._take(mid, rows) for mid, rows in own.items() if rows is not None})

    def _deal(self, size: int) -> tuple[torch.Tensor, ...]:
        """Return the rows of each minibatch of an epoch, two at least: a variance is taken of them."""
        rows = torch.randperm(size, generator=self._generator)
        return rows.tensor_split(min(self.per_epoch, max(1, size // 2)))

    def _own(self, rows: torch.Tensor) -> torch.Tensor | None:
        """Return this part of a minibatch's rows, None where there is nothing for it."""
        parts = rows.tensor_split(min(self._parts, max(1, len(rows) // 2)))
        return parts[self._part] if self._part < len(parts) else None

    def _take(self, module_id: str, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        columns = self._columns[module_id]
        rows = rows.to(next(iter(columns.values())).device)
        return {name: column.index_select(0, rows) for name, column in columns.items()}


class LossRecorder:
    """Stands in for RLlib's metrics logger during an update; remembers the mean of
    every value over minibatches.
    """

    def __init__(self) -> None:
        self._values: dict[Any, list[torch.Tensor | float]] = {}

    def log_value(self, key: Any, value: Any, **kwargs: Any) -> None:
        """Remember one value."""
        self._values.setdefault(key, []).append(value.detach() if isinstance(value, torch.Tensor) else value)

    def log_dict(self, value_dict: dict[str, Any], *, key: Any = None, **kwargs: Any) -> None:
        """Remember several values under a common key."""
        for name, value in value_dict.items():
            self.log_value((key, name), value)

    def means(self) -> dict[Any, float]:
        """Return the mean of every value."""
        return {key: sum(map(float, values)) / len(values) for key, values in self._values.items()}
