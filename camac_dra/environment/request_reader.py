"""What actions mean: from levels and shares to requests.

Axes, always in this order: B parallel copies, N agents, R resources.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.state import EnvironmentState
from camac_dra.utils.errors import ActionError
from camac_dra.utils.schema.environment import EnvironmentConfig

# Returns what each of the L levels asks for now (B, N, L, R).
Menu = Callable[[EnvironmentState], np.ndarray]


def choose_plans(config: EnvironmentConfig) -> bool:
    """Return whether actions choose among plans of sessions, instead of an amount."""
    sessions = config.dynamics.sessions
    return sessions is not None and sessions.plan is not None and sessions.plan.choices is not None


class RequestReader:
    """Checks actions and turns them into requests; whatever absent agents do is ignored, NaN included.

    Attributes:
        space: of one agent: a level for the bundle, a level per resource, or a number in [0, 1] per resource.
    """

    def __init__(
        self,
        config: EnvironmentConfig,
        constraints: Constraints,
        num_envs: int,
        menu: Menu | None = None,
    ) -> None:
        """Read the actions of ``num_envs`` copies of the problem ``config``.

        ``menu`` says what levels mean that choose among plans of sessions (see `choose_plans`).
        """
        self._menu = menu
        self._by_menu = choose_plans(config)
        size, resources = config.action_size, config.num_resources
        self._cells = (num_envs, config.num_agents, resources)
        self._in_shares = config.max_multiple is not None
        self._largest = 1.0 if config.max_multiple is None else config.max_multiple
        self._levels = np.linspace(0.0, self._largest, size)  # (action_size,)
        limited = np.isfinite(constraints.agent_limit)  # (N, R)
        self._limit = constraints.agent_limit if limited.any() else None  # (N, R)
        self.space: spaces.Space[Any]
        self._shape: tuple[int, ...]
        if config.action_type == "discrete":
            self.space, self._shape = spaces.Discrete(size), self._cells[:2]
        elif config.action_type == "multi_discrete":
            self.space, self._shape = spaces.MultiDiscrete([size] * resources), self._cells
        else:
            self.space, self._shape = spaces.Box(0.0, 1.0, (resources,), np.float32), self._cells

    def askable(self, state: EnvironmentState) -> np.ndarray:
        """Return the most that each agent may ask for (B, N, R): what is pending, within its limit."""
        return state.pending if self._limit is None else np.minimum(state.pending, self._limit)

    def from_actions(self, actions: np.ndarray, state: EnvironmentState) -> np.ndarray:
        """Return the requests (B, N, R) that ``actions`` mean in ``state``.

        Raises:
            ActionError: an action is out of range, of the wrong type or not finite, or the shape is wrong.
        """
        if self._by_menu:
            levels = self._checked_levels(actions, self._shape, state.draw.present)
            return np.minimum(self.askable(state), _picked(self.menu(state), levels))
        part = self._parts(actions, self._shape, state.draw.present)
        return self._requests(part, self.askable(state), state.fair_share, self._limit)

    def menu(self, state: EnvironmentState) -> np.ndarray | None:
        """Return what each of the L levels asks for now (B, N, L, R); None where levels are amounts."""
        return self._menu(state) if self._by_menu and self._menu is not None else None

    def of_agents(
        self,
        actions: np.ndarray,
        agents: np.ndarray,
        askable: np.ndarray,
        fair_share: np.ndarray,
        menu: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the requests (n, R) of n agents, where their actions are read apart from the others'.

        Args:
            actions: (n, *action_shape) of those agents.
            agents: (n,) their numbers.
            askable: (n, R) the most that each may ask for.
            fair_share: (n, R).
            menu: (n, L, R) of `menu`, where levels choose among plans.

        Raises:
            ActionError: an action is out of range, of the wrong type or not finite, or the shape is wrong.
        """
        shape = (1, len(agents), *self._shape[2:])
        if self._by_menu:
            levels = self._checked_levels(np.asarray(actions)[None], shape, None)
            return np.minimum(askable, _picked(None if menu is None else menu[None], levels)[0])
        part = self._parts(np.asarray(actions)[None], shape, None)
        limit = None if self._limit is None else self._limit[agents]
        return self._requests(part, askable[None], fair_share[None], limit)[0]

    def from_amounts(self, amounts: np.ndarray, state: EnvironmentState) -> np.ndarray:
        """Return requests (B, N, R) given in the resources' units, cut to `askable`.

        Raises:
            ActionError: a request is negative or NaN, or the shape does not fit.
        """
        checked = self._checked("requests", amounts, self._cells, state.draw.present, np.inf)
        return np.minimum(checked, self.askable(state))

    def _parts(self, actions: np.ndarray, shape: tuple[int, ...], present: np.ndarray | None) -> np.ndarray:
        """Return actions of that shape as multiples of the unit of a request, (B, n, 1) or (B, n, R)."""
        if isinstance(self.space, spaces.Box):
            return self._checked("actions", actions, shape, present, 1.0) * self._largest
        return self._multiples(actions, shape, present)

    def _requests(
        self, part: np.ndarray, askable: np.ndarray, fair_share: np.ndarray, limit: np.ndarray | None
    ) -> np.ndarray:
        """Return requests (B, n, R) of so many units, at most what is askable (B, n, R)."""
        if self._in_shares:
            unit = fair_share
        elif limit is None:
            unit = askable
        else:
            unit = np.where(np.isfinite(limit), limit, askable)
        return np.minimum(askable, part * unit)

    def _multiples(
        self, actions: np.ndarray, shape: tuple[int, ...], present: np.ndarray | None
    ) -> np.ndarray:
        """Return levels as multiples of the unit of a request, (B, N, 1) or (B, N, R)."""
        multiples = self._levels.take(self._checked_levels(actions, shape, present))
        return multiples[..., None] if multiples.ndim == 2 else multiples

    def _checked_levels(
        self, actions: np.ndarray, shape: tuple[int, ...], present: np.ndarray | None
    ) -> np.ndarray:
        """Return levels of that shape, 0 for absent agents."""
        levels = np.asarray(actions)
        if levels.dtype.kind not in "iu":
            raise ActionError(f"actions must be levels, whole numbers of an integer type, got {levels.dtype}")
        _refuse_shape("actions", levels, shape)
        if present is not None:
            levels = np.where(_over_cells(present, levels), levels, 0)
        last = len(self._levels) - 1
        unsigned = levels.view(np.uint64) if levels.dtype == np.int64 else levels.astype(np.uint64)
        wrong = unsigned > last  # as unsigned numbers negative ones are very large
        if np.count_nonzero(wrong):
            raise ActionError(_message("actions", f"levels from 0 to {last}", levels, wrong))
        return levels

    def _checked(
        self,
        name: str,
        given: np.ndarray,
        shape: tuple[int, ...],
        present: np.ndarray | None,
        largest: float,
    ) -> np.ndarray:
        """Return numbers of that shape from 0 to ``largest``, 0 for absent agents."""
        try:
            numbers = np.asarray(given, np.float64)
        except (TypeError, ValueError) as error:
            raise ActionError(f"{name} must be an array of numbers, got {given!r}") from error
        _refuse_shape(name, numbers, shape)
        if present is not None:
            numbers = np.where(_over_cells(present, numbers), numbers, 0.0)
        fits = (numbers >= 0.0) & (numbers <= largest)  # NaN fails both
        if not fits.all():
            rule = "numbers from 0 up" if np.isinf(largest) else f"numbers from 0 to {largest:g}"
            raise ActionError(_message(name, rule, numbers, ~fits))
        return numbers


def _over_cells(present: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return ``present`` (B, N) in a shape that broadcasts against ``values`` (B, N) or (B, N, R)."""
    return present if values.ndim == 2 else present[..., None]


def _refuse_shape(name: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise ActionError(f"{name} must have the shape {shape}, got {values.shape}")


def _message(name: str, rule: str, values: np.ndarray, wrong: np.ndarray) -> str:
    """Say what is wrong with the first of the ``wrong`` values."""
    place = tuple(int(index) for index in np.argwhere(wrong)[0])
    return f"{name} must be {rule}, got {values[place]} at {list(place)}"


def _picked(menu: np.ndarray | None, levels: np.ndarray) -> np.ndarray:
    """Return what levels (B, n) ask for (B, n, R) of a ``menu`` (B, n, L, R)."""
    if menu is None:
        raise ActionError("actions must come with the menu that they choose from, got None")
    return np.take_along_axis(menu, levels[:, :, None, None], axis=2)[:, :, 0]
