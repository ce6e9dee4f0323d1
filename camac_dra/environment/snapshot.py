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
from camac_dra.utils.errors import ActionError, CheckpointError

if TYPE_CHECKING:
    from camac_dra.environment.vector_environment import VectorEnvironment


def snapshot(env: VectorEnvironment) -> dict[str, Any]:
    """Return the state of an environment that was reset; arrays are copies.

    Raises:
        ActionError: no episode was begun.
    """
    if not hasattr(env, "state"):
        raise ActionError("get_state: no episode was begun; call reset() first")
    env._totals.settle()
    state = _fields(env.state)
    del state["draw"]
    return {
        "rngs": {name: json.dumps(rng.bit_generator.state) for name, rng in env._rngs.items()},
        "state": state,
        "draw": {name: value for name, value in _fields(env.state.draw).items() if value is not None},
        "totals": {name: value for name, value in _fields(env._totals).items() if not name.startswith("_")},
        **env._rewarder.get_state(),
        "preferences": {} if env.preferences is None else {"now": env.preferences.copy()},
        "dynamics": env.dynamics.get_state(),
        "observer": env._observer.get_state(),
        "mechanism": env.mechanism,
        "contention": float(env.contention),
        "over": env._over,
    }


def restore(env: VectorEnvironment, saved: dict[str, Any]) -> None:
    """Make ``env`` continue from what `snapshot` returned.

    Raises:
        CheckpointError: the state is of an environment of another size; then nothing has changed.
    """
    _refuse_other_sizes(env, saved)
    for name, text in saved["rngs"].items():
        env._rngs[name].bit_generator.state = json.loads(text)
    draw = Draw(**_arrays(saved["draw"]))
    if np.array_equal(draw.capacity, env.dynamics.nominal_capacity):
        draw.capacity = env.dynamics.nominal_capacity
    arrays: dict[str, Any] = _arrays(
        {name: value for name, value in saved["state"].items() if name != "time"}
    )
    env.state = EnvironmentState(time=int(saved["state"]["time"]), draw=draw, **arrays)
    env._totals = Totals(**_arrays(saved["totals"]))
    env._rewarder.set_state(saved)
    if "now" in saved.get("preferences", {}):
        env._preferences.now = np.array(saved["preferences"]["now"])
    env.dynamics.set_state(saved["dynamics"])
    env._value(env.state.weights)
    env._observer.set_state(saved["observer"])
    env.set_mechanism(saved["mechanism"])
    env.set_contention(float(saved["contention"]))
    env._over = bool(saved["over"])


def _refuse_other_sizes(env: VectorEnvironment, saved: dict[str, Any]) -> None:
    """Raise where the state has other numbers of copies, agents, resources or groups than ``env``."""
    pending, load = np.shape(saved["state"]["pending"]), np.shape(saved["state"]["last_load"])
    got = (*pending, load[1])
    expected = (env.num_envs, env.num_agents, env.num_resources, env.num_groups)
    if got != expected:
        raise CheckpointError(
            f"the state must be of an environment with (copies, agents, resources, groups) = {expected},"
            f" got {got}"
        )


def _fields(record: Any) -> dict[str, Any]:
    """Return a dataclass's fields with copies of its arrays."""
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def _arrays(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values as arrays of their own."""
    return {name: np.array(value) for name, value in values.items()}
