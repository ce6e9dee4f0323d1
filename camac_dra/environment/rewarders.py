"""Which rewards a configuration means."""

from __future__ import annotations

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.plant import Plant
from camac_dra.environment.preferences import Preferences
from camac_dra.environment.reward import MarginalRewards, Rewarder, SharedRewards
from camac_dra.environment.weighted_rewards import WeightedRewards
from camac_dra.utils.schema.environment import EnvironmentConfig


def make_rewarder(
    config: EnvironmentConfig, constraints: Constraints, plant: Plant, preferences: Preferences
) -> Rewarder:
    """Return what makes rewards as ``config`` says.

    Raises:
        ConfigurationError: the path of the user's reward function does not lead to a callable.
    """
    if config.reward_function == "weighted":
        return WeightedRewards(config, constraints, plant, preferences)
    return MarginalRewards(plant) if config.credit == "marginal" else SharedRewards(config, constraints)
