"""Whatever is going on: what is saved in mid-episode continues bit by bit as what it was taken from."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from camac_dra.environment.agreement import AgreementContext
from camac_dra.environment.allocation import STRATEGIES
from camac_dra.environment.dynamics import synthetic
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.training.plain_state import arrays_of, plain
from camac_dra.utils.errors import ActionError, CheckpointError
from camac_dra.utils.schema.environment import EnvironmentConfig
from tests.environment.problems import EVENTFUL, problem, random_actions

COPIES = 2


class CoinAgreement:
    """Cuts the requests of whoever the lot falls on."""

    rounds = 1
    messages = 0

    def __call__(self, requests: np.ndarray, context: AgreementContext) -> np.ndarray:
        return requests * (context.rng.random(requests.shape[:2]) < 0.5)[..., None]


def play(env: VectorEnvironment, steps: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return all that an environment shows over some steps under random actions."""
    shown = []
    for _ in range(steps):
        result = env.step(random_actions(env.config, env.num_envs, rng))
        shown += [result.observations, result.rewards, result.present, *result.info.values()]
        shown += [np.array(list(measures.values())) for measures in result.episodes]
    return shown


def assert_continues(config: EnvironmentConfig, num_envs: int = COPIES, agreement: Any = None) -> None:
    original = VectorEnvironment(config, num_envs, 1, agreement)
    original.reset()
    rng = np.random.default_rng(2)
    play(original, 17, rng)  # into the second episode
    saved, actions = original.get_state(), rng.bit_generator.state
    expected = play(original, 20, rng)

    other = VectorEnvironment(config, num_envs, 99, agreement)
    for begun in (False, True):
        if begun:  # whatever happened since leaves no trace
            other.reset()
            play(other, 5, np.random.default_rng(3))
        other.set_state(saved)
        rng.bit_generator.state = actions
        for index, (got, wanted) in enumerate(zip(play(other, 20, rng), expected, strict=True)):
            np.testing.assert_array_equal(got, wanted, err_msg=f"array {index}")


EVENTS = {
    "calm": {},
    "shocks": {"shock_probability": 0.3},
    "outages": {"outage_probability": 0.3},
    "churn": {"leave_probability": 0.3, "join_probability": 0.5},
    "yields": {"yield_low": 0.5},
    "all": EVENTFUL,
}


@pytest.mark.parametrize("events", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("num_envs", [1, 2])
def test_dynamics_continue(events: dict[str, Any], num_envs: int) -> None:
    assert_continues(problem(events), num_envs)


def test_dynamics_continue_between_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "_CHUNK_CELLS", COPIES * 4 * 3)
    assert_continues(problem(EVENTFUL))


NETWORKS = [(0.0, 0.0), (2.0, 0.0), (0.0, 0.4), (2.0, 0.4)]  # delay and loss


@pytest.mark.parametrize(
    ("observation_type", "network"),
    [("full", NETWORKS[0]), *itertools.product(["partial", "graph"], NETWORKS)],
)
def test_observations_continue(observation_type: str, network: tuple[float, float]) -> None:
    delay, loss = network
    assert_continues(
        problem(
            EVENTFUL,
            observation_type=observation_type,
            topology="ring",
            message_delay=delay,
            message_loss=loss,
        )
    )


@pytest.mark.parametrize("size", [("fully_connected", 70), ("grid", 70)])
def test_sums_over_many_neighbours_continue(size: tuple[str, int]) -> None:
    assert_continues(problem(EVENTFUL, topology=size[0], num_agents=size[1]))


@pytest.mark.parametrize("mechanism", STRATEGIES)
def test_mechanisms_continue(mechanism: str) -> None:
    assert_continues(problem(EVENTFUL, mechanism=mechanism, action_type="continuous"))


@pytest.mark.parametrize(
    "reward", [{"credit": "marginal"}, {"credit": "team"}, {"reward_function": "hybrid"}], ids=str
)
def test_rewards_continue(reward: dict[str, Any]) -> None:
    assert_continues(problem(EVENTFUL, **reward))


@pytest.mark.parametrize("credit", ["individual", "marginal"])
def test_agreements_continue(credit: str) -> None:
    assert_continues(problem(EVENTFUL, credit=credit), agreement=CoinAgreement())


def test_what_was_changed_on_the_way_continues() -> None:
    env, other = (VectorEnvironment(problem(), COPIES) for _ in range(2))
    env.reset()
    env.set_contention(0.25)
    env.set_mechanism("priority")
    other.set_state(env.get_state())
    assert (other.contention, other.mechanism) == (0.25, "priority")


def test_the_end_of_an_episode_continues() -> None:
    env, other = (VectorEnvironment(problem(max_episode_length=1), COPIES, autoreset=False) for _ in range(2))
    env.reset()
    env.step(np.zeros((COPIES, 4), int))
    other.reset()
    other.set_state(env.get_state())
    with pytest.raises(ActionError, match="no episode is running"):
        other.step(np.zeros((COPIES, 4), int))
    np.testing.assert_array_equal(other.reset(), env.reset())


def test_saving_changes_nothing_and_the_copy_is_its_own() -> None:
    def rewards(look: bool) -> list[np.ndarray]:
        env = VectorEnvironment(problem(EVENTFUL, topology="ring", message_loss=0.2), COPIES)
        env.reset()
        seen = []
        for _ in range(12):
            if look:
                spoil(env.get_state())
            result = env.step(np.full((COPIES, 4), 5))
            seen += [result.rewards, result.observations]
        return [*seen, np.array([list(measures.values()) for measures in result.episodes])]

    for plain_run, looked_at in zip(rewards(False), rewards(True), strict=True):
        np.testing.assert_array_equal(plain_run, looked_at)


def spoil(state: Any) -> None:
    """Overwrite every array of a state."""
    if isinstance(state, dict):
        for value in state.values():
            spoil(value)
    elif isinstance(state, np.ndarray):
        state[...] = 0


def test_a_state_may_be_used_twice() -> None:
    config = problem(EVENTFUL)
    env = VectorEnvironment(config, COPIES)
    env.reset()
    saved = env.get_state()
    first = play(env, 15, np.random.default_rng(0))
    for _ in range(2):
        env.set_state(saved)
        for got, wanted in zip(play(env, 15, np.random.default_rng(0)), first, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_a_state_is_plain_data() -> None:
    config = problem(EVENTFUL, topology="ring", message_delay=1.0, message_loss=0.2)
    env, other = (VectorEnvironment(config, COPIES) for _ in range(2))
    env.reset()
    play(env, 5, np.random.default_rng(0))
    saved = env.get_state()
    assert_plain(saved)
    file = io.BytesIO()
    torch.save(plain(saved), file)
    file.seek(0)
    other.set_state(arrays_of(torch.load(file, weights_only=True)))
    expected = play(env, 15, np.random.default_rng(1))
    for got, wanted in zip(play(other, 15, np.random.default_rng(1)), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def assert_plain(state: Any) -> None:
    if isinstance(state, dict):
        assert all(type(key) is str for key in state)
        for value in state.values():
            assert_plain(value)
    else:
        assert type(state) in (np.ndarray, int, float, bool, str), state


def test_there_must_be_something_to_save() -> None:
    with pytest.raises(ActionError, match=r"get_state: no episode was begun; call reset\(\) first"):
        VectorEnvironment(problem()).get_state()


@pytest.mark.parametrize(
    ("num_envs", "settings", "got"),
    [
        (3, {}, r"\(3, 4, 2, 1\)"),
        (2, {"num_agents": 5}, r"\(2, 5, 2, 1\)"),
        (2, {"num_resources": 3}, r"\(2, 4, 3, 1\)"),
        (2, {"constraints": {"num_groups": 2}}, r"\(2, 4, 2, 2\)"),
    ],
)
def test_states_of_another_size_are_refused(num_envs: int, settings: Any, got: str) -> None:
    env, other = VectorEnvironment(problem(), COPIES), VectorEnvironment(problem(**settings), num_envs)
    env.reset(), other.reset()
    before = env.get_state()
    with pytest.raises(CheckpointError, match=rf"resources, groups\) = \(2, 4, 2, 1\), got {got}"):
        env.set_state(other.get_state())
    np.testing.assert_equal(env.get_state(), before)
