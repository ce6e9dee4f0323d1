"""The ``model`` section: the network and what is specific to its kind."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from camac_dra.utils.schema.base import Count, Positive, Probability, Section

KNOWN_MODELS = ("dqn", "policy_gradient", "actor_critic", "attention", "gnn")


class ModelConfig(Section):
    """The network and what is specific to its kind."""

    type: str = Field(
        "actor_critic", description="actor_critic (PPO), or dqn, which camac_dra.training.Trainer trains"
    )
    state_size: Count | None = Field(None, description="input size; null: taken from the environment")
    action_size: Count | None = Field(None, description="number of actions; null: taken from the environment")
    learning_rate: Positive = Field(1e-3, description="step size of the optimiser")
    gamma: Probability = Field(0.95, description="discount factor per step")
    hidden_sizes: list[Count] = Field(
        default_factory=lambda: [128, 128], min_length=1, description="units per layer"
    )
    activation: Literal["relu", "elu", "tanh"] = Field(
        "tanh", description="nonlinearity of the hidden layers"
    )
    target_update_freq: Count | None = Field(
        None, description="dqn: updates between copies to the target network"
    )
