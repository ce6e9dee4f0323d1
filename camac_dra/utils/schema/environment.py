"""The ``environment`` section: the decision problem (who asks for what, under which limits and reward)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from camac_dra.utils.schema.base import (
    Count,
    Finite,
    Levels,
    NonNegative,
    Positive,
    Probability,
    Section,
    Seed,
    Whole,
)
from camac_dra.utils.schema.foreign import ForeignProblem
from camac_dra.utils.schema.objectives import SAMPLED, ObjectiveScales, ObjectiveWeights
from camac_dra.utils.schema.traces import ReplayConfig, SessionsConfig

Mechanism = Literal[
    "proportional",
    "equal",
    "max_min",
    "weighted_max_min",
    "proportional_fair",
    "drf",
    "priority",
    "first_come",
    "weighted_random",
    "auction",
]
TopologyKind = Literal["fully_connected", "ring", "grid", "random", "star", "tree", "geometric", "graphml"]
_MARGINAL = ("efficiency", "weighted")  # reward functions of which the marginal credit is defined
RewardFunction = Annotated[Callable[..., Any], SkipJsonSchema()]


class TopologyOptions(Section):
    """Parameters of the topology generators; each acts for the kinds named in its description."""

    edge_probability: Probability = Field(
        0.3, description="random: probability of each edge; a spanning ring is added"
    )
    branching: Count = Field(2, description="tree: children per agent")
    radius: Positive = Field(
        0.35, description="geometric: agents closer than this in the unit square are connected"
    )
    edge_weight: NonNegative = Field(
        1.0, description="weight of generated edges; messages take weight * message_delay"
    )
    seed: Seed = Field(0, description="random, geometric: seed of the generator")
    file: str | None = Field(
        None, description="graphml: path of the file; its edge attribute 'weight' is used"
    )


class GroupConfig(Section):
    """One capacity group: the agents that share a limit, per resource."""

    name: str = Field(description="name of the group, for messages and plots")
    agents: list[Whole | str] = Field(min_length=1, description="members, as indices (from 0) or agent ids")
    limits: dict[str, NonNegative] = Field(
        description="capacity by resource, in the resource's unit; resources left out do not bind here"
    )


class ConstraintsConfig(Section):
    """Who shares which capacity, and what each agent may use."""

    num_groups: Count = Field(
        1,
        description="split agents into this many consecutive groups of equal size; they share the pool",
    )
    groups: list[GroupConfig] | None = Field(
        None,
        description="explicit groups, possibly overlapping; the pool of resource_limits stays as group 0",
    )
    agent_limits: dict[str, Positive] = Field(
        default_factory=dict,
        description="most that one agent can use per step, by resource, in the resource's unit",
    )
    access: dict[str, list[Whole | str]] | None = Field(
        None,
        description="by resource, the agents (indices or ids) that may use it; resources left out: everybody",
    )


class SyntheticConfig(Section):
    """Arrivals with a daily cycle, noise and bursts; time-of-use price; shocks, outages, comings and goings.

    Arrivals of agent i and resource r: ``load * capacity / N * base * day * noise * burst / E[burst]``.
    """

    load: NonNegative = Field(0.85, description="mean demand as a share of capacity")
    base_concentration: Positive | None = Field(
        3.0,
        description="Dirichlet concentration of agents' shares, drawn per episode and resource; null: equal",
    )
    day_length: Positive = Field(50.0, description="steps per day, of demand and price")
    day_amplitude: Probability = Field(0.6, description="swing of the demand around its mean")
    phase_spread: NonNegative = Field(0.6, description="standard deviation of the agents' phases in radians")
    noise: NonNegative = Field(
        0.4, description="sigma of the lognormal noise per agent and step (its mean is 1)"
    )
    burst_probability: Probability = Field(0.03, description="probability of a burst per agent and step")
    burst_size: NonNegative = Field(4.0, description="factor on the demand in a burst")
    price_base: NonNegative = Field(1.0, description="mean price per unit of a fair share")
    price_amplitude: NonNegative = Field(0.9, description="swing of the price over the day")
    price_phase: Finite = Field(1.0, description="phase of the price in radians")
    shock_probability: Probability = Field(
        0.0, description="probability per step that a shock hits all agents at once"
    )
    shock_size: NonNegative = Field(2.0, description="factor on everybody's demand during a shock")
    shock_duration: Count = Field(10, description="steps that a shock lasts")
    outage_probability: Probability = Field(
        0.0, description="probability per group, resource and step of an outage"
    )
    outage_fraction: Probability = Field(0.5, description="share of the capacity that an outage takes")
    outage_duration: Count = Field(10, description="steps that an outage lasts")
    leave_probability: Probability = Field(
        0.0, description="probability per step that a present agent leaves"
    )
    join_probability: Probability = Field(
        0.1, description="probability per step that an absent agent comes back"
    )
    yield_low: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="service yield is drawn per episode, agent and resource from [yield_low, 1]"
    )


class DynamicsConfig(Section):
    """Where demand, capacity, price and presence come from."""

    kind: Literal["synthetic", "replay", "sessions"] = Field(
        "synthetic", description="generator of the exogenous events"
    )
    synthetic: SyntheticConfig = Field(
        default_factory=SyntheticConfig, description="settings of kind synthetic"
    )
    replay: ReplayConfig | None = Field(None, description="settings of kind replay")
    sessions: SessionsConfig | None = Field(None, description="settings of kind sessions")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Each kind has its own settings, and only its own."""
        if getattr(self, self.kind) is None:
            yield self.kind, f"is needed with dynamics.kind {self.kind!r}"
        for other in ("replay", "sessions"):
            if other != self.kind and getattr(self, other) is not None:
                yield other, f"has no effect with dynamics.kind {self.kind!r}: remove it"

    def held_out(self) -> DynamicsConfig:
        """Return the dynamics that evaluation plays on: other days or traces where the section has them."""
        replay = None if self.replay is None else self.replay.held_out()
        sessions = None if self.sessions is None else self.sessions.held_out()
        return self.model_copy(update={"replay": replay, "sessions": sessions})


class EnvironmentConfig(ForeignProblem):
    """The decision problem: the allocation problem, or somebody else's environment."""

    num_agents: Count = Field(10, description="number of agents")
    agent_prefix: str = Field("agent", min_length=1, description="agents are named PREFIX_0, PREFIX_1, ...")
    num_resources: Count = Field(
        5, description="number of resource types; those without a limit below get names of their own"
    )
    resource_limits: dict[str, Positive] = Field(
        default_factory=lambda: {"cpu": 1000.0, "memory": 500.0, "bandwidth": 10000.0},
        min_length=1,
        description="capacity of the pool per step, by resource, in any unit",
    )
    default_resource_limit: Positive = Field(
        1000.0, description="capacity of resources that resource_limits does not name"
    )
    max_episode_length: Count = Field(
        200, description="steps per episode; episodes are truncated there, not terminated"
    )
    constraints: ConstraintsConfig = Field(
        default_factory=ConstraintsConfig, description="capacity groups, limits, access"
    )
    dynamics: DynamicsConfig = Field(
        default_factory=DynamicsConfig, description="demand, capacity, price, presence"
    )

    topology: TopologyKind = Field("fully_connected", description="who hears whom")
    topology_options: TopologyOptions = Field(
        default_factory=TopologyOptions, description="parameters of the generator"
    )
    message_delay: NonNegative = Field(
        0.0, description="partial, graph: steps a neighbour's row takes per unit of edge weight (rounded up)"
    )
    message_loss: Probability = Field(
        0.0,
        description="partial, graph: probability that a neighbour's row is lost; the last one heard stays",
    )

    contention: NonNegative = Field(
        1.0, description="loss of usable capacity per share of overload; 0 switches it off"
    )
    contention_floor: Probability = Field(0.3, description="share of the capacity that is always usable")
    mechanism: Mechanism = Field(
        "proportional", description="how conflicts are resolved (requests to grants)"
    )
    coupling: Literal["additive", "leontief"] = Field(
        "additive", description="leontief: a bundle is served by its scarcest part"
    )
    backlog_limit: Positive | None = Field(
        8.0, description="fair shares that may wait per agent and resource; null: no limit"
    )
    weight_values: list[Positive] = Field(
        default_factory=lambda: [1.0, 2.0, 4.0],
        min_length=1,
        description="value of a served unit, drawn per agent and episode",
    )
    weight_probabilities: list[Probability] = Field(
        default_factory=lambda: [0.5, 0.3, 0.2], description="probabilities of weight_values"
    )
    weights: list[Positive] | None = Field(None, description="fixed value per agent instead of drawn ones")
    holding_cost: NonNegative = Field(
        0.003, description="cost per step and waiting unit, times the agent's weight"
    )
    loss_cost: NonNegative = Field(1.0, description="cost per lost unit, times the agent's weight")

    reward_function: Literal["efficiency", "fairness", "hybrid", "weighted"] = Field(
        "efficiency",
        description="what is rewarded: service and cost alike, the change of Jain's index, a mix of both, or "
        "the objectives by objective_weights",
    )
    hybrid_fairness: Probability = Field(0.3, description="hybrid: share of the fairness term")
    objective_weights: ObjectiveWeights | Literal["sampled"] | None = Field(
        None,
        description="weighted: how much each objective counts, or sampled: drawn per episode from a "
        "Dirichlet distribution, the same for all agents, and shown to them",
    )
    objective_concentration: Positive | None = Field(
        None, description="sampled: concentration of the Dirichlet distribution; null: 1, which is uniform"
    )
    objective_scales: ObjectiveScales | None = Field(
        None, description="weighted: what a unit of each weight is worth; null: 1 each"
    )
    reward_fn: str | RewardFunction | None = Field(
        None, description="own reward, fn(agent_id, allocation, resources), as a dotted path or a callable"
    )
    credit: Literal["individual", "team", "marginal"] = Field(
        "marginal",
        description="to whom rewards are credited; marginal needs reward_function efficiency or weighted and "
        "a deterministic mechanism: without them the default is team, with a reward_fn individual",
    )

    observation_type: Literal["partial", "full", "graph"] = Field("partial", description="what an agent sees")
    observation_size: Count = Field(
        64, description="partial, full: observations are padded with zeros to at least this"
    )
    max_neighbors: Count | None = Field(
        None, description="graph: rows for neighbours; null: the largest degree"
    )
    action_type: Literal["discrete", "multi_discrete", "continuous"] = Field(
        "discrete", description="one level for the bundle, one per resource, or a number per resource"
    )
    action_size: Levels = Field(10, description="levels from 0 to max_multiple")
    max_multiple: Positive | None = Field(
        3.0,
        description="largest request in fair shares; null: up to the agent's limit, or all that is pending",
    )
    slo_target: Probability = Field(
        0.9, description="an agent-episode is a success when served / demanded reaches this"
    )
    seed: Seed = Field(0, description="seed used when none is given to reset or to the trainer")

    @model_validator(mode="before")
    @classmethod
    def _credit_that_is_defined(cls, data: Any) -> Any:
        """Choose the default credit among those that the rest of the section allows."""
        if not isinstance(data, dict) or "credit" in data or data.get("factory") is not None:
            return data
        if data.get("reward_fn") is not None:
            return {**data, "credit": "individual"}
        defined = data.get("reward_function", "efficiency") in _MARGINAL
        if not defined or data.get("mechanism") == "weighted_random":
            return {**data, "credit": "team"}
        return data

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Sizes must fit together, and options act only beside what they belong to."""
        yield from self.foreign_contradictions()
        if self.factory is not None:
            return
        if self.num_resources < len(self.resource_limits):
            yield (
                "num_resources",
                f"must be at least the number of resource_limits ({len(self.resource_limits)}: "
                f"{', '.join(self.resource_limits)}), got {self.num_resources}",
            )
        if self.constraints.num_groups > self.num_agents:
            yield (
                "constraints.num_groups",
                f"must be at most num_agents ({self.num_agents}), got {self.constraints.num_groups}",
            )
        yield from self._weight_contradictions()
        yield from self._lone_options()
        yield from self._objective_contradictions()
        if self.credit == "marginal":
            yield from self._marginal_contradictions()

    def _weight_contradictions(self) -> Iterator[tuple[str, str]]:
        values, probabilities = self.weight_values, self.weight_probabilities
        if len(probabilities) != len(values):
            yield (
                "weight_probabilities",
                f"must have as many entries as weight_values ({len(values)}), got {len(probabilities)}",
            )
        elif abs(sum(probabilities) - 1.0) > 1e-9:
            yield (
                "weight_probabilities",
                f"must sum to 1, got {probabilities} with sum {sum(probabilities):.12g}",
            )
        if self.weights is not None and len(self.weights) != self.num_agents:
            yield "weights", f"must have num_agents ({self.num_agents}) entries, got {len(self.weights)}"

    def _lone_options(self) -> Iterator[tuple[str, str]]:
        if self.topology == "graphml" and self.topology_options.file is None:
            yield "topology_options.file", "is needed with topology 'graphml'"
        if self.topology != "graphml" and self.topology_options.file is not None:
            yield "topology_options.file", f"has no effect with topology {self.topology!r}: remove it"
        sessions = self.dynamics.sessions
        choices = None if sessions is None or sessions.plan is None else sessions.plan.choices
        if choices is not None and (self.action_type, self.action_size) != ("discrete", len(choices)):
            yield (
                "dynamics.sessions.plan.choices",
                f"must be as many as action_size, with action_type 'discrete', got {len(choices)} with "
                f"{self.action_size} and {self.action_type!r}",
            )
        if sessions is not None and sessions.service_order != "index" and self.mechanism != "first_come":
            yield (
                "dynamics.sessions.service_order",
                f"acts only with mechanism 'first_come', got {sessions.service_order!r} with "
                f"{self.mechanism!r}: leave it at 'index'",
            )
        if self.observation_type != "graph" and self.max_neighbors is not None:
            yield (
                "max_neighbors",
                f"acts only with observation_type 'graph', got {self.observation_type!r}: remove it",
            )
        for name in ("message_delay", "message_loss"):
            if self.observation_type == "full" and getattr(self, name) > 0.0:
                yield (
                    name,
                    f"has no effect with observation_type 'full', which shows everybody's rows at once, got "
                    f"{getattr(self, name)}: leave it at 0",
                )

    def _objective_contradictions(self) -> Iterator[tuple[str, str]]:
        weighted, sampled = self.reward_function == "weighted", self.objective_weights == SAMPLED
        if weighted and self.objective_weights is None:
            yield "objective_weights", "is needed with reward_function 'weighted', got null"
        if weighted and self.reward_fn is not None:
            yield "reward_fn", "takes the place of reward_function 'weighted': remove one of them"
        for name in ("objective_weights", "objective_scales"):
            if not weighted and getattr(self, name) is not None:
                yield (
                    name,
                    f"acts only with reward_function 'weighted', got {self.reward_function!r}: remove it",
                )
        if self.objective_concentration is not None and not sampled:
            yield "objective_concentration", "acts only with objective_weights 'sampled': remove it"

    def _marginal_contradictions(self) -> Iterator[tuple[str, str]]:
        if self.mechanism == "weighted_random":
            yield (
                "credit",
                "'marginal' needs a deterministic mechanism, got 'weighted_random': use credit 'team'",
            )
        if self.reward_function not in _MARGINAL or self.reward_fn is not None:
            got = "a reward_fn" if self.reward_fn is not None else f"{self.reward_function!r}"
            yield (
                "credit",
                f"'marginal' is defined for reward_function {' and '.join(map(repr, _MARGINAL))} alone, got "
                f"{got}: use credit 'team' or 'individual'",
            )

    def held_out(self) -> EnvironmentConfig:
        """Return the problem that evaluation plays: the same, on other days or traces where it has them."""
        if self.factory is not None:
            return self
        return self.model_copy(update={"dynamics": self.dynamics.held_out()})

    @property
    def resource_ids(self) -> list[str]:
        """Names of the resources: those of ``resource_limits``, then ``resource_3``, ``resource_4``, ..."""
        named = list(self.resource_limits)
        return named + [f"resource_{r}" for r in range(len(named), self.num_resources)]

    @property
    def agent_ids(self) -> list[str]:
        """Names of the agents, ``PREFIX_0`` to ``PREFIX_{N-1}``."""
        return [f"{self.agent_prefix}_{i}" for i in range(self.num_agents)]
