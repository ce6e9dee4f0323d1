"""Optimisers: the kinds are torch's, steps are clipped, and what is not finite changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from camac_dra.training.optimizer import OPTIMIZERS, Optimizer
from camac_dra.utils.errors import ConfigurationError, TrainingDivergedError

TORCHS: dict[str, Any] = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, eps=1e-5),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, eps=1e-5),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.99, eps=1e-5),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def loss_of(module: nn.Module) -> torch.Tensor:
    return (module(torch.linspace(-1, 1, 12).view(4, 3)) - 1.0).square().mean()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_each_kind_is_torchs_own_on_the_same_parameters(kind: str) -> None:
    ours, theirs = network(), network()
    optimizer, stock = Optimizer(ours, kind, 0.1), TORCHS[kind](theirs.parameters())
    for _ in range(5):
        optimizer.step(loss_of(ours))
        stock.zero_grad()
        loss_of(theirs).backward()
        stock.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_long_gradients_are_cut_and_short_ones_are_not() -> None:
    free = network()
    norm = Optimizer(free, "sgd", 1.0).step(loss_of(free))
    for limit, length in ((norm / 4, norm / 4), (norm * 4, norm)):
        clipped = network()
        before = [p.detach().clone() for p in clipped.parameters()]
        assert Optimizer(clipped, "sgd", 1.0, limit).step(loss_of(clipped)) == pytest.approx(norm)
        moved = torch.cat([(a - b).flatten() for a, b in zip(clipped.parameters(), before, strict=True)])
        assert moved.norm().item() == pytest.approx(length, rel=1e-4)


def test_what_is_not_finite_changes_nothing() -> None:
    module = network()
    optimizer = Optimizer(module, name="policy 'shared'")
    before = optimizer.vector.detach().clone()
    with pytest.raises(TrainingDivergedError, match="loss of policy 'shared' must be finite, got inf"):
        optimizer.step(loss_of(module) * torch.inf)
    root = module[0].weight[0, 0].sub(module[0].weight[0, 0].item()).sqrt()  # 0, with an infinite slope
    with pytest.raises(TrainingDivergedError, match="gradient of policy 'shared' must be finite"):
        optimizer.step(loss_of(module) + root)
    assert torch.equal(optimizer.vector, before)


def test_it_goes_on_from_its_state() -> None:
    one, two = network(), network()
    first = Optimizer(one, "adam", 0.1)
    for _ in range(3):
        first.step(loss_of(one))
    second = Optimizer(two, "adam", 0.5)
    two.load_state_dict(one.state_dict())
    second.load_state_dict(first.state_dict())
    assert second.learning_rate == 0.1
    for optimizer, module in ((first, one), (second, two)):
        optimizer.learning_rate = 0.01
        optimizer.step(loss_of(module))
    assert torch.equal(first.vector, second.vector)


def test_of_two_that_took_a_module_the_one_that_attaches_steps_it() -> None:
    module = network()
    first, second = Optimizer(module), Optimizer(module)
    before = module[0].weight.detach().clone()
    second.step(loss_of(module))
    moved = module[0].weight.detach().clone()
    assert not torch.equal(moved, before)
    first.attach()
    assert torch.equal(module[0].weight, moved)
    first.step(loss_of(module))
    assert not torch.equal(module[0].weight, moved)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("adma",), "optimizer must be one of adam, .*, got 'adma'. Did you mean 'adam'"),
        (("adam", 0.0), "learning_rate must be a finite number above 0, got 0.0"),
        (("adam", 0.1, -1.0), "grad_clip must be a finite number above 0, got -1.0"),
    ],
)
def test_bad_settings_are_refused(arguments: tuple[Any, ...], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        Optimizer(network(), *arguments)


def test_parts_differentiated_by_themselves_make_up_the_whole_gradient() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 2))
    optimizer, x = Optimizer(module, "sgd"), torch.randn(6, 3)
    expected = optimizer.differentiate(module[0](x).square().sum() + module[1](x).exp().sum()).clone()
    optimizer.vector.grad.fill_(7.0)
    first, second = (optimizer.gradient_by(layer.parameters()) for layer in module)
    loss = module[0](x).square().sum()
    first.differentiate([loss], [None])
    assert (optimizer.gradient_by(module[1].parameters())._slots[0] == 7.0).all()  # the rest is untouched
    outputs = module[1](x)
    second.differentiate([outputs], [outputs.detach().exp()])
    for parameter, slot in zip(module.parameters(), optimizer._flat._slots, strict=True):
        place = slice(parameter.storage_offset(), parameter.storage_offset() + parameter.numel())
        torch.testing.assert_close(slot.flatten(), expected[place])


def test_parts_set_what_does_not_matter_to_zero_and_pass_over_what_does_not_learn() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 2))
    module[0].bias.requires_grad_(False)
    optimizer = Optimizer(module, "sgd")
    optimizer.vector.grad.fill_(7.0)
    optimizer.gradient_by(module.parameters()).differentiate([module[0](torch.ones(1, 3)).sum()], [None])
    weight, other_weight, other_bias = optimizer._flat._slots
    assert (weight == 1.0).all()
    assert (other_weight == 0.0).all()
    assert (other_bias == 0.0).all()


def test_parts_without_anything_that_learns_have_no_gradient() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 2))
    optimizer = Optimizer(module, "sgd")
    optimizer.vector.grad.fill_(7.0)
    optimizer.gradient_by([]).differentiate([module[0](torch.ones(1, 3)).sum()], [None])
    assert (optimizer.vector.grad == 7.0).all()
    optimizer.gradient_by(module[0].parameters()).differentiate([torch.ones(())], [None])
    for slot, wanted in zip(optimizer._flat._slots, (0.0, 0.0, 7.0, 7.0), strict=True):
        assert (slot == wanted).all()


def test_a_gradient_that_is_refused_leaves_nothing_behind() -> None:
    optimizer = Optimizer(network(), "adam")
    optimizer.take(torch.full_like(optimizer.vector, torch.nan))  # as the mean over learners, gaps and all
    with pytest.raises(TrainingDivergedError, match="must be finite, got norm nan"):
        optimizer.clip()
    optimizer.differentiate(loss_of(network()))
    assert optimizer.clip() == 0.0
