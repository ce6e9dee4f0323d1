"""Settings of algorithms with replay, and what follows from them."""

from __future__ import annotations

from typing import Any

import pytest

from camac_dra.training.replay_settings import DQNSettings
from camac_dra.utils.errors import ConfigurationError


def test_epsilon_falls_with_steps_or_with_episodes() -> None:
    by_steps = DQNSettings(epsilon_start=1.0, epsilon_end=0.1, epsilon_steps=100)
    assert [by_steps.epsilon(t, 5) for t in (0, 50, 100, 900)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    by_episodes = DQNSettings(epsilon_start=0.8, epsilon_end=0.1, epsilon_decay=0.5)
    assert [by_episodes.epsilon(9, e) for e in (0, 1, 2, 9)] == pytest.approx([0.8, 0.4, 0.2, 0.1])


def test_how_far_the_target_network_moves_follows_from_how_often() -> None:
    assert DQNSettings().target_step == 0.01
    assert DQNSettings(target_update_freq=500).target_step == 1.0
    assert DQNSettings(target_update_freq=500, target_update_rate=0.5).target_step == 0.5


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"n_step": 0}, "n_step must be an integer of at least 1, got 0"),
        ({"target_update_rate": 0.0}, "target_update_rate must be None or a finite number above 0, got 0.0"),
        ({"target_update_rate": 1.5}, "target_update_rate must be between 0 and 1, got 1.5"),
        ({"epsilon_decay": 2.0}, "epsilon_decay must be between 0 and 1, got 2.0"),
        ({"replay_buffer_size": 0}, "replay_buffer_size must be an integer of at least 1, got 0"),
        ({"epsilon_steps": 0}, "epsilon_steps must be an integer of at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        DQNSettings(**settings)
