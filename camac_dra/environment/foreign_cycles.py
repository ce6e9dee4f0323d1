"""A shorter way into environments that are written for agents in turn and shown as parallel ones.

Most of PettingZoo's own environments and all of mpe2's are an ``AECEnv`` behind ``aec_to_parallel``, which
makes an observation for every turn and drops it, behind wrappers that check what is checked here already.
In a small environment that takes as long as the environment itself.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping
from typing import Any

Answer = tuple[dict[Hashable, Any], dict[Hashable, float], dict[Hashable, bool], dict[Hashable, bool], Any]

_CONVERSIONS = "pettingzoo.utils.conversions"
_CHECKS = ("OrderEnforcingWrapper", "AssertOutOfBoundsWrapper", "ClipOutOfBoundsWrapper")


def direct(env: Any) -> Any:
    """Return an environment that answers to valid actions as ``env`` does, infos left out.

    It is ``env`` itself unless it is PettingZoo's very ``aec_to_parallel_wrapper``.
    """
    conversions: Any = sys.modules.get(_CONVERSIONS)
    if conversions is None or type(env) is not conversions.aec_to_parallel_wrapper:
        return env
    wrappers: Any = sys.modules["pettingzoo.utils.wrappers"]
    checks = tuple(getattr(wrappers, name) for name in _CHECKS)
    inner = env.aec_env
    while type(inner) in checks:
        inner = inner.env
    return DirectCycle(inner)


class DirectCycle:
    """What ``aec_to_parallel_wrapper`` makes of an ``AECEnv`` in whose every cycle each agent acts once."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self.agents: list[Hashable] = []

    def reset(self, seed: int | None = None) -> tuple[dict[Hashable, Any], dict[Hashable, Any]]:
        """Start an episode and return what the agents see."""
        env = self._env
        env.reset(seed=seed)
        self.agents = list(env.agents)
        over = {agent for agent in self.agents if env.terminations[agent] or env.truncations[agent]}
        return {agent: env.observe(agent) for agent in self.agents if agent not in over}, {}

    def step(self, actions: Mapping[Hashable, Any]) -> Answer:
        """Let all agents act in their order; return what they see, what they earned, and who ended or was
        cut off.

        Raises:
            RuntimeError: the agents' order is another one, or one of them died within the cycle, so that the
                environment is none that can be stepped in parallel.
        """
        env = self._env
        rewards: dict[Hashable, float] = dict.fromkeys(env.agents, 0)
        for agent in env.agents:
            if agent != env.agent_selection:
                raise RuntimeError(
                    f"agents must act in a cycle and die only at its end to be stepped in parallel, got the "
                    f"turn of {env.agent_selection!r} where {agent!r} was expected"
                )
            env.step(actions[agent])
            earned = env.rewards
            for other in env.agents:
                rewards[other] = rewards.get(other, 0) + earned[other]
        ends, cuts = dict(env.terminations), dict(env.truncations)
        observations = {agent: env.observe(agent) for agent in env.agents}
        while env.agents and (env.terminations[env.agent_selection] or env.truncations[env.agent_selection]):
            env.step(None)
        self.agents = list(env.agents)
        return observations, rewards, ends, cuts, {}

    def close(self) -> None:
        """Close the environment."""
        self._env.close()
