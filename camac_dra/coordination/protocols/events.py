"""What goes into the state machines of protocols, and what comes out of them. Nothing here does any I/O.

A machine is one agent's (or the coordinator's) part of a protocol. Whoever carries it hands it events, one at
a time, and carries out the instructions that it returns, in their order. Machines know no clock and no
network: times are whatever the carrier's clock says, in seconds.

Axes: R resources, K capacity groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from camac_dra.environment.groups import FloatArray

Content = dict[str, Any]
"""A message: plain values and NumPy arrays."""


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A decision begins; whatever was left of the one before is given up."""

    decision: int  # rises from decision to decision, for everybody alike
    now: float
    request: FloatArray  # (R,) what the agent intends to ask for, in the resources' units; none: zeros
    worth: FloatArray  # (1,) or (R,) what a served unit counts for, see `Objective.worth`
    capacity: FloatArray  # (K, R) of this step, infinite where a group does not bind


@dataclass(frozen=True, slots=True, eq=False)
class Gather:
    """A decision begins, for the coordinator: from now on it waits for requests."""

    decision: int
    now: float
    capacity: FloatArray  # (K, R)
    weights: FloatArray  # (N,) of the agents
    expected: NDArray[Any]  # (N,) bool: who is alive and will report; the others ask for nothing


@dataclass(frozen=True, slots=True, eq=False)
class Received:
    """A message arrived; late ones, doubles and those of other decisions do no harm."""

    sender: str
    content: Content
    now: float


@dataclass(frozen=True, slots=True)
class Tick:
    """The clock reached ``now``; ticks that come early change nothing."""

    now: float


Event = Start | Gather | Received | Tick


@dataclass(frozen=True, slots=True, eq=False)
class Publish:
    """Put the newest value of ``topic`` on the channel that may lose but never blocks.

    ``recipients`` are those who read it; ``version`` rises with every publication of the topic.
    """

    topic: str
    content: Content
    version: int
    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Send:
    """Send a message to one recipient on the reliable channel."""

    recipient: str
    content: Content


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Tick at this time; it replaces the timer set before."""

    at: float


@dataclass(frozen=True, slots=True)
class Report:
    """What one agent's part of a decision cost, and how far it got."""

    rounds: int  # exchanges
    messages: int  # sent by this agent, one per recipient
    bytes: int  # of the arrays in them
    missing: int  # messages that were waited for in vain
    residual: float  # largest relative change that the last round made to what the agent knows


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """The decision is made: the agent asks for ``agreed`` (R,), never more than it intended."""

    decision: int
    agreed: FloatArray
    report: Report


Instruction = Publish | Send | SetTimer | Done


class Machine(Protocol):
    """One party's part of a protocol."""

    def handle(self, event: Event) -> list[Instruction]:
        """Take an event and return what is to be done now, in this order.

        After `Done` a machine ignores everything until the next `Start` or `Gather`.
        """
        ...
