"""Who gets how much of what several agents claim, and a record of why."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from camac_dra.environment.allocation import STRATEGIES, allocate
from camac_dra.environment.resource_pool import ResourcePool
from camac_dra.utils.arguments import check_list
from camac_dra.utils.errors import AllocationError, ResourceError, did_you_mean

Conflict = tuple[str, str, float, float]
"""(agent, resource, requested amount, weight of the agent)."""
_CLAIM = "(agent, resource, amount, weight)"

FloatArray = NDArray[np.float64]
Strategy = Callable[[FloatArray, float, FloatArray, np.random.Generator], FloatArray]
"""A user's rule: requests (N,), capacity, weights (N,) and a generator to grants (N,)."""

Capacity = float | Mapping[str, float] | ResourcePool

_ROUNDING = 1e-9  # relative, as the mechanisms promise


@dataclass(frozen=True, slots=True)
class Claim:
    """What one agent asked for, what it got, and why."""

    agent_id: str
    requested: float  # in the resource's units
    weight: float
    granted: float  # in the resource's units
    reason: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """One contested resource and what became of every claim to it."""

    resource_id: str
    strategy: str
    capacity: float  # what there was to share, in the resource's units
    claims: tuple[Claim, ...]

    @property
    def contested(self) -> bool:
        """Whether more was asked for than there was."""
        return math.fsum(claim.requested for claim in self.claims) > self.capacity * (1.0 + _ROUNDING)


class ConflictResolver:
    """Shares contested resources by one of the mechanisms of `camac_dra.environment.allocation`.

    Grants never exceed the request, and never the capacity (to a relative 1e-9). The order of the conflicts
    is the order of arrival, which `first_come` goes by; `auction` takes the weights as bids. What
    `weighted_random` draws comes from a generator of its own, so equal seeds give equal lotteries.

    Not safe for use by several threads at once.

    Attributes:
        strategy: name of the mechanism in force; may be set to another one at any time.
        resolutions: the last resolutions, oldest first, where a log was asked for.
    """

    def __init__(
        self,
        strategy: str = "weighted_random",
        capacity: Capacity | None = None,
        *,
        seed: int | None = None,
        strategies: Mapping[str, Strategy] | None = None,
        log_size: int = 0,
        on_resolution: Callable[[Resolution], None] | None = None,
    ) -> None:
        """Resolve by ``strategy``.

        Args:
            strategy: one of `get_available_strategies`.
            capacity: what there is of each resource: one number for every resource, a number by resource, or
                a pool, of which what is available at the time counts. None: the contested lot is the largest
                single claim, so that `weighted_random` is a lottery for it.
            seed: of the draws; None draws afresh in every run.
            strategies: rules of the user's own, by name (see `register_strategy`).
            log_size: how many resolutions to keep; 0 keeps none.
            on_resolution: called with every resolution, to write it elsewhere.

        Raises:
            AllocationError: an unknown strategy, or a negative ``log_size``.
            ResourceError: a capacity that is negative or NaN.
        """
        if log_size < 0:
            raise AllocationError(f"log_size must be 0 or more, got {log_size}")
        self._own: dict[str, Strategy] = {}
        for name, rule in (strategies or {}).items():
            self.register_strategy(name, rule)
        self.strategy = strategy
        self._capacity = _checked_capacity(capacity)
        self._rng = np.random.default_rng(seed)
        self.resolutions: deque[Resolution] = deque(maxlen=log_size)
        self._on_resolution = on_resolution

    @property
    def strategy(self) -> str:
        """Name of the mechanism in force."""
        return self._strategy

    @strategy.setter
    def strategy(self, name: str) -> None:
        known = self.get_available_strategies()
        if name not in known:
            raise AllocationError(
                f"strategy must be one of {', '.join(known)}, got {name!r}.{did_you_mean(str(name), known)}"
            )
        self._strategy = name

    def get_available_strategies(self) -> list[str]:
        """Return the names of all mechanisms, then of those registered here."""
        return [*STRATEGIES, *self._own]

    def register_strategy(self, name: str, rule: Strategy) -> None:
        """Add a rule of the user's own to this resolver.

        Args:
            name: how it is called; those of the mechanisms and of earlier rules are taken.
            rule: gets requests (N,), the capacity, weights (N,) and a generator, and returns grants (N,).
                What it returns is checked each time: from 0 to the request, together within the capacity.

        Raises:
            AllocationError: the name is taken or empty, or the rule cannot be called.
        """
        if not isinstance(name, str) or not name or name in STRATEGIES or name in self._own:
            raise AllocationError(f"name of a strategy must be new and not empty, got {name!r}")
        if not callable(rule):
            raise AllocationError(f"strategy {name!r} must be callable, got {rule!r}")
        self._own[name] = rule

    def resolve(self, conflicts: Sequence[Conflict]) -> dict[str, float]:
        """Return how much each agent gets, for claims to one resource; nobody's claim gives an empty dict.

        Raises:
            AllocationError: claims to several resources (`resolve_all` takes those), an agent twice, or an
                amount or weight out of range.
            ResourceError: the capacity of the resource is not known.
        """
        # an iterator would be used up by looking
        conflicts = check_list("conflicts", conflicts, _CLAIM, AllocationError)
        resources = dict.fromkeys(_checked(conflict)[1] for conflict in conflicts)
        if len(resources) > 1:
            raise AllocationError(
                f"conflicts must be about one resource, got {', '.join(map(repr, resources))}: "
                "use resolve_all for several"
            )
        return {agent: granted for (agent, _), granted in self.resolve_all(conflicts).items()}

    def resolve_all(self, conflicts: Sequence[Conflict]) -> dict[tuple[str, str], float]:
        """Return how much each agent gets of each resource, by (agent, resource), each resource for itself.

        All claims are checked before anything is resolved or logged. Raises as `resolve` does.
        """
        by_resource: dict[str, list[Conflict]] = {}
        grants: dict[tuple[str, str], float] = {}
        for conflict in check_list("conflicts", conflicts, _CLAIM, AllocationError):
            agent, resource, _, _ = _checked(conflict)
            if (agent, resource) in grants:
                raise AllocationError(
                    f"an agent may claim a resource once, got {agent!r} twice for {resource!r}"
                )
            grants[agent, resource] = 0.0
            by_resource.setdefault(resource, []).append(conflict)
        lots = {resource: self._lot(resource, claims) for resource, claims in by_resource.items()}
        for resource, claims in by_resource.items():
            for claim in self._share(resource, claims, lots[resource]).claims:
                grants[claim.agent_id, resource] = claim.granted
        return grants

    def _lot(self, resource: str, claims: Sequence[Conflict]) -> float:
        """Return what there is to share of a resource."""
        if self._capacity is None:
            return max(float(requested) for _, _, requested, _ in claims)
        if isinstance(self._capacity, ResourcePool):
            return self._capacity.get_available(resource)
        if isinstance(self._capacity, float):
            return self._capacity
        if resource not in self._capacity:
            raise ResourceError(
                f"resource must be one of {', '.join(self._capacity)}, got {resource!r}."
                + did_you_mean(resource, self._capacity)
            )
        return self._capacity[resource]

    def _share(self, resource: str, claims: Sequence[Conflict], lot: float) -> Resolution:
        """Share ``lot`` of one resource among ``claims``, and log it."""
        requests = np.array([float(requested) for _, _, requested, _ in claims])  # (N,)
        weights = np.array([float(weight) for _, _, _, weight in claims])  # (N,)
        if self._strategy in self._own:
            granted = self._by_own_rule(requests, lot, weights)
        else:
            granted = allocate(requests[:, None], [lot], self._strategy, weights=weights, rng=self._rng)[:, 0]
        reasons = _reasons(requests, granted, lot, self._strategy)
        rows = zip(claims, granted.tolist(), reasons, strict=True)
        resolution = Resolution(
            resource,
            self._strategy,
            lot,
            tuple(Claim(c[0], float(c[2]), float(c[3]), amount, reason) for c, amount, reason in rows),
        )
        self.resolutions.append(resolution)
        if self._on_resolution is not None:
            self._on_resolution(resolution)
        return resolution

    def _by_own_rule(self, requests: FloatArray, lot: float, weights: FloatArray) -> FloatArray:
        """Return what a rule of the user's own grants (N,), or say what is wrong with it."""
        name = self._strategy
        granted = np.asarray(self._own[name](requests.copy(), lot, weights.copy(), self._rng), np.float64)
        if granted.shape != requests.shape:
            raise AllocationError(f"strategy {name!r} must grant {requests.shape}, got shape {granted.shape}")
        fits = (granted >= 0.0) & (granted <= requests * (1.0 + _ROUNDING))  # NaN fails both
        if not fits.all():
            place = int(np.flatnonzero(~fits)[0])
            raise AllocationError(
                f"strategy {name!r} must grant from 0 to the request {requests[place]:g}, "
                f"got {granted[place]} for claim {place}"
            )
        if granted.sum() > lot * (1.0 + _ROUNDING):
            raise AllocationError(
                f"strategy {name!r} must grant {lot:g} in all at most, got {granted.sum():g}"
            )
        return np.minimum(granted, requests)


def _checked_capacity(capacity: Capacity | None) -> float | dict[str, float] | ResourcePool | None:
    """Return capacities as floats, or say what is wrong with them."""
    if capacity is None or isinstance(capacity, ResourcePool):
        return capacity
    if isinstance(capacity, Mapping):
        return {name: _amount(f"capacity of {name!r}", amount) for name, amount in capacity.items()}
    return _amount("capacity", capacity)


def _amount(what: str, given: object) -> float:
    number = float(given) if isinstance(given, Real) else math.nan
    if not number >= 0.0:
        raise ResourceError(f"{what} must be a number, zero or more, got {given!r}")
    return number


def _checked(conflict: Conflict) -> Conflict:
    """Return a conflict that is well-formed, or say what is wrong with it; the amounts' range is checked
    here, so that nothing is resolved by halves.
    """
    try:
        agent, resource, requested, weight = conflict
        amounts = (float(requested), float(weight))
    except (TypeError, ValueError):
        agent = None
    if not isinstance(agent, str) or not isinstance(resource, str):
        raise AllocationError(
            f"a conflict must be (agent_id, resource_id, requested, weight), got {conflict!r}"
        ) from None
    for name, amount, least in (("requested", amounts[0], 0.0), ("weight", amounts[1], 1e-100)):
        if not least <= amount <= 1e100:
            rule = "a finite number, zero or more" if least == 0.0 else "a finite number above zero"
            raise AllocationError(f"{name} of {agent!r} for {resource!r} must be {rule}, got {amount}")
    return conflict


def _reasons(requests: FloatArray, granted: FloatArray, lot: float, strategy: str) -> list[str]:
    """Say for each claim why it got what it got."""
    asked = float(requests.sum())
    scarce = f"{asked:g} asked for, {lot:g} there, shared by {strategy}"
    return [
        "granted in full" if got >= wanted * (1.0 - _ROUNDING) else f"cut to {got / wanted:.0%}: {scarce}"
        for wanted, got in zip(requests.tolist(), granted.tolist(), strict=True)
    ]
