"""Values of all observations of a fragment, by whatever critic a policy has.

Axes: T steps, B copies, n agents of the policy out of N, D episodes that ended.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from ray.rllib.core.columns import Columns

from camac_dra.models.network_spec import NetworkSpec
from camac_dra.models.rl_module import JOINT, ActorCriticModule
from camac_dra.training.fragments import Fragment
from camac_dra.utils.memory import gib, too_large

VALUE_ROWS = 2048  # rows per value forward: larger ones gain nothing any more, but take memory
MOST_JOINT_BYTES = 2**31  # of what a centralised critic sees in one train batch


@torch.no_grad()
def fragment_values(
    module: ActorCriticModule, fragment: Fragment, who: slice | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return returns that are expected, in real units: (T + 1, B, n) of all observations and (D, n) of the
    last ones of the episodes that ended; with a last axis C of action components where the critic has one.

    ``who`` are the agents' indices.
    """
    if module.network.memory_size and module.reads_features:
        return _remembering(module, fragment, who)
    shape = module.network
    observations = as_tensor(fragment.observations)  # (T + 1, B, N, *shape)
    finals = as_tensor(fragment.final_observations)  # (D, N, *shape)
    joint = final_joint = None
    if module.actor_critic.critic_agents:
        joint = own_rows(shape, observations, 3).flatten(2)  # (T + 1, B, N * F)
        final_joint = own_rows(shape, finals, 2).flatten(1)  # (D, N * F)
    values = _by_rows(module, observations[:, :, who], joint, 3)
    return values, _by_rows(module, finals[:, who], final_joint, 2)


def _by_rows(
    module: ActorCriticModule, observations: torch.Tensor, joint: torch.Tensor | None, leading: int
) -> np.ndarray:
    """Return values of observations whose first ``leading`` axes are not theirs, the last of these agents."""
    axes = observations.shape[:leading]
    rows = observations.flatten(0, leading - 1)
    if joint is not None:
        joint = joint.flatten(0, leading - 2)  # a row for all agents of a copy
    parts = [torch.zeros(0, *module.value_shape)]
    for first in range(0, len(rows), VALUE_ROWS):
        batch = {Columns.OBS: rows[first : first + VALUE_ROWS]}
        if joint is not None:
            batch[JOINT] = joint[torch.arange(first, min(first + VALUE_ROWS, len(rows))) // axes[-1]]
        parts.append(module.expected_returns(batch))
    return torch.cat(parts).reshape(*axes, *module.value_shape).numpy()


def _remembering(
    module: ActorCriticModule, fragment: Fragment, who: slice | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values where the critic goes on from what the policy remembers."""
    assert fragment.memory is not None
    observations = as_tensor(fragment.observations)[:, :, who]  # (T + 1, B, n, *shape)
    steps, copies, agents = observations.shape[:3]
    memory = as_tensor(fragment.memory)[:, who].flatten(0, 1)  # (B * n, M)
    torso = module.policy.torso
    scaled = module.scaled(observations).unflatten(0, (steps, copies * agents))
    starts = torch.from_numpy(np.repeat(episode_starts(fragment, steps), agents, axis=1))
    memories = torso.sequence(scaled, memory, starts)  # (T + 1, B * n, M)
    values = module.in_returns(module.shaped(module.value(memories.flatten(0, 1))))
    after = memories[:-1].reshape(steps - 1, copies, agents, -1)[torch.tensor(fragment.done)]  # (D, n, M)
    finals = as_tensor(fragment.final_observations)[:, who]  # (D, n, *shape)
    last = torso.step(module.scaled(finals), after.flatten(0, 1))
    final_values = module.in_returns(module.shaped(module.value(last)))
    cells, shape = (steps, copies, agents), module.value_shape
    return values.reshape(*cells, *shape).numpy(), final_values.reshape(len(finals), agents, *shape).numpy()


def episode_starts(fragment: Fragment, steps: int) -> np.ndarray:
    """Return where episodes begin at the first ``steps`` observations, (steps, B) bool.

    The first step's memory is what is to be remembered there already.
    """
    starts = np.zeros((steps, fragment.done.shape[1]), bool)
    starts[1:] = fragment.done[: steps - 1]
    return starts


def joint_rows(module: ActorCriticModule, fragment: Fragment, agents: int) -> torch.Tensor:
    """Return what a centralised critic sees of everybody at every row, (T, B, n, N * F).

    Raises:
        ConfigurationError: it does not fit into memory.
    """
    joint = own_rows(module.network, as_tensor(fragment.observations)[:-1], 3).flatten(2)  # (T, B, N * F)
    needed = joint.numel() * agents * 4
    if needed > MOST_JOINT_BYTES:
        raise too_large(
            "training.critic",
            f"a centralized critic sees all {fragment.observations.shape[2]} agents at every row",
            needed,
            f"{gib(MOST_JOINT_BYTES)} per fragment",
            "lower training.num_envs or fragment_length, or let it be local",
        )
    return joint[:, :, None].expand(-1, -1, agents, -1)


def own_rows(network: NetworkSpec, observations: torch.Tensor, leading: int) -> torch.Tensor:
    """Return what agents see of themselves, (..., F), in observations with ``leading`` other axes."""
    shape = tuple(observations.shape[leading:])
    if network.sees_entities(shape):
        return observations[..., 0, :-1]
    return observations.flatten(leading)


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """Return a tensor on the array's memory; nobody writes to it, so Ray's read-only memory will do."""
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
