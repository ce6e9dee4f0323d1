"""The shorter way into PettingZoo's environments leads to the same place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mpe2 import simple_crypto_v3, simple_reference_v3, simple_spread_v3, simple_tag_v3
from pettingzoo.sisl.pursuit.pursuit import parallel_env as pursuit
from pettingzoo.utils.conversions import aec_to_parallel_wrapper
from pettingzoo.utils.wrappers import BaseWrapper

from camac_dra.environment.foreign_cycles import DirectCycle, direct


def continuous() -> Any:
    return simple_spread_v3.parallel_env(continuous_actions=True)


def small_pursuit() -> Any:
    return pursuit(max_cycles=15, x_size=6, y_size=6, n_evaders=2, n_pursuers=3)


@pytest.mark.parametrize(
    "make",
    [
        simple_spread_v3.parallel_env,
        continuous,
        simple_reference_v3.parallel_env,
        simple_crypto_v3.parallel_env,
        simple_tag_v3.parallel_env,
        small_pursuit,
    ],
)
def test_everything_is_as_behind_the_wrapper(make: Callable[[], Any]) -> None:
    wrapped, other = make(), make()
    short = direct(other)
    assert type(short) is DirectCycle
    for agent in wrapped.possible_agents:
        wrapped.action_space(agent).seed(0)
    for episode in range(2):
        seen, ours = wrapped.reset(seed=episode)[0], short.reset(seed=episode)[0]
        while True:
            assert list(ours) == list(seen)
            assert all(np.array_equal(ours[agent], seen[agent]) for agent in seen)
            assert list(short.agents) == list(wrapped.agents)
            if not wrapped.agents:
                break
            actions = {agent: wrapped.action_space(agent).sample() for agent in wrapped.agents}
            seen, *theirs, _ = wrapped.step(actions)
            ours, *mine, _ = short.step(actions)
            assert mine == [dict(one) for one in theirs]


def test_only_that_very_wrapper_is_passed_by() -> None:
    class Other(aec_to_parallel_wrapper):
        def step(self, actions: Any) -> Any:
            return super().step(dict.fromkeys(actions, 0))

    class Turned(BaseWrapper):
        def step(self, action: Any) -> None:
            super().step(None if action is None else 4 - action)

    aec = simple_spread_v3.env()
    other = Other(aec)
    assert direct(other) is other
    assert direct(aec) is aec
    turned, plain = (
        direct(aec_to_parallel_wrapper(Turned(simple_spread_v3.env()))),
        simple_spread_v3.parallel_env(),
    )
    turned.reset(seed=0)
    plain.reset(seed=0)
    ours, theirs = turned.step(dict.fromkeys(turned.agents, 1)), plain.step(dict.fromkeys(plain.agents, 3))
    assert all(np.array_equal(ours[0][agent], theirs[0][agent]) for agent in plain.agents)


def test_agents_out_of_their_order_are_refused() -> None:
    env = direct(simple_spread_v3.parallel_env())
    env.reset(seed=0)
    env._env.step(0)
    with pytest.raises(RuntimeError, match="the turn of 'agent_1' where 'agent_0' was expected"):
        env.step(dict.fromkeys(env.agents, 0))
