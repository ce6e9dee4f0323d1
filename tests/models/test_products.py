"""Matrix products by whichever library is fastest, against torch's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from camac_dra.models import products
from camac_dra.models.networks import MLP
from camac_dra.models.products import LEAST_WORK, Linear, affine_by_column, product

ROWS, INPUTS, OUTPUTS = 300, 96, 128  # above LEAST_WORK


@pytest.fixture(params=[True, False], ids=["onednn", "torch"])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Compute both ways, whatever this machine would take."""
    if request.param and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "onednn_is_faster", lambda: request.param)
    return request.param


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that were given to oneDNN."""
    seen: list[tuple[int, ...]] = []
    original = products._onednn

    def spy(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        seen.append((*a.shape, len(b)))
        return original(a, b, bias)

    monkeypatch.setattr(products, "_onednn", spy)
    return seen


def operands(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((ROWS, INPUTS), (OUTPUTS, INPUTS), (OUTPUTS,))
    a, b, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    return a, b, bias


def test_the_sizes_of_these_tests_are_large() -> None:
    assert ROWS * INPUTS * OUTPUTS >= LEAST_WORK


@pytest.mark.parametrize("views", [False, True])
def test_product_and_gradients_are_torchs(onednn: bool, calls: list[object], views: bool) -> None:
    found, expected = [], []
    for function, results in ((product, found), (functional.linear, expected)):
        a, b, bias = operands()
        if views:
            a, b = a.t().contiguous().t(), b.t().contiguous().t()
        leaves = [tensor.requires_grad_() for tensor in (a, b, bias)]
        out = function(*leaves)
        weights = torch.linspace(-1.0, 1.0, out.numel()).reshape(out.shape)
        results += [out, *torch.autograd.grad((out * weights).sum(), leaves)]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert len(calls) == (3 if onednn else 0)


def test_gradients_that_nobody_needs_are_not_computed(onednn: bool, calls: list[object]) -> None:
    a, b, bias = operands()
    out = product(a, b.requires_grad_(), bias)
    (by_b,) = torch.autograd.grad(out.sum(), [b])
    torch.testing.assert_close(by_b, a.sum(0).expand_as(b), rtol=1e-4, atol=1e-4)
    assert len(calls) == (2 if onednn else 0)


def test_expanded_gradients_and_no_bias(onednn: bool) -> None:
    a, b, _ = operands()
    out = product(a.requires_grad_(), b)
    (by_a,) = torch.autograd.grad(out.sum(), [a])  # its gradient is one number, expanded
    torch.testing.assert_close(by_a, b.sum(0).expand_as(a), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3, ROWS])
def test_by_column_is_the_transpose_in_memory_too(onednn: bool, rows: int) -> None:
    a, b, bias = operands()
    found = affine_by_column(a[:rows], b, bias)
    torch.testing.assert_close(found, functional.linear(a[:rows], b, bias).t(), rtol=1e-4, atol=1e-4)
    assert found.is_contiguous()


@pytest.mark.parametrize("shape", [(ROWS,), (10, 30), (2, 3, 50), ()])
def test_layers_take_any_leading_axes(onednn: bool, shape: tuple[int, ...]) -> None:
    layer = Linear(INPUTS, OUTPUTS)
    x = torch.randn(*shape, INPUTS)
    torch.testing.assert_close(layer(x), functional.linear(x, layer.weight, layer.bias), rtol=1e-4, atol=1e-4)


def test_small_products_doubles_and_inference(onednn: bool, calls: list[object]) -> None:
    a, b, bias = operands()
    product(a[:8], b, bias)
    product(a.double(), b.double(), bias.double())
    assert calls == []
    with torch.inference_mode():
        found = product(a, b, bias)
    assert len(calls) == (1 if onednn else 0)
    torch.testing.assert_close(found, functional.linear(a, b, bias), rtol=1e-4, atol=1e-4)


def test_the_same_numbers_every_time(onednn: bool) -> None:
    network, x = MLP(INPUTS, (OUTPUTS, OUTPUTS), "tanh"), torch.randn(ROWS, INPUTS)
    first = network(x)
    shifted = torch.empty(x.numel() + 1)[1:].view_as(x).copy_(x)  # aligned otherwise
    assert torch.equal(first, network(x))
    torch.testing.assert_close(first, network(shifted), rtol=1e-5, atol=1e-5)


def test_learning_transposes_nothing_large(onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not onednn:
        pytest.skip("only oneDNN minds")
    transposed: list[int] = []  # sizes of first factors that oneDNN would bring into order first
    original = products._onednn

    def spy(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if not a.is_contiguous():
            transposed.append(a.numel())
        return original(a, b, bias)

    monkeypatch.setattr(products, "_onednn", spy)
    network = MLP(INPUTS, (OUTPUTS, OUTPUTS, OUTPUTS), "tanh")
    features = network(torch.randn(ROWS, INPUTS))
    assert features.t().is_contiguous()
    features.square().sum().backward()
    assert transposed == [OUTPUTS * OUTPUTS] * 2  # weights


def test_exported_programs_do_not_depend_on_the_machine(onednn: bool) -> None:
    program = torch.export.export(Linear(INPUTS, OUTPUTS), (torch.randn(ROWS, INPUTS),))
    assert "mkldnn" not in program.graph_module.code
    assert "linear" in program.graph_module.code


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("processor\t: 0\nvendor_id\t: AuthenticAMD\n", True),
        ("processor\t: 0\nvendor_id\t: GenuineIntel\n", False),
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", False),  # not x86
        (None, False),
    ],
)
def test_makers_of_processors(text: str | None, others: bool, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert products._is_made_by_others(path) == others
