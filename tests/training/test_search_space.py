"""Search spaces: what is drawn, and what is refused with file and setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.tune.search.variant_generator import generate_variants

from camac_dra.training import search_space
from camac_dra.training.search_space import described, num_grid_points, read_space
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema import Config

SPACE = """
model.learning_rate: {loguniform: [1e-4, 1e-2]}
training.entropy_coeff: {uniform: [0.0, 0.02]}
training.num_epochs: {randint: [2, 4]}
model.hidden_sizes: {choice: [[16], [32, 32]]}
model.gamma: {grid: [0.9, 0.95]}
training.normalize_returns: {grid: [true, false]}
"""


def space_of(folder: Path, text: str) -> dict[str, Any]:
    path = folder / "space.yaml"
    path.write_text(text)
    return read_space(path, Config())


def test_what_is_drawn_lies_where_the_file_says(tmp_path: Path) -> None:
    space = space_of(tmp_path, SPACE)
    assert num_grid_points(space) == 4
    drawn = [
        found
        for _ in range(50)
        for _, found in generate_variants(space, random_state=np.random.default_rng(0))
    ]
    assert len(drawn) == 200
    assert {found["training.num_epochs"] for found in drawn} == {2, 3, 4}
    assert {tuple(found["model.hidden_sizes"]) for found in drawn} == {(16,), (32, 32)}
    rates = [found["model.learning_rate"] for found in drawn]
    assert 1e-4 <= min(rates) < 5e-4
    assert 5e-3 < max(rates) <= 1e-2
    assert min(found["training.entropy_coeff"] for found in drawn) >= 0.0
    pairs = {(found["model.gamma"], found["training.normalize_returns"]) for found in drawn[:4]}
    assert len(pairs) == 4


def test_the_space_that_comes_with_the_project_is_valid(root: Path) -> None:
    assert read_space(root / "experiments" / "spaces" / "default.yaml", Config())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.learning_rat: {uniform: [0.1, 0.2]}", "model.learning_rat: is not a setting"),
        ("model.gamma: {uniform: [0.9, 1.5]}", r"model.gamma: must be .* got 1.5"),
        ("model.gamma: {uniforn: [0.9, 1.0]}", "must be one of uniform, .* got 'uniforn'.*'uniform'"),
        ("model.gamma: 0.9", r"space.yaml: model.gamma: must be one of uniform, .* got 0.9"),
        ("model.gamma: {uniform: [0.9]}", r"model.gamma: uniform needs two rising numbers, got \[0.9\]"),
        ("model.gamma: {uniform: [0.9, 0.8]}", "uniform needs two rising numbers"),
        ("training.num_epochs: {randint: [1, 2.5]}", "randint needs two rising whole numbers"),
        ("training.entropy_coeff: {loguniform: [0.0, 1.0]}", "loguniform needs numbers above 0"),
        ("model.gamma: {choice: []}", "choice needs a list of values"),
        ("training.name: {choice: [a, b]}", "training.name: is set by the search itself"),
        ("model.type: {choice: [sac]}", "contradict .*; with model.type 'sac': .*needs continuous actions"),
        (
            "model.type: {choice: [actor_critic, dqn]}\nmodel.recurrent_size: {choice: [8]}",
            "contradict .*; with model.type 'dqn', model.recurrent_size 8: .* acts only with type",
        ),
        (
            "model.type: {grid: [dqn]}\nmodel.recurrent_size: {randint: [4, 8]}",
            "with model.type 'dqn', model.recurrent_size 4: .* acts only with",
        ),
    ],
)
def test_what_is_wrong_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        space_of(tmp_path, text)


def test_of_many_combinations_some_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Config] = []
    monkeypatch.setattr(search_space, "prove", tried.append)
    lists = {"model.gamma": 5, "training.gae_lambda": 5, "model.learning_rate": 5}
    text = "".join(f"{name}: {{choice: {[0.1 + i / 10 for i in range(n)]}}}\n" for name, n in lists.items())
    space_of(tmp_path, text)
    seen = {(config.model.gamma, config.model.learning_rate) for config in tried}
    assert len(tried) == len(seen), "nothing is built twice for what training alone has"
    assert 10 < len(seen) <= 25


def test_domains_are_described_apart(tmp_path: Path) -> None:
    texts = ["uniform: [0.1, 0.2]", "loguniform: [0.1, 0.2]", "choice: [0.1, 0.2]", "grid: [0.1, 0.2]"]
    texts += ["uniform: [0.1, 0.25]", "choice: [0.1, 0.25]", "grid: [0.1, 0.25]"]
    first, again = ([described(space_of(tmp_path, f"model.gamma: {{{t}}}")) for t in texts] for _ in "ab")
    assert first == again
    assert len({words["model.gamma"] for words in first}) == len(texts)
