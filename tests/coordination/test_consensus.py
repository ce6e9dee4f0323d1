"""Weights of average consensus and how fast they contract."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camac_dra.coordination.consensus import (
    KINDS,
    consensus_weights,
    contraction,
    delayed_contraction,
    rounds_until,
    sparse_consensus_weights,
    walk_contraction,
)
from camac_dra.environment.topology import Topology
from camac_dra.utils.errors import TopologyError


def names(size: int) -> list[str]:
    return [f"agent_{i}" for i in range(size)]


def ring(size: int) -> Topology:
    return Topology.generate("ring", names(size))


def path(size: int) -> Topology:
    agents = names(size)
    return Topology(agents, list(itertools.pairwise(agents)))


def seen_contraction(weights: np.ndarray, rounds: int = 400) -> float:
    """Return the factor by which a generic deviation shrinks in the last of many rounds."""
    values = np.random.default_rng(0).standard_normal(len(weights))
    values -= values.mean()
    for _ in range(rounds):
        before = np.linalg.norm(values)
        values = weights @ (values / before)
        values -= values.mean()
    return float(np.linalg.norm(values))


def test_weights_of_a_path_of_three_by_hand() -> None:
    metropolis = [[2 / 3, 1 / 3, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1 / 3, 2 / 3]]
    np.testing.assert_allclose(consensus_weights(path(3)), metropolis)
    local = [[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    np.testing.assert_allclose(consensus_weights(path(3), "local_degree"), local)
    np.testing.assert_allclose(consensus_weights(path(3), "max_degree"), local)
    # The Laplacian's eigenvalues are 0, 1 and 3, so that edges weigh 2 / 4.
    np.testing.assert_allclose(consensus_weights(path(3), "best_constant"), local)


def test_weights_differ_where_degrees_do() -> None:
    star = Topology.generate("star", names(4))
    np.testing.assert_allclose(consensus_weights(star)[0], [0.25] * 4)
    np.testing.assert_allclose(consensus_weights(star, "local_degree")[0], [0, 1 / 3, 1 / 3, 1 / 3])
    lopsided = Topology(
        names(4),
        [("agent_0", "agent_1"), ("agent_1", "agent_2"), ("agent_1", "agent_3"), ("agent_2", "agent_3")],
    )
    weights = consensus_weights(lopsided)
    assert weights[2, 3] == pytest.approx(1 / 3)
    assert weights[1, 2] == pytest.approx(1 / 4)
    assert consensus_weights(lopsided, "max_degree")[2, 3] == pytest.approx(1 / 3)
    assert consensus_weights(lopsided, "local_degree")[2, 3] == pytest.approx(1 / 2)


@given(
    size=st.integers(1, 12), seed=st.integers(0, 2**16), kind=st.sampled_from(KINDS), density=st.floats(0, 1)
)
def test_weights_keep_the_mean_and_live_on_edges(size: int, seed: int, kind: str, density: float) -> None:
    rng = np.random.default_rng(seed)
    agents = names(size)
    pairs = [(agents[i], agents[j]) for i in range(size) for j in range(i) if rng.random() < density]
    topology = Topology(agents, pairs)
    weights = consensus_weights(topology, kind)
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, atol=1e-12)
    np.testing.assert_allclose(weights, weights.T, atol=1e-12)
    others = weights - np.diag(np.diag(weights))
    assert ((others > 0.0) <= (topology.adjacency().toarray() > 0.0)).all()
    assert 0.0 <= contraction(weights) <= 1.0
    if kind == "metropolis":
        assert (np.diag(weights) > 0.0).all()
        assert contraction(weights) < 1.0 - 1e-9 or not topology.is_connected() or size == 1


FIXED = {
    "ring of 10": (
        ring(10),
        {"metropolis": (1 + 2 * np.cos(np.pi / 5)) / 3, "local_degree": 1.0, "max_degree": 1.0},
    ),
    "ring of 7": (
        ring(7),
        {"metropolis": (1 + 2 * np.cos(2 * np.pi / 7)) / 3, "local_degree": np.cos(np.pi / 7)},
    ),
    "complete of 6": (
        Topology.generate("fully_connected", names(6)),
        {"metropolis": 0.0, "best_constant": 0.0},
    ),
    "star of 5": (Topology.generate("star", names(5)), {"metropolis": 0.8, "best_constant": 2 / 3}),
    "path of 3": (path(3), {"metropolis": 2 / 3, "best_constant": 0.5}),
}


@pytest.mark.parametrize(("graph", "kind"), [(g, k) for g, (_, known) in FIXED.items() for k in known])
def test_contraction_on_fixed_graphs(graph: str, kind: str) -> None:
    topology, known = FIXED[graph]
    weights = consensus_weights(topology, kind)
    assert contraction(weights) == pytest.approx(known[kind], abs=1e-9)
    if 0.0 < known[kind] < 1.0:
        assert seen_contraction(weights) == pytest.approx(known[kind], abs=5e-4)


def test_no_constant_is_better_than_the_best() -> None:
    topology = Topology.generate("random", names(12))
    best = contraction(consensus_weights(topology, "best_constant"))
    laplacian = np.diag(topology.degree) - topology.adjacency().toarray()
    others = [contraction(np.eye(12) - share * laplacian) for share in np.linspace(0.01, 0.4, 100)]
    assert best <= min(others) + 1e-9
    assert min(others) < best + 0.01


@pytest.mark.parametrize("kind", ["metropolis", "best_constant"])
def test_large_graphs_are_kept_sparse(kind: str) -> None:
    grid = Topology.generate("grid", names(1056))
    weights = sparse_consensus_weights(grid, kind)
    assert weights.nnz <= 5 * 1056
    moduli = np.sort(np.abs(np.linalg.eigvalsh(weights.toarray())))
    assert contraction(weights) == pytest.approx(moduli[-2], abs=1e-6)
    if kind == "best_constant":
        laplacian = np.linalg.eigvalsh(np.diag(grid.degree) - grid.adjacency().toarray())
        assert weights[0, 1] == pytest.approx(2.0 / (laplacian[-1] + laplacian[1]), abs=1e-6)


def test_parts_of_a_graph_never_meet() -> None:
    apart = Topology(names(4), [("agent_0", "agent_1"), ("agent_2", "agent_3")])
    assert contraction(consensus_weights(apart)) == pytest.approx(1.0)
    assert rounds_until(1.0, 1e-3) is None


def test_rounds_leave_no_more_than_the_error() -> None:
    assert rounds_until(0.0, 1e-3) == 1
    assert rounds_until(0.5, 1e-3) == 10
    assert 0.9 ** rounds_until(0.9, 1e-3) <= 1e-3 < 0.9 ** (rounds_until(0.9, 1e-3) - 1)  # type: ignore[operator]


def test_a_walk_knows_how_well_a_graph_spreads() -> None:
    assert walk_contraction(ring(10)) == pytest.approx(0.5 + 0.5 * np.cos(np.pi / 5))
    assert walk_contraction(Topology.generate("fully_connected", names(5))) == pytest.approx(0.5 - 0.5 / 4)
    star = Topology.generate("star", names(1100))
    assert walk_contraction(star) == pytest.approx(0.5, abs=1e-6)
    assert walk_contraction(Topology(["only"])) == 0.0


def test_delays_slow_down_by_what_is_on_its_way() -> None:
    kept, delay = 0.5, 2
    weights = 0.5 * (np.eye(9) + consensus_weights(ring(9)))
    off = weights - np.diag(np.diag(weights))
    kept = float(weights[0, 0])
    size = len(weights)
    whole = np.zeros(((delay + 1) * size,) * 2)  # values of now and of the rounds before
    whole[:size, :size], whole[:size, -size:] = kept * np.eye(size), off
    whole[size:, :-size] = np.eye(delay * size)
    moduli = np.sort(np.abs(np.linalg.eigvals(whole)))
    assert moduli[-1] == pytest.approx(1.0)
    planned = delayed_contraction(contraction(weights), kept, delay)
    assert moduli[-2] - 1e-9 <= planned < 1.0
    assert delayed_contraction(0.7, 0.5, 0) == 0.7


def test_bad_input_is_named() -> None:
    with pytest.raises(
        TopologyError, match=r"kind must be one of metropolis, .* got 'metropols'\. Did you mean"
    ):
        consensus_weights(ring(4), "metropols")
    with pytest.raises(TopologyError, match=r"symmetric matrix \(N, N\), got shape \(2, 3\)"):
        contraction(np.ones((2, 3)))
    with pytest.raises(TopologyError, match=r"symmetric matrix"):
        contraction(np.array([[0.5, 0.5], [0.0, 1.0]]))
    with pytest.raises(TopologyError, match="2000 agents or fewer"):
        sparse_consensus_weights(Topology.generate("fully_connected", names(2001)))
