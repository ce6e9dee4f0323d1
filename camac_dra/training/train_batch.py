"""From fragments to the flat columns that a learner takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ray.rllib.core.columns import Columns

from camac_dra.models.rl_module import ACTIVE, JOINT, MASKS, MEMORY, STARTS, ActorCriticModule
from camac_dra.training.advantages import generalized_advantages
from camac_dra.training.critics import as_tensor, episode_starts, fragment_values, joint_rows
from camac_dra.training.fragments import Fragment
from camac_dra.utils.errors import TrainingDivergedError

PolicyColumns = dict[str, torch.Tensor]


def policy_columns(
    fragments: Sequence[Fragment],
    agents: np.ndarray | None,
    module: ActorCriticModule,
    *,
    gamma: float,
    gae_lambda: float,
) -> PolicyColumns | None:
    """Return the columns of one policy, or None where its agents have less than two rows.

    ``agents`` are the indices of the agents it decides for, None meaning all. Rows of inactive agents are
    left out; rows are ordered by fragment, time, copy, agent. Where the network has memory, columns are
    sequences (B * n, T, ...) instead, ordered by fragment, copy, agent, and the column ``active`` says which
    steps count. Advantages are standardised over all that count as RLlib does it; value targets are in real
    units. Where action components are credited each, log-probabilities, advantages and targets have a last
    axis C; advantages are centred for each, and scaled by one number, so that what little is at stake in
    stays small.

    Raises:
        TrainingDivergedError: rewards, observations or values are not finite.
        ConfigurationError: what a centralised critic sees does not fit into memory.
    """
    parts = [p for f in fragments if (p := _columns(f, agents, module, gamma, gae_lambda)) is not None]
    if not parts:
        return None
    columns = parts[0] if len(parts) == 1 else {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    advantages = columns[Columns.ADVANTAGES]
    counted = advantages[columns[ACTIVE]] if ACTIVE in columns else advantages
    if len(counted) < 2:
        return None
    mean = counted.mean(0)  # () or (C,)
    spread = counted.std(correction=0) if counted.ndim == 1 else (counted - mean).square().mean().sqrt()
    columns[Columns.ADVANTAGES] = (advantages - mean) / max(1e-4, float(spread))
    return columns


def counted(columns: PolicyColumns, name: str) -> torch.Tensor:
    """Return the rows of a column that count."""
    return columns[name][columns[ACTIVE]] if ACTIVE in columns else columns[name]


def _columns(
    fragment: Fragment,
    agents: np.ndarray | None,
    module: ActorCriticModule,
    gamma: float,
    gae_lambda: float,
) -> PolicyColumns | None:
    """Return the columns of one fragment with plain advantages."""
    who = slice(None) if agents is None else agents
    active = fragment.active[:, :, who]  # (T, B, n)
    if not active.any():
        return None
    values, final_values = fragment_values(module, fragment, who)  # (T + 1, B, n[, C]), (D, n[, C])
    advantages = generalized_advantages(
        fragment.rewards[:, :, who],
        values,
        final_values,
        fragment.terminated[:, :, who],
        fragment.done,
        active,
        gamma=gamma,
        gae_lambda=gae_lambda,
    )
    _check_finite(fragment, values, advantages, active)
    columns = {
        Columns.OBS: as_tensor(fragment.observations[:-1, :, who]),
        Columns.ACTIONS: as_tensor(fragment.actions[:, :, who]),
        Columns.ACTION_LOGP: as_tensor(fragment.log_probs[:, :, who]),
        Columns.ADVANTAGES: as_tensor(advantages),
        Columns.VALUE_TARGETS: as_tensor(advantages + values[:-1]),
    }
    if fragment.masks is not None:
        columns[MASKS] = as_tensor(fragment.masks[:, :, who])
    if module.actor_critic.critic_agents:
        columns[JOINT] = joint_rows(module, fragment, active.shape[2])
    if module.network.memory_size:
        return _sequences(columns, fragment, who, active)
    if active.all():
        return {name: column.flatten(0, 2) for name, column in columns.items()}
    rows = as_tensor(np.flatnonzero(active))
    return {name: column.flatten(0, 2).index_select(0, rows) for name, column in columns.items()}


def _sequences(
    columns: PolicyColumns, fragment: Fragment, who: slice | np.ndarray, active: np.ndarray
) -> PolicyColumns:
    """Turn columns (T, B, n, ...) into sequences (B * n, T, ...), with what was remembered before them."""
    assert fragment.memory is not None
    steps, _, agents = active.shape
    starts = np.repeat(episode_starts(fragment, steps)[:, :, None], agents, axis=2)  # (T, B, n)
    timed = {**columns, STARTS: torch.from_numpy(starts), ACTIVE: as_tensor(active)}
    sequences = {name: column.flatten(1, 2).transpose(0, 1) for name, column in timed.items()}
    return {**sequences, MEMORY: as_tensor(fragment.memory)[:, who].flatten(0, 1)}


def _check_finite(fragment: Fragment, values: np.ndarray, advantages: np.ndarray, active: np.ndarray) -> None:
    if np.isfinite(advantages[active]).all():
        return
    culprits = {"rewards": fragment.rewards, "observations": fragment.observations, "values": values}
    names = [name for name, array in culprits.items() if not np.isfinite(array).all()]
    raise TrainingDivergedError(
        f"advantages must be finite, got NaN or infinity from {' and '.join(names) or 'their sums'}; "
        "weights were not changed"
    )
