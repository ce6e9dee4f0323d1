"""The learner of DQN: targets, losses and units by hand, and beside RLlib."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.dqn.dqn_learner import QF_NEXT_PREDS, QF_PREDS, QF_TARGET_NEXT_PREDS
from ray.rllib.algorithms.dqn.torch.dqn_torch_learner import DQNTorchLearner
from ray.rllib.core.columns import Columns

from camac_dra.models.normalization import RunningMoments
from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.dqn_learner import ArrayDQNLearner
from camac_dra.training.minibatches import LossRecorder
from camac_dra.training.replay import DISCOUNTS, NEXT_MASKS, WEIGHTS
from camac_dra.training.replay_settings import DQNSettings
from tests.training.toy_environment import ToyVectorEnvironment


def make_learner(space: spaces.Space, **settings: Any) -> ArrayDQNLearner:
    factory = partial(ToyVectorEnvironment, action_space=space)
    config = build_algorithm_config(factory, DQNSettings(hidden_sizes=(8,), seed=5, **settings))
    seen = factory(1, 0).single_observation_space
    learner = config.build_learner(spaces={"shared": (seen, space)})
    learner.metrics = LossRecorder()
    return learner


# Targets and losses

NEXT = {
    QF_NEXT_PREDS: torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, -2.0]]),
    QF_TARGET_NEXT_PREDS: torch.tensor([[10.0, 20.0, 30.0], [4.0, 5.0, 6.0]]),
}
BATCH = {
    Columns.ACTIONS: torch.tensor([2, 0]),
    Columns.REWARDS: torch.tensor([1.0, -1.0]),
    DISCOUNTS: torch.tensor([0.5, 0.0]),
}


@pytest.mark.parametrize(("double", "first"), [(True, 1.0 + 0.5 * 20.0), (False, 1.0 + 0.5 * 30.0)])
def test_targets_are_those_computed_by_hand(double: bool, first: float) -> None:
    """The second transition terminated, so that its reward is all there is."""
    learner = make_learner(spaces.Discrete(3), double=double)
    module = learner.module["shared"].unwrapped()
    following = NEXT if double else {QF_TARGET_NEXT_PREDS: NEXT[QF_TARGET_NEXT_PREDS]}
    assert learner._targets(module, BATCH, following).tolist() == [first, -1.0]
    q = torch.tensor([[0.0, 0.0, first - 3.0], [-0.5, 0.0, 0.0]], requires_grad=True)
    loss = learner.compute_loss_for_module(
        module_id="shared", config=None, batch=BATCH, fwd_out={QF_PREDS: q, **following}
    )
    loss.backward()
    assert loss.item() == pytest.approx(((3.0 - 0.5) + 0.5 * 0.5**2) / 2)  # Huber's
    assert learner.errors["shared"].tolist() == [3.0, -0.5]
    assert q.grad is not None
    assert q.grad.tolist() == [[0.0, 0.0, -0.5], [0.25, 0.0, 0.0]]


def test_components_of_an_action_are_averaged_and_missing_choices_never_best() -> None:
    """Components of 2 and 3 choices; the first one's third does not exist."""
    learner = make_learner(spaces.MultiDiscrete([2, 3]), double=False)
    module = learner.module["shared"].unwrapped()
    target = {QF_TARGET_NEXT_PREDS: torch.tensor([[1.0, 2.0, 99.0, 4.0, 3.0, 8.0]])}
    batch = {
        Columns.ACTIONS: torch.tensor([[1, 2]]),
        Columns.REWARDS: torch.tensor([1.0]),
        DISCOUNTS: torch.tensor([0.5]),
    }
    assert learner._targets(module, batch, target).tolist() == [1.0 + 0.5 * (2.0 + 8.0) / 2]
    q = torch.tensor([[0.0, 2.0, 0.0, 0.0, 0.0, 4.0]])
    learner.compute_loss_for_module(
        module_id="shared", config=None, batch=batch, fwd_out={QF_PREDS: q, **target}
    )
    assert learner.errors["shared"].tolist() == [3.5 - 3.0]


def test_errors_are_weighted() -> None:
    learner = make_learner(spaces.Discrete(3))
    q = torch.zeros(2, 3)
    batch = {**BATCH, WEIGHTS: torch.tensor([0.0, 1.0])}
    loss = learner.compute_loss_for_module(
        module_id="shared", config=None, batch=batch, fwd_out={QF_PREDS: q, **NEXT}
    )
    assert loss.item() == pytest.approx(0.5 / 2)  # of the second row, whose error is 1


def random_batch(rows: int, actions: int = 3) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        Columns.OBS: torch.randn(rows, 7, generator=g),
        Columns.NEXT_OBS: torch.randn(rows, 7, generator=g),
        Columns.ACTIONS: torch.randint(actions, (rows,), generator=g),
        Columns.REWARDS: torch.randn(rows, generator=g),
        WEIGHTS: torch.rand(rows, generator=g),
        "n_step": torch.randint(1, 4, (rows,), generator=g),
        Columns.TERMINATEDS: torch.rand(rows, generator=g) < 0.3,
    }


@pytest.mark.parametrize("double", [True, False])
def test_the_loss_is_the_one_of_rllib(double: bool) -> None:
    """On the same transitions, with discounts that follow from RLlib's columns."""
    learner = make_learner(spaces.Discrete(3), double=double, gamma=0.9)
    batch = random_batch(64)
    batch[DISCOUNTS] = 0.9 ** batch["n_step"] * ~batch[Columns.TERMINATEDS]
    out = learner.module["shared"].unwrapped().forward_train(batch)
    config = DQNConfig().training(double_q=double, gamma=0.9, td_error_loss_fn="huber")
    theirs = DQNTorchLearner.compute_loss_for_module(
        learner, module_id="shared", config=config, batch=batch, fwd_out=out
    )
    ours = learner.compute_loss_for_module(module_id="shared", config=None, batch=batch, fwd_out=out)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_units_of_q_values_change_and_predictions_stay() -> None:
    for dueling in (True, False):
        learner = make_learner(spaces.Discrete(3), dueling=dueling, normalize_returns=True)
        module, x = learner.module["shared"].unwrapped(), torch.randn(5, 7)
        networks = (module.online, module.target)
        before = [module.return_scaler.to_returns(network(x)) for network in networks]
        moments = RunningMoments(4.0, np.array([7.0]), np.array([36.0]))  # mean 7, deviation 3
        learner.set_return_moments("shared", moments)
        assert (module.return_scaler.mean.item(), module.return_scaler.std.item()) == (7.0, 3.0)
        for network, old in zip(networks, before, strict=True):
            torch.testing.assert_close(module.return_scaler.to_returns(network(x)), old)


def test_impossible_actions_are_not_valued() -> None:
    learner = make_learner(spaces.Discrete(3), double=False)
    batch = {**BATCH, NEXT_MASKS: torch.tensor([[True, True, False], [True, True, True]])}
    module = learner.module["shared"].unwrapped()
    following = {QF_TARGET_NEXT_PREDS: NEXT[QF_TARGET_NEXT_PREDS]}
    assert learner._targets(module, batch, following).tolist() == [1.0 + 0.5 * 20.0, -1.0]
