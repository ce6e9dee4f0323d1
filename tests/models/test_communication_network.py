"""Learned messages: gradients end to end, who is heard and who is not, bits that do not depend on company."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from camac_dra.models import CommunicationNetwork
from camac_dra.models.actor import Actor
from camac_dra.models.block_policy import BlockPolicy
from camac_dra.models.network_spec import NetworkSpec
from camac_dra.utils.errors import ConfigurationError, ModelError
from tests.models.test_networks import ACTION_SPACES

F, C, M = 6, 3, 4


def network(**options) -> CommunicationNetwork:
    plain = {"num_heads": 2, "width": 8, "output_size": 5, "hidden_sizes": (16,), "seed": 0}
    return CommunicationNetwork(F, C, **{**plain, **options})


def observe(rows: int = 7, seed: int = 1) -> torch.Tensor:
    """Return observations (rows, 1 + M, F + 1), everybody heard."""
    shown = torch.randn(rows, 1 + M, F + 1, generator=torch.Generator().manual_seed(seed))
    shown[..., -1] = 1.0
    return shown


@pytest.mark.parametrize("bits", [None, 3])
def test_gradients_reach_the_encoder_of_whoever_is_heard(bits: int | None) -> None:
    net, shown = network(message_bits=bits), observe()
    shown[:, 2, -1] = 0.0
    shown.requires_grad_()
    net.outputs(shown)[0].square().sum().backward()
    for parameter in net.encoder.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0.0
    assert shown.grad is not None
    reached = shown.grad[..., :-1].abs().sum(-1) > 0.0  # (rows, 1 + M)
    assert reached[0].tolist() == [True, True, False, True, True]
    assert not reached[1:].any()


def test_the_order_of_messages_does_not_matter() -> None:
    net, shown = network(), observe()
    shown[:, 3, -1] = 0.0
    for order in ([0, 4, 3, 2, 1], [0, 2, 3, 4, 1]):
        torch.testing.assert_close(net.outputs(shown[:, order]), net.outputs(shown))


def test_a_lost_message_changes_only_what_its_receiver_does() -> None:
    net, shown = network(), observe()
    before = net.outputs(shown)
    lost = shown.clone()
    lost[2, 3, -1] = 0.0
    lost[2, 3, :-1] = torch.nan
    after = net.outputs(lost)
    others = [0, 1, 3, 4, 5, 6]
    torch.testing.assert_close(after[others], before[others], rtol=0, atol=0)
    assert not torch.allclose(after[2], before[2])
    torch.testing.assert_close(after[2:3], net.outputs(shown[2:3, [0, 1, 2, 4]]))


def test_nothing_but_messages_passes_between_agents() -> None:
    net, shown = network(), observe()
    with torch.no_grad():
        net.encoder[1].weight.zero_()
    other = shown.clone()
    other[:, 1:, :-1] = torch.randn(7, M, F)
    torch.testing.assert_close(net.outputs(other), net.outputs(shown))


def test_whoever_hears_nobody_decides_alone() -> None:
    net, shown = network(), observe()
    alone = net.outputs(shown[:, 0, :-1])
    torch.testing.assert_close(net(shown[:, 0, :-1]), alone)
    shown[:, 1:, -1] = 0.0
    torch.testing.assert_close(net.outputs(shown), alone)
    assert not net.get_attention_weights().any()


def test_attention_is_shared_among_what_was_received() -> None:
    net, shown = network(), observe()
    shown[:, 2, -1] = 0.0
    net.outputs(shown)
    weights = net.get_attention_weights()
    assert weights.shape == (7, 2, M)
    assert not weights[..., 1].any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(7, 2))


def test_attention_is_that_of_a_loop() -> None:
    net, shown = network(), observe(3)
    rows, messages = shown[:, 0, :-1], net.encode(shown[:, 1:, :-1])
    assert messages.abs().max() < 1.0
    for b in range(3):
        found = []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            query, keys = net.query(rows[b])[part], net.key(messages[b])[:, part]
            weights = torch.softmax(keys @ query / 2.0, 0)
            found.append(weights @ net.value(messages[b])[:, part])
        expected = net.output(net.mixer(torch.cat([rows[b], *found])))
        torch.testing.assert_close(net(rows, messages)[b], expected)


@pytest.mark.parametrize("bits", [1, 2, 8, 16])
def test_rounded_messages_take_so_many_values_and_learn_as_others(bits: int) -> None:
    plain, rounded = network(), network(message_bits=bits)
    rows = torch.randn(300, F)
    messages = rounded.encode_alike(rows)
    codes = rounded.codes(messages)
    assert codes.min() >= 0
    assert codes.max() < 2**bits
    torch.testing.assert_close(rounded.from_codes(codes), messages)
    assert (messages - plain.encode_alike(rows)).abs().max() <= 1.0 / (2**bits - 1) + 1e-6
    gradients = []
    for net in (plain, rounded):
        net.encode(rows).sum().backward()
        gradients.append(net.encoder[0].weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("bits", [None, 4])
def test_a_message_is_the_same_to_the_bit_whoever_is_encoded_besides(bits: int | None) -> None:
    net = CommunicationNetwork(45, 8, message_bits=bits, seed=0)
    rows = torch.randn(300, 45)
    together = net.encode_alike(rows)
    for some in ([3], [299, 0], list(range(7, 200))):
        assert torch.equal(net.encode_alike(rows[some]), together[some])
    assert torch.equal(net.encode_alike(rows.reshape(10, 30, 45)), together.reshape(10, 30, 8))
    torch.testing.assert_close(
        together, net.encode(rows).detach(), rtol=1e-4, atol=1e-5 if bits is None else 2 / 15
    )


@pytest.mark.parametrize("scaled", [False, True])
def test_decisions_on_messages_are_those_on_rows_to_the_bit(scaled: bool) -> None:
    spec = NetworkSpec("communication", (16,), "tanh", options={"message_size": C})
    torch.manual_seed(0)
    actor = Actor((1 + M, F + 1), ACTION_SPACES["box"], spec, normalize_observations=scaled)
    if actor.observation_scaler is not None:
        actor.observation_scaler.mean.uniform_(-1, 1)
        actor.observation_scaler.scale.uniform_(0.5, 2)
    policy = BlockPolicy([actor], [0] * 70)
    shown = observe(70)
    shown[::3, 2, -1] = 0.0
    assert policy.listener is not None
    listener = policy.listener
    neighbours = shown[:, 1:].flatten(0, 1).clone()
    neighbours[:, -1] = 1.0  # everybody's own row is real
    messages = listener.speak(neighbours.numpy()).reshape(70, M, C)
    mask = shown[:, 1:, -1].numpy() > 0.5
    own = shown[:, 0].numpy()
    expected = policy.act(shown[None].numpy())
    np.testing.assert_array_equal(policy.act_on_messages(own, messages, mask, range(70)), expected)
    for some in ([69], [3, 64, 0]):
        alone = policy.act_on_messages(own[some], messages[some], mask[some], some)
        np.testing.assert_array_equal(alone, expected[:, some])
    unread = np.where(mask[..., None], messages, np.float32(np.nan))
    np.testing.assert_array_equal(policy.act_on_messages(own, unread, mask, range(70)), expected)
    assert len(np.unique(expected)) > 60


def test_what_cannot_be_is_refused() -> None:
    for options, message in (
        ({"num_heads": 3}, "num_heads must divide the width 8, got 3"),
        ({"message_bits": 17}, "message_bits must be None or from 1 to 16, got 17"),
        ({"message_bits": 0}, "message_bits must be a whole number of at least 1, got 0"),
        ({"hidden_sizes": ()}, "hidden_sizes must name at least one layer, got none"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            network(**options)
    with pytest.raises(ConfigurationError, match="message_size must be a whole number of at least 1, got 0"):
        CommunicationNetwork(F, 0)
    with pytest.raises(ModelError, match=r"messages must have shape \(2, M, 3\), got \(2, 4, 5\)"):
        network()(torch.zeros(2, F), torch.zeros(2, 4, 5))
    with pytest.raises(ModelError, match=r"mask must have shape \(2, 4\), got \(2, 5\)"):
        network()(torch.zeros(2, F), torch.zeros(2, 4, C), torch.ones(2, 5))
    with pytest.raises(ModelError, match="get_attention_weights needs a forward pass before it"):
        network().get_attention_weights()


def test_policies_need_rows_and_the_network_to_communicate() -> None:
    actor = Actor((F,), ACTION_SPACES["discrete"], NetworkSpec("communication"), normalize_observations=False)
    with pytest.raises(ConfigurationError, match=r"observation_type must be 'graph' .* of shape \(6,\)"):
        BlockPolicy([actor], [0])
    plain = Actor((F,), ACTION_SPACES["discrete"], NetworkSpec(), normalize_observations=False)
    with pytest.raises(ConfigurationError, match="agents must communicate to act on messages"):
        BlockPolicy([plain], [0]).act_on_messages(np.zeros((1, 7)), np.zeros((1, 2, 3)), np.ones((1, 2)), [0])
