"""Attention: torch's own as reference, masks that truly mask, and no dependence on the order of entities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from camac_dra.environment import VectorEnvironment
from camac_dra.models import AttentionNetwork
from camac_dra.utils.errors import ConfigurationError, ModelError

F = 6


def make(**options: Any) -> AttentionNetwork:
    return AttentionNetwork(F, 3, **{"seed": 0, **options})


def entities(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, F, generator=torch.Generator().manual_seed(seed))


def reference(network: AttentionNetwork) -> nn.MultiheadAttention:
    """Return torch's attention with the same weights."""
    torchs = nn.MultiheadAttention(F, network.num_heads, batch_first=True)
    with torch.no_grad():
        torchs.in_proj_weight.copy_(
            torch.cat([network.query.weight, network.key.weight, network.value.weight])
        )
        torchs.in_proj_bias.copy_(torch.cat([network.query.bias, network.key.bias, network.value.bias]))
    torchs.out_proj.load_state_dict(network.attended.state_dict())
    return torchs


def shaken() -> AttentionNetwork:
    network = make()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.rand(parameter.shape))
    return network


def test_it_is_multi_head_attention() -> None:
    network = shaken()
    queries, keys, values = entities(4, 2, seed=1), entities(4, 5, seed=2), entities(4, 5, seed=3)
    mask = torch.tensor([True, False, True, True, False]).expand(4, 5)
    for seen in (None, mask):
        unseen = None if seen is None else ~seen
        expected, weights = reference(network)(
            queries, keys, values, key_padding_mask=unseen, average_attn_weights=False
        )
        torch.testing.assert_close(network(queries, keys, values, seen), expected)
        torch.testing.assert_close(network.get_attention_weights(), weights)


@pytest.mark.parametrize("options", [{}, {"hidden_sizes": (8,)}, {"hidden_sizes": (8,), "output_size": 4}])
def test_shapes(options: dict[str, Any]) -> None:
    network = make(**options)
    size = network.output_size
    assert size == (4 if "output_size" in options else 8 if options else F)
    keys = entities(4, 5)
    assert network(entities()).shape == (size,)
    assert network(entities(4)).shape == (4, size)
    assert network(entities(4, 2)).shape == (4, 2, size)
    assert network(entities(4), keys).shape == (4, size)
    assert network(entities(4, 2), keys, keys).shape == (4, 2, size)
    assert network.get_attention_weights().shape == (4, 3, 2, 5)
    assert network(entities(4, 2), entities(1, 5)).shape == (4, 2, size)
    assert network.outputs(entities(4)).shape == (4, size)


def test_rows_of_a_batch_of_vectors_do_not_see_each_other() -> None:
    network, states = make(), entities(4)
    torch.testing.assert_close(network(states)[1], network(states[1]))


OPTIONS = [{}, {"output_size": 4, "hidden_sizes": (8,)}]


@given(
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.sampled_from([0.0, -3.0, 1e30, np.inf, np.nan]),
    st.sampled_from(OPTIONS),
)
def test_masked_entities_have_no_influence(seen: list[bool], junk: float, options: dict[str, Any]) -> None:
    network, mask = make(**options), torch.tensor(seen).expand(3, 5)
    queries, keys = entities(3, 2, seed=1), entities(3, 5, seed=2)
    other = keys.clone()
    other[~mask] = junk
    expected = network(queries, keys, keys, mask)
    assert torch.equal(network(queries, other, other, mask), expected)
    torch.testing.assert_close(network(queries, keys[:, mask[0]], None) if any(seen) else expected, expected)
    weights = network.get_attention_weights() if not any(seen) else None
    assert weights is None or not weights.any()


@given(st.permutations(range(5)), st.sampled_from(OPTIONS), st.integers(0, 50))
def test_the_order_of_entities_does_not_matter(order: list[int], options: dict[str, Any], seed: int) -> None:
    network = make(**options)
    queries, keys, mask = (
        entities(3, 2, seed=seed),
        entities(3, 5, seed=seed + 1),
        entities(3, 5, seed=seed)[..., 0] > 0,
    )
    expected = network(queries, keys, keys, mask)
    torch.testing.assert_close(
        network(queries, keys[:, order], keys[:, order], mask[:, order]), expected, rtol=1e-4, atol=1e-5
    )
    turned = network(keys[:, order])  # self-attention is equivariant
    torch.testing.assert_close(turned, network(keys)[:, order], rtol=1e-4, atol=1e-5)


def test_masks_may_differ_by_query() -> None:
    network, x = make(), entities(2, 3)
    mask = torch.eye(3, dtype=torch.bool).expand(2, 3, 3)
    alone = torch.stack([network(x[:, i]) for i in range(3)], dim=1)
    torch.testing.assert_close(network(x, mask=mask), alone)
    torch.testing.assert_close(network(x, mask=mask[:1]), alone)


@pytest.mark.parametrize("junk", [0.0, float("nan")])
def test_gradients_pass_masks(junk: float) -> None:
    network, x = make(output_size=2), entities(2, 3)
    x[:, 2] = junk
    x.requires_grad_()
    mask = torch.tensor([[True, True, False], [False, False, False]])
    network(entities(2, 1), x, x, mask).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert not x.grad[~mask].any()
    assert x.grad[0, 0].any()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_weights_sum_to_one_and_carry_no_gradient() -> None:
    network = make()
    with pytest.raises(ModelError, match="get_attention_weights needs a forward pass before it"):
        network.get_attention_weights()
    network(entities(2, 4))
    weights = network.get_attention_weights()
    assert not weights.requires_grad
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 4))


def test_graph_observations_of_the_environment() -> None:
    env = VectorEnvironment(
        {"num_agents": 6, "observation_type": "graph", "topology": "star"}, num_envs=2, seed=0
    )
    env.reset()
    neighbours, features = env.observations.shape[2:]
    network = AttentionNetwork(features - 1, 4, width=16, output_size=3, seed=0)
    rows = torch.from_numpy(env.observations).flatten(0, 1)  # (rows, 1 + M, F + 1)
    outputs = network.outputs(rows)
    assert outputs.shape == (12, 3)
    weights = network.get_attention_weights()
    assert weights.shape == (12, 4, 1, neighbours)
    real = rows[..., -1] > 0.5
    assert real[0].all()  # the hub hears all
    assert real[1].sum() == 2
    assert not weights.masked_select(~real[:, None, None]).any()
    changed = rows.clone()
    changed[1, 2:, :-1] = 7.0
    torch.testing.assert_close(network.outputs(changed), outputs)
    changed[1, 1, 0] += 1.0
    assert not torch.allclose(network.outputs(changed)[1], outputs[1])


def test_shapes_that_do_not_fit_are_refused() -> None:
    network = make()
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((torch.zeros(2, 5),), r"queries must have 6 features in the last axis, got shape \(2, 5\)"),
        ((torch.zeros(()),), r"queries must have 6 features"),
        ((torch.zeros(1, 2, 3, 6),), r"queries must have at most 3 axes, got shape \(1, 2, 3, 6\)"),
        ((entities(2, 1), entities(3, 4)), r"the queries' batch, got queries \(2, 1, 6\), keys \(3, 4, 6\)"),
        ((entities(2, 1), entities(2, 4), entities(2, 3)), r"keys and values must have one shape"),
        (
            (entities(2, 1), entities(2, 4), None, torch.ones(2, 3)),
            r"mask must have shape \(2, 4\) or \(2, 1, 4\), got \(2, 3\)",
        ),
    ]
    for arguments, match in cases:
        with pytest.raises(ModelError, match=match):
            network(*arguments)
    with pytest.raises(
        ModelError, match=r"observations must have shape \(rows, 6\), or \(rows, entities, 7\)"
    ):
        network.outputs(entities(2, 3))


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="num_heads must divide the width 6, got 4"):
        AttentionNetwork(6, 4)
    with pytest.raises(ConfigurationError, match="input_dim must be a whole number"):
        AttentionNetwork(0)
    with pytest.raises(ConfigurationError, match="output_size must be a whole number"):
        AttentionNetwork(8, output_size=0)
