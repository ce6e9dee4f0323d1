"""The loss in closed form against RLlib's, and its gradients against torch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns

from camac_dra.models.distributions import make_action_head
from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.losses import LossWeights, policy_term, value_term
from camac_dra.training.minibatches import LossRecorder
from camac_dra.training.optimizer import ALIGNMENT, FlatParameters
from camac_dra.training.ppo_learner import ArrayPPOLearner
from camac_dra.training.settings import PPOSettings
from tests.training.toy_environment import FEATURES, ToyVectorEnvironment

SPACES = {
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete([2, 5, 3]),
    "box": spaces.Box(-1, 1, (2,), np.float32),
}


@pytest.mark.parametrize("kind", list(SPACES))
def test_the_closed_form_gradient_is_the_derivative(kind: str) -> None:
    head = make_action_head(SPACES[kind])
    inputs = torch.randn(head.num_distribution_inputs, 30, dtype=torch.float64)
    if kind == "box":
        inputs[-1, :3] = torch.tensor([9.0, -9.0, 0.3])  # beyond the bounds of the standard deviation
    inputs.requires_grad_()
    distribution = head.distribution(inputs)
    actions = head.distribution(inputs.detach().float()).sample(torch.Generator().manual_seed(0))[0]
    weights = torch.randn(30, dtype=torch.float64)
    total = (weights * distribution.log_prob(actions)).sum() + 0.3 * distribution.entropy().sum()
    (expected,) = torch.autograd.grad(total, inputs)
    found = head.distribution(inputs.detach()).gradient(actions, weights, 0.3)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", list(SPACES))
def test_the_plain_policy_gradient_is_the_derivative(kind: str) -> None:
    head = make_action_head(SPACES[kind])
    inputs = torch.randn(head.num_distribution_inputs, 30).requires_grad_()
    values = torch.randn(30, requires_grad=True)
    actions = head.distribution(inputs.detach()).sample(torch.Generator().manual_seed(0))[0]
    advantages, targets = torch.randn(30), torch.randn(30)
    distribution = head.distribution(inputs)
    plain = -(advantages * distribution.log_prob(actions)).mean()
    loss = plain + 0.5 * (values - targets).square().mean() - 0.1 * distribution.entropy().mean()
    expected = torch.autograd.grad(loss, [inputs, values])
    weights = LossWeights(None, float("inf"), 0.5, 0.1)
    policy = policy_term(
        head.distribution(inputs.detach()),
        actions=actions,
        log_probs=torch.randn(30),  # of another policy: makes no difference
        advantages=advantages,
        weights=weights,
    )
    value = value_term(values.detach(), targets, weights)
    assert policy.loss + value.loss == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close((policy.gradient, value.gradient), expected)


def make_learner(space: spaces.Space, **settings: Any) -> ArrayPPOLearner:
    def factory(num_envs: int, seed: int) -> ToyVectorEnvironment:
        return ToyVectorEnvironment(num_envs, seed, action_space=space)

    config = build_algorithm_config(factory, PPOSettings(hidden_sizes=(16,), **settings))
    env = factory(1, 0)
    learner = config.build_learner(spaces={"shared": (env.single_observation_space, env.single_action_space)})
    learner.metrics = LossRecorder()
    return learner


@pytest.mark.parametrize("value_clip", [None, 0.7])
@pytest.mark.parametrize("shared_torso", [False, True])
@pytest.mark.parametrize("kind", list(SPACES))
def test_loss_and_gradients_are_rllibs(kind: str, shared_torso: bool, value_clip: float | None) -> None:
    learner = make_learner(SPACES[kind], value_clip=value_clip, shared_torso=shared_torso, entropy_coeff=0.05)
    module = learner.module["shared"]
    batch = {Columns.OBS: torch.randn(200, FEATURES)}
    inputs = module.forward_inference(batch)[Columns.ACTION_DIST_INPUTS].detach()
    actions, log_probs = module.head.distribution(inputs.t()).sample(torch.Generator().manual_seed(0))
    batch |= {
        Columns.ACTIONS: actions,
        Columns.ACTION_LOGP: log_probs + 0.4 * torch.randn(200),  # ratios within and beyond the clip range
        Columns.ACTION_DIST_INPUTS: inputs,
        Columns.ADVANTAGES: torch.randn(200),
        Columns.VALUE_TARGETS: torch.randn(200),
    }
    ours = learner._losses({"shared": batch})["shared"]
    found = learner._gradient("shared", ours).clone()
    theirs = PPOTorchLearner.compute_loss_for_module(
        learner, module_id="shared", config=learner.config, batch=batch, fwd_out=module.forward_train(batch)
    )
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-5)
    stepper = learner._steppers["shared"]
    torch.testing.assert_close(found, stepper.differentiate(theirs), rtol=1e-3, atol=1e-6)
    assert found.count_nonzero() > 100
    logged = learner.metrics._values  # ours first, then RLlib's under the same names
    for name in ("policy_loss", "vf_loss", "entropy", "vf_explained_var"):
        first, second = logged["shared", name]
        assert first == pytest.approx(float(second), rel=1e-3, abs=1e-4)


def test_flat_parameters_keep_values_and_step_together() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    flat = FlatParameters(module)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    offsets = [p.storage_offset() for p in module.parameters()]
    assert all(offset % ALIGNMENT == 0 for offset in offsets)
    gradients = [torch.randn_like(p) for p in module.parameters()]
    flat.gradient_by(module.parameters()).differentiate(
        [sum((p * g).sum() for p, g in zip(module.parameters(), gradients, strict=True))], [None]
    )
    vector = flat.vector.grad
    norm = torch.nn.utils.get_total_norm(gradients)
    torch.testing.assert_close(torch.linalg.vector_norm(vector), norm)
    torch.optim.SGD([flat.vector], lr=0.5).step()
    for (name, parameter), gradient in zip(module.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.data, before[name] - 0.5 * gradient)
    module.load_state_dict(before)
    assert torch.equal(flat.vector[:15].view(5, 3), before["0.weight"])
