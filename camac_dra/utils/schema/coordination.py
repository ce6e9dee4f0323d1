"""The ``coordination`` section: how agents agree, and how conflicts are resolved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from camac_dra.utils.schema.base import Count, CountOrZero, Positive, Section
from camac_dra.utils.schema.environment import Mechanism


class CoordinationConfig(Section):
    """How agents agree before they ask, and how conflicts are resolved."""

    protocol: Literal["none", "centralized", "distributed_consensus", "gossip"] = Field(
        "none", description="how agents agree on requests before they are made"
    )
    objective: Literal["proportional", "weighted", "max_weight"] = Field(
        "proportional",
        description="what gives way where requests exceed a capacity: all in proportion, the cheaper "
        "more, or what has less weight times what waits",
    )
    rounds: Count | None = Field(
        None,
        description="exchanges per decision; null: as many as leave a thousandth of the error, 400 at most; "
        "centralized: one there and one back per trip, so an even number",
    )
    message_loss: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="probability that a message of the protocol is lost, in training and evaluation"
    )
    message_delay: CountOrZero = Field(
        0, description="rounds that a message of the protocol takes longer than the one it is sent in"
    )
    conflict_resolver: Mechanism | None = Field(
        None, description="mechanism that resolves conflicts; null: environment.mechanism"
    )
    message_timeout: Positive = Field(
        5.0, description="seconds that a message, and so a decision, may take; acts where agents are deployed"
    )
    sync_interval: Count = Field(
        10, description="steps between synchronisations of agents' states; acts where agents are deployed"
    )
    max_queue_size: Count = Field(
        1000, description="messages that may wait per agent; acts where agents are deployed"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Settings of protocols act only with one, and some only with one of them."""
        if self.protocol == "none":
            for name in ("objective", "rounds", "message_loss", "message_delay"):
                value = getattr(self, name)
                if value != type(self).model_fields[name].default:
                    yield (
                        name,
                        f"has no effect with protocol 'none', got {value!r}: remove it, or set a protocol",
                    )
            return
        if self.protocol == "centralized" and self.rounds is not None:
            trip = 2 * (1 + self.message_delay)
            if self.rounds % trip:
                yield (
                    "rounds",
                    f"must be a multiple of {trip} with protocol 'centralized' and message_delay "
                    f"{self.message_delay}, one trip there and back, got {self.rounds}",
                )
        if self.protocol != "centralized" and self.rounds is not None and self.rounds <= self.message_delay:
            yield (
                "rounds",
                f"must be above message_delay {self.message_delay}: nothing arrives, got {self.rounds}",
            )
