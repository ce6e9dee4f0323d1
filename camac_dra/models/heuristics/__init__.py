"""Policies made by hand, which every learned one is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from camac_dra.models.heuristics.aimd import AIMD, TunedAIMD
from camac_dra.models.heuristics.myopic import CentralMyopic
from camac_dra.models.heuristics.plain import FairShare, Greedy, GreedyAgreed, RandomRequests
from camac_dra.models.heuristics.policy import Heuristic, RequestPolicy
from camac_dra.models.heuristics.price import CongestionPrice
from camac_dra.models.heuristics.receding_horizon import RecedingHorizon

_CLASSES: tuple[type[Heuristic], ...] = (
    RandomRequests,
    Greedy,
    FairShare,
    AIMD,
    TunedAIMD,
    CongestionPrice,
    GreedyAgreed,
    CentralMyopic,
    RecedingHorizon,
)

HEURISTICS: Mapping[str, Callable[[], Heuristic]] = MappingProxyType({kind.name: kind for kind in _CLASSES})
"""All heuristics by name, from the simplest to the most informed; call one to make it."""

__all__ = ["HEURISTICS", "Heuristic", "RequestPolicy"]
