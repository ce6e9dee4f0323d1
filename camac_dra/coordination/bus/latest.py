"""The newest-value channel: one slot per sender and topic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from camac_dra.coordination.bus.payloads import Payload
from camac_dra.coordination.bus.wire import Publication

Slot: TypeAlias = tuple[str, str]  # (sender, topic)


class LatestSlots:
    """The newest publication of each slot."""

    def __init__(self) -> None:
        self._slots: dict[Slot, Publication] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def put(self, publication: Publication) -> bool:
        """Keep a publication unless a newer one is there; return whether it was kept.

        A later epoch (life of the sender) is newer whatever its versions are.
        """
        slot = (publication.sender, publication.topic)
        held = self._slots.get(slot)
        if held is not None and (held.epoch, held.version) > (publication.epoch, publication.version):
            return False
        self._slots[slot] = publication
        return True

    def get(self, slot: Slot) -> tuple[int, Payload] | None:
        """Return version and payload of a slot."""
        held = self._slots.get(slot)
        return None if held is None else (held.version, held.payload)

    def get_many(self, slots: Sequence[Slot]) -> list[tuple[int, Payload] | None]:
        """Return version and payload of each slot."""
        return [self.get(slot) for slot in slots]

    def have(self, slots: Sequence[Slot], at_least: int | None) -> bool:
        """Return whether every slot has a version of at least so much."""
        if at_least is None:
            return True
        held = self._slots
        return all(slot in held and held[slot].version >= at_least for slot in slots)
