"""The ``model`` section: the network and what is specific to its kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from camac_dra.utils.schema.base import Count, Positive, Probability, Section

ENTITY_MODELS = ("attention", "gnn", "communication")
REPLAY_MODELS = ("dqn", "sac")
KNOWN_MODELS = ("dqn", "sac", "policy_gradient", "actor_critic", "attention", "gnn", "communication")

NUM_HEADS, ATTENTION_WIDTH = 4, 64  # where nothing else is said

Share = Annotated[float, Field(gt=0, le=1)]


class ModelConfig(Section):
    """The network and what is specific to its kind."""

    type: str = Field(
        "actor_critic",
        description="actor_critic (PPO on fully connected layers), policy_gradient (the plain gradient on "
        "them, Williams 1992; with training.gae_lambda 1 it is REINFORCE with a baseline), attention or gnn "
        "(PPO over graph observations), communication (PPO; agents see themselves, and attend to messages "
        "that neighbours learn to send), the dotted path of a BaseModel of your own (PPO), "
        "dqn (Q-learning, discrete and multi_discrete actions), or sac (soft actor-critic, continuous ones)",
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
    recurrent_size: Count | None = Field(
        None,
        description="actor_critic, policy_gradient: units of a GRU on top of the layers, which remembers "
        "between steps; null: none",
    )
    num_heads: Count | None = Field(None, description="attention, gnn, communication: heads; null: 4")
    attention_width: Count | None = Field(
        None, description="attention, communication: width of all heads together; null: 64"
    )
    aggregation: Literal["attention", "mean"] | None = Field(
        None, description="gnn: how a node takes in its neighbours; null: attention (GATv2)"
    )
    message_size: Count | None = Field(
        None, description="communication: numbers that an agent sends a neighbour per decision; null: 8"
    )
    message_bits: Annotated[int, Field(ge=1, le=16)] | None = Field(
        None, description="communication: bits of each number of a message; null: float32, not rounded"
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="a class of your own: further arguments of its constructor, which also gets "
        "hidden_sizes and activation where it takes them",
    )
    double: bool | None = Field(
        None, description="dqn: let the online network choose what the target network values; null: true"
    )
    dueling: bool | None = Field(
        None, description="dqn: separate the value of the state from advantages; null: true"
    )
    target_update_freq: Count | None = Field(
        None, description="dqn, sac: updates between those of the target network; null: 1"
    )
    target_update_rate: Share | None = Field(
        None,
        description="dqn, sac: share by which the target network then moves to the online one; null: 0.01 "
        "where it moves at every update, else 1, which makes a copy",
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Settings of one kind of network act only with it."""
        acts_with = {
            "recurrent_size": ("actor_critic", "policy_gradient"),
            "num_heads": ("attention", "gnn", "communication"),
            "attention_width": ("attention", "communication"),
            "aggregation": ("gnn",),
            "message_size": ("communication",),
            "message_bits": ("communication",),
        }
        for name, kinds in acts_with.items():
            value = getattr(self, name)
            if value is not None and self.type not in kinds:
                yield (
                    name,
                    f"acts only with type {' or '.join(kinds)}, got {value} with {self.type!r}: remove it",
                )
        if self.options and "." not in self.type:
            rule = "must be empty unless type is a class of your own"
            yield "options", f"{rule}, got {self.options} with {self.type!r}"
        yield from self._undivided()

    def _undivided(self) -> Iterator[tuple[str, str]]:
        """Heads have equal shares of a width; what is wrong is said of what was given."""
        heads = NUM_HEADS if self.num_heads is None else self.num_heads
        if self.type in ("attention", "communication"):
            width = ATTENTION_WIDTH if self.attention_width is None else self.attention_width
            default = " by default" if self.attention_width is None else ""
            name, sizes, shared = "attention_width", [width], f"model.attention_width, {width}{default}"
            multiple, got = "a multiple", f"{width}"
        elif self.type == "gnn" and self.aggregation != "mean":
            name, sizes = "hidden_sizes", self.hidden_sizes
            shared, multiple, got = f"each of model.hidden_sizes, {sizes}", "multiples", f"{sizes}"
        else:
            return
        if not any(size % heads for size in sizes):
            return
        if self.num_heads is not None:
            yield "num_heads", f"must divide {shared}, got {heads}"
        else:
            yield name, f"must be {multiple} of model.num_heads, {heads} by default, got {got}"
