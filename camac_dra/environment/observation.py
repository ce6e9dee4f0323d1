"""What agents see: their own row, their neighbours', or everybody's.

Axes, always in this order: B parallel copies, N agents, M neighbours, R resources, K groups, F features.

An agent's own row has, for every resource: new demand, backlog, last request and last grant in nominal fair
shares; the highest last load and last overload of its groups (up to 100); the price; its part of the capacity
as a share of the nominal one. Then sine and cosine of the time of day, the share of the episode that is over,
its own weight over the mean one, whether it is present, whatever the dynamics add, and, where
``objective_weights`` are sampled, how much each objective counts, in the order of `OBJECTIVES`. With
``partial`` the neighbours' pending demand follows, in shares of the capacity behind the agent's fair share
and summed by what it is worth to them: all resources of the neighbours above the agent's own weight, then of
those at it, then of those below.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.dynamics.base import Dynamics
from camac_dra.environment.neighbourhood import Mailbox, NeighbourDemand
from camac_dra.environment.state import EnvironmentState
from camac_dra.environment.topology import Topology
from camac_dra.utils.schema.environment import EnvironmentConfig

_PER_RESOURCE = 8
_SCALARS = 5
# The load of a group without capacity is as good as infinite: no number for a network.
_MOST_LOAD = 100.0


class Observer(Protocol):
    """Makes observations of one kind."""

    shape: tuple[int, ...]  # of one agent's observation

    def begin(self, weights: np.ndarray, preferences: np.ndarray | None) -> None:
        """Prepare for new episodes of agents with these weights (B, N), who are shown how much each objective
        counts (B, O); None: they are not.
        """
        ...

    def observe(self, state: EnvironmentState, rng: np.random.Generator) -> np.ndarray:
        """Return observations (B, N, *shape) float32; called once per step, in order."""
        ...

    def get_state(self) -> dict[str, Any]:
        """Return what is on its way between agents."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what ``get_state`` returned."""
        ...


class OwnRow:
    """Writes the part of an observation that concerns the agent itself and its groups.

    Everything is written into one array first, in its own unit, and all of it is scaled by one product: many
    small products would cost most of a step of a small problem.
    """

    def __init__(
        self,
        constraints: Constraints,
        dynamics: Dynamics,
        episode_length: int,
        mean_weight: float,
        num_preferences: int = 0,
    ) -> None:
        """Prepare the scales; weights are shown relative to ``mean_weight``, and so many objectives' as they
        are.
        """
        self._constraints = constraints
        self._dynamics = dynamics
        self._episode_length = episode_length
        self._inverse_share = 1.0 / constraints.fair_share  # (N, R)
        self._inverse_weight = 1.0 / mean_weight
        self._resources = constraints.fair_share.shape[1]
        self._num_features = dynamics.num_features
        self.size = _PER_RESOURCE * self._resources + _SCALARS + self._num_features + num_preferences
        self._raw: np.ndarray  # (B, N, F) what is shown, before it is scaled
        self._factor: np.ndarray  # (1, N, F)
        # Views of `_raw`: what belongs to each resource (B, N, R), the scalars (B, N), and the rest.
        self._columns: list[np.ndarray]
        self._scalars: list[np.ndarray]
        self._features: np.ndarray  # (B, N, X)
        self._more: np.ndarray  # (B, N, Y)
        self._reduced: bool  # whether the capacity shown is another than the nominal one

    def begin(
        self,
        weights: np.ndarray,
        width: int,
        more: np.ndarray | None = None,
        preferences: np.ndarray | None = None,
    ) -> None:
        """Prepare rows of ``width`` columns for agents with these weights (B, N).

        ``more`` (N, Y) scales columns after the own row that `rows` will be given; ``preferences`` (B, O) are
        shown as they are.
        """
        r, size = self._resources, self.size
        first = _PER_RESOURCE * r  # of the scalars
        self._raw = raw = np.zeros((*weights.shape, width), np.float32)
        self._columns = [raw[:, :, index * r : (index + 1) * r] for index in range(_PER_RESOURCE)]
        self._scalars = [raw[:, :, first + index] for index in range(_SCALARS)]
        end = first + _SCALARS + self._num_features
        self._features = raw[:, :, first + _SCALARS : end]
        if preferences is not None:
            raw[:, :, end:size] = preferences[:, None]
        self._scalars[3][...] = weights * self._inverse_weight
        self._scalars[4].fill(1.0)
        self._columns[-1].fill(1.0)
        self._reduced = False
        self._factor = np.ones((1, weights.shape[1], width), np.float32)
        self._factor[:, :, : 4 * r] = np.tile(self._inverse_share, (1, 4))
        if more is not None:
            self._more = raw[:, :, size : size + more.shape[1]]
            self._factor[:, :, size : size + more.shape[1]] = more

    def rows(self, state: EnvironmentState, more: np.ndarray | None = None) -> np.ndarray:
        """Return a new array (B, N, width) float32: everybody's row, then ``more`` (B, N, Y), then zeros."""
        draw = state.draw
        arrivals, backlog, request, grant, load, overload, price, capacity = self._columns
        arrivals[...] = draw.arrivals
        backlog[...] = state.backlog
        request[...] = state.last_request
        grant[...] = state.last_grant
        np.minimum(self._of_own_group(state.last_load), _MOST_LOAD, out=load)
        np.minimum(self._of_own_group(state.last_overload), _MOST_LOAD, out=overload)
        price[...] = draw.price[:, None, :]
        if draw.capacity is not self._dynamics.nominal_capacity:
            share = self._constraints.groups.equal_share(draw.capacity) * self._inverse_share  # (B, N, R)
            capacity[...] = np.where(np.isfinite(share), share, 1.0)
            self._reduced = True
        elif self._reduced:
            capacity.fill(1.0)
            self._reduced = False
        sine, cosine, over, _, present = self._scalars
        now = self._dynamics.clock(state.time)
        sine.fill(now[0])
        cosine.fill(now[1])
        over.fill(state.time / self._episode_length)
        if draw.present is not None:
            present[...] = draw.present
        features = self._dynamics.features(draw, state.pending)
        if features is not None:
            self._features[...] = features
        if more is not None:
            self._more[...] = more
        return self._raw * self._factor

    def _of_own_group(self, values: np.ndarray) -> np.ndarray:
        """Return the highest of ``values`` (B, K, R) over an agent's groups (B, N or 1, R), 0 without any."""
        groups = self._constraints.groups
        if groups.single:
            return values
        highest = -groups.least_over_groups(-values)
        return highest if groups.covered else np.where(np.isfinite(highest), highest, 0.0)


class PartialObserver:
    """Own row, then the neighbours' pending demand by its worth; padded with zeros."""

    def __init__(
        self, own: OwnRow, demand: NeighbourDemand, constraints: Constraints, least_size: int
    ) -> None:
        """Pad to ``least_size`` features where fewer are needed."""
        self._own, self._demand = own, demand
        self._inverse = np.tile(1.0 / constraints.shared_capacity(), (1, 3))  # (N, 3 R)
        self.used = own.size + self._inverse.shape[1]
        self.shape: tuple[int, ...] = (max(self.used, least_size),)

    def begin(self, weights: np.ndarray, preferences: np.ndarray | None) -> None:
        """Prepare the sums over the neighbours."""
        self._own.begin(weights, self.shape[0], self._inverse, preferences)
        self._demand.begin(weights)

    def observe(self, state: EnvironmentState, rng: np.random.Generator) -> np.ndarray:
        """Return observations (B, N, F) float32."""
        return self._own.rows(state, self._demand.sums(state.pending, rng))

    def get_state(self) -> dict[str, Any]:
        """Return the demand that is on its way."""
        return self._demand.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what ``get_state`` returned."""
        self._demand.set_state(state)


class GraphObserver:
    """Own row and a row for each neighbour, padded; the last column says which rows are real.

    The shape is (1 + M, F + 1): row 0 is the agent's own, row m + 1 that of its m-th neighbour as last heard.
    """

    def __init__(self, own: OwnRow, mailbox: Mailbox) -> None:
        """Show the rows that arrive in ``mailbox``."""
        self._own, self._mailbox = own, mailbox
        self.shape: tuple[int, ...] = (1 + mailbox.index.shape[1], own.size + 1)

    def begin(self, weights: np.ndarray, preferences: np.ndarray | None) -> None:
        """Forget what was heard."""
        self._own.begin(weights, self._own.size, preferences=preferences)
        self._mailbox.begin()

    def observe(self, state: EnvironmentState, rng: np.random.Generator) -> np.ndarray:
        """Return observations (B, N, 1 + M, F + 1) float32."""
        copies, agents = state.weights.shape
        rows = self._own.rows(state)  # (B, N, F)
        out = np.zeros((copies, agents, *self.shape), np.float32)
        out[:, :, 0, :-1] = rows
        out[:, :, 1:, :-1] = self._mailbox.exchange(rows, rng)
        out[:, :, 0, -1] = 1.0
        out[:, :, 1:, -1] = self._mailbox.known
        return out

    def get_state(self) -> dict[str, Any]:
        """Return the rows that are on their way."""
        return self._mailbox.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what ``get_state`` returned."""
        self._mailbox.set_state(state)


class FullObserver:
    """Own row, then everybody's rows in order; padded with zeros."""

    def __init__(self, own: OwnRow, num_agents: int, least_size: int) -> None:
        """Pad to ``least_size`` features where fewer are needed."""
        self._own = own
        self.used = own.size * (1 + num_agents)
        self.shape: tuple[int, ...] = (max(self.used, least_size),)

    def begin(self, weights: np.ndarray, preferences: np.ndarray | None) -> None:
        """Prepare the rows; nothing is on its way."""
        self._own.begin(weights, self._own.size, preferences=preferences)

    def observe(self, state: EnvironmentState, rng: np.random.Generator) -> np.ndarray:
        """Return observations (B, N, F) float32."""
        copies, agents = state.weights.shape
        rows = self._own.rows(state)  # (B, N, F)
        out = np.zeros((copies, agents, *self.shape), np.float32)
        out[:, :, : self._own.size] = rows
        out[:, :, self._own.size : self.used] = rows.reshape(copies, 1, -1)
        return out

    def get_state(self) -> dict[str, Any]:
        """Return nothing: nothing is on its way."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def make_observer(
    config: EnvironmentConfig,
    constraints: Constraints,
    topology: Topology,
    dynamics: Dynamics,
    num_envs: int,
    num_preferences: int = 0,
) -> Observer:
    """Return the observer that ``config.observation_type`` asks for.

    It shows the weights of ``num_preferences`` objectives.
    """
    if config.weights is None:
        mean = sum(v * p for v, p in zip(config.weight_values, config.weight_probabilities, strict=True))
    else:
        mean = sum(config.weights) / len(config.weights)
    own = OwnRow(constraints, dynamics, config.max_episode_length, mean, num_preferences)
    if config.observation_type == "full":
        return FullObserver(own, config.num_agents, config.observation_size)
    if config.observation_type == "graph":
        delay, loss, most = config.message_delay, config.message_loss, config.max_neighbors
        return GraphObserver(own, Mailbox(topology, num_envs, own.size, delay, loss, most))
    demand = NeighbourDemand(
        topology, num_envs, config.num_resources, config.message_delay, config.message_loss
    )
    return PartialObserver(own, demand, constraints, config.observation_size)
