"""Settings: what is refused, and what RLlib is told."""

from __future__ import annotations

import pytest

from camac_dra.training.settings import PPOSettings
from camac_dra.utils.errors import ConfigurationError


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"policies": "shard"},
            r"policies must be one of shared, by_group, per_agent, got 'shard'.*'shared'",
        ),
        ({"activation": "gelu"}, "activation must be one of relu, elu, tanh, got 'gelu'"),
        ({"optimizer": "adamax"}, r"optimizer must be one of adam, sgd, rmsprop, adamw, got 'adamax'.*'adam"),
        ({"learning_rate_schedule": "cosin"}, "learning_rate_schedule must be one of .*'cosine'"),
        ({"max_episode_steps": 0}, "max_episode_steps must be None or at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be an integer of at least 0, got -1"),
        ({"num_envs": 0}, "num_envs must be an integer of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer of at least 1, got 2.5"),
        ({"num_epochs": True}, "num_epochs must be an integer of at least 1, got True"),
        ({"hidden_sizes": ()}, "hidden_sizes must be positive sizes"),
        ({"gamma": 1.5}, "gamma must be between 0 and 1, got 1.5"),
        ({"gae_lambda": float("nan")}, "gae_lambda must be between 0 and 1, got nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be a finite number above 0, got inf"),
        ({"entropy_coeff": -0.1}, "entropy_coeff must be a finite number of at least 0, got -0.1"),
        (
            {"entropy_coeff_end": -1.0},
            "entropy_coeff_end must be None or a finite number of at least 0, got -1.0",
        ),
        ({"grad_clip": 0.0}, "grad_clip must be None or a finite number above 0, got 0.0"),
        ({"learning_rate_schedule": "cosine"}, "total_env_steps must be set where"),
        ({"entropy_coeff": 0.1, "entropy_coeff_end": 0.0}, "total_env_steps must be set where"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PPOSettings(**wrong)


def test_schedules_are_points_over_env_steps() -> None:
    settings = PPOSettings(
        learning_rate=0.1,
        learning_rate_schedule="linear",
        entropy_coeff=0.2,
        entropy_coeff_end=0.1,
        total_env_steps=50,
    )
    assert settings.learning_rate_for_rllib() == [[0, 0.1], [50, 0.0]]
    assert settings.entropy_coeff_for_rllib() == [[0, 0.2], [50, 0.1]]
    constant = PPOSettings(learning_rate=0.1, entropy_coeff=0.2)
    assert (constant.learning_rate_for_rllib(), constant.entropy_coeff_for_rllib()) == (0.1, 0.2)
