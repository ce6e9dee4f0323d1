"""The typed schema of the configuration: four sections, each in a file of its own, and their root."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_validator

from camac_dra.utils.schema.base import ContradictionError, Section
from camac_dra.utils.schema.coordination import CoordinationConfig
from camac_dra.utils.schema.environment import EnvironmentConfig
from camac_dra.utils.schema.model import ENTITY_MODELS, KNOWN_MODELS, REPLAY_MODELS, ModelConfig
from camac_dra.utils.schema.objectives import SUM_OVER_RESOURCES
from camac_dra.utils.schema.training import CurriculumConfig, TrainingConfig

# Settings that act with some kinds of models only, null unless given.
KIND_SETTINGS: dict[str, tuple[str, ...]] = {
    "model.double": ("dqn",),
    "model.dueling": ("dqn",),
    "model.target_update_freq": REPLAY_MODELS,
    "model.target_update_rate": REPLAY_MODELS,
    "training.n_step": REPLAY_MODELS,
    "training.replay_buffer_size": REPLAY_MODELS,
    "training.learning_starts": REPLAY_MODELS,
    "training.prioritized_replay": REPLAY_MODELS,
    "training.checkpoint_replay": REPLAY_MODELS,
    "training.epsilon_start": ("dqn",),
    "training.epsilon_end": ("dqn",),
    "training.epsilon_decay": ("dqn",),
}
# Settings that have a default and no effect with these kinds, with which another value is refused.
EFFECTLESS_WITH: dict[str, tuple[str, ...]] = {
    "training.gae_lambda": REPLAY_MODELS,
    "training.clip_param": (*REPLAY_MODELS, "policy_gradient"),
    "training.value_clip": REPLAY_MODELS,
    "training.value_loss_coeff": REPLAY_MODELS,
    "training.entropy_coeff": REPLAY_MODELS,
    "training.entropy_coeff_end": REPLAY_MODELS,
}


class Config(Section):
    """A whole configuration: the problem, the network, the training and the coordination."""

    environment: EnvironmentConfig = Field(
        default_factory=EnvironmentConfig,
        description="the decision problem: who asks for what, under which limits",
    )
    model: ModelConfig = Field(default_factory=ModelConfig, description="the network")
    training: TrainingConfig = Field(
        default_factory=TrainingConfig, description="sampling, optimisation, evaluation and checkpoints"
    )
    coordination: CoordinationConfig = Field(
        default_factory=CoordinationConfig, description="how agents agree, and how conflicts are resolved"
    )

    @model_validator(mode="before")
    @classmethod
    def _resolver_is_the_mechanism(cls, data: Any) -> Any:
        """``coordination.conflict_resolver`` is the specification's name for ``environment.mechanism``."""
        if not isinstance(data, dict):
            return data
        coordination, environment = data.get("coordination"), data.get("environment")
        environment = {} if environment is None else environment
        if not isinstance(coordination, dict) or not isinstance(environment, dict):
            return data
        resolver = coordination.get("conflict_resolver")
        if resolver is None or "mechanism" in environment:
            return data
        return {**data, "environment": {**environment, "mechanism": resolver}}

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Sections must fit each other: sizes of network and problem, options and the kind they belong to."""
        resolver, mechanism = self.coordination.conflict_resolver, self.environment.mechanism
        if resolver not in (None, mechanism):
            yield (
                "coordination.conflict_resolver",
                f"{resolver!r} contradicts environment.mechanism {mechanism!r}: set one, or both alike",
            )
        if self.environment.factory is None:
            yield from self._size_contradictions()
        else:
            yield from self._foreign_contradictions()
        yield from self._learning_contradictions()
        if self.training.factored_credit and self.environment.factory is None:
            yield from self._factored_contradictions()
        if self.training.deferral_price is not None and (
            self.environment.reward_function != "efficiency" or self.environment.reward_fn is not None
        ):
            yield (
                "training.deferral_price",
                f"acts only with environment.reward_function 'efficiency' and without a reward_fn, got "
                f"{self.training.deferral_price}: remove it",
            )
        if self.environment.credit == "marginal":
            for i, stage in enumerate(self.training.curriculum.mechanism):
                if stage.mechanism == "weighted_random":
                    yield (
                        f"training.curriculum.mechanism.{i}.mechanism",
                        "must be deterministic where environment.credit is 'marginal', got 'weighted_random'",
                    )
        yield from self._settings_of_other_kinds()

    def _settings_of_other_kinds(self) -> Iterator[tuple[str, str]]:
        kind = self.model.type
        if kind not in KNOWN_MODELS and "." not in kind:
            return  # refused as such
        for path, kinds in KIND_SETTINGS.items():
            section, name = path.split(".")
            value = getattr(getattr(self, section), name)
            if value is not None and kind not in kinds:
                allowed = " or ".join(repr(one) for one in kinds)
                yield path, f"acts only with model.type {allowed}, got {value} with {kind!r}: remove it"
        for path, kinds in EFFECTLESS_WITH.items():
            section, name = path.split(".")
            settings = getattr(self, section)
            value, default = getattr(settings, name), type(settings).model_fields[name].default
            if value != default and kind in kinds:
                usual = "null" if default is None else default
                yield path, f"has no effect with model.type {kind!r}, got {value}: leave it at {usual}"

    def _learning_contradictions(self) -> Iterator[tuple[str, str]]:
        kind, observed = self.model.type, self.environment.observation_type
        if kind in ENTITY_MODELS and self.environment.factory is not None:
            yield (
                "model.type",
                "must be one that takes rows of numbers with environment.factory, such as actor_critic, got "
                f"{kind!r}, which sees others row by row",
            )
        elif kind in ENTITY_MODELS and observed != "graph":
            yield (
                "environment.observation_type",
                f"must be 'graph' with model.type {kind!r}, which sees others row by row, got {observed!r}",
            )
        if kind == "communication" and self.training.policies != "shared":
            yield (
                "training.policies",
                "must be 'shared' with model.type 'communication', whose agents understand their own kind "
                f"only, got {self.training.policies!r}",
            )
        if kind in REPLAY_MODELS and self.training.critic != "local":
            yield (
                "training.critic",
                f"must be 'local' with model.type {kind!r}, which has Q-values of what agents see, got "
                f"{self.training.critic!r}",
            )
        if kind in REPLAY_MODELS and self.training.factored_credit:
            yield (
                "training.factored_credit",
                f"must be false or null with model.type {kind!r}, which has no policy gradient, got true",
            )
        if kind in REPLAY_MODELS and self.training.num_learners:
            yield (
                "training.num_learners",
                f"must be 0 with model.type {kind!r}, which learns in the main process, got "
                f"{self.training.num_learners}",
            )
        if kind == "policy_gradient" and self.training.num_epochs not in (None, 1):
            yield (
                "training.num_epochs",
                "must be 1 or null with model.type 'policy_gradient', whose gradient is that of the policy "
                f"that sampled, got {self.training.num_epochs}",
            )

    def _foreign_contradictions(self) -> Iterator[tuple[str, str]]:
        """What is about allocation in other sections has no meaning beside a factory."""
        rule = "is about the allocation problem and has no effect with environment.factory: remove it"
        if self.training.curriculum != CurriculumConfig():
            yield "training.curriculum", rule
        if self.training.deferral_price is not None:
            yield "training.deferral_price", rule
        if self.training.factored_credit:
            yield "training.factored_credit", rule
        for name in type(self.coordination).model_fields:
            if getattr(self.coordination, name) != type(self.coordination).model_fields[name].default:
                yield f"coordination.{name}", rule

    def _factored_contradictions(self) -> Iterator[tuple[str, str]]:
        """There must be a level for each resource, and rewards must be sums of what each brings by itself."""
        environment, training = self.environment, self.training
        for path, value, right in (
            ("environment.action_type", environment.action_type, "multi_discrete"),
            *((f"environment.{n}", getattr(environment, n), v) for n, v in SUM_OVER_RESOURCES.items()),
            ("training.sampler", training.sampler, "array"),
        ):
            if value != right:
                must = "null" if right is None else repr(right)
                yield path, f"must be {must} with training.factored_credit, got {value!r}"

    def _size_contradictions(self) -> Iterator[tuple[str, str]]:
        environment, model = self.environment, self.model
        continuous = environment.action_type == "continuous"
        source = "num_resources" if continuous else "action_size"
        expected = getattr(environment, source)
        if model.action_size not in (None, expected):
            yield (
                "model.action_size",
                f"must be environment.{source} ({expected}) where environment.action_type is "
                f"{environment.action_type!r}, got {model.action_size}; null takes it from the environment",
            )
        padded = environment.observation_type in ("partial", "full")
        if padded and model.state_size is not None and model.state_size < environment.observation_size:
            yield (
                "model.state_size",
                f"must be at least environment.observation_size ({environment.observation_size}), got "
                f"{model.state_size}; null takes it from the environment",
            )


__all__ = [
    "EFFECTLESS_WITH",
    "KIND_SETTINGS",
    "KNOWN_MODELS",
    "Config",
    "ContradictionError",
    "CoordinationConfig",
    "EnvironmentConfig",
    "ModelConfig",
    "Section",
    "TrainingConfig",
]
