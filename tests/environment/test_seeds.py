"""Wrong seeds get one and the same answer at every face, and leave everything as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from camac_dra.environment import (
    Environment,
    ForeignVectorEnvironment,
    RLlibEnvironment,
    VectorEnvironment,
    parallel_env,
)
from camac_dra.utils.errors import ConfigurationError
from tests.environment.problems import problem, random_actions

CONFIG = problem().model_dump()
WRONG = [-1, np.int64(-3), 1.5, 1.0, True, "1", float("nan"), [1, 2], np.array([1])]
FACES: dict[str, Callable[[], Any]] = {
    "vector": lambda: VectorEnvironment(CONFIG, 2),
    "dicts": lambda: Environment(CONFIG),
    "pettingzoo": lambda: parallel_env(CONFIG),
    "rllib": lambda: RLlibEnvironment(CONFIG),
    "foreign": lambda: ForeignVectorEnvironment(lambda: parallel_env(CONFIG), 2),
}


@pytest.mark.parametrize("seed", WRONG, ids=repr)
@pytest.mark.parametrize("face", FACES)
def test_reset_refuses_wrong_seeds(face: str, seed: Any) -> None:
    env = FACES[face]()
    with pytest.raises(ConfigurationError, match=r"seed must be a whole number of at least 0, got "):
        env.reset(seed=seed)


@pytest.mark.parametrize("seed", WRONG, ids=repr)
@pytest.mark.parametrize(
    "make",
    [VectorEnvironment, lambda config, seed: ForeignVectorEnvironment(lambda: parallel_env(config), 1, seed)],
    ids=["vector", "foreign"],
)
def test_constructors_refuse_wrong_seeds(make: Callable[..., Any], seed: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"seed must be a whole number of at least 0, got "):
        make(CONFIG, seed=seed)


@pytest.mark.parametrize("face", ["vector", "foreign"])
def test_a_refused_seed_changes_nothing(face: str) -> None:
    shown = []
    for wrong in (False, True):
        env = FACES[face]()
        env.reset(seed=7)
        rng = np.random.default_rng(0)
        env.step(random_actions(problem(), 2, rng))
        if wrong:
            with pytest.raises(ConfigurationError, match="got -1"):
                env.reset(seed=-1)
        shown.append(env.step(random_actions(problem(), 2, rng)).observations)
        shown.append(env.reset())
    np.testing.assert_array_equal(shown[0], shown[2])
    np.testing.assert_array_equal(shown[1], shown[3])


@pytest.mark.parametrize("face", FACES)
def test_whole_numbers_of_any_kind_are_seeds(face: str) -> None:
    seen = []
    for seed in (2**40, np.uint64(2**40)):
        answer = FACES[face]().reset(seed=seed)
        answer = answer[0] if isinstance(answer, tuple) else answer
        seen.append(np.stack(list(answer.values())) if isinstance(answer, dict) else answer)
    np.testing.assert_array_equal(seen[0], seen[1])
