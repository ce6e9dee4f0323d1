"""From fragments to the flat columns that a learner takes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from ray.rllib.core.columns import Columns

from camac_dra.training.advantages import generalized_advantages
from camac_dra.training.fragments import Fragment
from camac_dra.utils.errors import TrainingDivergedError

ValueFunction = Callable[
    [torch.Tensor], torch.Tensor
]  # observations (rows, *shape) to values (rows,) in real units
PolicyColumns = dict[str, torch.Tensor]


def policy_columns(
    fragments: Sequence[Fragment],
    agents: np.ndarray | None,
    value_function: ValueFunction,
    *,
    gamma: float,
    gae_lambda: float,
) -> PolicyColumns | None:
    """Return the columns of one policy, or None where its agents have less than two rows.

    ``agents`` are the indices of the agents it decides for, None meaning all. Rows of inactive agents are
    left out; rows are ordered by fragment, time, copy, agent. Advantages are standardised over all rows as
    RLlib does it; value targets are in real units. Raises ``TrainingDivergedError`` where rewards,
    observations or values are not finite.
    """
    parts = [
        p for f in fragments if (p := _columns(f, agents, value_function, gamma, gae_lambda)) is not None
    ]
    if sum(len(part[Columns.ADVANTAGES]) for part in parts) < 2:
        return None
    columns = parts[0] if len(parts) == 1 else {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    advantages = columns[Columns.ADVANTAGES]
    spread = max(1e-4, float(advantages.std(correction=0)))
    columns[Columns.ADVANTAGES] = (advantages - advantages.mean()) / spread
    return columns


def _columns(
    fragment: Fragment,
    agents: np.ndarray | None,
    value_function: ValueFunction,
    gamma: float,
    gae_lambda: float,
) -> PolicyColumns | None:
    """Return the columns of one fragment with plain advantages."""
    who = slice(None) if agents is None else agents
    active = fragment.active[:, :, who]  # (T, B, n)
    if not active.any():
        return None
    observations = _tensor(fragment.observations[:, :, who])  # (T + 1, B, n, *shape)
    values = _values(value_function, observations, 3)  # (T + 1, B, n)
    advantages = generalized_advantages(
        fragment.rewards[:, :, who],
        values,
        _values(value_function, _tensor(fragment.final_observations[:, who]), 2),
        fragment.terminated[:, :, who],
        fragment.done,
        active,
        gamma=gamma,
        gae_lambda=gae_lambda,
    )
    _check_finite(fragment, values, advantages, active)
    columns = {
        Columns.OBS: observations[:-1],
        Columns.ACTIONS: _tensor(fragment.actions[:, :, who]),
        Columns.ACTION_LOGP: _tensor(fragment.log_probs[:, :, who]),
        Columns.ADVANTAGES: _tensor(advantages),
        Columns.VALUE_TARGETS: _tensor(advantages + values[:-1]),
    }
    if active.all():
        return {name: column.flatten(0, 2) for name, column in columns.items()}
    rows = _tensor(np.flatnonzero(active))
    return {name: column.flatten(0, 2).index_select(0, rows) for name, column in columns.items()}


def _tensor(array: np.ndarray) -> torch.Tensor:
    """Return a tensor on the array's memory; nobody writes to it, so Ray's read-only memory will do."""
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _values(value_function: ValueFunction, observations: torch.Tensor, leading: int) -> np.ndarray:
    """Apply a value function over rows to observations whose first ``leading`` axes are not theirs."""
    axes = observations.shape[:leading]
    return value_function(observations.flatten(0, leading - 1)).reshape(axes).numpy()


def _check_finite(fragment: Fragment, values: np.ndarray, advantages: np.ndarray, active: np.ndarray) -> None:
    if np.isfinite(advantages[active]).all():
        return
    culprits = {"rewards": fragment.rewards, "observations": fragment.observations, "values": values}
    names = [name for name, array in culprits.items() if not np.isfinite(array).all()]
    raise TrainingDivergedError(
        f"advantages must be finite, got NaN or infinity from {' and '.join(names) or 'their sums'}; "
        "weights were not changed"
    )
