"""The best plan for jobs with deadlines under shared capacities, as one sparse linear programme.

Axes, always in this order: B parallel copies, N agents, K capacity groups; J jobs, H steps ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from camac_dra.environment.groups import Groups
from camac_dra.utils.errors import OracleError


@dataclass(frozen=True, slots=True)
class Jobs:
    """What is to be served: one entry per job, steps counted from now on."""

    copy: np.ndarray  # (J,) which of the B copies
    agent: np.ndarray  # (J,)
    first: np.ndarray  # (J,) first step
    last: np.ndarray  # (J,) step after the last one
    need: np.ndarray  # (J,) in the resource's unit times steps


@dataclass(frozen=True, slots=True)
class Plan:
    """When each job gets how much: one entry per job and step of its window."""

    job: np.ndarray  # (V,)
    step: np.ndarray  # (V,)
    amount: np.ndarray  # (V,)


def best_plan(jobs: Jobs, gain: np.ndarray, capacity: np.ndarray, groups: Groups, rate: np.ndarray) -> Plan:
    """Return the plan of the highest gain that gives no job more than it needs.

    Args:
        jobs: J of them.
        gain: (B, N, H) per unit served.
        capacity: (B, K), infinite where a group does not bind.
        groups: who shares which capacity.
        rate: (N,) most per agent and step.

    Raises:
        OracleError: the solver found no solution.
    """
    length = jobs.last - jobs.first  # (J,)
    job = np.repeat(np.arange(len(length)), length)  # (V,)
    begin = np.repeat(np.cumsum(length) - length, length)
    step = np.repeat(jobs.first, length) + np.arange(len(job)) - begin  # (V,)
    if not len(job):
        return Plan(job, step, np.zeros(0))
    copy, agent = jobs.copy[job], jobs.agent[job]
    wanted = _matrix(job, np.arange(len(job)), (len(length), len(job)))
    shared, room = _shared(copy, agent, step, capacity, groups)
    found = linprog(
        -gain[copy, agent, step],
        A_ub=sparse.vstack([wanted, shared], format="csr"),
        b_ub=np.concatenate([jobs.need, room]),
        bounds=np.stack([np.zeros(len(job)), np.minimum(rate[agent], jobs.need[job])], axis=1),
        method="highs",
    )
    if found.x is None:
        raise OracleError(f"the linear programme of the plan must have a solution, got: {found.message}")
    return Plan(job, step, np.maximum(found.x, 0.0))


def _shared(
    copy: np.ndarray, agent: np.ndarray, step: np.ndarray, capacity: np.ndarray, groups: Groups
) -> tuple[sparse.csr_array, np.ndarray]:
    """Return the rows of all capacities in use, over the variables (V,), and what each has room for."""
    horizon = int(step.max()) + 1
    member = groups.members.T[agent] > 0.0  # (V, K)
    variable, group = np.nonzero(member & np.isfinite(capacity[copy]))  # (P,), (P,)
    cell = (copy[variable] * groups.num_groups + group) * horizon + step[variable]  # (P,)
    used, row = np.unique(cell, return_inverse=True)
    matrix = _matrix(row, variable, (len(used), len(copy)))
    return matrix, capacity.reshape(-1)[used // horizon]


def _matrix(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> sparse.csr_array:
    """Return a matrix of ones."""
    return sparse.csr_array((np.ones(len(row)), (row, column)), shape=shape)
