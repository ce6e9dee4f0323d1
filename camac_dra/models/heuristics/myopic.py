"""A central planner that does what is best in this step alone.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.heuristics.policy import Heuristic
from camac_dra.utils.errors import OracleError


class CentralMyopic(Heuristic):
    """Maximises the objective of this step exactly: value served less price, waiting and losses.

    Exact where losing a unit costs at least as much as letting it wait a step: for that it is told who leaves
    with this step, and whose queue is then lost, which agents do not see. Over disjoint groups capacity goes
    to the most valuable units first, else a linear programme is solved per step, for all copies at once.
    """

    name = "myopic"
    description = "central: the best grants for this step alone"
    central = True
    told = "who leaves with this step"

    def __init__(self, mind_losses: bool = True) -> None:
        """Count what would be lost in this step, or, without ``mind_losses``, take it for
        waiting like the rest.
        """
        self._mind_losses = mind_losses

    def requests(self, env: VectorEnvironment) -> np.ndarray:
        """Return requests (B, N, R), which fit."""
        plain, urgent, excess = _values(env)
        if not self._mind_losses:
            excess = np.zeros_like(excess)
        if env.config.coupling == "leontief" or not env.constraints.groups.disjoint:
            return _programme(env, plain, urgent, excess)
        first = np.where(urgent > 0.0, np.minimum(excess, env.askable()), 0.0)  # (B, N, R)
        rest = np.where(plain > 0.0, env.askable() - first, 0.0)
        inverse = 1.0 / env.constraints.fair_share
        value = np.concatenate(
            [urgent * inverse, plain * inverse], axis=1
        )  # (B, 2N, R) per unit of the resource
        amount = _fill(env, value, np.concatenate([first, rest], axis=1))
        return amount[:, : env.num_agents] + amount[:, env.num_agents :]


def _values(env: VectorEnvironment) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what a fair share granted gains, that of what would else be lost, and how much that
    is (B, N, R).
    """
    state, config = env.state, env.config
    gain = np.ones(state.pending.shape) if state.draw.service_yield is None else state.draw.service_yield
    limit = np.inf if config.backlog_limit is None else config.backlog_limit
    excess = np.maximum(state.pending - limit * env.constraints.fair_share, 0.0)
    if state.draw.leaving is not None:
        excess = np.where(state.draw.leaving[..., None], state.pending, excess)
    worth = state.weights[..., None] * gain  # (B, N, R)
    price = state.draw.price[:, None]
    plain = worth * (1.0 + config.holding_cost) - price
    urgent = worth * (1.0 + config.loss_cost) - price
    return plain, urgent, excess / gain


def _fill(env: VectorEnvironment, value: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Return how much of each amount (B, 2N, R) is taken when the most
    valuable go first, per disjoint group.
    """
    groups, capacity = env.constraints.groups, env.state.draw.capacity  # (B or 1, K, R)
    taken = amount.copy()
    for k in range(groups.num_groups):
        members = groups.pair_agents[groups.starts[k] : groups.starts[k + 1]]
        rows = np.concatenate([members, members + env.num_agents])  # (M,) both parts of each member
        order = np.argsort(-value[:, rows], axis=1, kind="stable")  # (B, M, R)
        ordered = np.take_along_axis(amount[:, rows], order, axis=1)
        before = np.cumsum(ordered, axis=1) - ordered
        granted = np.clip(capacity[:, k, None] - before, 0.0, ordered)
        unordered = np.empty_like(granted)
        np.put_along_axis(unordered, order, granted, axis=1)
        taken[:, rows] = unordered
    return taken


def _programme(
    env: VectorEnvironment, plain: np.ndarray, urgent: np.ndarray, excess: np.ndarray
) -> np.ndarray:
    """Return the best requests (B, N, R) over any groups, of bundles where they are coupled.

    Variables are the share of what is pending that is used, per queue or bundle, and what of
    the excess it covers.
    """
    state, config = env.state, env.config
    fair_share, askable = env.constraints.fair_share, env.askable()
    shape, cells = askable.shape, askable.size
    if config.coupling == "leontief":
        gain = np.ones(shape) if state.draw.service_yield is None else state.draw.service_yield
        bundle = state.pending / gain  # (B, N, R) what serving the whole bundle takes
        whole = np.divide(askable, bundle, out=np.full(shape, np.inf), where=bundle > 0.0)
        most = np.minimum(whole.min(axis=2), 1.0).ravel()  # (B N,)
        queue = np.arange(cells) // shape[2]
    else:
        bundle, most, queue = askable, np.ones(cells), np.arange(cells)
    use = sparse.csr_array((bundle.ravel(), (np.arange(cells), queue)), shape=(cells, len(most)))
    covers = np.flatnonzero(excess.ravel() > 0.0)
    load = _pool_matrix(env)  # (B K R, cells)
    capacity = np.broadcast_to(state.draw.capacity, (shape[0], *state.draw.capacity.shape[1:])).ravel()
    binds = np.flatnonzero(np.isfinite(capacity))
    covered = sparse.eye_array(len(covers), format="csr")
    nothing = sparse.csr_array((len(binds), len(covers)))
    matrix = sparse.vstack(
        [sparse.hstack([load[binds] @ use, nothing]), sparse.hstack([-use[covers], covered])], format="csr"
    )
    per_unit = (1.0 / np.broadcast_to(fair_share, shape)).ravel()
    reward = np.concatenate(
        [use.T @ (plain.ravel() * per_unit), ((urgent - plain).ravel() * per_unit)[covers]]
    )
    upper = np.concatenate([most, excess.ravel()[covers]])
    found = linprog(
        -reward,
        A_ub=matrix,
        b_ub=np.concatenate([capacity[binds], np.zeros(len(covers))]),
        bounds=np.stack([np.zeros(len(upper)), upper], axis=1),
        method="highs-ds",
    )
    if found.x is None:
        raise OracleError(f"the linear programme of a step must have a solution, got: {found.message}")
    return np.maximum(use @ found.x[: len(most)], 0.0).reshape(shape)


def _pool_matrix(env: VectorEnvironment) -> sparse.csr_array:
    """Return the matrix (B K R, B N R) that sums requests over groups."""
    one = sparse.eye_array(env.num_resources, format="csr")
    per_copy = sparse.kron(sparse.csr_array(env.constraints.membership), one, format="csr")
    return sparse.block_diag([per_copy] * env.num_envs, format="csr")
