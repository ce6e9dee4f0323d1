"""Settings of the dynamics that come from files: replay of a trace, sessions with deadlines at stations."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from camac_dra.utils.schema.base import NonNegative, Positive, Section

Order = Literal["random", "sequential"]
_Traced = TypeVar("_Traced", "ReplayConfig", "SessionsConfig")
Stay = Annotated[float, Field(gt=0, le=1)]
Range = Annotated[list[Positive], Field(min_length=2, max_length=2)]


class ReplayEvaluation(Section):
    """What evaluation replays instead; the other settings stay those of training."""

    demand: str | None = Field(None, description="path of the demand trace; null: that of training")
    price: str | None = Field(None, description="path of the price trace; null: that of training")
    capacity: str | None = Field(None, description="path of the capacity trace; null: that of training")
    start: float | str | None = Field(None, description="first timestamp; null: the trace's first")
    end: float | str | None = Field(None, description="last timestamp; null: the trace's last")
    order: Order = Field("sequential", description="random starts, or one stretch after the other")


class ReplayConfig(Section):
    """Replay of a trace: CSV with the columns timestamp, agent_id, resource_type, amount (others ignored).

    An agent without a row at a timestamp asks for nothing then; rows for the same agent, resource and
    timestamp add up. Timestamps are numbers, or dates in ISO 8601, and evenly spaced.
    """

    demand: str = Field(
        description="path of the demand trace (.csv or .csv.gz): timestamp, agent_id, resource_type, amount"
    )
    price: str | None = Field(
        None, description="path of a price trace: timestamp, resource_type, price; the demand's timestamps"
    )
    capacity: str | None = Field(
        None,
        description="path of a trace of the pool's capacity, which racks share: timestamp, resource_type, "
        "amount",
    )
    price_base: NonNegative = Field(1.0, description="price of resources that the price trace does not name")
    start: float | str | None = Field(
        None, description="first timestamp used, as in the trace; null: its first"
    )
    end: float | str | None = Field(None, description="last timestamp used, as in the trace; null: its last")
    order: Order = Field(
        "random", description="random starts, or sequential: one stretch after the other, copy by copy"
    )
    day_length: Positive | None = Field(
        None,
        description="steps of the cycle whose phase agents see; null: days where timestamps are dates, else "
        "none",
    )
    evaluation: ReplayEvaluation | None = Field(
        None, description="what evaluation replays instead; null: the same as training"
    )

    def held_out(self) -> ReplayConfig:
        """Return the settings for evaluation."""
        return _held_out(self, self.evaluation)


class SessionsEvaluation(Section):
    """The days on which evaluation plays; the other settings stay those of training."""

    sessions: str | None = Field(None, description="path of the sessions, or builtin:NAME; null: as training")
    price: str | None = Field(None, description="path of the prices, or builtin:NAME; null: as training")
    start: str | None = Field(None, description="first day used, YYYY-MM-DD; null: the trace's first")
    end: str | None = Field(None, description="last day used, YYYY-MM-DD; null: the trace's last")
    order: Order = Field("sequential", description="days drawn at random, or one after the other")
    capacity_range: Range | None = Field(
        None, description="factor on the capacity, from [low, high]; null: as training"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Ranges must not be upside down."""
        yield from _days(self.start, self.end)
        yield from _rising(self.capacity_range)


class SessionPlan(Section):
    """The plan that a session would follow by itself: to serve when it gains most before its departure.

    Served h steps later, a unit gains ``stay^h * (worth - price_h)`` by the forecasts of now; who announced
    no departure, or is overdue, serves at once.
    """

    stay: Stay = Field(
        0.994, description="probability that a session stays for another step, whatever it announced"
    )
    worth: Positive = Field(16.0, description="worth of a unit served, in the price's unit")
    choices: list[Stay] | None = Field(
        None,
        min_length=2,
        description="what an agent does with its action: it chooses the stay of the plan whose share of its "
        "full rate it asks for, one per level of action_size (max_multiple has no part in it then); null: "
        "levels are amounts",
    )


class SessionsConfig(Section):
    """Jobs that arrive at stations with an amount and a deadline: charging sessions, batch jobs, bookings.

    An episode starts at local midnight of a day with sessions; what has not been served when a session
    leaves, or when the episode ends, is lost.
    """

    sessions: str = Field(
        description="path of a CSV or .csv.gz, or builtin:NAME: station_id, arrival, departure, amount in "
        "unit-hours (kWh for a resource in kW; amount_RESOURCE with several), estimated_departure (optional)"
    )
    price: str | None = Field(
        None,
        description="path of a CSV or .csv.gz, or builtin:NAME: time, price, forecast_XXmin (optional); "
        "null: price_base alone",
    )
    start: str | None = Field(None, description="first day used, YYYY-MM-DD; null: the trace's first")
    end: str | None = Field(None, description="last day used, YYYY-MM-DD; null: the trace's last")
    order: Order = Field(
        "random",
        description="days drawn at random, or sequential: one after the other, copy by copy, from the first",
    )
    timezone: str | None = Field(
        None,
        description="where days begin at midnight, as America/Los_Angeles; null: the timestamps' own offset",
    )
    stations: list[str] | None = Field(
        None,
        description="station of each agent, in order; sessions elsewhere are left out; null: all of the "
        "file's, sorted",
    )
    departures: Literal["announced", "true"] = Field(
        "announced",
        description="what agents and planners know of a departure: the announced one, or the true one",
    )
    slot_minutes: Positive = Field(5.0, description="length of a step in minutes")
    observe_forecasts: bool = Field(
        True,
        description="show the agents by how much each forecast of the price file is above the price of now",
    )
    plan: SessionPlan | None = Field(
        None,
        description="show the agents what their own plan says about this step; null: do not",
    )
    shuffle_prices: bool = Field(
        False,
        description="give each episode of the training the prices of a day drawn by itself; evaluation plays "
        "days as they were",
    )
    service_order: Literal["index", "arrival", "deadline", "laxity"] = Field(
        "index",
        description="mechanism first_come: who is served first, the lowest index, or who arrived first, "
        "announced to leave first, or has the least slack before that",
    )
    price_scale: NonNegative = Field(1.0, description="factor on the price")
    price_base: NonNegative = Field(0.0, description="constant added to the price")
    capacity_range: Range = Field(
        default_factory=lambda: [1.0, 1.0],
        description="factor on the capacity, drawn per episode from [low, high]",
    )
    evaluation: SessionsEvaluation | None = Field(
        None, description="the days on which evaluation plays; null: the same as training"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Ranges must not be upside down."""
        yield from _days(self.start, self.end)
        yield from _rising(self.capacity_range)
        if self.stations is not None and len(set(self.stations)) < len(self.stations):
            twice = next(name for name in self.stations if self.stations.count(name) > 1)
            yield "stations", f"must name each station once, got {twice!r} {self.stations.count(twice)} times"

    def held_out(self) -> SessionsConfig:
        """Return the settings for evaluation."""
        return _held_out(self.model_copy(update={"shuffle_prices": False}), self.evaluation)


def _held_out(training: _Traced, evaluation: ReplayEvaluation | SessionsEvaluation | None) -> _Traced:
    """Return the training's settings with those of evaluation in their place; a range is never inherited."""
    if evaluation is None:
        return training
    own = evaluation.model_dump()
    changed = {name: value for name, value in own.items() if value is not None or name in ("start", "end")}
    return training.model_copy(update={**changed, "evaluation": None})


def _days(start: str | None, end: str | None) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a range of days."""
    for name, day in (("start", start), ("end", end)):
        if day is not None and not _is_day(day):
            yield name, f"must be a day as YYYY-MM-DD, got {day!r}"
            return
    if start is not None and end is not None and start > end:
        yield "end", f"must not be before start ({start}), got {end!r}"


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _rising(given: list[float] | None) -> Iterator[tuple[str, str]]:
    if given is not None and given[0] > given[1]:
        yield "capacity_range", f"must be [low, high] with low <= high, got {given}"
