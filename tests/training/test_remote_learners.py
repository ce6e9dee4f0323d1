"""Learning in other processes: the same update, the same states, the same refusals."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.minibatches import ShuffledMinibatches
from camac_dra.training.ppo import ArrayPPO
from camac_dra.training.ray_session import build_algorithm
from camac_dra.training.settings import PPOSettings
from camac_dra.utils.errors import ConfigurationError, TrainingDivergedError
from tests.training.small_runs import assert_equal_states
from tests.training.toy_environment import ToyVectorEnvironment

SETTINGS: dict[str, Any] = {
    "num_envs": 3,
    "fragment_length": 9,  # 27 rows, which two learners cannot share evenly, in minibatches of 13 and 14
    "batch_size": 14,
    "hidden_sizes": (16,),
    "policies": "per_agent",
    "normalize_observations": True,
    "normalize_returns": True,
}


def make(folder: Path, poison: int | None = None, **settings: Any) -> ArrayPPO:
    factory = partial(ToyVectorEnvironment, absent=True, poison=poison)
    return build_algorithm(build_algorithm_config(factory, PPOSettings(**{**SETTINGS, **settings})), folder)


@pytest.mark.parametrize("sizes", [{"a": 40}, {"a": 27, "b": 12, "c": 3, "d": 1}])
def test_parts_of_minibatches_are_equally_many_and_make_the_whole(sizes: dict[str, int]) -> None:
    def minibatches(part: int, parts: int) -> list[dict[str, list[int]]]:
        found = ShuffledMinibatches(
            {mid: {"x": torch.arange(n)} for mid, n in sizes.items()},
            num_epochs=2,
            minibatch_size=10,
            generator=torch.Generator().manual_seed(0),
            part=(part, parts),
        )
        return [{mid: c["x"].tolist() for mid, c in m.policy_batches.items()} for m in found]

    whole, parts = minibatches(0, 1), [minibatches(part, 3) for part in range(3)]
    assert [len(part) for part in parts] == [len(whole)] * 3
    for expected, *shares in zip(whole, *parts, strict=True):
        for mid, rows in expected.items():
            own = [share[mid] for share in shares if mid in share]
            assert [row for share in own for row in share] == rows
            assert min(map(len, own)) >= min(2, len(rows))


@pytest.mark.ray
def test_two_learners_learn_as_one_does_resume_and_diverge_together(ray_cluster: Any, tmp_path: Path) -> None:
    one, two = make(tmp_path), make(tmp_path, num_learners=2)
    try:
        states = []
        for _ in range(2):
            results = [algorithm.train() for algorithm in (one, two)]
            states = [algorithm.learner.get_learning_state() for algorithm in (one, two)]
            for policy, weights in states[0]["weights"].items():
                for name, weight in weights.items():
                    other = states[1]["weights"][policy][name]
                    torch.testing.assert_close(other, weight, rtol=1e-4, atol=1e-5)
        assert torch.equal(*(state["shuffle_generator"] for state in states))
        for name in ("total_loss", "entropy", "gradient_norm"):
            values = [float(result["learners"]["agent_0"][name]) for result in results]
            assert values[1] == pytest.approx(values[0], rel=0.05, abs=0.05), name
        saved = two.get_training_state()
        assert_same_everywhere(two)
        two.train()
        expected = two.learner.get_learning_state()
        two.set_training_state(saved)
        two.train()
        assert_equal_states(two.learner.get_learning_state(), expected)
        roll_back(two)
    finally:
        one.stop()
        two.stop()


def assert_same_everywhere(algorithm: ArrayPPO) -> None:
    found = algorithm.learner_group.foreach_learner(lambda learner: learner.get_learning_state())
    first, second = (result.get() for result in found)
    assert_equal_states(first, second)
    # Renewing the normalisers after an update leaves the policy's weights alone.
    copy = algorithm.learner.get_learning_state()["weights"]["agent_0"]
    names = [name for name in copy if name.startswith("policy.")]
    assert len(names) >= 4
    for name in names:
        assert torch.equal(first["weights"]["agent_0"][name], copy[name])


def roll_back(algorithm: ArrayPPO) -> None:
    """A loss that is not finite in one learner spoils the update of all, and leaves no trace."""
    before, iterations = algorithm.learner.get_learning_state(), algorithm.counters.iterations
    spoil_the_second_learner(algorithm)
    with pytest.raises(TrainingDivergedError, match=r"policy 'agent_\d' must be finite, got norm nan"):
        algorithm.train()
    assert_equal_states(algorithm.learner.get_learning_state(), before)
    assert algorithm.counters.iterations == iterations
    algorithm.train()
    assert algorithm.counters.iterations == iterations + 1


def spoil_the_second_learner(algorithm: ArrayPPO) -> None:
    """Let its third loss be NaN, and the first learner's go on being fine."""

    def spoil(learner: Any) -> None:
        if learner.rank == 0:
            return
        original, calls = learner._learn_policy, []

        def spoiled(*arguments: Any) -> torch.Tensor:
            calls.append(1)
            return original(*arguments) * (torch.nan if len(calls) == 3 else 1.0)

        learner._learn_policy = spoiled

    algorithm.learner_group.foreach_learner(spoil)


def test_missing_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigurationError, match=r"num_gpus: 1 GPUs are needed, 1 for each learner, got 0"):
        make(tmp_path, num_gpus=1)


@pytest.mark.ray
def test_gpus_that_the_cluster_lacks_are_refused(ray_cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"1 GPUs are needed, 0\.5 .*which is what the Ray cluster"):
        make(tmp_path, num_gpus=0.5, num_learners=2)
