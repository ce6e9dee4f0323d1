"""Contracts with the pinned RLlib: what our learner overrides must exist and mean what we think it means."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from gymnasium import spaces
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.minibatch_utils import MiniBatchCyclicIterator

from camac_dra.models.rl_module import ActorCriticModule
from camac_dra.training import optimizer
from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.minibatches import LossRecorder, ShuffledMinibatches
from camac_dra.training.ppo_learner import ArrayPPOLearner
from camac_dra.training.rllib_bridge import actor_was_restarted, train_batch
from camac_dra.training.settings import PPOSettings
from tests.training.toy_environment import ToyVectorEnvironment

OVERRIDDEN = (
    "before_gradient_based_update",
    "after_gradient_based_update",
    "_create_iterator_if_necessary",
    "_set_slicing_by_batch_id",
    "_log_metrics",
    "_log_steps_trained_metrics",
    "compute_gradients",
    "postprocess_gradients",
    "apply_gradients",
    "configure_optimizers_for_module",
)


def test_ray_is_the_pinned_version(root: Path) -> None:
    pinned = [line for line in (root / "requirements.txt").read_text().splitlines() if line.startswith("ray")]
    assert f"=={version('ray')}" in pinned[0].replace(" ", "")


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_overridden_methods_exist_with_the_arguments_we_give(name: str) -> None:
    theirs, ours = getattr(Learner, name), getattr(ArrayPPOLearner, name)
    assert ours is not theirs
    needed = {
        n
        for n, p in inspect.signature(ours).parameters.items()
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    }
    assert needed <= inspect.signature(theirs).parameters.keys()


def test_the_update_loop_calls_what_we_override() -> None:
    source = inspect.getsource(Learner.update)
    for name in (
        "_create_iterator_if_necessary",
        "_log_metrics",
        "_log_steps_trained_metrics",
        "metrics.reduce",
    ):
        assert name in source
    assert "tensor_minibatch.policy_batches" in source


def spaces_of_toy() -> tuple[spaces.Box, spaces.Space]:
    env = ToyVectorEnvironment(1, 0)
    return env.single_observation_space, env.single_action_space


def make_learner(**settings) -> ArrayPPOLearner:
    config = build_algorithm_config(ToyVectorEnvironment, PPOSettings(hidden_sizes=(16,), seed=5, **settings))
    return config.build_learner(spaces={"shared": spaces_of_toy()})


def rows(n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        Columns.OBS: torch.randn(n, 7, generator=g),
        Columns.ACTIONS: torch.randint(3, (n,), generator=g),
        Columns.ACTION_LOGP: -1.0 + 0.1 * torch.randn(n, generator=g),
        Columns.ADVANTAGES: torch.randn(n, generator=g),
        Columns.VALUE_TARGETS: torch.randn(n, generator=g),
    }


@pytest.mark.parametrize("grad_clip", [None, 0.05])
def test_an_update_is_the_one_that_rllib_makes(
    grad_clip: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One minibatch through our learner and through RLlib's, from the same weights, both with plain SGD."""
    monkeypatch.setattr(optimizer, "_torch_optimizer", lambda kind, vector, lr: torch.optim.SGD([vector]))
    ours = make_learner(grad_clip=grad_clip, entropy_coeff=0.02, value_clip=2.0, learning_rate=0.1)
    theirs = stock_learner(ours, grad_clip)
    batch, before = rows(64), {k: v.clone() for k, v in ours.module["shared"].state_dict().items()}
    ours.update(batch=train_batch({"shared": dict(batch)}, 64), num_epochs=1, minibatch_size=64)
    inputs = theirs.module["shared"].forward_inference(batch)[Columns.ACTION_DIST_INPUTS].detach()
    theirs.update(
        batch=train_batch({"shared": {**batch, Columns.ACTION_DIST_INPUTS: inputs}}, 64), num_epochs=1
    )
    expected = theirs.module["shared"].state_dict()
    for name, weight in ours.module["shared"].state_dict().items():
        assert not torch.equal(weight, before[name])
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=2e-5)


class StockLearner(PPOTorchLearner):
    """RLlib's, with SGD: Adam would hide how large gradients are."""

    def configure_optimizers_for_module(self, module_id: str, config: PPOConfig) -> None:
        parameters = self.get_parameters(self.module[module_id])
        self.register_optimizer(
            module_id=module_id,
            optimizer=torch.optim.SGD(parameters),
            params=parameters,
            lr_or_lr_schedule=config.lr,
        )


def stock_learner(like: ArrayPPOLearner, grad_clip: float | None):
    config = PPOConfig()
    config.multi_agent(policies={"shared"}, policy_mapping_fn=lambda *a, **k: "shared")
    config.rl_module(
        rl_module_spec=RLModuleSpec(
            module_class=ActorCriticModule, model_config={"network": {"hidden_sizes": (16,)}}
        )
    )
    config.training(
        lr=0.1,
        learner_class=StockLearner,
        clip_param=0.2,
        vf_clip_param=2.0,
        vf_loss_coeff=0.5,
        entropy_coeff=0.02,
        use_kl_loss=False,
        grad_clip=grad_clip,
    )
    learner = config.build_learner(spaces={"shared": spaces_of_toy()})
    learner.module["shared"].load_state_dict(like.module["shared"].state_dict())
    return learner


def test_rllibs_iterator_does_not_shuffle_its_first_epoch_and_ours_does() -> None:
    batch = train_batch({"shared": {"x": torch.arange(40)}}, 40)
    first = next(iter(MiniBatchCyclicIterator(batch, num_epochs=2, minibatch_size=10)))
    assert first.policy_batches["shared"]["x"].tolist() == list(range(10))
    ours = ShuffledMinibatches(
        {"shared": {"x": torch.arange(40)}},
        num_epochs=1,
        minibatch_size=10,
        generator=torch.Generator().manual_seed(0),
    )
    assert next(iter(ours)).policy_batches["shared"]["x"].tolist() != list(range(10))


@pytest.mark.parametrize(
    ("sizes", "minibatch_size"), [({"a": 40}, 10), ({"a": 37, "b": 12, "c": 1}, 10), ({"a": 5}, 10)]
)
def test_every_epoch_uses_every_row_once(sizes: dict[str, int], minibatch_size: int) -> None:
    columns = {mid: {"x": torch.arange(n), "y": torch.arange(n) * 2} for mid, n in sizes.items()}
    minibatches = ShuffledMinibatches(
        columns, num_epochs=3, minibatch_size=minibatch_size, generator=torch.Generator().manual_seed(0)
    )
    taken = list(minibatches)
    assert len(taken) == 3 * minibatches.per_epoch
    epochs = []
    for epoch in range(3):
        part = taken[epoch * minibatches.per_epoch : (epoch + 1) * minibatches.per_epoch]
        for mid, n in sizes.items():
            found = [m.policy_batches[mid] for m in part if mid in m.policy_batches]
            assert sorted(torch.cat([f["x"] for f in found]).tolist()) == list(range(n))
            assert all(torch.equal(f["y"], f["x"] * 2) for f in found)
            assert max(len(f["x"]) for f in found) <= minibatch_size
        epochs.append([m.policy_batches["a"]["x"].tolist() for m in part])
    assert epochs[0] != epochs[1]


def test_results_are_means_over_minibatches() -> None:
    recorder = LossRecorder()
    recorder.log_dict({"loss": torch.tensor(1.0)}, key="a", window=1)
    recorder.log_dict({"loss": torch.tensor(3.0)}, key="a", window=1)
    recorder.log_value(("a", "norm"), 0.5)
    assert recorder.means() == {("a", "loss"): 2.0, ("a", "norm"): 0.5}


def test_every_minibatch_counts_once_in_the_loss() -> None:
    learner, seen = make_learner(), []
    original = learner._learn_policy
    learner._learn_policy = lambda *arguments: seen.append(original(*arguments)) or seen[-1]
    result = learner.update(batch=train_batch({"shared": rows(96)}, 96), num_epochs=2, minibatch_size=32)
    assert len(seen) == 6
    expected = torch.stack(seen).mean().item()
    assert float(result["shared"]["total_loss"].peek()) == pytest.approx(expected, rel=1e-5)


def test_learning_state_is_a_copy_and_restores_everything() -> None:
    learner, other = make_learner(), make_learner()
    data = train_batch({"shared": rows(100)}, 100)
    learner.update(batch=data, num_epochs=2, minibatch_size=32)
    state = learner.get_learning_state()
    other.set_learning_state(state, env_steps=0)
    for one in (learner, other):
        one.update(batch=train_batch({"shared": rows(100, seed=1)}, 100), num_epochs=2, minibatch_size=32)
    weights = [one.module["shared"].state_dict() for one in (learner, other)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert learner._weights_seq_no == other._weights_seq_no == 2


def test_a_driver_is_no_restarted_actor(ray_cluster) -> None:
    assert ray_cluster.is_initialized()
    assert not actor_was_restarted()
