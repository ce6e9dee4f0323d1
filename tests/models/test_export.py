"""Exported programs compute what the models do, for any number of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from camac_dra.models import BaseModel, PolicyNetwork, export, export_model, make_model, with_action_head
from camac_dra.models.attention_network import AttentionNetwork
from camac_dra.utils.errors import ModelError

CASES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "dqn": (lambda: make_model("dqn", 6, 4, hidden_sizes=(8,)), (6,)),
    "policy": (
        lambda: PolicyNetwork(6, 4, hidden_sizes=(8,), activation="tanh", normalize_observations=True),
        (6,),
    ),
    "attention": (lambda: make_model("attention", 6, 4, num_heads=3), (5, 7)),
    "gnn": (lambda: make_model("gnn", 6, 4), (5, 7)),
    "gnn_mean": (lambda: make_model("gnn", 6, 4, aggregation="mean", activation="elu"), (5, 7)),
    "communication": (lambda: make_model("communication", 6, 4, message_bits=3), (5, 7)),
    "headed": (lambda: with_action_head(AttentionNetwork(6, 3), 4), (6,)),
}


@pytest.mark.parametrize("kind", CASES)
def test_programs_compute_what_models_do(kind: str, tmp_path: Path) -> None:
    make, shape = CASES[kind]
    model, path = make(), tmp_path / "model.pt2"
    export_model(model, path, shape)
    program = torch.export.load(path).module()
    for rows in (1, 2, 5, 33):
        observations = torch.randn(rows, *shape)
        torch.testing.assert_close(program(observations), model.outputs(observations), rtol=1e-5, atol=1e-5)
    assert model.training


def test_memory_is_not_exported(tmp_path: Path) -> None:
    model = PolicyNetwork(6, 4, shared_torso=True, recurrent_size=5)
    with pytest.raises(ModelError, match="must have no memory to be exported, got 5 remembered numbers"):
        export_model(model, tmp_path / "model.pt2")


class Undecided(BaseModel):
    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return state * 2 if state.sum() > 0 else state


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model cannot be exported: "):
        export_model(Undecided(6, 6), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_programs_that_compute_something_else_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_model("q", 6, 4, seed=1)
    monkeypatch.setattr(
        export,
        "_exported",
        lambda module, example: torch.export.export(
            other, (example,), dynamic_shapes=({0: torch.export.Dim("rows")},)
        ),
    )
    with pytest.raises(
        ModelError, match="exported program must compute what the model does, got a difference"
    ):
        export_model(make_model("q", 6, 4, seed=2), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())
