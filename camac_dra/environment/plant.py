"""What becomes of requests in one step, and what would have become of them had one agent asked for nothing.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from camac_dra.environment.allocation import get_mechanism, is_deterministic
from camac_dra.environment.constraints import Constraints
from camac_dra.environment.credit import Contest, general_externality, proportional_externality
from camac_dra.environment.dynamics import Draw
from camac_dra.environment.objective import Objective
from camac_dra.environment.physics import (
    LEAST_CAPACITY,
    Flows,
    inverse_of,
    overload_and_share,
    queue,
    serve,
    usable_share,
)
from camac_dra.environment.state import EnvironmentState
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema.environment import EnvironmentConfig

# Takes intended requests (C * B, N, R), C copies of the batch in a row, and C; returns the agreed ones.
Agree = Callable[[np.ndarray, int], np.ndarray]
# Takes what was granted, served and lost (C, B, N, R); returns values (C, B, N) or (C, B, N, O).
Worth = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
# Returns who goes first (B, N), lowest first.
ServiceOrder = Callable[[EnvironmentState], np.ndarray]


class Plant:
    """Contention, mechanism, service and queues, as they are set now.

    Attributes:
        mechanism: name of the rule that resolves conflicts.
        contention: loss of usable capacity per share of overload.
    """

    def __init__(
        self,
        config: EnvironmentConfig,
        constraints: Constraints,
        nominal_capacity: np.ndarray,
        service_order: ServiceOrder | None = None,
    ) -> None:
        """Prepare for ``config``.

        Args:
            config: the problem.
            constraints: who shares what.
            nominal_capacity: (1, K, R), the very array in draws without outages.
            service_order: for mechanisms that serve one after the other; None: by the agents' index.
        """
        self._service_order = service_order
        self._groups = constraints.groups
        self._floor = config.contention_floor
        self._leontief = config.coupling == "leontief"
        self._marginal = config.credit == "marginal"
        limit = config.backlog_limit
        # Arrays of as many axes as those of a step are multiplied faster.
        self._backlog_limit = None if limit is None else limit * constraints.fair_share[None]  # (1, N, R)
        self._nominal_capacity = nominal_capacity
        self._nominal_inverse = inverse_of(nominal_capacity)  # (1, K, R)
        self.set_mechanism(config.mechanism)
        self.set_contention(config.contention)

    def set_mechanism(self, mechanism: str) -> None:
        """Resolve conflicts by another rule from now on; see `VectorEnvironment.set_mechanism`."""
        allocate = get_mechanism(mechanism)
        if self._marginal and not is_deterministic(mechanism):
            raise ConfigurationError(
                f"mechanism must be deterministic with credit 'marginal', got {mechanism!r}:"
                " use credit 'team'"
            )
        self._allocate = allocate
        self.mechanism = mechanism
        # The mechanism would sum the loads again. A capacity of zero has no load relative to it.
        self._shares = mechanism == "proportional" and bool((self._nominal_capacity >= LEAST_CAPACITY).all())

    def set_contention(self, contention: float) -> None:
        """Change the strength of the contention from now on; see `VectorEnvironment.set_contention`."""
        if not 0.0 <= contention < math.inf:
            raise ConfigurationError(f"contention must be a finite number, zero or more, got {contention!r}")
        self.contention = float(contention)

    def flows(
        self, requests: np.ndarray, state: EnvironmentState, rng: np.random.Generator | None, copies: int = 1
    ) -> Flows:
        """Resolve ``copies`` batches of requests (copies * B, N, R), one after the
        other, against one ``state``.

        ``rng`` is for mechanisms that draw.
        """
        draw, pending, weights = state.draw, state.pending, state.weights
        capacity, inverse = draw.capacity, self._inverse_capacity(draw)
        leaving, service_yield = draw.leaving, draw.service_yield
        if copies > 1:
            pending, weights = _tile(pending, copies), _tile(weights, copies)
            capacity, inverse = _spread(capacity, copies), _spread(inverse, copies)
            leaving = None if leaving is None else _tile(leaving, copies)
            service_yield = None if service_yield is None else _tile(service_yield, copies)
        relative_load = self._groups.load(requests) * inverse  # (B, K, R)
        overload, share = overload_and_share(relative_load, self.contention, self._floor)  # (B, K, R)
        if self._shares and draw.capacity is self._nominal_capacity:
            grants = requests * self._groups.least_or(share, 1.0)
        else:
            capacity = capacity * usable_share(overload, self.contention, self._floor)
            order = None if self._service_order is None else self._service_order(state)  # (B, N)
            if order is not None and copies > 1:
                order = _tile(order, copies)
            grants = self._allocate(requests, capacity, self._groups, weights, order=order, rng=rng)
        served = serve(pending, grants, service_yield, self._leontief)
        backlog, lost = queue(pending, served, self._backlog_limit, leaving)
        return Flows(relative_load, overload, share, grants, served, backlog, lost)

    def externality(
        self,
        requests: np.ndarray,
        flows: Flows,
        objective: Objective,
        price: np.ndarray,
        values: np.ndarray,
        state: EnvironmentState,
        agree: Agree | None = None,
    ) -> np.ndarray:
        """Return what the others would gain (B, N) if one agent at a time asked for nothing.

        ``flows`` and ``values`` (B, N) are what became of the ``requests`` (B, N, R) that agents intended,
        after they agreed where there is an agreement; ``price`` (B or 1, N, R) is of a granted unit. Of
        ``values`` by resource (B, N, R), what they would gain is by resource too.
        """
        by_resource = values.ndim == requests.ndim
        if self.has_closed_form(agree):
            return self.closed_externality(requests, flows, objective, price, state, by_resource=by_resource)
        value = objective.by_resource if by_resource else objective.values

        def worth(grants: np.ndarray, served: np.ndarray, lost: np.ndarray) -> np.ndarray:
            return value(price, state.pending, grants, served, lost)  # (C, B, N) or (C, B, N, R)

        return self.solved_again(requests, state, agree, worth, values)

    def has_closed_form(self, agree: Agree | None) -> bool:
        """Whether what others would gain is known without solving again: without an agreement, where disjoint
        groups share in proportion.
        """
        simple = self._groups.disjoint and not self._leontief and self.mechanism == "proportional"
        return simple and agree is None

    def closed_externality(
        self,
        requests: np.ndarray,
        flows: Flows,
        objective: Objective,
        price: np.ndarray,
        state: EnvironmentState,
        *,
        by_resource: bool = False,
    ) -> np.ndarray:
        """Return what `externality` does (B, N), ``by_resource`` (B, N, R), where there is a closed form."""
        draw = state.draw
        useful = requests if draw.service_yield is None else requests * draw.service_yield
        contest, inverse = Contest(self._groups, self.contention, self._floor), self._inverse_capacity(draw)
        return proportional_externality(
            requests, useful, flows, inverse, price, objective, contest, by_resource=by_resource
        )

    def solved_again(
        self,
        requests: np.ndarray,
        state: EnvironmentState,
        agree: Agree | None,
        worth: Worth,
        values: np.ndarray,
    ) -> np.ndarray:
        """Return what the others would gain if one agent at a time asked for nothing, for any mechanism.

        ``worth`` takes what C copies of the batch are granted, served and lose, (C, B, N, R) each, and
        returns their values (C, B, N) or (C, B, N, O); ``values`` are those of all requests.
        """

        def solve(trial: np.ndarray, copies: int) -> np.ndarray:
            agreed = trial if agree is None else agree(trial, copies)
            again = self.flows(agreed, state, None, copies)
            shape = (copies, *state.pending.shape)
            return worth(again.grants.reshape(shape), again.served.reshape(shape), again.lost.reshape(shape))

        return general_externality(requests, values, solve)

    def _inverse_capacity(self, draw: Draw) -> np.ndarray:
        """Return one over the capacity (B or 1, K, R)."""
        return self._nominal_inverse if draw.capacity is self._nominal_capacity else inverse_of(draw.capacity)


def _tile(array: np.ndarray, copies: int) -> np.ndarray:
    """Return ``copies`` of a batch one after the other along its first axis."""
    return np.tile(array, (copies, *(1,) * (array.ndim - 1)))


def _spread(array: np.ndarray, copies: int) -> np.ndarray:
    """Return what `_tile` does, or the array itself where its first axis of one broadcasts."""
    return array if len(array) == 1 else _tile(array, copies)
