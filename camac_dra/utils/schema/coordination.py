"""The ``coordination`` section: how agents agree, and how conflicts are resolved."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from camac_dra.utils.schema.base import Count, Positive, Section
from camac_dra.utils.schema.environment import Mechanism


class CoordinationConfig(Section):
    """How agents agree before they ask, and how conflicts are resolved."""

    protocol: Literal["none", "centralized", "distributed_consensus", "gossip"] = Field(
        "none", description="how agents agree on requests before they are made; this version has none only"
    )
    conflict_resolver: Mechanism | None = Field(
        None, description="mechanism that resolves conflicts; null: environment.mechanism"
    )
    message_timeout: Positive | None = Field(
        None, description="seconds a message may take; acts with a protocol"
    )
    sync_interval: Count | None = Field(
        None, description="steps between state synchronisations; acts with a protocol"
    )
    max_queue_size: Count | None = Field(
        None, description="messages that may wait per agent; acts with a protocol"
    )
