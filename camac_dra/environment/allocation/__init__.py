"""Allocation mechanisms: rules that turn what agents ask for into what they get."""

from camac_dra.environment.allocation.interface import (
    READS,
    STRATEGIES,
    Mechanism,
    allocate,
    get_mechanism,
    is_deterministic,
)
from camac_dra.environment.allocation.properties import PROPERTIES, Holds
from camac_dra.environment.allocation.serving import clearing_prices

__all__ = [
    "PROPERTIES",
    "READS",
    "STRATEGIES",
    "Holds",
    "Mechanism",
    "allocate",
    "clearing_prices",
    "get_mechanism",
    "is_deterministic",
]
