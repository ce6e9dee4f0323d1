"""What all sections of the configuration share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _whole(value: Any) -> Any:
    """Take 1e6 for a whole number, because it is one; leave all else to the strict check that follows."""
    return int(value) if type(value) is float and value.is_integer() else value


# Bounds stand before the conversion: pydantic shows only those in the JSON schema.
Whole = Annotated[int, BeforeValidator(_whole)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
CountOrZero = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
Levels = Annotated[int, Field(ge=2), BeforeValidator(_whole)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), BeforeValidator(_whole)]


class ContradictionError(ValueError):
    """Settings that are right each by itself but not together; ``problems`` has (path in section, rule)."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{path}: {rule}" for path, rule in problems))
        self.problems = problems


class Section(BaseModel):
    """A section of the configuration: frozen, strict about names and types, free of contradictions.

    ``True`` is no number, nor is ``"20"``; a section left empty in a file (``null``) has its defaults.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True, protected_namespaces=()
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Yield (path in this section, rule and values) for settings that do not go together."""
        yield from ()

    @model_validator(mode="before")
    @classmethod
    def _empty_means_defaults(cls, data: Any) -> Any:
        return {} if data is None else data

    @model_validator(mode="after")
    def _free_of_contradictions(self) -> Section:
        if problems := list(self.contradictions()):
            raise ContradictionError(problems)
        return self
