"""What a configuration says of networks, and the networks that come of it."""

from __future__ import annotations

import pytest
from gymnasium import spaces

from camac_dra.models.distributions import make_action_head
from camac_dra.models.network_spec import network_of
from camac_dra.utils.schema import ModelConfig
from camac_dra.utils.schema.model import ATTENTION_WIDTH, NUM_HEADS


@pytest.mark.parametrize("kind", ["attention", "gnn", "communication"])
def test_heads_and_widths_that_are_left_out_are_those_the_configuration_is_checked_with(kind: str) -> None:
    spec = network_of(ModelConfig(type=kind, hidden_sizes=[8]))
    network = spec.policy((5, 7), make_action_head(spaces.Discrete(3)), None).torso.model
    assert network.num_heads == NUM_HEADS
    assert getattr(network, "width", ATTENTION_WIDTH) == ATTENTION_WIDTH
