"""The state of B copies of the problem between two decisions.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.dynamics.base import Draw


@dataclass(slots=True)
class EnvironmentState:
    """Everything an agent, an observer or a heuristic may look at before it decides."""

    time: int  # step within the episode, the same for all copies
    draw: Draw  # exogenous events of this step
    weights: np.ndarray  # (B, N) value of a served unit
    backlog: np.ndarray  # (B, N, R) waiting since earlier steps
    pending: np.ndarray  # (B, N, R) backlog + arrivals
    fair_share: np.ndarray  # (B or 1, N or 1, R) least capacity / present members over the agent's groups
    last_request: np.ndarray  # (B, N, R) of the step before; zeros at the start of an episode
    last_grant: np.ndarray  # (B, N, R)
    last_load: np.ndarray  # (B, K, R) share of the capacity that was asked for
    last_overload: np.ndarray  # (B, K, R) share by which it was exceeded

    @classmethod
    def at_start(
        cls, draw: Draw, weights: np.ndarray, fair_share: np.ndarray, num_groups: int
    ) -> EnvironmentState:
        """Return the state at the first step of an episode, in which nothing was asked for yet."""
        copies, _, resources = draw.arrivals.shape
        empty, calm = np.zeros(draw.arrivals.shape), np.zeros((copies, num_groups, resources))
        return cls(
            time=0,
            draw=draw,
            weights=weights,
            backlog=empty,
            pending=empty + draw.arrivals,
            fair_share=fair_share,
            last_request=empty,
            last_grant=empty,
            last_load=calm,
            last_overload=calm,
        )


def fair_share_now(draw: Draw, constraints: Constraints, nominal_capacity: np.ndarray) -> np.ndarray:
    """Return the fair share (B or 1, N, R) now: by present members and the capacity that is left.

    ``nominal_capacity`` (1, K, R) is the array in draws without outages.
    """
    nominal = constraints.fair_share[None]  # (1, N, R)
    if draw.present is None and draw.capacity is nominal_capacity:
        return nominal
    present = None if draw.present is None else draw.present.astype(float)
    share = constraints.groups.equal_share(draw.capacity, present)
    return np.where(np.isfinite(share), share, nominal)
