"""Matrix products of fully connected layers, with the fastest of the libraries that torch brings along.

On x86 torch multiplies float32 with Intel's MKL, which leaves half of the vector units of other makers'
processors idle. oneDNN, which torch contains as well, uses all of them: 2.2 times as fast on an EPYC of 2024.
It costs ten microseconds more per call, so that small products stay where they are.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

LEAST_WORK = 2**21  # multiply-adds from which on the faster product makes up for the dearer call
CPU_INFO = Path("/proc/cpuinfo")


@cache
def onednn_is_faster() -> bool:
    """Whether large float32 products are faster with oneDNN than with torch's own choice.

    It depends on the machine alone, never on a measurement: the same machine always computes the same.
    """
    available = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return (
        available
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and _is_made_by_others(CPU_INFO)
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _is_made_by_others(cpu_info: Path) -> bool:
    """Whether the processor is known not to be Intel's."""
    try:
        lines = cpu_info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    makers = {line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")}
    return bool(makers) and "GenuineIntel" not in makers


def product(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``a @ b.T + bias`` (m, n) for ``a`` (m, k), ``b`` (n, k) and ``bias`` (n,); views will do."""
    if not _suits_onednn(a, b):
        return functional.linear(a, b, bias)
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        return _Product.apply(a, b, bias)  # type: ignore[no-any-return]
    return _onednn(a, b, bias)


def affine_by_column(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return ``weight @ x.T + bias[:, None]`` (n, rows), in this order in memory, for ``x`` (rows, k).

    Its gradient by ``x`` has the order in memory that a layer before it takes best. A stack of such layers
    never transposes anything large, which oneDNN does with one thread only.
    """
    if not _suits_onednn(weight, x):
        return torch.addmm(bias[:, None], weight, x.t())
    return product(weight, x).add_(bias[:, None])


class Linear(nn.Linear):
    """`torch.nn.Linear` with the fastest product."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (torch's name)
        """Map (..., inputs) to (..., outputs)."""
        if input.ndim == 2 or torch.compiler.is_compiling():
            return product(input, self.weight, self.bias)
        rows = product(input.reshape(-1, self.in_features), self.weight, self.bias)
        return rows.reshape(*input.shape[:-1], self.out_features)


def _suits_onednn(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()  # exported models must not depend on this machine
        and a.shape[0] * b.numel() >= LEAST_WORK
        and a.dtype == torch.float32
        and a.device.type == "cpu"
        and onednn_is_faster()
    )


def _onednn(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return ``a @ b.T + bias`` (m, n) for ``a`` (m, k) and ``b`` (n, k), which may be transposed views.

    Contract with torch 2.13: the operation is what torch's compiler calls for a linear layer on a CPU.
    """
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")  # type: ignore[no-any-return]


class _Product(torch.autograd.Function):
    """``a @ b.T`` and its gradients, by the same products; ``bias`` is added to every row."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Return (m, n) for ``a`` (m, k) and ``b`` (n, k)."""
        ctx.save_for_backward(a, b)
        return _onednn(a, b, bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Return the gradients by ``a``, ``b`` and ``bias``, where they are needed.

        That by ``b`` is computed as its transpose, whose products read ``grad`` as it lies in memory.
        """
        a, b = ctx.saved_tensors
        by_a, by_b, by_bias = ctx.needs_input_grad
        grad = grad.contiguous()
        return (
            _onednn(grad, b.t(), None) if by_a else None,
            _onednn(a.t(), grad.t(), None).t() if by_b else None,
            grad.sum(0) if by_bias else None,
        )
