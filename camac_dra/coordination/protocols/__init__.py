"""Protocols as state machines without I/O: events in, instructions out; `Protocol` and agents carry them."""

from camac_dra.coordination.protocols.averaging import AveragingMachine, Membership
from camac_dra.coordination.protocols.central import COORDINATOR, CoordinatorMachine, MemberMachine
from camac_dra.coordination.protocols.events import (
    Done,
    Event,
    Gather,
    Instruction,
    Machine,
    Publish,
    Received,
    Report,
    Send,
    SetTimer,
    Start,
    Tick,
)
from camac_dra.coordination.protocols.exchange import Lots
from camac_dra.coordination.protocols.factory import MachineFactory, machine_factory
from camac_dra.coordination.protocols.plan import Plan, plan_protocol

__all__ = [
    "COORDINATOR",
    "AveragingMachine",
    "CoordinatorMachine",
    "Done",
    "Event",
    "Gather",
    "Instruction",
    "Lots",
    "Machine",
    "MachineFactory",
    "MemberMachine",
    "Membership",
    "Plan",
    "Publish",
    "Received",
    "Report",
    "Send",
    "SetTimer",
    "Start",
    "Tick",
    "machine_factory",
    "plan_protocol",
]
