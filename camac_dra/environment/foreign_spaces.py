"""One pair of spaces for agents whose own spaces differ, so that their rows fit into one array.

Source: Terry et al., "Revisiting Parameter Sharing in Multi-Agent Deep Reinforcement Learning", 2020, of
which these are the padding of observations, the padding of actions and the agent indication.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim, flatten

from camac_dra.utils.errors import ConfigurationError

Space = spaces.Space[Any]
OBSERVATION, MASK = "observation", "action_mask"  # keys of PettingZoo's observations with masks
_FLAT = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Dict, spaces.Tuple)


class CommonSpaces:
    """What N agents with spaces of their own observe and do, in rows of one shape.

    Observations: where all agents have the same Box, rows are as they are. Otherwise they are flattened
    (discrete parts one-hot, parts of a Dict or Tuple one after the other) and padded with zeros to the
    longest. With ``indicator`` they are flattened too, and end with a one-hot vector of the N agents.

    Actions: where all agents have the same space, actions are as they are, discrete ones counted from 0.
    Otherwise they are padded to the largest: a number past an agent's own last one means its first action,
    and components that it does not have are ignored; continuous ones are then from -1 to 1, which spans
    each agent's own bounds. To a learner these are actions like others that happen to do the same.

    Masks: observations may be a Dict of ``observation`` and ``action_mask`` beside Discrete actions, as in
    PettingZoo's games; the mask is no part of the row. Discrete actions of different sizes have masks too.

    Attributes:
        observation: the Box of all rows, float32.
        action: the space of all actions: Discrete or MultiDiscrete, both from 0, or Box.
        masks: (N, A) bool, the discrete actions that each agent has; None: all, and none is ever impossible.
    """

    observation: spaces.Box
    action: Space
    masks: np.ndarray | None

    def __init__(
        self,
        names: Sequence[Hashable],
        observations: Sequence[Space],
        actions: Sequence[Space],
        *,
        indicator: bool = False,
    ) -> None:
        """Find what fits all agents of these names, whose own spaces are given in the same order.

        Raises:
            ConfigurationError: a space is of a kind that is not supported, kinds of actions are mixed, or
                observations come with action masks that do not fit.
        """
        self.masks = None
        self._to_own: Callable[[np.ndarray], list[Any]]
        self.masked = any(isinstance(space, spaces.Dict) and MASK in space.spaces for space in observations)
        plain = _without_masks(names, observations, actions) if self.masked else list(observations)
        self._set_observations(names, plain, indicator)
        self._set_actions(names, list(actions))
        if self.masked and self.masks is None:
            assert isinstance(self.action, spaces.Discrete)
            self.masks = np.ones((len(names), int(self.action.n)), bool)

    def write_mask(self, mask: np.ndarray, number: int, seen: Any) -> None:
        """Put what agent ``number`` may do into its mask (A,); one that forbids everything allows all."""
        assert self.masks is not None
        given = np.asarray(seen[MASK], bool)
        mask[:] = False
        mask[: len(given)] = given
        if not given.any():
            mask[:] = self.masks[number]

    def write(self, row: np.ndarray, number: int, seen: Any) -> None:
        """Put what agent ``number`` sees into its row (*observation.shape)."""
        if self.masked:
            seen = seen[OBSERVATION]
        if self._flatten is None:
            row[...] = seen
            return
        size = self._sizes[number]
        row[:size] = self._flatten[number](seen)
        if self._indicator is not None:
            row[-len(self._indicator) :] = self._indicator[number]

    def to_own(self, actions: np.ndarray) -> list[Any]:
        """Return the actions (N, ...) of the common space as the agents' own spaces have them."""
        return self._to_own(actions)

    # Observations

    def _set_observations(self, names: Sequence[Hashable], own: list[Space], indicator: bool) -> None:
        for name, space in zip(names, own, strict=True):
            _check_observation(name, space)
        self._flatten: list[Callable[[Any], np.ndarray]] | None = None
        self._indicator = np.eye(len(own), dtype=np.float32) if indicator else None  # (N, N)
        first = own[0]
        if isinstance(first, spaces.Box) and all(space == first for space in own) and not indicator:
            low, high = first.low.astype(np.float32), first.high.astype(np.float32)
            self.observation = spaces.Box(low, high, first.shape, np.float32)
            return
        self._sizes = [flatdim(space) for space in own]
        self._flatten = [_flattener(space) for space in own]
        longest, extra = max(self._sizes), len(own) if indicator else 0
        lows, highs = np.zeros((2, len(own), longest + extra), np.float32)  # (N, F) each
        highs[:, longest:] = 1.0
        for number, space in enumerate(own):
            flat = spaces.flatten_space(space)
            assert isinstance(flat, spaces.Box)
            lows[number, : self._sizes[number]], highs[number, : self._sizes[number]] = flat.low, flat.high
        self.observation = spaces.Box(lows.min(0), highs.max(0), dtype=np.float32)

    # Actions

    def _set_actions(self, names: Sequence[Hashable], own: list[Space]) -> None:
        kinds = (spaces.Discrete, spaces.MultiDiscrete, spaces.Box)
        for name, space in zip(names, own, strict=True):
            if not isinstance(space, kinds):
                raise ConfigurationError(
                    f"the action space of {name!r} must be Discrete, MultiDiscrete or Box, got {space}"
                )
            if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim != 1:
                raise ConfigurationError(
                    f"a MultiDiscrete action space must be a vector, got the shape {space.shape}"
                )
            if type(space) is not type(own[0]):
                raise ConfigurationError(
                    f"all agents must have action spaces of one kind, got {own[0]} for {names[0]!r} and "
                    f"{space} for {name!r}: let a wrapper give them one kind"
                )
        if isinstance(own[0], spaces.Discrete):
            self._set_discrete(own)
        elif isinstance(own[0], spaces.MultiDiscrete):
            self._set_multi_discrete(own)
        elif all(space == own[0] for space in own):
            self.action = own[0]
            self._to_own = lambda actions: [*actions]
        else:
            self._set_continuous(names, own)

    def _set_discrete(self, own: list[Any]) -> None:
        counts, starts = [int(space.n) for space in own], [int(space.start) for space in own]
        self.action = spaces.Discrete(max(counts))
        if len(set(counts)) > 1:
            self.masks = np.arange(max(counts)) < np.array(counts)[:, None]
        if len(set(counts)) == 1 and not any(starts):
            self._to_own = lambda actions: actions.tolist()
            return
        self._to_own = lambda actions: [
            (action if action < count else 0) + start
            for action, count, start in zip(actions.tolist(), counts, starts, strict=True)
        ]

    def _set_multi_discrete(self, own: list[Any]) -> None:
        longest = max(len(space.nvec) for space in own)
        counts = [np.pad(space.nvec, (0, longest - len(space.nvec)), constant_values=1) for space in own]
        self.action = spaces.MultiDiscrete(np.max(counts, axis=0))
        self._to_own = lambda actions: [
            (np.where(action < count, action, 0)[: len(space.nvec)] + space.start).astype(space.dtype)
            for action, count, space in zip(actions, counts, own, strict=True)
        ]

    def _set_continuous(self, names: Sequence[Hashable], own: list[Any]) -> None:
        for name, space in zip(names, own, strict=True):
            if len(space.shape) != 1 or not space.is_bounded():
                raise ConfigurationError(
                    f"where action spaces differ, each must be a Box of one dimension with finite bounds, "
                    f"got {space} for {name!r}"
                )
        longest = max(len(space.low) for space in own)
        self.action = spaces.Box(-1.0, 1.0, (longest,), np.float32)
        self._to_own = lambda actions: [
            _between(space, action[: len(space.low)]) for action, space in zip(actions, own, strict=True)
        ]


def _between(space: spaces.Box, unit: np.ndarray) -> np.ndarray:
    """Map numbers (D,) from -1 to 1 to the bounds of a space; rounding does not lead out of them."""
    action = space.low + (space.high - space.low) * (unit + 1.0) / 2.0
    return np.clip(action, space.low, space.high).astype(space.dtype)


def _without_masks(names: Sequence[Hashable], own: Sequence[Space], actions: Sequence[Space]) -> list[Space]:
    """Return the observation spaces less their masks, which all agents must have, one entry per action."""
    for name, space, action in zip(names, own, actions, strict=True):
        parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {}
        if set(parts) != {OBSERVATION, MASK}:
            raise ConfigurationError(
                f"where observations come with an {MASK!r}, those of all agents must be a Dict of "
                f"{OBSERVATION!r} and {MASK!r}, got {space} for {name!r}"
            )
        if not isinstance(action, spaces.Discrete) or parts[MASK].shape != (int(action.n),):
            raise ConfigurationError(
                f"an {MASK!r} must have an entry for each of the actions of a Discrete space, got "
                f"{parts[MASK]} and {action} for {name!r}"
            )
    return [space[OBSERVATION] for space in own]  # type: ignore[index]


def _check_observation(name: Hashable, space: Space) -> None:
    parts: list[Space] = [space]
    while parts:
        part = parts.pop()
        if not isinstance(part, _FLAT):
            raise ConfigurationError(
                f"the observation space of {name!r} must be made of Box, Discrete, MultiDiscrete, "
                f"MultiBinary, Dict and Tuple, got {space}"
            )
        if isinstance(part, spaces.Dict):
            parts.extend(part.spaces.values())
        elif isinstance(part, spaces.Tuple):
            parts.extend(part.spaces)


def _flattener(space: Space) -> Callable[[Any], np.ndarray]:
    """Return what makes a vector of an observation; the common case without a detour."""
    if isinstance(space, spaces.Box):
        return lambda seen: np.asarray(seen).reshape(-1)
    return lambda seen: np.asarray(flatten(space, seen))
