"""The plant's short cut for proportional sharing grants what the mechanism grants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from camac_dra.environment.allocation import get_mechanism
from camac_dra.environment.constraints import Constraints
from camac_dra.environment.dynamics.base import Draw
from camac_dra.environment.physics import Flows
from camac_dra.environment.plant import Plant
from camac_dra.environment.state import EnvironmentState
from tests.environment.problems import problem

COPIES, AGENTS = 3, 5
# Who shares what; agents 0 and 4 are in no group of "loners".
MEMBERSHIPS: dict[str, Any] = {
    "one pool": [[1, 1, 1, 1, 1]],
    "racks": [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]],
    "overlapping": [[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]],
    "loners": [[0, 1, 1, 0, 0], [0, 0, 0, 1, 0]],
}


def play(
    capacity: Any, membership: Any, now: Any = None, contention: float = 1.0
) -> tuple[Flows, np.ndarray]:
    """Return what becomes of random requests, and the requests (B, N, R).

    The capacities (K, R) are the nominal ones, and those of the step: None for the nominal ones, themselves.
    """
    members, nominal_capacity = np.array(membership, float), np.array(capacity, float)[None]  # (1, K, R)
    constraints = Constraints.build(members, nominal_capacity[0], np.full((AGENTS, 2), 9.0))
    plant = Plant(problem(num_agents=AGENTS, contention=contention), constraints, nominal_capacity)
    requests = np.random.default_rng(0).uniform(0.0, 4.0, (COPIES, AGENTS, 2))
    in_force = nominal_capacity if now is None else np.array(now, float)[None]
    draw = Draw(requests, in_force, np.ones((1, 2)))
    weights = np.ones((COPIES, AGENTS))
    state = EnvironmentState.at_start(draw, weights, constraints.fair_share[None], len(members))
    return plant.flows(requests, state, None), requests


@pytest.mark.parametrize("membership", MEMBERSHIPS.values(), ids=MEMBERSHIPS)
@pytest.mark.parametrize("contention", [0.0, 0.3, 5.0])
@pytest.mark.parametrize("plenty", [0.5, 3.0, 100.0])
def test_the_short_cut_grants_what_the_mechanism_grants(
    membership: Any, contention: float, plenty: float
) -> None:
    capacity = np.outer(np.arange(1, len(membership) + 1), [1.0, math.inf]) * plenty
    short, _ = play(capacity, membership, contention=contention)
    long, _ = play(capacity, membership, now=capacity, contention=contention)
    for name in ("grants", "served", "backlog", "lost"):
        np.testing.assert_allclose(getattr(short, name), getattr(long, name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("membership", MEMBERSHIPS.values(), ids=MEMBERSHIPS)
def test_the_share_is_that_of_the_mechanism(membership: Any) -> None:
    capacity = np.outer(
        np.arange(1, len(membership) + 1), [1.0, 20.0]
    )  # the first overloaded, not the second
    flows, requests = play(capacity, membership, now=capacity, contention=0.0)
    for k, row in enumerate(np.array(membership, bool)):
        alone = requests * row[:, None]
        groups = Constraints.build(np.ones((1, AGENTS)), capacity[[k]]).groups
        grants = get_mechanism("proportional")(alone, capacity[None, [k]], groups)
        np.testing.assert_allclose(alone * flows.share[:, [k]], grants, rtol=1e-12)


@pytest.mark.parametrize(("nominal", "now"), [(0.0, None), (5.0, 0.0)], ids=["never", "not in this step"])
def test_what_does_not_exist_is_not_granted(nominal: float, now: float | None) -> None:
    pool = MEMBERSHIPS["one pool"]
    flows, _ = play([[nominal, 5.0]], pool, now=None if now is None else [[now, 5.0]])
    assert (flows.grants[..., 0] == 0.0).all()
    assert (flows.grants[..., 1] > 0.0).all()
