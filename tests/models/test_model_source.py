"""Models that travel to processes of agents."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from camac_dra.models import AttentionNetwork, DQNAgent
from camac_dra.models.acting import as_policy
from camac_dra.models.model_source import ModelSource
from camac_dra.utils.errors import ModelError

ROWS = np.random.default_rng(0).normal(size=(1, 5, 64)).astype(np.float32)


@pytest.mark.parametrize("kind", ["dqn", "attention", "plain"])
def test_agents_elsewhere_act_as_the_model_does_here(kind: str) -> None:
    model = {
        "dqn": lambda: DQNAgent(64, 10, seed=1),
        "attention": lambda: AttentionNetwork(input_dim=64, num_heads=8, seed=1),
        "plain": lambda: torch.nn.Linear(64, 10),
    }[kind]()
    travelled = pickle.loads(pickle.dumps(ModelSource(model, 10))).build()
    actions = travelled.act(ROWS, np.arange(5))
    expected = as_policy(model, 10, seed=0).act_many(ROWS[0])
    np.testing.assert_array_equal(actions[0], expected)
    assert actions.shape == (1, 5)


class Fixed:
    def act(self, observation: np.ndarray) -> int:
        return int(observation[0] > 0)


def test_what_acts_on_one_observation_acts_on_rows() -> None:
    actions = ModelSource(Fixed(), 2).build().act(ROWS)
    np.testing.assert_array_equal(actions[0], ROWS[0, :, 0] > 0)


def test_a_model_of_other_actions_is_refused() -> None:
    with pytest.raises(ModelError, match="must score 9 actions"):
        ModelSource(DQNAgent(64, 10), 9).build()
