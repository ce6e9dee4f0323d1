"""How a protocol gets there, round by round.

Axes, always in this order: T rounds, B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from camac_dra.environment.agreement import AgreementContext
from camac_dra.environment.groups import FloatArray

OVERLOAD = 1.01  # share of a capacity above which it counts as overloaded
_TINY = 1e-150


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What agents would have asked for, had they stopped after each round."""

    agreed: list[FloatArray]  # T times (B, N, R)
    overload: FloatArray  # (T,) share of the groups that bind asked for more than 1.01 of their capacity
    residual: FloatArray  # (T,) largest change of a request in the round, as a share of the largest intention


def traced(requests: FloatArray, agreed: Sequence[FloatArray], context: AgreementContext) -> Trace:
    """Return the trace of what would be ``agreed`` on after each round, from ``requests`` (B, N, R)."""
    binds = np.broadcast_to(np.isfinite(context.capacity), context.groups.load(requests).shape)  # (B, K, R)
    largest = max(float(requests.max(initial=0.0)), _TINY)
    overload, residual, before = [], [], requests
    for now in agreed:
        over = context.groups.load(now) > OVERLOAD * context.capacity
        overload.append(float(over[binds].mean()) if binds.any() else 0.0)
        residual.append(float(np.abs(now - before).max(initial=0.0)) / largest)
        before = now
    return Trace(list(agreed), np.array(overload), np.array(residual))
