"""Small problems that several tests share, and the settings that they are varied by."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from camac_dra.environment.allocation import STRATEGIES
from camac_dra.utils.schema.environment import EnvironmentConfig

RESOURCES = ("cpu", "memory", "bandwidth")
STEPS = 6

# Every agent demands `load` fair shares of everything at every step.
CONSTANT: dict[str, Any] = {
    "base_concentration": None,
    "day_amplitude": 0.0,
    "noise": 0.0,
    "burst_probability": 0.0,
    "price_amplitude": 0.0,
}
# Shocks, outages, comings and goings, and yields, all of them often.
EVENTFUL: dict[str, Any] = {
    "load": 1.5,
    "shock_probability": 0.2,
    "shock_duration": 3,
    "outage_probability": 0.2,
    "outage_duration": 2,
    "leave_probability": 0.2,
    "join_probability": 0.5,
    "yield_low": 0.5,
}


def problem(synthetic: dict[str, Any] | None = None, **settings: Any) -> EnvironmentConfig:
    """Return a small problem: 4 agents, 2 resources, 12 steps, unless ``settings`` say otherwise."""
    section: dict[str, Any] = {
        "num_agents": 4,
        "num_resources": 2,
        "resource_limits": {"cpu": 40.0, "memory": 8.0},
        "max_episode_length": 12,
        "dynamics": {"synthetic": synthetic or {}},
        "credit": "individual",
    }
    return EnvironmentConfig.model_validate(section | settings)


def random_actions(config: EnvironmentConfig, num_envs: int, rng: np.random.Generator) -> np.ndarray:
    """Return random actions (B, N) or (B, N, R), the ends of their range among them."""
    cells = (num_envs, config.num_agents, config.num_resources)
    if config.action_type == "continuous":
        return np.clip(rng.uniform(-0.3, 1.3, cells), 0.0, 1.0)
    shape = cells[:2] if config.action_type == "discrete" else cells
    return rng.integers(config.action_size, size=shape)


@st.composite
def limits(draw: st.DrawFn, num_agents: int, resources: tuple[str, ...]) -> dict[str, Any]:
    """Return a ``constraints`` section: one pool, racks, or overlapping groups that bind for some."""
    agents = st.integers(0, num_agents - 1)
    section: dict[str, Any] = {}
    kind = draw(st.sampled_from(["single", "disjoint", "overlapping"]))
    if kind == "disjoint":
        section["num_groups"] = draw(st.integers(1, num_agents))
    elif kind == "overlapping":
        capacity = st.just(0.0) | st.floats(0.5, 20.0)
        section["groups"] = [
            {
                "name": f"cell_{k}",
                "agents": draw(st.lists(agents, min_size=1, max_size=num_agents, unique=True)),
                "limits": draw(st.dictionaries(st.sampled_from(resources), capacity)),
            }
            for k in range(draw(st.integers(1, 3)))
        ]
    if draw(st.booleans()):
        section["agent_limits"] = draw(st.dictionaries(st.sampled_from(resources), st.floats(0.2, 10.0)))
    if draw(st.booleans()):
        section["access"] = draw(
            st.dictionaries(st.sampled_from(resources), st.lists(agents, unique=True), max_size=2)
        )
    return section


@st.composite
def exogenous(draw: st.DrawFn) -> dict[str, Any]:
    """Return settings of the synthetic dynamics with some of what may happen, often."""
    section: dict[str, Any] = {"load": draw(st.floats(0.2, 2.5)), "day_length": 5.0, "burst_probability": 0.2}
    if draw(st.booleans()):
        section |= {"shock_probability": 0.4, "shock_duration": 2}
    if draw(st.booleans()):
        section |= {"outage_probability": 0.4, "outage_duration": 2, "outage_fraction": draw(st.floats(0, 1))}
    if draw(st.booleans()):
        section |= {"leave_probability": 0.4, "join_probability": 0.6}
    if draw(st.booleans()):
        section["yield_low"] = draw(st.floats(0.1, 1.0))
    if draw(st.booleans()):
        section["base_concentration"] = None
    return section


@st.composite
def sections(draw: st.DrawFn) -> dict[str, Any]:
    """Return an ``environment`` section of any kind; what is rewarded is left to the caller."""
    num_agents = draw(st.integers(1, 5))
    resources = RESOURCES[: draw(st.integers(1, 3))]
    return {
        "num_agents": num_agents,
        "num_resources": len(resources),
        "resource_limits": {name: draw(st.floats(1.0, 30.0)) for name in resources},
        "max_episode_length": STEPS,
        "constraints": draw(limits(num_agents, resources)),
        "dynamics": {"synthetic": draw(exogenous())},
        "contention": draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])),
        "contention_floor": draw(st.sampled_from([0.0, 0.3, 1.0])),
        "mechanism": draw(st.sampled_from(STRATEGIES)),
        "coupling": draw(st.sampled_from(["additive", "leontief"])),
        "backlog_limit": draw(st.sampled_from([None, 0.3, 2.0])),
        "holding_cost": draw(st.sampled_from([0.0, 0.1, 1.5])),
        "loss_cost": draw(st.sampled_from([0.0, 0.1, 1.0])),
        "action_type": draw(st.sampled_from(["discrete", "multi_discrete", "continuous"])),
        "action_size": draw(st.integers(2, 6)),
        "max_multiple": draw(st.sampled_from([None, 1.0, 3.0])),
    }
