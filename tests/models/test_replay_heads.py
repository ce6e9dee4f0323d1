"""Exploration and squashed Gaussians: chances, bounds, impossible actions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions

from camac_dra.models.distributions import IMPOSSIBLE
from camac_dra.models.replay_heads import EpsilonGreedyHead, SquashedGaussianHead, squashed_head
from camac_dra.utils.errors import CapabilityError


def greedy_head(epsilon: float, sizes: list[int], *, scalar: bool) -> EpsilonGreedyHead:
    return EpsilonGreedyHead(sizes, scalar=scalar, epsilon=torch.tensor(epsilon))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_exploration_is_uniform_with_the_share_epsilon() -> None:
    inputs = torch.tensor([0.0, 2.0, 1.0])[:, None].expand(3, 30_000)
    actions, log_probs = greedy_head(0.3, [3], scalar=True).distribution(inputs).sample(generator())
    shares = np.bincount(actions.numpy(), minlength=3) / len(actions)
    np.testing.assert_allclose(shares, [0.1, 0.8, 0.1], atol=0.01)
    chances = torch.tensor([0.1, 0.8, 0.1])
    torch.testing.assert_close(log_probs, chances[actions].log())
    distribution = greedy_head(0.3, [3], scalar=True).distribution(inputs)
    torch.testing.assert_close(distribution.log_prob(actions), log_probs)


def test_components_explore_by_themselves_within_their_choices() -> None:
    inputs = torch.zeros(6, 9000)  # two components of up to three choices
    actions, _ = greedy_head(1.0, [2, 3], scalar=False).distribution(inputs).sample(generator())
    pairs = np.unique(actions.numpy(), axis=0, return_counts=True)
    assert pairs[0].tolist() == [[a, b] for a in range(2) for b in range(3)]
    np.testing.assert_allclose(pairs[1], 1500, atol=150)


def test_impossible_actions_are_not_explored() -> None:
    inputs = torch.tensor([IMPOSSIBLE, 0.0, IMPOSSIBLE, 1.0])[:, None].expand(4, 4000)
    actions, _ = greedy_head(1.0, [4], scalar=True).distribution(inputs).sample(generator())
    assert set(actions.tolist()) == {1, 3}
    assert (actions == 1).float().mean().item() == pytest.approx(0.5, abs=0.04)


def test_squashed_gaussians_are_those_of_torch() -> None:
    inputs = 0.5 * torch.randn(4, 50, generator=generator())
    ours = SquashedGaussianHead(-np.ones(2), np.ones(2)).distribution(inputs)
    theirs = distributions.TransformedDistribution(
        distributions.Normal(inputs[:2].t(), inputs[2:].clamp(-5, 2).exp().t()),
        distributions.TanhTransform(cache_size=1),
    )
    actions, log_probs = ours.sample(generator())
    assert (actions.abs() < 1).all()
    torch.testing.assert_close(log_probs, theirs.log_prob(actions).sum(1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.log_prob(actions), log_probs, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(ours.mode(), inputs[:2].t().tanh())
    with pytest.raises(CapabilityError, match="entropy of squashed Gaussians has no closed form"):
        ours.entropy()


def test_squashed_actions_reach_the_bounds_and_no_further() -> None:
    head = squashed_head(spaces.Box(np.array([0.0, -2.0], np.float32), np.array([1.0, 6.0], np.float32)))
    assert head.to_environment(torch.tensor([[-1.0, 1.0], [0.0, 0.0]])).tolist() == [[0.0, 6.0], [0.5, 2.0]]
    with pytest.raises(CapabilityError, match="'sac' needs continuous actions"):
        squashed_head(spaces.Discrete(2))
