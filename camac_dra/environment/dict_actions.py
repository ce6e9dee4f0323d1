"""From a dict of actions by agent to the array the core takes, with errors that name the agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from camac_dra.utils.errors import ActionError, did_you_mean

_MOST_NAMES = 5


class ActionReader:
    """Reads the actions of N agents that share one action space."""

    def __init__(self, agent_ids: Sequence[str], space: spaces.Space[Any]) -> None:
        """Read actions of `space` (Discrete, MultiDiscrete or Box) for the agents, in this order."""
        self._agent_ids = list(agent_ids)
        self._known = set(agent_ids)
        self._space = space
        self._kinds = "fiu" if isinstance(space, spaces.Box) else "iu"
        self._shape = (len(agent_ids), *(space.shape or ()))
        self._idle = np.zeros(self._shape[1:], space.dtype)  # what absent agents do

    def read(
        self, actions: Mapping[str, Any], present: np.ndarray | None, refuse_absent: bool = True
    ) -> np.ndarray:
        """Return the actions as an array (1, N) or (1, N, D), zeros for absent agents.

        Of the values only the type is checked here, since the core checks their range: where it objects,
        `explain` says to which agent.

        Args:
            actions: an action for every present agent.
            present: (N,) bool; None: everybody.
            refuse_absent: raise for actions of absent agents, instead of ignoring them.

        Raises:
            ActionError: an action is missing, of an unknown or (if refused) absent agent, or of a wrong type
            or shape.
        """
        try:
            if present is None:
                values = [actions[agent] for agent in self._agent_ids]
                given = len(actions) == len(values)
            else:
                values = [
                    actions[agent] if here else self._idle
                    for agent, here in zip(self._agent_ids, present.tolist(), strict=True)
                ]
                given = self._names_fit(actions, present, refuse_absent)
            array = np.asarray(values)  # (N,) or (N, D)
        except (KeyError, TypeError, ValueError):
            given = False
        if given and array.dtype.kind in self._kinds and array.shape == self._shape:
            return array[None]
        return self.explain(actions, present, refuse_absent)

    def explain(
        self, actions: Mapping[str, Any], present: np.ndarray | None, refuse_absent: bool = True
    ) -> np.ndarray:
        """Do the same slowly, one agent after the other, with the range of every value checked."""
        if not isinstance(actions, Mapping):
            raise ActionError(f"actions must be a dict from agent to action, got {type(actions).__name__}")
        if present is None:
            present = np.ones(len(self._agent_ids), bool)
        self._refuse_wrong_names(actions, present, refuse_absent)
        array = np.empty(self._shape, self._space.dtype)  # (N,) or (N, D)
        for index, agent in enumerate(self._agent_ids):
            array[index] = self._one(agent, actions[agent]) if present[index] else self._idle
        return array[None]

    def _names_fit(self, actions: Mapping[str, Any], present: np.ndarray, refuse_absent: bool) -> bool:
        """Return whether nobody is named who should not be; that nobody is missing is known."""
        if refuse_absent:
            return len(actions) == int(present.sum())
        return len(actions) == len(self._agent_ids) or self._known.issuperset(actions)

    def _refuse_wrong_names(
        self, actions: Mapping[str, Any], present: np.ndarray, refuse_absent: bool
    ) -> None:
        unknown = [name for name in actions if name not in self._known]
        if unknown:
            raise ActionError(
                f"actions must be of this environment's agents ({self._agent_ids[0]!r}, ...),"
                f" got one for {unknown[0]!r}.{did_you_mean(str(unknown[0]), self._agent_ids)}"
            )
        here = [agent for agent, is_here in zip(self._agent_ids, present, strict=True) if is_here]
        missing = [agent for agent in here if agent not in actions]
        if missing:
            raise ActionError(
                f"actions must hold one for every present agent ({len(here)}),"
                f" got none for {_listed(missing)}"
            )
        absent = [agent for agent in actions if agent not in set(here)]
        if absent and refuse_absent:
            raise ActionError(
                f"actions must be of present agents only, got one for {_listed(absent)}, which"
                " took leave: act for the agents in the last observations"
            )

    def _one(self, agent: str, given: Any) -> np.ndarray:
        """Return one agent's action as the core wants it."""
        try:
            action = np.asarray(given, np.float64)
        except (TypeError, ValueError):
            action = np.full(1, np.nan)
        if action.size == self._idle.size and action.shape != self._idle.shape:
            action = action.reshape(self._idle.shape)  # a level as an array of one
        fits = action.shape == self._idle.shape and bool(np.isfinite(action).all())
        if fits and not isinstance(self._space, spaces.Box):
            fits = bool((action == np.rint(action)).all())
        if not fits or not self._space.contains(action.astype(self._space.dtype)):
            raise ActionError(f"the action of {agent!r} must be {self._wanted()}, got {given!r}")
        return action

    def _wanted(self) -> str:
        """Say what an action is."""
        space = self._space
        if isinstance(space, spaces.Discrete):
            return f"a level from 0 to {int(space.n) - 1}"
        if isinstance(space, spaces.MultiDiscrete):
            return f"{len(space.nvec)} levels from 0 to {int(space.nvec[0]) - 1}"
        return f"{self._idle.size} numbers from {space.low.min():g} to {space.high.max():g}"  # type: ignore[attr-defined]


def _listed(names: list[str]) -> str:
    """Return the first few names, quoted."""
    rest = len(names) - _MOST_NAMES
    return ", ".join(map(repr, names[:_MOST_NAMES])) + (f" and {rest} more" if rest > 0 else "")
