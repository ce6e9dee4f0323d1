"""What a model saves comes back as it was, or is refused with the reason; nothing in a file is ever run."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from camac_dra.models import (
    AttentionNetwork,
    BaseModel,
    CommunicationNetwork,
    DQNAgent,
    GraphNeuralNetwork,
    PolicyNetwork,
    QNetwork,
    ValueNetwork,
    load_model,
    with_action_head,
)
from camac_dra.models.model_file import ModelFile, read_model_file, write_model_file
from camac_dra.utils import file_handler
from camac_dra.utils.errors import CheckpointError, ConfigurationError, ModelError, OutputError

BOX = spaces.Box(-1.0, 2.0, (3,), np.float32)


class CustomModel(BaseModel):
    def __init__(self, input_size: int, output_size: int):
        super().__init__(input_size, output_size)
        self.fc1 = nn.Linear(input_size, 128)
        self.fc2 = nn.Linear(128, output_size)

    def forward(self, x):
        return self.fc2(nn.functional.relu(self.fc1(x)))


MODELS: dict[str, Any] = {
    "custom": lambda: CustomModel(6, 4),
    "value": lambda: ValueNetwork(6, hidden_sizes=(8,)),
    "value_recurrent": lambda: ValueNetwork(6, 2, hidden_sizes=(8,), recurrent_size=5),
    "q": lambda: QNetwork(6, 4, hidden_sizes=(8,), dueling=False),
    "dqn": lambda: DQNAgent(6, 4, hidden_sizes=(8,), n_step=2, double=False),
    "policy": lambda: PolicyNetwork(6, 4, hidden_sizes=(8,), activation="elu"),
    "policy_scaled": lambda: PolicyNetwork(
        6, 3, action_space=BOX, normalize_observations=True, normalize_returns=True, hidden_sizes=(8,)
    ),
    "policy_recurrent": lambda: PolicyNetwork(
        6,
        8,
        action_space=spaces.MultiDiscrete([4, 3]),
        shared_torso=True,
        recurrent_size=5,
        hidden_sizes=(8,),
    ),
    "attention": lambda: AttentionNetwork(6, 3),
    "attention_scores": lambda: AttentionNetwork(6, 2, output_size=4, hidden_sizes=(8,), width=10),
    "gnn": lambda: GraphNeuralNetwork(6, (8, 8)),
    "gnn_mean": lambda: GraphNeuralNetwork(6, (8,), 4, aggregation="mean"),
    "communication": lambda: CommunicationNetwork(6, 3, message_bits=5, hidden_sizes=(8,)),
    "communication_scores": lambda: CommunicationNetwork(6, output_size=4, hidden_sizes=(8,), width=8),
    "headed": lambda: with_action_head(AttentionNetwork(6, 3), 4, activation="tanh"),
    "headed_custom": lambda: with_action_head(CustomModel(6, 5), 4),
}
STATES = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))


def shaken(model: BaseModel) -> BaseModel:
    """Change every weight and buffer, so that none is as a new model has it."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(torch.rand(tensor.shape) * 0.3 + 0.1)
    return model


@pytest.mark.parametrize("kind", MODELS)
def test_what_was_saved_acts_exactly_alike(kind: str, tmp_path: Path) -> None:
    model, path = shaken(MODELS[kind]()), tmp_path / "new" / "model.pt"
    model.save(path)
    loaded, other = load_model(path), MODELS[kind]()
    other.load(path)
    for copy in (loaded, other):
        assert type(copy) is type(model)
        assert copy.get_config() == model.get_config()
        assert torch.equal(copy(STATES), model(STATES))
        assert torch.equal(copy.outputs(STATES), model.outputs(STATES))
        memory = torch.randn(7, model.memory_size)
        assert all(map(torch.equal, copy.step(STATES, memory), model.step(STATES, memory)))
    assert not torch.equal(MODELS[kind]()(STATES), model(STATES))
    assert os.listdir(path.parent) == ["model.pt"]


@pytest.mark.parametrize("kind", MODELS)
def test_configuration_is_that_of_the_constructor(kind: str) -> None:
    model = MODELS[kind]()
    again = type(model).from_config(model.get_config())
    assert again.get_config() == model.get_config()
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_gradients_are_finite_and_reach_all_that_acts(kind: str, scale: float) -> None:
    model = MODELS[kind]()
    model.outputs(STATES * scale).square().mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    apart = ("value.", "policy.log_std") if isinstance(model, PolicyNetwork) else ("target.",)
    acting = {name for name, _ in model.named_parameters() if not name.startswith(apart)}
    assert set(gradients) == acting
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


def test_initial_weights_come_from_the_seed_alone() -> None:
    makers: list[Any] = [
        lambda s: ValueNetwork(6, seed=s, recurrent_size=4),
        lambda s: QNetwork(6, 3, seed=s),
        lambda s: DQNAgent(6, 3, seed=s),
        lambda s: PolicyNetwork(6, 3, seed=s, shared_torso=True, recurrent_size=4),
        lambda s: AttentionNetwork(6, 3, seed=s, output_size=2),
        lambda s: GraphNeuralNetwork(6, (8,), 3, seed=s),
        lambda s: with_action_head(QNetworkBody(), 3, seed=s),
    ]
    for make in makers:
        one, same, other = (make(seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(one[key], same[key]) for key in one)
        assert any(not torch.equal(one[key], other[key]) for key in one)


class QNetworkBody(CustomModel):
    def __init__(self) -> None:
        super().__init__(6, 5)
        for tensor in self.state_dict().values():
            tensor.fill_(0.1)


# Damage


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    QNetwork(6, 4, hidden_sizes=(8,), seed=0).save(tmp_path / "model.pt")
    return tmp_path / "model.pt"


def refused(path: Path, match: str) -> None:
    """Neither way of loading takes the file, and the model stays as it was."""
    model = QNetwork(6, 4, hidden_sizes=(8,), seed=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=match):
        model.load(path)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("how", ["pickle", "torch", "in the weights", "in the configuration"])
def test_code_is_refused_and_never_run(how: str, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved.parent)
    record = torch.load(saved, weights_only=True)
    if how == "pickle":
        saved.write_bytes(pickle.dumps(Evil()))
    elif how == "torch":
        torch.save(Evil(), saved)
    elif how == "in the weights":
        torch.save({**record, "weights": {"torso": Evil()}}, saved)
    else:
        torch.save({**record, "config": {"input_size": Evil()}}, saved)
    refused(saved, r"model\.pt: holds more than plain tensors, or is damaged")
    with pytest.raises(CheckpointError, match="holds more than plain tensors"):
        load_model(saved)
    assert not (saved.parent / "pwned").exists()


def test_nothing_is_imported_because_a_file_names_it(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (saved.parent / "trojan_horse.py").write_text("import os\nos.mkdir('pwned')\nclass Model: pass\n")
    monkeypatch.syspath_prepend(saved.parent)
    monkeypatch.chdir(saved.parent)
    content = read_model_file(saved)
    for name in ("trojan_horse.Model", "os.system", "camac_dra.models.base.BaseModel"):
        write_model_file(saved, ModelFile("", name, content.config, content.weights, {}))
        with pytest.raises(CheckpointError, match=rf"class of a model must be known .*'{name}'"):
            load_model(saved)
    assert not (saved.parent / "pwned").exists()


def test_truncated_files_are_refused(saved: Path) -> None:
    data = saved.read_bytes()
    for length in (0, 1, len(data) // 2, len(data) - 1):
        saved.write_bytes(data[:length])
        refused(saved, r"model\.pt: holds more than plain tensors, or is damaged")


def test_a_flipped_bit_in_a_weight_is_seen(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    weight = QNetwork(6, 4, hidden_sizes=(8,), seed=0).state_dict()["torso.layers.0.weight"]
    at = bytes(data).index(weight.numpy().tobytes())
    data[at] ^= 1
    saved.write_bytes(data)
    refused(saved, "its SHA-256 is not the one that was written with it")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": "something"}, "must be a model that BaseModel.save wrote"),
        ({"version": 99}, r"must be of model version 1, got 99"),
        ({"config": {"input_size": 7}}, "SHA-256"),
        ({"class": "another.Class"}, "SHA-256"),
    ],
)
def test_changed_files_are_refused(change: dict[str, Any], match: str, saved: Path) -> None:
    torch.save({**torch.load(saved, weights_only=True), **change}, saved)
    refused(saved, match)


def test_foreign_files_are_refused(saved: Path, tmp_path: Path) -> None:
    torch.save({"layer": torch.zeros(3)}, saved)
    refused(saved, "must be a model that BaseModel.save wrote")
    torch.save(torch.zeros(3), saved)
    refused(saved, "must be a model that BaseModel.save wrote")
    refused(tmp_path / "none.pt", r"none\.pt: no such model file")
    refused(tmp_path, "must be a model file, got a folder")


def test_other_models_are_refused_with_both_values(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="must hold a ValueNetwork, got a QNetwork"):
        ValueNetwork(6).load(saved)
    with pytest.raises(
        CheckpointError,
        match=r"another QNetwork: input_size is 6 in the file, 9 in this model; hidden_sizes is \[8\]",
    ):
        QNetwork(9, 4, hidden_sizes=(8, 8)).load(saved)


class Grown(CustomModel):
    """As if its code had been changed after saving."""

    def __init__(self, input_size: int, output_size: int):
        super().__init__(input_size, output_size)
        self.fc3 = nn.Linear(GROWN["input"], 3)


GROWN = {"input": 3}


def test_weights_that_no_longer_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pt"
    Grown(6, 4).save(path)
    monkeypatch.setitem(GROWN, "input", 5)
    with pytest.raises(
        CheckpointError, match=r"do not fit this network: fc3\.weight must have shape \(3, 5\), got \(3, 3\)"
    ):
        load_model(path)
    model = Grown(6, 4)
    before = model.fc1.weight.clone()
    with pytest.raises(CheckpointError, match=r"fc3\.weight must have shape"):
        model.load(path)
    assert torch.equal(model.fc1.weight, before)


def test_a_failed_write_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file_handler.os, "fsync", full)
    with pytest.raises(OutputError, match="disk is full"):
        QNetwork(6, 4).save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == ["model.pt"]


# Models of one's own


class Deep(BaseModel):
    def __init__(self, input_size: int, output_size: int, depth: int) -> None:
        super().__init__(input_size, output_size)
        self.depth = depth
        self.fc = nn.Linear(input_size, output_size)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.fc(state)


class Odd(Deep):
    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "depth": np.int64(2)}


def test_incomplete_configurations_are_refused_when_saving(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"Deep.get_config must return the arguments of its constructor.*depth"
    ):
        Deep(3, 2, 1).save(tmp_path / "m.pt")
    with pytest.raises(ModelError, match=r"Odd: get_config\.depth must consist of numbers.*got int64"):
        Odd(3, 2, 1).save(tmp_path / "m.pt")
    assert not list(tmp_path.iterdir())


def test_a_model_needs_a_forward_and_sizes() -> None:
    class Incomplete(BaseModel):
        pass

    with pytest.raises(TypeError, match=r"abstract method '?forward"):
        Incomplete(3, 2)  # type: ignore[abstract]
    for sizes in ((0, 2), (3, -1), (3.0, 2), (True, 2)):
        with pytest.raises(ConfigurationError, match=r"_size must be a whole number of at least 1, got"):
            CustomModel(*sizes)  # type: ignore[arg-type]


CUSTOM_MODEL = """
from .base import BaseModel
import torch.nn as nn

class CustomModel(BaseModel):
    def __init__(self, input_size: int, output_size: int):
        super().__init__(input_size, output_size)
        self.fc1 = nn.Linear(input_size, 128)
        self.fc2 = nn.Linear(128, output_size)

    def forward(self, x):
        x = nn.functional.relu(self.fc1(x))
        return self.fc2(x)
"""

USE = """
import sys, torch
import camac_dra.models
camac_dra.models.__path__.append({folder!r})
from camac_dra.models import CustomModel, load_model
model = CustomModel(64, 10)
assert model.forward(torch.randn(1, 64)).shape == (1, 10)
model.save({folder!r} + "/saved.pt")
assert type(load_model({folder!r} + "/saved.pt")) is CustomModel
assert not any(name == "ray" for name in sys.modules)
"""


def test_a_file_put_into_the_package_is_found_by_its_class(tmp_path: Path) -> None:
    (tmp_path / "custom_model.py").write_text(CUSTOM_MODEL)
    subprocess.run([sys.executable, "-c", USE.format(folder=str(tmp_path))], check=True, timeout=120)


def test_heuristics_need_no_torch() -> None:
    code = "import sys, camac_dra.models.heuristics; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_unknown_names_are_no_attributes() -> None:
    import camac_dra.models

    for name in ("NoSuchModel", "no_such_function", "A" * 60 + "_"):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
            getattr(camac_dra.models, name)
    for name in camac_dra.models.__all__:
        assert getattr(camac_dra.models, name).__name__ == name


def test_training_state_is_kept(tmp_path: Path) -> None:
    agent = DQNAgent(6, 4, hidden_sizes=(8,), seed=0, target_update_freq=7)
    rng = np.random.default_rng(0)
    for _ in range(20):
        agent.update(rng.normal(size=6), int(rng.integers(4)), rng.normal(), rng.normal(size=6), False)
    agent.update(rng.normal(size=6), 0, 1.0, rng.normal(size=6), True)
    agent.save(tmp_path / "dqn.pt")
    copy = load_model(tmp_path / "dqn.pt")
    assert isinstance(copy, DQNAgent)
    assert (copy.updates, copy.epsilon) == (21, 0.995)
    agent.load(tmp_path / "dqn.pt")  # forgets what is not saved
    more = [
        (rng.normal(size=6), int(rng.integers(4)), rng.normal(), rng.normal(size=6), False) for _ in range(9)
    ]
    assert [agent.update(*step) for step in more] == [copy.update(*step) for step in more]
    assert [agent.select_action(s, 0.5) for s, *_ in more] == [copy.select_action(s, 0.5) for s, *_ in more]
