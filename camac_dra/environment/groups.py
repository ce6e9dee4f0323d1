"""Capacity groups: sets of agents that share a limit per resource, indexed once and used every step.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from camac_dra.utils.errors import AllocationError

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]

# Up to this many cells of the membership matrix a dense product beats a sparse one.
_DENSE_CELLS = 16_384


@dataclass(frozen=True, eq=False, slots=True)
class Groups:
    """Which agents share which capacity: make one with `from_membership` or `one`, then use it every step.

    Nothing is validated after construction and nothing is ever changed, so an instance may be shared between
    threads and copies. Sums run through BLAS and are reproducible for a fixed number of BLAS threads.

    Attributes:
        num_groups: K.
        num_agents: N.
        access: (N, R) 0/1, which agent may use which resource; None means all of them.
        sizes: (K, 1) or, with `access`, (K, R): how many members may use the resource.
        single: one group holds every agent, so arrays over groups broadcast against arrays over agents.
        disjoint: no agent is in two groups (true for `single` as well).
        covered: every agent is in at least one group; the others are bound by no capacity.
        pair_groups, pair_agents: (P,) the pairs (group, member), ordered by group and then by agent.
        starts: (K + 1,) where each group's pairs begin in those arrays.
    """

    num_groups: int
    num_agents: int
    access: FloatArray | None
    sizes: FloatArray
    single: bool
    disjoint: bool
    covered: bool
    pair_groups: IndexArray
    pair_agents: IndexArray
    starts: IndexArray
    _dense: FloatArray | None = field(repr=False)  # (K, N), or None where it would be too large
    _sparse: Any = field(repr=False)  # the same as a SciPy csr_array
    # Column g lists the agents that have more than g groups (None: all of them) and the g-th group of each.
    _columns: tuple[tuple[IndexArray | None, IndexArray], ...] = field(repr=False)

    @classmethod
    def one(cls, num_agents: int, access: ArrayLike | None = None) -> Groups:
        """Make the default, one group of all agents; `AllocationError` where `access` is not (N, R) 0/1."""
        return cls.from_membership(np.ones((1, num_agents)), access)

    @classmethod
    def from_membership(cls, membership: ArrayLike, access: ArrayLike | None = None) -> Groups:
        """Build the index from `membership` (K, N) and `access` (N, R), both 0/1.

        Raises:
            AllocationError: one of them has another shape, or holds anything but 0 and 1.
        """
        matrix = _zero_one(
            "membership", membership, "(K, N): one row per group, one column per agent"
        )  # (K, N)
        allowed = None
        if access is not None:
            allowed = _zero_one(
                "access", access, "(N, R): one row per agent, one column per resource"
            )  # (N, R)
            if allowed.shape[0] != matrix.shape[1]:
                raise AllocationError(
                    f"access must have one row per agent: membership has {matrix.shape[1]} columns,"
                    f" so (N, R) must be ({matrix.shape[1]}, R), got shape {allowed.shape}"
                )
        num_groups, num_agents = matrix.shape
        pair_groups, pair_agents = np.nonzero(matrix)  # (P,), (P,)
        return cls._from_pairs(pair_groups, pair_agents, num_groups, num_agents, allowed)

    @classmethod
    def _from_pairs(
        cls,
        pair_groups: IndexArray,
        pair_agents: IndexArray,
        num_groups: int,
        num_agents: int,
        access: FloatArray | None,
    ) -> Groups:
        """Build the index from its pairs (P,), which are ordered by group and then by agent."""
        per_agent = np.bincount(pair_agents, minlength=num_agents)  # (N,)
        starts = np.concatenate(([0], np.cumsum(np.bincount(pair_groups, minlength=num_groups))))  # (K + 1,)
        matrix = sparse.csr_array(
            (np.ones(len(pair_agents)), pair_agents, starts), shape=(num_groups, num_agents)
        )
        small = num_groups * num_agents <= _DENSE_CELLS or num_groups == 1
        return cls(
            num_groups=num_groups,
            num_agents=num_agents,
            access=access,
            sizes=np.diff(starts)[:, None].astype(np.float64) if access is None else matrix @ access,
            single=num_groups == 1 and len(pair_agents) == num_agents,
            disjoint=bool(per_agent.max() <= 1),
            covered=bool(per_agent.min() >= 1),
            pair_groups=pair_groups,
            pair_agents=pair_agents,
            starts=starts,
            _dense=matrix.toarray() if small else None,
            _sparse=matrix,
            _columns=_columns_of(pair_groups, pair_agents, per_agent),
        )

    def among(self, agents: IndexArray) -> Groups:
        """Return the same groups with only these agents, ascending and at least one, as members."""
        place = np.full(self.num_agents, -1)  # (N,)
        place[agents] = np.arange(len(agents))
        kept = place[self.pair_agents] >= 0  # (P,)
        access = None if self.access is None else self.access[agents]
        pair_agents = place[self.pair_agents[kept]]
        return Groups._from_pairs(self.pair_groups[kept], pair_agents, self.num_groups, len(agents), access)

    @property
    def members(self) -> FloatArray:
        """The membership matrix (K, N), 0/1."""
        return self._sparse.toarray() if self._dense is None else self._dense

    def load(self, amounts: FloatArray) -> FloatArray:
        """Return the sum over each group's members: (B, N, R) gives (B, K, R)."""
        if self._dense is not None:
            return self._dense @ amounts
        copies, _, resources = amounts.shape
        flat = amounts.transpose(1, 0, 2).reshape(self.num_agents, -1)  # (N, B * R)
        return (self._sparse @ flat).reshape(self.num_groups, copies, resources).transpose(1, 0, 2)

    def sum_over_groups(self, values: FloatArray) -> FloatArray:
        """Return the sum over each agent's groups: (B, K, R) gives (B, N, R), zero for an agent in no group.

        This is the transpose of `load`: what an agent pays per unit where its groups have prices.
        """
        if self._dense is not None:
            return self._dense.T @ values
        copies, _, resources = values.shape
        flat = values.transpose(1, 0, 2).reshape(self.num_groups, -1)  # (K, B * R)
        return (self._sparse.T @ flat).reshape(self.num_agents, copies, resources).transpose(1, 0, 2)

    def least_over_groups(self, values: FloatArray) -> FloatArray:
        """Return each agent's least value over its groups: (B, K, R) gives (B, N, R).

        An agent in no group gets infinity. With `single` the input itself comes back, as (B, 1, R), which
        broadcasts against (B, N, R): copy before writing to it.
        """
        if self.single:
            return values
        agents, group = self._columns[0] if self._columns else (np.empty(0, np.intp), np.empty(0, np.intp))
        if agents is None:
            least = values.take(group, axis=1)  # (B, N, R)
        else:
            least = np.full((values.shape[0], self.num_agents, values.shape[2]), np.inf)  # (B, N, R)
            least[:, agents] = values.take(group, axis=1)
        for agents, group in self._columns[1:]:
            if agents is None:
                np.minimum(least, values.take(group, axis=1), out=least)
            else:
                least[:, agents] = np.minimum(least[:, agents], values.take(group, axis=1))
        return least

    def least_or(self, values: FloatArray, alone: float) -> FloatArray:
        """Return `least_over_groups` of finite ``values``, but ``alone`` for an agent in no group."""
        least = self.least_over_groups(values)
        return least if self.covered else np.where(np.isfinite(least), least, alone)

    def least_over_members(self, values: FloatArray) -> FloatArray:
        """Return each group's least value over its members: (B, N, R) to (B, K, R); infinity without any."""
        if self.single:
            along_memory = np.ascontiguousarray(
                values.transpose(0, 2, 1)
            )  # (B, R, N): many times faster to reduce
            return along_memory.min(axis=2)[:, None]
        least = np.full((values.shape[0], self.num_groups, values.shape[2]), np.inf)  # (B, K, R)
        filled = np.flatnonzero(np.diff(self.starts))  # groups with members: reduceat cannot take empty ones
        if len(filled):
            pairs = values.take(self.pair_agents, axis=1)  # (B, P, R)
            least[:, filled] = np.minimum.reduceat(pairs, self.starts[filled], axis=1)
        return least

    def equal_share(self, capacity: FloatArray, present: FloatArray | None = None) -> FloatArray:
        """Return each agent's fair share: the least, over its groups, of capacity divided by members.

        Args:
            capacity: (B, K, R), infinite where a group does not bind.
            present: (B, N) 0/1, the agents that count; None counts every member. Members without access to a
                resource never count for it.

        Returns:
            (B, N, R), or (B, 1, R) with `single`; infinity for an agent in no group.
        """
        if present is None:
            return self.least_over_groups(capacity / np.maximum(self.sizes, 1.0))
        counting = present[:, :, None] if self.access is None else present[:, :, None] * self.access
        return self.least_over_groups(capacity / np.maximum(self.load(counting), 1.0))


def _zero_one(name: str, given: ArrayLike, shape: str) -> FloatArray:
    """Return `given` as a non-empty float matrix of zeros and ones, or say what is wrong with it."""
    try:
        matrix = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise AllocationError(f"{name} must be a matrix {shape}, 0 or 1 each, got {given!r}") from error
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise AllocationError(f"{name} must be a non-empty matrix {shape}, got shape {matrix.shape}")
    wrong = np.argwhere((matrix != 0.0) & (matrix != 1.0))
    if len(wrong):
        row, column = (int(index) for index in wrong[0])
        raise AllocationError(
            f"{name} must hold only 0 and 1, got {matrix[row, column]} at [{row}, {column}];"
            " give shares of a capacity as weights instead"
        )
    return matrix


def _columns_of(
    pair_groups: IndexArray, pair_agents: IndexArray, per_agent: NDArray[Any]
) -> tuple[tuple[IndexArray | None, IndexArray], ...]:
    """Return, for each g from 0, the agents with more than g groups (None: all) and the g-th of each."""
    by_agent = np.argsort(pair_agents, kind="stable")  # (P,)
    groups = pair_groups[by_agent]  # (P,)
    first = np.concatenate(([0], np.cumsum(per_agent)[:-1]))  # (N,)
    columns = []
    for number in range(int(per_agent.max())):
        agents = np.flatnonzero(per_agent > number)
        columns.append((None if len(agents) == len(per_agent) else agents, groups[first[agents] + number]))
    return tuple(columns)
