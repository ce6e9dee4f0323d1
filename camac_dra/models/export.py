"""Models as programs that run without this package, by ``torch.export``."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import nn

from camac_dra.models.base import BaseModel
from camac_dra.utils.errors import ModelError
from camac_dra.utils.file_handler import StrPath, atomic_write_bytes

TOLERANCE = 1e-5  # absolute and relative, of float32 outputs
ROWS = 3  # of the example; any number above 1 would do


class _Outputs(nn.Module):
    """What is exported: observations in, outputs out."""

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.model.outputs(observations)


def export_model(model: BaseModel, path: StrPath, observation_shape: tuple[int, ...] | None = None) -> None:
    """Write ``model.outputs`` as a program of ``torch.export`` (.pt2), for any number of rows.

    ``observation_shape`` is that of one observation, (input_size,) unless given. The program maps float32
    observations (rows, *observation_shape) to (rows, output_size); ``torch.export.load(path).module()`` runs
    it. Before anything is written it is compared with the model on random observations.

    Raises:
        ModelError: the model has memory, cannot be exported, or the program computes something else.
        OutputError: it cannot be written there, or the disk is full.
    """
    if model.memory_size:
        raise ModelError(
            f"model must have no memory to be exported, got {model.memory_size} remembered numbers"
        )
    shape = (model.input_size,) if observation_shape is None else tuple(observation_shape)
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(ROWS, *shape, generator=generator)
    module = _Outputs(model)
    was_training = model.training
    module.eval()
    try:
        with torch.no_grad():
            program = _exported(module, example)
            other = torch.randn(2 * ROWS + 1, *shape, generator=generator)
            _compare(program.module()(other), module(other))
    finally:
        model.train(was_training)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    atomic_write_bytes(path, buffer.getvalue())


def _exported(module: nn.Module, example: torch.Tensor) -> Any:
    rows = torch.export.Dim("rows", min=1)
    try:
        return torch.export.export(module, (example,), dynamic_shapes=({0: rows},))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"model cannot be exported: {error}") from error


def _compare(got: torch.Tensor, expected: torch.Tensor) -> None:
    if got.shape != expected.shape or not torch.allclose(got, expected, TOLERANCE, TOLERANCE, equal_nan=True):
        raise ModelError(
            "exported program must compute what the model does, got a difference of up to "
            f"{(got - expected).abs().max().item() if got.shape == expected.shape else got.shape}"
        )
