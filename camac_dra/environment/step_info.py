"""What a step tells besides observations and rewards."""

from __future__ import annotations

import numpy as np

from camac_dra.environment.physics import Flows
from camac_dra.environment.state import EnvironmentState


def step_info(
    state: EnvironmentState,
    flows: Flows,
    requests: np.ndarray,
    values: np.ndarray,
    by_objective: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Return the arrays of the step that is over; they are the environment's own: do not write to them.

    They are `requests` (after an agreement), `grants`, `served`, `pending`, `backlog` and `lost` (B, N, R) in
    the resources' units, each agent's `values` (B, N) before credit, `capacity`, `load` and `overload`
    (B, K, R) and `price` (B, R), where B may be 1. With reward_function `weighted` also, by objective
    (`OBJECTIVES`), what each agent earned, `objectives`, and is credited with, `objective_rewards` (B, N, O),
    and weights, `preferences` (B, O).
    """
    return {
        "requests": requests,
        "values": values,
        "pending": state.pending,
        "capacity": state.draw.capacity,
        "price": state.draw.price,
        "load": flows.relative_load,
        "overload": flows.overload,
        "grants": flows.grants,
        "served": flows.served,
        "backlog": flows.backlog,
        "lost": flows.lost,
        **by_objective,
    }
