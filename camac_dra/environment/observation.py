"""What agents see: their own row, their neighbours', or everybody's.

Axes, always in this order: B parallel copies, N agents, M neighbours, R resources, K groups, F features.

An agent's own row has, for every resource: new demand, backlog, last request and last grant in nominal fair
shares; the highest last load and last overload of its groups (up to 100); the price; its part of the capacity
as a share of the nominal one. Then sine and cosine of the time of day, the share of the episode that is over,
its own weight over the mean one, whether it is present, and whatever the dynamics add. With ``partial`` the
neighbours' pending demand follows, in shares of the capacity behind the agent's fair share and summed by what
it is worth to them: all resources of the neighbours above the agent's own weight, then of those at it, then
of those below.
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

    def begin(self, weights: np.ndarray) -> None:
        """Prepare for new episodes of agents with these weights (B, N)."""
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
    """Writes the part of an observation that concerns the agent itself and its groups."""

    def __init__(
        self, constraints: Constraints, dynamics: Dynamics, episode_length: int, mean_weight: float
    ) -> None:
        """Prepare the scales; weights are shown relative to ``mean_weight``."""
        self._constraints = constraints
        self._dynamics = dynamics
        self._episode_length = episode_length
        self._inverse_share = 1.0 / constraints.fair_share  # (N, R)
        self._inverse_weight = 1.0 / mean_weight
        self._resources = constraints.fair_share.shape[1]
        self.size = _PER_RESOURCE * self._resources + _SCALARS + dynamics.num_features
        self._template: np.ndarray  # (B, N, F) what stays the same over an episode

    def begin(self, weights: np.ndarray, width: int) -> None:
        """Prepare rows of ``width`` columns for agents with these weights (B, N)."""
        r = self._resources
        self._template = np.zeros((*weights.shape, width), np.float32)
        self._template[:, :, 7 * r : 8 * r] = 1.0
        self._template[:, :, 8 * r + 3] = weights * self._inverse_weight
        self._template[:, :, 8 * r + 4] = 1.0

    def rows(self, state: EnvironmentState) -> np.ndarray:
        """Return a new array (B, N, width) float32 whose first ``size`` columns are every agent's row."""
        out = self._template.copy()
        r, draw, inverse = self._resources, state.draw, self._inverse_share
        amounts = (draw.arrivals, state.backlog, state.last_request, state.last_grant)
        for index, amount in enumerate(amounts):
            np.multiply(amount, inverse, out=out[:, :, index * r : (index + 1) * r], casting="same_kind")
        out[:, :, 4 * r : 5 * r] = np.minimum(self._of_own_group(state.last_load), _MOST_LOAD)
        out[:, :, 5 * r : 6 * r] = np.minimum(self._of_own_group(state.last_overload), _MOST_LOAD)
        out[:, :, 6 * r : 7 * r] = draw.price[:, None, :]
        if draw.capacity is not self._dynamics.nominal_capacity:
            share = self._constraints.groups.equal_share(draw.capacity) * inverse  # (B, N, R)
            out[:, :, 7 * r : 8 * r] = np.where(np.isfinite(share), share, 1.0)
        column = 8 * r
        sine, cosine = self._dynamics.clock(state.time)
        out[:, :, column : column + 3] = np.array([sine, cosine, state.time / self._episode_length])
        if draw.present is not None:
            out[:, :, column + 4] = draw.present
        features = self._dynamics.features(draw, state.pending)
        if features is not None:
            out[:, :, column + _SCALARS : self.size] = features
        return out

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

    def begin(self, weights: np.ndarray) -> None:
        """Prepare the sums over the neighbours."""
        self._own.begin(weights, self.shape[0])
        self._demand.begin(weights)

    def observe(self, state: EnvironmentState, rng: np.random.Generator) -> np.ndarray:
        """Return observations (B, N, F) float32."""
        out = self._own.rows(state)
        sums = self._demand.sums(state.pending, rng)  # (B, N, 3 R)
        np.multiply(sums, self._inverse, out=out[:, :, self._own.size : self.used], casting="same_kind")
        return out

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

    def begin(self, weights: np.ndarray) -> None:
        """Forget what was heard."""
        self._own.begin(weights, self._own.size)
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

    def begin(self, weights: np.ndarray) -> None:
        """Prepare the rows; nothing is on its way."""
        self._own.begin(weights, self._own.size)

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
    config: EnvironmentConfig, constraints: Constraints, topology: Topology, dynamics: Dynamics, num_envs: int
) -> Observer:
    """Return the observer that ``config.observation_type`` asks for."""
    if config.weights is None:
        mean = sum(v * p for v, p in zip(config.weight_values, config.weight_probabilities, strict=True))
    else:
        mean = sum(config.weights) / len(config.weights)
    own = OwnRow(constraints, dynamics, config.max_episode_length, mean)
    if config.observation_type == "full":
        return FullObserver(own, config.num_agents, config.observation_size)
    if config.observation_type == "graph":
        delay, loss, most = config.message_delay, config.message_loss, config.max_neighbors
        return GraphObserver(own, Mailbox(topology, num_envs, own.size, delay, loss, most))
    demand = NeighbourDemand(
        topology, num_envs, config.num_resources, config.message_delay, config.message_loss
    )
    return PartialObserver(own, demand, constraints, config.observation_size)
