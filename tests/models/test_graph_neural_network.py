"""Graph networks: equal to their definition node by node, equivariant, for any number of agents."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from camac_dra.environment import Topology, VectorEnvironment
from camac_dra.models import GraphNeuralNetwork
from camac_dra.models.graph_layers import AttentionLayer, MeanLayer
from camac_dra.models.graph_neural_network import both_ways
from camac_dra.utils.errors import ConfigurationError, ModelError

F, KINDS = 5, ("attention", "mean")


def make(aggregation: str = "attention", **options: Any) -> GraphNeuralNetwork:
    return GraphNeuralNetwork(
        F, (8, 4), aggregation=aggregation, num_heads=2, **{"output_size": 3, "seed": 0, **options}
    )


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, F, generator=torch.Generator().manual_seed(seed))


def random_adjacency(size: int, seed: int) -> torch.Tensor:
    """Return who hears whom (N, N), nobody himself."""
    heard = torch.rand(size, size, generator=torch.Generator().manual_seed(seed)) < 0.4
    return heard & ~torch.eye(size, dtype=torch.bool)


def edges_of(adjacency: torch.Tensor) -> torch.Tensor:
    return adjacency.nonzero().t().flip(0)


def layer_by_definition(layer: Any, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
    """Return what a layer gives (N, H) for nodes (N, F), one node after the other."""
    result = []
    for i in range(len(x)):
        heard = x[adjacency[i]]
        if isinstance(layer, MeanLayer):
            mean = heard.mean(0) if len(heard) else torch.zeros(x.shape[1])
            result.append(functional.relu(layer.own(x[i]) + layer.heard(mean)))
            continue
        heads = []
        for head in range(len(layer.score)):
            width = layer.score.shape[1]
            part = slice(head * width, (head + 1) * width)
            messages, asked = layer.source(heard)[:, part], layer.target(x[i])[part]
            scores = functional.leaky_relu(messages + asked, 0.2) @ layer.score[head]
            heads.append(scores.softmax(0) @ messages)
        result.append(functional.relu(layer.own(x[i]) + torch.cat(heads)))
    return torch.stack(result)


@pytest.mark.parametrize("kind", [MeanLayer, AttentionLayer])
@pytest.mark.parametrize("seed", range(4))
def test_layers_are_as_defined(kind: Any, seed: int) -> None:
    heads = {"num_heads": 2} if kind is AttentionLayer else {}
    layer = kind(F, 4, activation=functional.relu, generator=None, **heads)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.rand(parameter.shape) - 0.4)
    adjacency, x = random_adjacency(6, seed), rows(6, seed=seed)
    adjacency[2] = False  # hears nobody
    sources, targets = edges_of(adjacency)
    torch.testing.assert_close(
        layer(x[None], sources, targets, None)[0],
        layer_by_definition(layer, x, adjacency),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_edges_and_matrices_say_the_same(kind: str) -> None:
    network, x = make(kind), rows(3, 6)
    each = torch.stack([random_adjacency(6, seed) for seed in range(3)])  # (B, N, N)
    together = network(x, adjacency=each)
    for b in range(3):
        torch.testing.assert_close(together[b], network(x[b], edges_of(each[b])), rtol=1e-4, atol=1e-5)
    one = network(x, edges_of(each[0]))
    assert one.shape == (3, 6, 3)
    torch.testing.assert_close(network(x, adjacency=each[0].float()), one)
    assert not torch.allclose(one[1], together[1])


@given(st.permutations(range(7)), st.integers(0, 30), st.sampled_from(KINDS), st.booleans())
def test_numbering_agents_otherwise_numbers_outputs_otherwise(
    order: list[int], seed: int, kind: str, masked: bool
) -> None:
    network, x, adjacency = make(kind), rows(2, 7, seed=seed), random_adjacency(7, seed)
    mask = (rows(2, 7, seed=seed + 1)[..., 0] > -0.5) if masked else None
    expected = network(x, adjacency=adjacency, mask=mask)[:, order]
    turned = network(
        x[:, order], adjacency=adjacency[order][:, order], mask=None if mask is None else mask[:, order]
    )
    torch.testing.assert_close(turned, expected, rtol=1e-4, atol=1e-5)


@given(st.integers(0, 30), st.sampled_from(KINDS), st.sampled_from([3.0, 1e30, math.inf, math.nan]))
def test_absent_agents_have_no_influence(seed: int, kind: str, junk: float) -> None:
    network, x, adjacency = make(kind), rows(2, 6, seed=seed), random_adjacency(6, seed)
    mask = rows(2, 6, seed=seed + 1)[..., 0] > 0
    other = x.masked_fill(~mask[..., None], junk)
    result = network(x, adjacency=adjacency, mask=mask)
    assert torch.equal(network(other, adjacency=adjacency, mask=mask), result)
    assert not result[~mask].any()
    for b in range(2):
        there = mask[b]
        alone = network(x[b, there], adjacency=adjacency[there][:, there])
        torch.testing.assert_close(result[b, there], alone, rtol=1e-4, atol=1e-5)
    each = adjacency.expand(2, 6, 6).clone()
    torch.testing.assert_close(network(other, adjacency=each, mask=mask), result, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_influence_goes_along_edges_one_layer_a_step(kind: str) -> None:
    network, x = make(kind), rows(5).requires_grad_()
    chain = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])  # from 0 towards 4
    network(x, chain)[3].sum().backward()
    assert [bool(row.any()) for row in x.grad] == [False, True, True, True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_one_network_serves_any_number_of_agents(kind: str) -> None:
    """An agent far from the change decides on a ring of 200 as on one of 20."""
    network, small = make(kind), rows(20)
    large = torch.cat([small[:10], rows(180, seed=9), small[10:]])
    results = []
    for x in (small, large):
        names = [str(i) for i in range(len(x))]
        edges = both_ways(Topology.generate("ring", names).edges)
        assert edges.shape == (2, 2 * len(x))
        results.append(network(x, edges))
    torch.testing.assert_close(results[0][:7], results[1][:7], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(results[0][9], results[1][9])


@pytest.mark.parametrize("kind", KINDS)
def test_observing_alone_is_hearing_the_neighbours_once(kind: str) -> None:
    network = GraphNeuralNetwork(F, (8,), 3, aggregation=kind, seed=0)
    seen = rows(2, 4)
    mask = torch.tensor([[1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    observations = torch.cat([seen, mask[..., None]], dim=-1)
    outputs = network.outputs(observations)
    hub = torch.tensor([[1, 3], [0, 0]])
    torch.testing.assert_close(outputs[0], network(seen[0], hub)[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs[1], network.outputs(seen[1, :1])[0], rtol=1e-4, atol=1e-5)


def test_graph_observations_of_the_environment() -> None:
    env = VectorEnvironment({"num_agents": 6, "observation_type": "graph", "topology": "ring"}, num_envs=2)
    env.reset()
    observations = torch.from_numpy(env.observations).flatten(0, 1)
    network = GraphNeuralNetwork(observations.shape[-1] - 1, output_size=3)
    assert network.outputs(observations).shape == (12, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("junk", [0.0, math.nan])
def test_gradients_are_finite(kind: str, junk: float) -> None:
    network, x = make(kind), rows(2, 6) * 1e3
    x[0, 4] = junk
    x.requires_grad_()
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 4] = mask[1, 0] = False
    network(x, adjacency=random_adjacency(6, 0), mask=mask).square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert not x.grad[~mask].any()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_what_does_not_fit_is_refused() -> None:
    network, x = make(), rows(2, 4)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"edges": torch.tensor([[0, 4], [1, 1]])}, "edges must name agents from 0 to 3, got 0 to 4"),
        ({"edges": torch.tensor([[0, -1], [1, 1]])}, "edges must name agents from 0 to 3, got -1 to 1"),
        ({"edges": torch.zeros(2, 3)}, r"edges must be integers of shape \(2, E\), got torch.float32"),
        ({"edges": torch.zeros(3, 2, dtype=torch.int64)}, r"edges must be integers of shape \(2, E\)"),
        ({"adjacency": torch.ones(3, 3)}, r"adjacency must have shape \(4, 4\) or \(2, 4, 4\), got \(3, 3\)"),
        ({"mask": torch.ones(3)}, r"mask must have shape \(2, 4\), got \(3,\)"),
        ({"adjacency": torch.ones(4, 4), "edges": torch.ones(2, 1)}, "edges must be None where adjacency"),
    ]
    for arguments, match in cases:
        with pytest.raises(ModelError, match=match):
            network(x, **arguments)
    with pytest.raises(ModelError, match="nodes must have 5 features"):
        network(torch.zeros(4, 6))
    with pytest.raises(ModelError, match=r"nodes must have shape \(B, N, F\) or \(N, F\), got \(5,\)"):
        network(torch.zeros(5))


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"num_heads must divide every hidden size, \[8, 6\], got 4"):
        GraphNeuralNetwork(F, (8, 6))
    with pytest.raises(ConfigurationError, match=r"aggregation must be one of attention, mean, got 'max'"):
        make("max")
    with pytest.raises(ConfigurationError, match="hidden_sizes must name at least one layer, got none"):
        GraphNeuralNetwork(F, ())
    with pytest.raises(ConfigurationError, match="output_size must be a whole number of at least 1, got 0"):
        make(output_size=0)


def test_pairs_go_both_ways() -> None:
    assert both_ways(np.array([[0, 1], [2, 4]])).tolist() == [[0, 2, 1, 4], [1, 4, 0, 2]]
    assert both_ways(np.zeros((0, 2), int)).shape == (2, 0)


@pytest.mark.parametrize("aggregation", ["attention", "mean"])
@pytest.mark.parametrize("entities", [1, 2, 6])
def test_observations_are_read_as_stars(aggregation: str, entities: int) -> None:
    """The quick way through a star is the long one over its edges, gradients included."""
    network = GraphNeuralNetwork(3, (8, 8), 4, aggregation=aggregation, seed=0)
    generator = torch.Generator().manual_seed(1)
    observations = torch.randn(40, entities, 4, generator=generator)
    observations[..., -1] = (torch.rand(40, entities, generator=generator) > 0.4).float()
    observations[:, 0, -1] = 1.0
    observations[0, 1:, -1] = 0.0  # sees nobody
    others = torch.arange(1, entities)
    star = torch.stack([others, torch.zeros_like(others)])
    long = network(observations[..., :-1], star, mask=observations[..., -1] > 0.5)[:, 0]
    quick = network.outputs(observations)
    torch.testing.assert_close(quick, long)
    expected = torch.autograd.grad(long.square().sum(), list(network.parameters()), allow_unused=True)
    found = torch.autograd.grad(quick.square().sum(), list(network.parameters()), allow_unused=True)
    for one, two in zip(found, expected, strict=True):
        zero = torch.zeros(1)
        torch.testing.assert_close(
            zero if one is None else one.abs().sum()[None], zero if two is None else two.abs().sum()[None]
        )
