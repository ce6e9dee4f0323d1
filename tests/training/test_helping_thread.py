"""Work that a second thread takes over, and critics that learn beside their policies in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium import spaces

from camac_dra.training import helping_thread
from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.helping_thread import HelpingThread
from camac_dra.training.ppo import ArrayPPO
from camac_dra.training.ray_session import build_algorithm
from camac_dra.training.settings import PPOSettings
from camac_dra.utils.errors import TrainingDivergedError
from tests.training.small_runs import assert_equal_states
from tests.training.toy_environment import ToyVectorEnvironment


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    """Leave torch's threads as they were."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def are_idle(monkeypatch: pytest.MonkeyPatch, *answers: bool) -> None:
    """Let processors be idle, or not, in turn."""
    turns = iter(range(10**9))
    monkeypatch.setattr(helping_thread, "processor_is_idle", lambda: answers[next(turns) % len(answers)])


@pytest.fixture
def helping() -> Iterator[HelpingThread]:
    thread = HelpingThread(3)
    yield thread
    thread.close()


def test_idle_processors_are_used_with_the_threads_asked_for(
    helping: HelpingThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    are_idle(monkeypatch, True)
    torch.set_num_threads(1)
    begun = threading.Event()

    def work() -> tuple[int, int]:
        begun.set()
        return threading.get_native_id(), torch.get_num_threads()

    results = helping.offer({"it": work})
    assert begun.wait(10.0)
    thread, threads = results["it"]()
    assert thread != threading.get_native_id()
    assert threads == 3
    assert torch.get_num_threads() == 1


def test_where_processors_are_busy_the_owner_does_it(
    helping: HelpingThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    are_idle(monkeypatch, False)
    works = dict.fromkeys("ab", threading.get_native_id)
    assert [result() for result in helping.offer(works).values()] == [threading.get_native_id()] * 2


def test_what_has_not_begun_is_done_by_who_asks_and_only_once(
    helping: HelpingThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    are_idle(monkeypatch, True, False)
    begun, go_on, done = threading.Event(), threading.Event(), []

    def first() -> None:
        begun.set()
        assert go_on.wait(10.0)

    def second() -> int:
        done.append(threading.get_native_id())
        return done[-1]

    results = helping.offer({1: first, 2: second})  # looks at the processors once
    assert begun.wait(10.0)
    assert results[2]() == threading.get_native_id()
    go_on.set()
    results[1]()
    helping.settle()
    assert done == [threading.get_native_id()]


def test_errors_reach_who_asks(helping: HelpingThread, monkeypatch: pytest.MonkeyPatch) -> None:
    are_idle(monkeypatch, True)
    result = helping.offer({"it": lambda: 1 // 0})["it"]
    with pytest.raises(ZeroDivisionError, match="zero"):
        result()
    helping.settle()


def test_settling_takes_back_what_nobody_began_with_and_waits_for_the_rest(
    helping: HelpingThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    are_idle(monkeypatch, True)
    begun, go_on, done = threading.Event(), threading.Event(), []

    def first() -> None:
        begun.set()
        assert go_on.wait(10.0)
        time.sleep(0.05)
        done.append(1)

    helping.offer({1: first, 2: lambda: done.append(2)})
    assert begun.wait(10.0)
    threading.Timer(0.05, go_on.set).start()
    helping.settle()
    assert done == [1]
    helping.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("helping")]


NETWORKS: dict[str, dict[str, Any]] = {
    "fully connected": {},
    "recurrent, central critic": {"recurrent_size": 8, "critic": "centralized"},
    "by agent": {"policies": "per_agent", "normalize_returns": True},
    "plain, other bounds": {"loss": "plain", "value_clip": 0.5, "entropy_coeff_end": 0.0},
}


def make(folder: Path, **settings: Any) -> ArrayPPO:
    defaults = {
        "num_envs": 3,
        "fragment_length": 20,
        "batch_size": 64,
        "hidden_sizes": (16,),
        "total_env_steps": 240,
    }
    config = build_algorithm_config(
        partial(ToyVectorEnvironment, absent=True, action_space=spaces.Discrete(4)),
        PPOSettings(**{**defaults, "normalize_observations": True, **settings}),
    )
    return build_algorithm(config, folder)


def who_criticises(monkeypatch: pytest.MonkeyPatch, algorithm: ArrayPPO) -> list[bool]:
    """Return a list that says of every critique whether the helping thread makes it."""
    owner, by_help, learn = threading.get_native_id(), [], algorithm.learner._learn_values

    def watched(*arguments: Any) -> Any:
        by_help.append(threading.get_native_id() != owner)
        return learn(*arguments)

    monkeypatch.setattr(algorithm.learner, "_learn_values", watched)
    return by_help


def waiting(offer: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``offer``, where the helping thread is done before the owner goes on."""

    def wait(self: HelpingThread, works: Any) -> Any:
        results = offer(self, works)
        self._executor.submit(lambda: None).result()
        return results

    return wait


@pytest.mark.ray
@pytest.mark.parametrize("kind", list(NETWORKS))
def test_whoever_differentiates_the_critic_the_numbers_are_the_same(
    kind: str, ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = []
    monkeypatch.setattr(HelpingThread, "offer", waiting(HelpingThread.offer))
    for threads, idle in ((1, (False,)), (2, (True,)), (2, (False,)), (2, (True, False, False))):
        are_idle(monkeypatch, *idle)
        algorithm = make(tmp_path, learner_threads=threads, **NETWORKS[kind])
        try:
            by_help = who_criticises(monkeypatch, algorithm)
            for _ in range(3):
                algorithm.train()
            states.append(algorithm.get_training_state())
        finally:
            algorithm.stop()
        assert set(by_help) == set(idle)
        del states[-1]["settings"]
    for state in states[1:]:
        assert_equal_states(state, states[0])


@pytest.mark.ray
def test_a_critic_on_its_policys_layers_is_left_to_all_threads(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = make(tmp_path, torch_threads=2, shared_torso=True)
    try:
        assert threads_while_learning(monkeypatch, algorithm) == 2
        assert algorithm.learner._helping is None
    finally:
        algorithm.stop()


def threads_while_learning(monkeypatch: pytest.MonkeyPatch, algorithm: ArrayPPO) -> int:
    """Train once; return the threads of torch in what learns policies."""
    found, learn = [], algorithm.learner._learn_policy

    def watched(*arguments: Any) -> torch.Tensor:
        found.append(torch.get_num_threads())
        return learn(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(algorithm.learner, "_learn_policy", watched)
        algorithm.train()
    assert len(set(found)) == 1
    return found[0]


@pytest.mark.ray
def test_threads_are_halved_while_two_learn_and_end_with_the_algorithm(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    are_idle(monkeypatch, True)
    algorithm = make(tmp_path, torch_threads=4)
    try:
        assert threads_while_learning(monkeypatch, algorithm) == 2
        assert torch.get_num_threads() == 4
        assert algorithm.learner._helping is not None
    finally:
        algorithm.stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("helping")]


@pytest.mark.ray
def test_networks_of_others_learn_in_one_thread(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = make(tmp_path, torch_threads=2, network_kind="tests.training.custom_model.CustomModel")
    try:
        assert threads_while_learning(monkeypatch, algorithm) == 2
        assert algorithm.learner._helping is None
    finally:
        algorithm.stop()


@pytest.mark.ray
def test_when_a_policy_fails_its_critic_is_done_before_anybody_goes_on(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    are_idle(monkeypatch, True)
    algorithm = make(tmp_path, learner_threads=2)
    try:
        learner, done = algorithm.learner, []
        begun, learn_values = threading.Event(), learner._learn_values

        def slow(*arguments: Any) -> Any:
            begun.set()
            time.sleep(0.1)
            term = learn_values(*arguments)
            done.append(1)
            return term

        def failing(*arguments: Any) -> torch.Tensor:
            assert begun.wait(10.0)
            raise KeyboardInterrupt("as by Ctrl-C")

        monkeypatch.setattr(learner, "_learn_values", slow)
        monkeypatch.setattr(learner, "_learn_policy", failing)
        with pytest.raises(KeyboardInterrupt, match="Ctrl-C"):
            algorithm.train()
        assert done == [1]
    finally:
        algorithm.stop()


@pytest.mark.ray
def test_what_diverges_beside_is_rolled_back(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    are_idle(monkeypatch, True)
    algorithm = make(tmp_path, learner_threads=2)
    try:
        algorithm.train()
        before = algorithm.learner.get_learning_state()
        learn = algorithm.learner._learn_values

        def spoilt(*arguments: Any) -> Any:
            with torch.no_grad():
                algorithm.learner.actor_critic("shared").value.output.bias.fill_(torch.nan)
            return learn(*arguments)

        monkeypatch.setattr(algorithm.learner, "_learn_values", spoilt)
        with pytest.raises(TrainingDivergedError, match="loss of policy 'shared' must be finite"):
            algorithm.train()
        assert_equal_states(algorithm.learner.get_learning_state(), before)
    finally:
        algorithm.stop()
