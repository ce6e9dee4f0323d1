"""The sum tree against a plain list of weights."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from camac_dra.training.sum_tree import SumTree

WEIGHTS = st.lists(st.integers(0, 50).map(lambda n: n / 4), min_size=1, max_size=40)


@given(WEIGHTS, st.data())
def test_it_finds_the_leaf_whose_stretch_a_mass_lies_in(weights: list[float], data: st.DataObject) -> None:
    tree = SumTree(len(weights))
    tree.set(np.arange(len(weights)), np.array(weights))
    changed = data.draw(st.lists(st.integers(0, len(weights) - 1), max_size=5, unique=True))
    for leaf in changed:
        weights[leaf] = 3.0
    tree.set(np.array(changed, int), np.full(len(changed), 3.0))
    assert tree.total == sum(weights)
    np.testing.assert_array_equal(tree.get(np.arange(len(weights))), weights)
    if tree.total > 0:
        masses = np.array(data.draw(st.lists(st.floats(0, 1, exclude_max=True), max_size=20))) * tree.total
        expected = np.searchsorted(np.cumsum(weights), masses, side="right")
        np.testing.assert_array_equal(tree.find(masses), expected)


@given(st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=60), st.integers(0, 2**32 - 1))
def test_rounded_sums_never_lead_to_a_leaf_without_weight(weights: list[float], seed: int) -> None:
    tree, rng = SumTree(2 * len(weights)), np.random.default_rng(seed)
    leaves = rng.permutation(2 * len(weights))[: len(weights)]
    tree.set(leaves, np.array(weights))
    edge = np.nextafter(tree.total, 0.0)
    found = tree.find(np.append(rng.random(200) * tree.total, [0.0, edge, tree.total]))
    assert set(found.tolist()) <= set(leaves.tolist())


def test_the_last_weight_of_a_leaf_given_twice_counts() -> None:
    tree = SumTree(3)
    tree.set(np.array([1, 1, 2]), np.array([5.0, 2.0, 1.0]))
    assert (tree.total, tree.get(np.array([0, 1, 2])).tolist()) == (3.0, [0.0, 2.0, 1.0])
    assert tree.nbytes == 2 * 4 * 8


def test_a_single_leaf_is_a_tree() -> None:
    tree = SumTree(1)
    tree.set(np.array([0]), np.array([2.0]))
    assert tree.find(np.array([0.0, 1.9])).tolist() == [0, 0]
