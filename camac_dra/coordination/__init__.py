"""Agents as Ray actors, the bus between them, and the protocols by which they agree."""

from camac_dra.coordination.message_bus import MessageBus

__all__ = ["MessageBus"]
