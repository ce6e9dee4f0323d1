from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camac_dra.environment import graph_diameter
from camac_dra.environment.topology import Topology
from camac_dra.utils.errors import TopologyError
from camac_dra.utils.schema.environment import TopologyOptions

GENERATED = ["fully_connected", "ring", "grid", "random", "star", "tree", "geometric"]


def names(count: int) -> list[str]:
    return [f"agent_{i}" for i in range(count)]


def options(**changes: Any) -> TopologyOptions:
    return TopologyOptions(**changes)


def test_neighbours_come_in_the_agents_order_whatever_the_order_of_the_edges() -> None:
    topology = Topology(["b", "a", "c"], [("c", "b", 2.0), ("a", "b")])
    assert topology.get_neighbors("b") == ["a", "c"]
    assert topology.get_neighbors("a") == ["b"]
    assert topology.edges.tolist() == [[0, 1], [0, 2]]
    assert topology.weights.tolist() == [1.0, 2.0]
    assert topology.degree.tolist() == [2, 1, 1]
    assert topology.max_weight == 2.0


def test_add_edge_connects_and_replaces_weights_after_arrays_were_read() -> None:
    topology = Topology(names(4), [("agent_0", "agent_1"), ("agent_2", "agent_3")])
    assert not topology.is_connected()
    topology.add_edge("agent_2", "agent_1", 3.0)
    assert topology.is_connected()
    assert topology.get_diameter() == 3
    topology.add_edge("agent_1", "agent_2", 0.5)
    assert topology.num_edges == 3
    assert topology.graph.edges["agent_1", "agent_2"]["weight"] == 0.5


def test_edges_of_weight_zero_connect() -> None:
    topology = Topology(names(3), [("agent_0", "agent_1", 0), ("agent_1", "agent_2", 0.0)])
    assert topology.is_connected()
    assert topology.get_diameter() == 2
    index, weight = topology.neighbor_arrays()
    assert index.tolist() == [[1, -1], [0, 2], [1, -1]]
    assert not weight.any()


def test_the_diameter_of_separate_parts_is_refused() -> None:
    with pytest.raises(TopologyError, match="needs a connected topology"):
        Topology(names(2)).get_diameter()


@pytest.mark.parametrize(
    ("connections", "message"),
    [
        ([("agent_0",)], r"tuple \(a, b\) or \(a, b, weight\), got \('agent_0',\)"),
        (["agent_0"], r"must be a tuple"),
        ([("agent_0", "agent_9")], r"got 'agent_9'\. Did you mean 'agent_"),
        ([("agent_1", "agent_1")], "two different agents, got 'agent_1' twice"),
        ([("agent_0", "agent_1", -1.0)], "finite number, zero or more, got -1.0"),
        ([("agent_0", "agent_1", float("nan"))], "got nan"),
        ([("agent_0", "agent_1", float("inf"))], "got inf"),
        ([("agent_0", "agent_1", "far")], "got 'far'"),
        ([("agent_0", "agent_1", 1.0), ("agent_1", "agent_0", 2.0)], "one weight, got 1 and 2"),
    ],
)
def test_bad_connections_are_named(connections: list, message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        Topology(names(3), connections)


def test_bad_agents_are_named() -> None:
    with pytest.raises(TopologyError, match="at least one name"):
        Topology([])
    with pytest.raises(TopologyError, match="'a' at positions 0 and 2"):
        Topology(["a", "b", "a"])
    with pytest.raises(TopologyError, match="got 3 at position 1"):
        Topology(["a", 3])  # type: ignore[list-item]
    with pytest.raises(TopologyError, match=r"'agent_x'\. Did you mean"):
        Topology(names(3)).get_neighbors("agent_x")
    with pytest.raises(TopologyError, match=r"got 'rnig'\. Did you mean 'ring'"):
        Topology.generate("rnig", names(3))


def test_ring_star_tree_and_grid_are_the_textbook_graphs() -> None:
    agents = names(7)
    relabel = dict(enumerate(agents))
    for kind, expected in [
        ("ring", nx.cycle_graph(7)),
        ("star", nx.star_graph(6)),
        ("tree", nx.full_rary_tree(2, 7)),
        ("fully_connected", nx.complete_graph(7)),
    ]:
        made = Topology.generate(kind, agents).graph
        assert nx.utils.edges_equal(made.edges, nx.relabel_nodes(expected, relabel).edges), kind
    grid = Topology.generate("grid", names(9))
    square = nx.convert_node_labels_to_integers(nx.grid_2d_graph(3, 3))
    assert nx.utils.edges_equal(grid.graph.edges, nx.relabel_nodes(square, dict(enumerate(names(9)))).edges)
    assert Topology.generate("tree", agents, options(branching=3)).get_neighbors("agent_0") == agents[1:4]


@pytest.mark.parametrize("kind", GENERATED)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 10, 37])
def test_generated_graphs_are_connected_reproducible_and_weighted(kind: str, count: int) -> None:
    wanted = options(edge_probability=0.05, radius=0.1, edge_weight=2.5, seed=3)
    topology = Topology.generate(kind, names(count), wanted)
    again = Topology.generate(kind, names(count), wanted)
    assert topology.is_connected()
    assert np.array_equal(topology.edges, again.edges)
    assert (topology.weights == 2.5).all()
    assert (topology.edges[:, 0] < topology.edges[:, 1]).all()
    assert topology.get_diameter() == nx.diameter(topology.graph)
    assert topology.is_complete == (topology.num_edges == count * (count - 1) // 2)


def test_random_graphs_hold_the_ring_and_about_the_asked_share_of_the_other_edges() -> None:
    count, probability = 400, 0.1
    topology = Topology.generate("random", names(count), options(edge_probability=probability, seed=1))
    present = topology.adjacency().toarray().astype(bool)
    assert all(present[i, (i + 1) % count] for i in range(count))
    others = topology.num_edges - count
    trials = count * (count - 1) / 2 - count
    assert abs(others - trials * probability) < 5 * np.sqrt(trials * probability * (1 - probability))
    other = Topology.generate("random", names(count), options(edge_probability=probability, seed=2))
    assert not np.array_equal(topology.edges, other.edges)
    assert Topology.generate("random", names(20), options(edge_probability=0.0)).num_edges == 20
    assert Topology.generate("random", names(20), options(edge_probability=1.0)).is_complete


def test_random_graphs_draw_every_pair_equally_often() -> None:
    hits = sum(
        Topology.generate("random", names(8), options(edge_probability=0.5, seed=seed)).adjacency().toarray()
        for seed in range(600)
    )
    chords = [hits[i, j] for i in range(8) for j in range(i + 2, 8) if (i, j) != (0, 7)]
    assert min(chords) > 230
    assert max(chords) < 370


@settings(max_examples=60, deadline=None)
@given(count=st.integers(2, 40), radius=st.floats(0.01, 0.6), seed=st.integers(0, 1000))
def test_geometric_graphs_are_what_brute_force_makes_of_their_positions(
    count: int, radius: float, seed: int
) -> None:
    topology = Topology.generate("geometric", names(count), options(radius=radius, seed=seed))
    positions = topology.positions
    assert positions is not None
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    expected = nx.Graph((i, j) for i in range(count) for j in range(i) if distance[i, j] <= radius)
    expected.add_nodes_from(range(count))
    while not nx.is_connected(expected):
        part = {
            node: number for number, nodes in enumerate(nx.connected_components(expected)) for node in nodes
        }
        apart = [(i, j) for i in range(count) for j in range(i) if part[i] != part[j]]
        expected.add_edge(*min(apart, key=lambda pair: distance[pair]))
    assert {tuple(sorted(edge)) for edge in expected.edges} == {
        tuple(edge) for edge in topology.edges.tolist()
    }


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_the_diameter_is_the_one_of_networkx_by_either_search(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 30))
    parents = [data.draw(st.integers(0, child - 1)) for child in range(1, count)]
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(
        lambda pair: pair[0] != pair[1]
    )
    extra = data.draw(st.lists(pairs, max_size=20))
    agents = names(count)
    edges = [(agents[a], agents[b]) for a, b in [*zip(parents, range(1, count), strict=True), *extra]]
    topology = Topology(agents, edges)
    expected = nx.diameter(topology.graph)
    assert topology.get_diameter() == expected
    assert graph_diameter.hop_diameter(topology.adjacency()) == expected
    assert graph_diameter._bit_parallel(topology.adjacency(), np.arange(count)) == expected


def test_one_bfs_at_a_time_finds_the_diameter_where_it_is_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_diameter, "_WORDS_PER_STEP", 0)
    monkeypatch.delattr(graph_diameter, "_bit_parallel")
    for seed in range(20):
        topology = Topology.generate("random", names(60), options(edge_probability=0.03, seed=seed))
        assert topology.get_diameter() == nx.diameter(topology.graph)


def test_neighbor_arrays_pad_and_keep_the_nearest() -> None:
    connections = [("agent_0", "agent_1", 5.0), ("agent_0", "agent_2", 1.0), ("agent_0", "agent_3", 2.0)]
    topology = Topology(names(4), connections)
    index, weight = topology.neighbor_arrays()
    assert index.tolist() == [[1, 2, 3], [0, -1, -1], [0, -1, -1], [0, -1, -1]]
    assert weight[0].tolist() == [5.0, 1.0, 2.0]
    assert index.dtype == np.int64
    index, weight = topology.neighbor_arrays(2)
    assert index.tolist() == [[2, 3], [0, -1], [0, -1], [0, -1]]
    assert weight.tolist() == [[1.0, 2.0], [5.0, 0.0], [1.0, 0.0], [2.0, 0.0]]
    index, _ = topology.neighbor_arrays(5)
    assert index.shape == (4, 5)
    with pytest.raises(TopologyError, match="max_neighbors must be at least 1, got 0"):
        topology.neighbor_arrays(0)


@pytest.mark.parametrize("most", [None, 1, 3, 8, 20])
def test_implicit_and_explicit_complete_graphs_give_the_same_arrays(most: int | None) -> None:
    agents = names(9)
    implicit = Topology.generate("fully_connected", agents, options(edge_weight=1.5))
    explicit = Topology(agents, [(a, b, 1.5) for i, a in enumerate(agents) for b in agents[:i]])
    assert explicit.is_complete
    for ours, theirs in zip(implicit.neighbor_arrays(most), explicit.neighbor_arrays(most), strict=True):
        assert np.array_equal(ours, theirs)
    assert np.array_equal(implicit.adjacency().toarray(), explicit.adjacency().toarray())
    assert implicit.get_neighbors("agent_4") == explicit.get_neighbors("agent_4")
    assert implicit.degree.tolist() == explicit.degree.tolist()
    heard_by = np.bincount(implicit.neighbor_arrays(3)[0].ravel(), minlength=9)
    assert heard_by.tolist() == [3] * 9


def test_large_complete_graphs_stay_implicit_and_say_so() -> None:
    topology = Topology.generate("fully_connected", names(10_000))
    assert topology.is_complete
    assert topology.is_connected()
    assert topology.get_diameter() == 1
    assert topology.num_edges == 49_995_000
    assert len(topology.get_neighbors("agent_7")) == 9_999
    assert topology.neighbor_arrays(4)[0][9_999].tolist() == [0, 1, 2, 3]
    topology.add_edge("agent_0", "agent_1", 1.0)  # it is there already
    for use in (
        topology.neighbor_arrays,
        topology.adjacency,
        lambda: topology.edges,
        lambda: topology.add_edge("agent_0", "agent_1", 2.0),
    ):
        with pytest.raises(TopologyError, match="agents"):
            use()


def test_a_complete_graph_may_get_edges_with_weights_of_their_own() -> None:
    topology = Topology.generate("fully_connected", names(4))
    topology.add_edge("agent_3", "agent_1", 7.0)
    assert topology.is_complete
    assert topology.max_weight == 7.0
    assert topology.neighbor_arrays()[1][1].tolist() == [1.0, 1.0, 7.0]


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("ring", {}),
        ("grid", {}),
        ("random", {"edge_probability": 0.001}),
        ("tree", {}),
        ("geometric", {"radius": 0.005}),
    ],
)
def test_ten_thousand_agents_are_no_trouble(kind: str, wanted: dict) -> None:
    topology = Topology.generate(kind, names(10_000), options(**wanted))
    assert topology.is_connected()
    index, _ = topology.neighbor_arrays()
    assert (index >= 0).sum() == 2 * topology.num_edges
    if kind in ("ring", "grid", "tree"):
        assert topology.get_diameter() == {"ring": 5000, "grid": 198, "tree": 25}[kind]


def test_graphs_too_large_to_hold_are_refused_before_they_are_made() -> None:
    for kind in ("random", "geometric"):
        with pytest.raises(TopologyError, match="at most 20,000,000 edges"):
            Topology.generate(kind, names(20_000))
    star = Topology.generate("star", names(10_000))
    with pytest.raises(TopologyError, match="at most 20,000,000 cells"):
        star.neighbor_arrays()
    assert star.get_diameter() == 2


def write_graphml(path: Path, graph: nx.Graph) -> TopologyOptions:
    nx.write_graphml(graph, path)
    return options(file=str(path), edge_weight=4.0)


def test_graphml_nodes_are_names_labels_or_numbers(tmp_path: Path) -> None:
    path = nx.path_graph(4)
    path.edges[1, 2]["weight"] = 2.5
    by_name = nx.relabel_nodes(path, {0: "agent_3", 1: "agent_1", 2: "agent_0", 3: "agent_2"})
    topology = Topology.generate("graphml", names(4), write_graphml(tmp_path / "a.graphml", by_name))
    assert topology.get_neighbors("agent_0") == ["agent_1", "agent_2"]
    assert topology.graph.edges["agent_0", "agent_1"]["weight"] == 2.5
    assert topology.graph.edges["agent_0", "agent_2"]["weight"] == 4.0

    by_number = nx.relabel_nodes(path, {i: f"n{i}" for i in range(4)})
    topology = Topology.generate("graphml", names(4), write_graphml(tmp_path / "b.graphml", by_number))
    assert topology.edges.tolist() == [[0, 1], [1, 2], [2, 3]]

    labelled = nx.relabel_nodes(path, {i: f"x{i}" for i in range(4)})
    nx.set_node_attributes(labelled, {f"x{i}": f"agent_{3 - i}" for i in range(4)}, "label")
    labelled.add_edge("x0", "x3")
    topology = Topology.generate("graphml", names(4), write_graphml(tmp_path / "c.graphml", labelled))
    assert topology.get_neighbors("agent_3") == ["agent_0", "agent_2"]


def test_bad_graphml_names_the_file(tmp_path: Path) -> None:
    agents = names(3)
    with pytest.raises(TopologyError, match=r"options\.file, got none"):
        Topology.generate("graphml", agents, options())
    with pytest.raises(TopologyError, match=r"readable GraphML file, got .*missing"):
        Topology.generate("graphml", agents, options(file=str(tmp_path / "missing")))
    broken = tmp_path / "broken.graphml"
    for text in ("", "no xml", "<graphml", "<other/>"):
        broken.write_text(text)
        with pytest.raises(TopologyError, match=r"broken\.graphml' must"):
            Topology.generate("graphml", agents, options(file=str(broken)))
    with pytest.raises(TopologyError, match=r"one node per agent \(3\), got 4 nodes"):
        Topology.generate("graphml", agents, write_graphml(tmp_path / "d", nx.path_graph(4)))
    strangers = nx.relabel_nodes(nx.path_graph(3), {0: "agent_0", 1: "agent_1", 2: "agnet_2"})
    with pytest.raises(TopologyError, match=r"got node 'agnet_2'\. Did you mean 'agent_2'"):
        Topology.generate("graphml", agents, write_graphml(tmp_path / "e", strangers))
    heavy = nx.path_graph(3)
    heavy.edges[0, 1]["weight"] = -1.0
    with pytest.raises(TopologyError, match="zero or more, got -1"):
        Topology.generate("graphml", agents, write_graphml(tmp_path / "f", heavy))
