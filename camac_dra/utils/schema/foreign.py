"""The part of the ``environment`` section that names somebody else's environment instead of the allocation
problem.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from camac_dra.utils.schema.base import Section

FOREIGN_SETTINGS = ("factory", "factory_options", "agent_indicator", "baselines")
ALL_FOREIGN = (*FOREIGN_SETTINGS, "max_episode_length")  # what has a meaning beside a factory


class ForeignProblem(Section):
    """Somebody else's environment. Where ``factory`` is given, the section holds nothing but these settings
    and ``max_episode_length``, and is written without the others.
    """

    factory: str | None = Field(
        None,
        min_length=1,
        description="dotted path of what makes a PettingZoo ParallelEnv by somebody else, for example "
        "mpe2.simple_spread_v3.parallel_env; it is imported, so name only what you trust; null: the "
        "allocation problem, which the settings below describe",
    )
    factory_options: dict[str, Any] = Field(
        default_factory=dict, description="factory: arguments by name that it is called with"
    )
    agent_indicator: bool = Field(
        False, description="factory: agents also see who they are, as a one-hot vector of all agents"
    )
    baselines: list[str] = Field(
        default_factory=list,
        description="factory: dotted paths of functions (environment, observations by agent) -> actions by "
        "agent, which the comparison at the end plays beside the trained policy; they are imported",
    )

    @model_serializer(mode="wrap")
    def _only_what_acts(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        return data if self.factory is None else {name: data[name] for name in ALL_FOREIGN}

    def foreign_contradictions(self) -> Iterator[tuple[str, str]]:
        """A factory replaces the allocation problem; what belongs to one of them acts only with it."""
        if self.factory is None:
            for name in FOREIGN_SETTINGS:
                value = getattr(self, name)
                if value:
                    yield name, f"acts only with environment.factory, got {value!r} without one: remove it"
            return
        if "max_episode_length" not in self.model_fields_set:
            yield (
                "max_episode_length",
                "must be given with environment.factory: episodes are cut off there, and training lasts "
                "num_episodes times as many steps",
            )
        for name in type(self).model_fields:
            if name in self.model_fields_set and name not in ALL_FOREIGN:
                yield (
                    name,
                    f"belongs to the allocation problem and has no effect with environment.factory "
                    f"{self.factory!r}: remove it",
                )
