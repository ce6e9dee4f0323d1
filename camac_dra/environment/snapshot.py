"""Save and restore everything that the future of a `VectorEnvironment` depends on, as plain data.

The result holds only dicts, arrays, numbers and strings, so that it can be stored without pickling code.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from camac_dra.environment.dynamics.base import Draw
from camac_dra.environment.state import EnvironmentState
from camac_dra.environment.totals import Totals

if TYPE_CHECKING:
    from camac_dra.environment.vector_environment import VectorEnvironment


def snapshot(env: VectorEnvironment) -> dict[str, Any]:
    """Return the state of a running environment; arrays are copies."""
    env._totals.settle()
    state = {name: value for name, value in _fields(env.state).items() if name != "draw"}
    return {
        "rngs": {name: json.dumps(rng.bit_generator.state) for name, rng in env._rngs.items()},
        "state": state,
        "draw": {name: value for name, value in _fields(env.state.draw).items() if value is not None},
        "totals": {name: value for name, value in _fields(env._totals).items() if not name.startswith("_")},
        "fairness": env._fairness.copy(),
        "dynamics": env.dynamics.get_state(),
        "observer": env._observer.get_state(),
        "mechanism": env.mechanism,
        "contention": float(env.contention),
        "over": env._over,
    }


def restore(env: VectorEnvironment, saved: dict[str, Any]) -> None:
    """Make ``env`` continue from what `snapshot` returned."""
    for name, text in saved["rngs"].items():
        env._rngs[name].bit_generator.state = json.loads(text)
    draw = Draw(**{name: np.array(value) for name, value in saved["draw"].items()})
    if np.array_equal(draw.capacity, env.dynamics.nominal_capacity):
        draw.capacity = env.dynamics.nominal_capacity
    plain = {
        name: np.array(value) if name != "time" else int(value) for name, value in saved["state"].items()
    }
    env.state = EnvironmentState(draw=draw, **plain)
    env._worth = env.state.weights[..., None] * env._scale
    env._totals = Totals(**{name: np.array(value) for name, value in saved["totals"].items()})
    env._fairness = np.array(saved["fairness"])
    env.dynamics.set_state(saved["dynamics"])
    env._observer.begin(env.state.weights)
    env._observer.set_state(saved["observer"])
    env.set_mechanism(saved["mechanism"])
    env.set_contention(float(saved["contention"]))
    env._over = bool(saved["over"])


def _fields(record: Any) -> dict[str, Any]:
    """Return a dataclass's fields with copies of its arrays."""
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in values.items()}
