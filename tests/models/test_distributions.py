"""Distributions against definitions, and samples against probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from camac_dra.models.distributions import make_action_head
from camac_dra.utils.errors import ConfigurationError


def enumerate_actions(sizes: list[int]) -> torch.Tensor:
    """All combinations (prod, D) of categories."""
    return torch.cartesian_prod(*[torch.arange(n) for n in sizes]).reshape(-1, len(sizes))


@pytest.mark.parametrize("sizes", [[4], [3, 3], [2, 5, 3]])
def test_probabilities_of_all_actions_sum_to_one(sizes: list[int]) -> None:
    head = make_action_head(spaces.MultiDiscrete(sizes))
    actions = enumerate_actions(sizes)
    inputs = torch.randn(head.num_outputs, 1).expand(-1, len(actions))
    log_probs = head.distribution(inputs).log_prob(actions)
    assert log_probs.exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    entropy = head.distribution(inputs).entropy()[0].item()
    assert entropy == pytest.approx(-(log_probs.exp() * log_probs).sum().item(), abs=1e-5)


@pytest.mark.parametrize(
    "space", [spaces.Discrete(4), spaces.MultiDiscrete([2, 5]), spaces.Box(-1, 3, (2,), np.float32)]
)
def test_samples_carry_their_own_log_probability(space: spaces.Space) -> None:
    head = make_action_head(space)
    distribution = head.distribution(torch.randn(head.num_distribution_inputs, 500))
    actions, log_probs = distribution.sample(torch.Generator().manual_seed(1))
    assert actions.shape == (500, *head.action_shape)
    assert actions.dtype == head.action_dtype
    torch.testing.assert_close(distribution.log_prob(actions), log_probs, rtol=1e-4, atol=1e-5)
    environment_actions = head.to_environment(actions)
    assert all(space.contains(a.astype(space.dtype)) for a in environment_actions)


@pytest.mark.parametrize("sizes", [[5], [2, 4]])
def test_sampling_frequencies_follow_the_logits(sizes: list[int]) -> None:
    head = make_action_head(spaces.MultiDiscrete(sizes))
    rows = 40_000
    inputs = torch.randn(head.num_outputs, 1, generator=torch.Generator().manual_seed(3)).expand(-1, rows)
    distribution = head.distribution(inputs)
    drawn, _ = distribution.sample(torch.Generator().manual_seed(2))
    for component, size in enumerate(sizes):
        expected = distribution.log_probabilities[component, :size, 0].exp()
        seen = torch.bincount(drawn[:, component], minlength=size) / rows
        torch.testing.assert_close(seen, expected, rtol=0.0, atol=0.015)


def test_categories_of_probability_zero_are_never_drawn() -> None:
    head = make_action_head(spaces.Discrete(4))
    inputs = torch.tensor([-1e9, 0.0, -1e9, -1e9])[:, None].expand(-1, 10_000)
    actions, log_probs = head.distribution(inputs).sample(torch.Generator().manual_seed(0))
    assert (actions == 1).all()
    assert (log_probs == 0).all()


def test_mode_is_the_likeliest_action() -> None:
    head = make_action_head(spaces.MultiDiscrete([2, 3]))
    inputs = torch.tensor([1.0, 0.0, 9.0, 0.0, 0.0, 2.0])[
        :, None
    ]  # the 9 belongs to the padding of component 0
    assert head.distribution(inputs).mode().tolist() == [[0, 2]]


def test_gaussian_agrees_with_torch() -> None:
    head = make_action_head(spaces.Box(-1, 1, (3,), np.float32))
    mean, log_std, other = torch.randn(3, 7), torch.randn(3, 7) * 0.5, torch.randn(6, 7) * 0.5
    distribution = head.distribution(torch.cat([mean, log_std]))
    reference = torch.distributions.Independent(torch.distributions.Normal(mean.t(), log_std.t().exp()), 1)
    actions = torch.randn(7, 3)
    torch.testing.assert_close(distribution.log_prob(actions), reference.log_prob(actions))
    torch.testing.assert_close(distribution.entropy(), reference.entropy())
    second = torch.distributions.Independent(
        torch.distributions.Normal(other[:3].t(), other[3:].t().exp()), 1
    )
    expected = torch.distributions.kl_divergence(reference, second)
    torch.testing.assert_close(distribution.divergence(head.distribution(other)), expected)


def test_categorical_divergence_agrees_with_torch() -> None:
    head = make_action_head(spaces.Discrete(4))
    one, two = torch.randn(4, 5), torch.randn(4, 5)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=one.t()), torch.distributions.Categorical(logits=two.t())
    )
    torch.testing.assert_close(head.distribution(one).divergence(head.distribution(two)), expected)


def test_box_actions_are_scaled_to_the_bounds_and_clipped() -> None:
    head = make_action_head(spaces.Box(np.array([0.0, -2.0]), np.array([1.0, 2.0]), dtype=np.float64))
    actions = torch.tensor([[0.0, 0.0], [-1.0, 1.0], [5.0, -5.0]])
    np.testing.assert_allclose(head.to_environment(actions), [[0.5, 0.0], [0.0, 2.0], [1.0, -2.0]])


@pytest.mark.parametrize(
    "space", [spaces.Box(-np.inf, np.inf, (2,)), spaces.Discrete(3, start=1), spaces.MultiBinary(3)]
)
def test_other_action_spaces_are_refused(space: spaces.Space) -> None:
    with pytest.raises(ConfigurationError, match="action space must be Discrete or MultiDiscrete"):
        make_action_head(space)


def test_extreme_standard_deviations_are_bounded() -> None:
    head = make_action_head(spaces.Box(-1, 1, (1,), np.float32))
    entropy = head.distribution(torch.tensor([[0.0, 0.0], [-50.0, 50.0]])).entropy()
    assert entropy.tolist() == pytest.approx([0.5 * math.log(2 * math.pi * math.e) + s for s in (-5.0, 2.0)])
