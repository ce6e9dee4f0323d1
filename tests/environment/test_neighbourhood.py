"""What agents hear from their neighbours, against loops over names."""

from __future__ import annotations

import numpy as np
import pytest

from camac_dra.environment.neighbourhood import Mailbox, NeighbourDemand
from camac_dra.environment.topology import Topology
from camac_dra.utils.schema.environment import TopologyOptions

COPIES, RESOURCES = 3, 2


def topology(kind: str, size: int, edge_weight: float = 1.0) -> Topology:
    options = TopologyOptions.model_validate({"edge_weight": edge_weight, "edge_probability": 0.1})
    return Topology.generate(kind, [f"agent_{i}" for i in range(size)], options)


def naive_sums(graph: Topology, weights: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """Return (B, N, 3 R) from ``heard`` (B, N, N, R): what one agent heard from another."""
    size = len(graph.agents)
    sums = np.zeros((len(weights), size, 3, heard.shape[-1]))
    for copy in range(len(weights)):
        for i, name in enumerate(graph.agents):
            for neighbour in graph.get_neighbors(name):
                j = graph.agents.index(neighbour)
                mine, theirs = weights[copy, i], weights[copy, j]
                kind = 0 if theirs > mine else 1 if theirs == mine else 2
                sums[copy, i, kind] += heard[copy, i, j]
    return sums.reshape(len(weights), size, -1)


PATHS = [
    ("fully_connected", 7),
    ("grid", 7),
    ("fully_connected", 70),  # complete: by class of weight
    ("grid", 70),  # sparse
    ("random", 70),
    ("star", 64),
    ("fully_connected", 1),
    ("ring", 2),
]


@pytest.mark.parametrize(("kind", "size"), PATHS)
def test_sums_are_those_of_the_neighbours_above_at_and_below(kind: str, size: int) -> None:
    graph = topology(kind, size)
    demand = NeighbourDemand(graph, COPIES, RESOURCES, delay=0.0, loss=0.0)
    rng = np.random.default_rng(size)
    for _ in range(2):  # weights change with the episode
        weights = rng.choice([1.0, 2.0, 4.0], (COPIES, size))
        demand.begin(weights)
        for _ in range(2):
            pending = rng.exponential(1.0, (COPIES, size, RESOURCES))
            heard = np.broadcast_to(pending[:, None], (COPIES, size, size, RESOURCES))
            sums = demand.sums(pending, rng)
            np.testing.assert_allclose(sums, naive_sums(graph, weights, heard), rtol=1e-12, atol=1e-12)
            assert (sums >= 0.0).all()


def test_thousands_that_all_hear_each_other_need_no_edges() -> None:
    size = 5_000  # twelve million edges, which the topology refuses to list
    demand = NeighbourDemand(topology("fully_connected", size), 1, 1, delay=0.0, loss=0.0)
    demand.begin(np.ones((1, size)))
    sums = demand.sums(np.ones((1, size, 1)), np.random.default_rng(0))
    np.testing.assert_allclose(sums, np.broadcast_to([0.0, size - 1.0, 0.0], (1, size, 3)))


@pytest.mark.parametrize("kind", ["fully_connected", "grid"])
@pytest.mark.parametrize("size", [7, 70])
def test_sums_are_late_by_weight_times_delay_steps(kind: str, size: int) -> None:
    graph = topology(kind, size, edge_weight=0.5)
    demand = NeighbourDemand(graph, COPIES, RESOURCES, delay=3.0, loss=0.0)  # 1.5 steps: 2
    rng = np.random.default_rng(size)
    weights = rng.choice([1.0, 2.0, 4.0], (COPIES, size))
    for _ in range(2):
        demand.begin(weights)
        sent = []
        for time in range(5):
            sent.append(rng.exponential(1.0, (COPIES, size, RESOURCES)))
            sums = demand.sums(sent[-1], rng)
            arrived = sent[time - 2] if time >= 2 else np.zeros_like(sent[0])
            heard = np.broadcast_to(arrived[:, None], (COPIES, size, size, RESOURCES))
            np.testing.assert_allclose(sums, naive_sums(graph, weights, heard), rtol=1e-12, atol=1e-12)


def test_edges_without_length_have_no_delay() -> None:
    graph = topology("ring", 5, edge_weight=0.0)
    demand = NeighbourDemand(graph, 1, 1, delay=3.0, loss=0.0)
    demand.begin(np.ones((1, 5)))
    pending = np.arange(5.0).reshape(1, 5, 1)
    sums = demand.sums(pending, np.random.default_rng(0))
    np.testing.assert_array_equal(sums[0, :, 1], [5, 2, 4, 6, 3])


def test_every_edge_has_its_own_delay() -> None:
    graph = Topology(["a", "b", "c"], [("a", "b", 1.0), ("a", "c", 2.0), ("b", "c", 0.0)])
    mailbox = Mailbox(graph, 1, 1, delay=1.0, loss=0.0)
    rng = np.random.default_rng(0)
    shown = []
    for time in range(4):
        rows = (time + 1) * np.array([[[1.0], [10.0], [100.0]]])  # (B, N, F)
        shown.append(mailbox.exchange(rows, rng)[0, :, :, 0].tolist())
    # a hears b and c, b hears a and c, c hears a and b.
    assert shown[0] == [[0, 0], [0, 100], [0, 10]]
    assert shown[1] == [[10, 0], [1, 200], [0, 20]]
    assert shown[2] == [[20, 100], [2, 300], [1, 30]]
    assert shown[3] == [[30, 200], [3, 400], [2, 40]]


def test_padding_is_silent_and_the_nearest_are_heard() -> None:
    graph = Topology(["a", "b", "c", "d"], [("a", "b", 3.0), ("a", "c", 1.0), ("a", "d", 2.0)])
    mailbox = Mailbox(graph, 1, 1, delay=0.0, loss=0.0, max_neighbors=2)
    np.testing.assert_array_equal(mailbox.known, [[True, True], [True, False], [True, False], [True, False]])
    rows = np.array([[[1.0], [2.0], [3.0], [4.0]]])
    heard = mailbox.exchange(rows, np.random.default_rng(0))[0, :, :, 0]
    np.testing.assert_array_equal(heard, [[3, 4], [1, 0], [1, 0], [1, 0]])


@pytest.mark.parametrize("delay", [0.0, 2.0])
def test_what_is_lost_leaves_what_was_heard_before(delay: float) -> None:
    graph = topology("ring", 20)
    mailbox = Mailbox(graph, 2, 1, delay, loss=0.3)
    rng = np.random.default_rng(0)
    late, before, lost, cells = int(delay), np.zeros((2, 20, 2)), 0, 0
    for time in range(60):
        rows = np.full((2, 20, 1), float(time + 1))
        heard = mailbox.exchange(rows, rng)[..., 0]  # (B, N, M)
        arriving = max(time + 1 - late, 0)
        assert ((heard == arriving) | (heard == before)).all()
        if arriving:
            lost += int((heard == before).sum())
            cells += heard.size
        before = heard
    assert lost / cells == pytest.approx(0.3, abs=0.02)


def test_where_everything_is_lost_nothing_is_heard() -> None:
    demand = NeighbourDemand(topology("ring", 5), 2, 1, delay=0.0, loss=1.0)
    demand.begin(np.ones((2, 5)))
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert not demand.sums(np.ones((2, 5, 1)), rng).any()


def test_new_episodes_forget_what_was_heard() -> None:
    mailbox = Mailbox(topology("ring", 5), 1, 1, delay=1.0, loss=0.0)
    rng = np.random.default_rng(0)
    for _ in range(3):
        mailbox.exchange(np.ones((1, 5, 1)), rng)
    mailbox.begin()
    assert not mailbox.exchange(np.ones((1, 5, 1)), rng).any()
    assert mailbox.exchange(np.ones((1, 5, 1)), rng).all()
