"""Who goes first where capacity is short: by hand, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.validation import validated

DAY = "2019-07-01T"
# Slots of an hour from midnight. a came first; b announced to leave first; c, who needs most, has the least
# slack; d announced nothing.
SESSIONS = [
    f"a,{DAY}00:00:00Z,{DAY}08:00:00Z,1.0,{DAY}08:00:00Z",
    f"b,{DAY}01:00:00Z,{DAY}08:00:00Z,2.0,{DAY}05:00:00Z",
    f"c,{DAY}01:00:00Z,{DAY}08:00:00Z,10.0,{DAY}06:00:00Z",
]
UNKNOWN = f"d,{DAY}01:00:00Z,{DAY}08:00:00Z,1.0,"


def problem(folder: Path, rows: list[str], order: str, **settings: Any) -> dict[str, Any]:
    """Return an ``environment`` section: 2 kW per station, 2 kW for all."""
    file = folder / "sessions.csv"
    file.write_text("\n".join(["station_id,arrival,departure,amount,estimated_departure", *rows]) + "\n")
    sessions = {"sessions": str(file), "slot_minutes": 60.0, "service_order": order}
    return {
        "num_agents": len(rows),
        "num_resources": 1,
        "resource_limits": {"power": 2.0},
        "max_episode_length": 8,
        "constraints": {"agent_limits": {"power": 2.0}},
        "dynamics": {"kind": "sessions", "sessions": sessions},
        "contention": 0.0,
        "mechanism": "first_come",
        "backlog_limit": None,
        "max_multiple": None,
        "weights": [1.0] * len(rows),
        "credit": "individual",
        **settings,
    }


def granted(config: dict[str, Any]) -> list[float]:
    """Return what each station gets at 1:00 where all ask for all they can use, and nobody did before."""
    env = VectorEnvironment(config, autoreset=False)
    env.reset(0)
    everything = np.full((1, env.num_agents, 1), 2.0)
    env.step_requests(0.0 * everything)
    expected = env.grants_of(everything)
    grants = env.step_requests(everything).info["grants"]
    assert np.array_equal(grants, expected)  # what a deployment is told
    return [float(grant) for grant in grants[0, :, 0]]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("index", [1.0, 1.0, 0.0]),
        ("arrival", [1.0, 0.5, 0.5]),
        ("deadline", [0.0, 2.0, 0.0]),
        ("laxity", [0.0, 0.0, 2.0]),
    ],
)
def test_the_first_is_served_first_and_equals_share(
    tmp_path: Path, order: str, expected: list[float]
) -> None:
    assert granted(problem(tmp_path, SESSIONS, order)) == pytest.approx(expected)


def test_who_announced_nothing_counts_as_about_to_leave(tmp_path: Path) -> None:
    rows = [*SESSIONS, UNKNOWN]
    assert granted(problem(tmp_path, rows, "deadline")) == pytest.approx([0.0, 1.0, 0.0, 1.0])


def test_marginal_credit_knows_the_order(tmp_path: Path) -> None:
    config = problem(tmp_path, SESSIONS, "deadline", credit="marginal", holding_cost=0.0)
    env = VectorEnvironment(config, num_envs=2, autoreset=False)
    env.reset(0)
    env.step_requests(np.zeros((2, 3, 1)))
    result = env.step_requests(np.array([[[0.0], [2.0], [2.0]], [[1.0], [2.0], [2.0]]]))
    fair_share = 2.0 / 3.0
    # Without b, c would have had its 2; without c, or a, b has the same.
    assert result.info["grants"][:, :, 0].tolist() == [[0.0, 2.0, 0.0], [0.0, 2.0, 0.0]]
    assert result.info["values"][:, 1].tolist() == pytest.approx([2.0 / fair_share] * 2)
    assert result.rewards == pytest.approx(np.zeros((2, 3)))


def test_orders_that_have_no_effect_are_refused(tmp_path: Path) -> None:
    match = (
        r"sessions\.service_order: acts only with mechanism 'first_come', got 'laxity' with 'proportional'"
    )
    with pytest.raises(ConfigurationError, match=match):
        validated({"environment": problem(tmp_path, SESSIONS, "laxity", mechanism="proportional")})
    with pytest.raises(ConfigurationError, match=r"service_order: must be one of .*laxity, got 'slack'"):
        validated({"environment": problem(tmp_path, SESSIONS, "slack")})
