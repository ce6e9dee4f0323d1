"""What somebody else's environments must be like, so that copies of them can be stepped together."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from camac_dra.environment.foreign_spaces import CommonSpaces
from camac_dra.utils.errors import ConfigurationError

_METHODS = ("reset", "step", "observation_space", "action_space")


def possible_agents(envs: list[Any]) -> list[Hashable]:
    """Return the names of all agents that may appear.

    Raises:
        ConfigurationError: what somebody's factory made is no ParallelEnv, names no agents, or differs.
    """
    first = envs[0]
    kind = type(first).__name__
    if hasattr(first, "agent_iter") and hasattr(first, "last"):
        raise ConfigurationError(
            f"the environment must be a ParallelEnv, got {kind}, an AECEnv, whose agents take turns: wrap it "
            "with pettingzoo.utils.conversions.aec_to_parallel (turn_based_aec_to_parallel for games of "
            "turns), or name its parallel_env"
        )
    missing = [name for name in _METHODS if not callable(getattr(first, name, None))]
    names = list(getattr(first, "possible_agents", ()))
    if missing or not names:
        without = ", ".join(missing) if missing else "possible_agents"
        raise ConfigurationError(
            f"the environment must be a ParallelEnv that names its possible_agents (all agents that may ever "
            f"appear), got {kind} without {without}"
        )
    for copy, env in enumerate(envs):
        if list(env.possible_agents) != names:
            raise ConfigurationError(
                f"all copies must have the same possible_agents, got {names} and, in copy {copy},"
                f" {list(env.possible_agents)}"
            )
    return names


def common_spaces(envs: list[Any], names: list[Hashable], indicator: bool) -> CommonSpaces:
    """Return what fits the agents of all copies.

    Raises:
        ConfigurationError: copies differ in a space, or one is not supported.
    """
    seen, acted = (
        [getattr(envs[0], f"{what}_space")(name) for name in names] for what in ("observation", "action")
    )
    for copy, env in enumerate(envs[1:], start=1):
        for what, wanted in (("observation", seen), ("action", acted)):
            for name, space in zip(names, wanted, strict=True):
                got = getattr(env, f"{what}_space")(name)
                if got != space:
                    raise ConfigurationError(
                        f"all copies must have the same {what} space, got {space} for {name!r} and, in copy "
                        f"{copy}, {got}"
                    )
    return CommonSpaces(names, seen, acted, indicator=indicator)
