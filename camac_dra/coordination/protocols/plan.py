"""What a protocol's settings come to on a topology: rounds, weights and links."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from camac_dra.coordination.consensus import (
    contraction,
    delayed_contraction,
    rounds_until,
    sparse_consensus_weights,
    walk_contraction,
)
from camac_dra.coordination.protocols.objectives import OBJECTIVES, Objective
from camac_dra.environment.topology import Topology
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema import CoordinationConfig

ERROR = 1e-3  # share of the first deviation from the mean that may be left, where rounds are not set
MOST_ROUNDS = 400  # that are planned where rounds are not set
_LARGEST_COMPLETE = 2_000  # agents; each would hear all others in every round
_TRIPS = 5  # of requests and answers, where messages get lost
_PUSH_SUM = math.sqrt(0.5)  # contraction of push-sum on a complete graph per round (Kempe et al. 2003)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A protocol with all that is to be known about it."""

    protocol: str
    objective_name: str
    rounds: int
    message_loss: float
    message_delay: int  # rounds that a message takes longer than the one it is sent in
    weights: sparse.csr_array  # (N, N) of average consensus: Metropolis, or half of them

    @property
    def objective(self) -> Objective:
        """What is agreed on."""
        return OBJECTIVES[self.objective_name]

    def learns(self, round_number: int) -> bool:
        """Return whether agents contribute anew after this round, from 1, by what they know then.

        They do after each pass, when the sums have had time to settle: prices that follow sums which still
        move never come to rest.
        """
        return round_number in self.stops[:-1]

    @property
    def stops(self) -> list[int]:
        """The last round of each pass; the last pass is as long as the others, or a little longer."""
        passes = min(self.objective.passes, self.rounds)
        length = self.rounds // passes
        return [length * (number + 1) for number in range(passes - 1)] + [self.rounds]

    @property
    def trips(self) -> int:
        """How often a member asks its coordinator at most."""
        return max(1, self.rounds // (2 * (1 + self.message_delay)))

    @property
    def links(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(E,) sender, (E,) recipient and (E,) weight of each directed link, by recipient, then sender."""
        off = self.weights.tocoo()
        keep = off.coords[0] != off.coords[1]
        recipients, senders = off.coords[0][keep], off.coords[1][keep]
        order = np.lexsort((senders, recipients))
        return senders[order], recipients[order], off.data[keep][order]


def plan_protocol(coordination: CoordinationConfig, topology: Topology) -> Plan:
    """Return the plan of ``coordination`` on a topology; its protocol must not be ``none``.

    Where ``rounds`` is null, there are as many as leave a thousandth of the first deviation from the mean,
    but `MOST_ROUNDS` at most; agents that have to find a price need as many for each pass of their objective.

    Raises:
        ConfigurationError: agents cannot reach each other, or there are too many links.
    """
    protocol = coordination.protocol
    size = len(topology.agents)
    if protocol == "centralized":
        weights = sparse.csr_array(sparse.eye_array(size, format="csr"))
        trips = 1 if coordination.message_loss == 0.0 else _TRIPS
        rounds = coordination.rounds or 2 * trips * (1 + coordination.message_delay)
    else:
        _refuse(protocol, topology)
        weights = sparse_consensus_weights(topology)
        if (
            coordination.message_delay > 0
        ):  # who keeps little has nearly all of it on its way, for ever to and fro
            weights = sparse.csr_array(0.5 * (weights + sparse.eye_array(size, format="csr")))
        rounds = coordination.rounds or _enough(coordination, topology, weights)
    return Plan(
        protocol,
        coordination.objective,
        rounds,
        coordination.message_loss,
        coordination.message_delay,
        weights,
    )


def _refuse(protocol: str, topology: Topology) -> None:
    size = len(topology.agents)
    if topology.is_complete and size > _LARGEST_COMPLETE:
        raise ConfigurationError(
            f"environment.topology: {protocol} over a fully connected topology must have {_LARGEST_COMPLETE} "
            f"agents or fewer, got {size}: take 'ring', 'random' or 'geometric', or protocol 'centralized'"
        )
    if not topology.is_connected():
        raise ConfigurationError(
            f"environment.topology: {protocol} needs a connected topology, got separate parts: join them, or "
            "take protocol 'centralized'"
        )


def _enough(coordination: CoordinationConfig, topology: Topology, weights: sparse.csr_array) -> int:
    """Return rounds that are enough; losses and delays slow everything down."""
    loss = coordination.message_loss
    if coordination.protocol == "gossip":
        factor = max(_PUSH_SUM, walk_contraction(topology)) if len(topology.agents) > 1 else 0.0
        if loss > 0.0:  # what is lost waits until the same neighbour is drawn again
            factor = max(factor, 1.0 - (1.0 - loss) / max(1, int(topology.degree.max())))
        slower = 1.0 + coordination.message_delay
    else:
        slower = 1.0
        kept = float(weights.diagonal().mean())
        factor = delayed_contraction(contraction(weights), kept, coordination.message_delay)
        factor = max(factor, loss)  # what is lost in a round is made up for in the next
    needed = coordination.message_delay + (rounds_until(factor, ERROR) or MOST_ROUNDS)
    enough = math.ceil(needed * slower / (1.0 - loss)) * OBJECTIVES[coordination.objective].passes
    return min(MOST_ROUNDS, enough)
