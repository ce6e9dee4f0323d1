"""Agents' states, copied to those who need them: versioned, in deltas, the same everywhere in the end.

Scuttlebutt reconciliation (van Renesse, Dumitriu, Gough and Thomas 2008): every agent owns its state, a set
of keys each with the version at which it last changed. Replicas exchange digests (the highest version that
they know of each owner) and answer with what the other lacks, in the order of versions. What is lost on the
way is asked for again by the next digest, so replicas agree as soon as they can talk, whatever happened.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from camac_dra.utils.arguments import check_list, check_mapping, check_text, check_whole
from camac_dra.utils.errors import StateSyncError

DIGEST, DELTA = "state_digest", "state_delta"
"""Types of the messages that replicas exchange."""

Message = dict[str, Any]
Outgoing = list[tuple[str, Message]]  # (recipient, message)
Stamp = tuple[int, int]  # (epoch, version); a later epoch is a later life of the owner


class _Gone:
    """Stands for a key that its owner deleted; there is one, also after pickling."""

    def __reduce__(self) -> str:
        return "GONE"

    def __repr__(self) -> str:
        return "GONE"


GONE = _Gone()


@dataclass(slots=True)
class _Replica:
    """What is known of one owner's state."""

    epoch: int = 0
    version: int = 0  # the highest that is known; all changes up to it are
    entries: dict[str, tuple[Any, int]] = field(default_factory=dict)  # key: (value, version of the change)

    @property
    def stamp(self) -> Stamp:
        return self.epoch, self.version

    def since(self, stamp: Stamp) -> list[tuple[str, Any, int]]:
        """Return the changes after ``stamp``, in the order of versions; all of them for an earlier epoch."""
        known = stamp[1] if stamp[0] == self.epoch else 0
        changes = [(key, value, version) for key, (value, version) in self.entries.items() if version > known]
        return sorted(changes, key=lambda change: change[2])


class StateSync:
    """One agent's replica of everybody's state.

    It does no I/O: `tick` and `receive` return the messages to send, the caller carries them. Messages may be
    lost, doubled, late or out of order. Guarantees: a replica never shows a state of an owner that the owner
    did not have or a mixture of older keys with newer ones that it knows; versions never go back; whatever an
    owner last wrote reaches every replica that is connected to it, over others if need be, within
    `sync_interval` steps per hop once messages get through. Values are shared, not copied: treat them as
    immutable. Not safe for use by several threads at once.

    Attributes:
        agent_id: whose replica this is; it may write this agent's state only.
        sync_interval: steps between digests.
    """

    def __init__(
        self,
        agent_id: str,
        sync_interval: int = 10,
        *,
        keep: Collection[str] | None = None,
        epoch: int | None = None,
    ) -> None:
        """Start with nothing known.

        Args:
            agent_id: the owner.
            sync_interval: steps between digests to the neighbours, at least 1.
            keep: whose states to keep besides its own, and to pass on; None: everybody's. What nobody between
                an owner and a reader keeps does not get there.
            epoch: number of this life of the agent, above those of all its earlier lives; None takes
                nanoseconds of the clock.

        Raises:
            StateSyncError: an interval below 1.
        """
        check_text("agent_id", agent_id, StateSyncError)
        check_whole("sync_interval", sync_interval, 1, StateSyncError)
        self.agent_id, self.sync_interval = agent_id, sync_interval
        self._keep = None if keep is None else frozenset(keep) | {agent_id}
        own = _Replica(epoch=time.time_ns() if epoch is None else epoch)
        self._replicas: dict[str, _Replica] = {agent_id: own}

    def update(self, state: Mapping[str, Any]) -> int:
        """Write keys of this agent's own state; return its version, which moves only where a value changed.

        Keys that are left out stay as they are (`delete` takes them away).
        """
        check_mapping("state", state, StateSyncError)
        own = self._replicas[self.agent_id]
        changed = {k: v for k, v in state.items() if k not in own.entries or not _same(own.entries[k][0], v)}
        for key, value in changed.items():
            own.version += 1
            own.entries[key] = (value, own.version)
        return own.version

    def delete(self, keys: Iterable[str]) -> int:
        """Take keys out of this agent's own state everywhere; return its version."""
        keys = check_list("keys", keys, "keys", StateSyncError)
        own = self._replicas[self.agent_id]
        return self.update({key: GONE for key in keys if key in own.entries})

    def get(self, agent_id: str) -> dict[str, Any] | None:
        """Return what is known of an agent's state; None where nothing is."""
        replica = self._replicas.get(agent_id)
        if replica is None:
            return None
        return {key: value for key, (value, _) in replica.entries.items() if value is not GONE}

    def version(self, agent_id: str) -> Stamp | None:
        """Return (epoch, version) of what is known of an agent; None where nothing is."""
        replica = self._replicas.get(agent_id)
        return None if replica is None else replica.stamp

    @property
    def known_agents(self) -> list[str]:
        """Of whom something is known, this agent first."""
        return list(self._replicas)

    def digest(self) -> dict[str, Stamp]:
        """Return the highest version known of each agent that has written anything."""
        return {agent: replica.stamp for agent, replica in self._replicas.items() if replica.version}

    def tick(self, step: int, neighbors: Iterable[str]) -> Outgoing:
        """Return what to send in this step: a digest to each neighbour in every `sync_interval`-th one.

        Neighbours answer with what is missing here, and ask for what is missing there.
        """
        check_whole("step", step, 0, StateSyncError)
        if step % self.sync_interval:
            return []
        return [(neighbor, self._digest_message()) for neighbor in neighbors]

    def receive(self, sender: str, message: Message) -> Outgoing:
        """Take in a message of another replica and return the answers.

        Raises:
            StateSyncError: it is none of this protocol's messages; then nothing has changed.
        """
        kind = check_mapping("message", message, StateSyncError).get("type")
        if kind == DIGEST:
            return self._answer(sender, _digest_in(message), message)
        if kind == DELTA:
            for agent, stamp, changes, since in _changes_in(message):
                self._apply(agent, stamp, changes, since)
            return []
        raise StateSyncError(f"type of a message must be {DIGEST!r} or {DELTA!r}, got {kind!r}")

    def full_state(self) -> Message:
        """Return everything that is known as one message, for whoever comes back with nothing."""
        return self._delta_message({})

    def forget(self, agent_id: str) -> None:
        """Drop what is known of an agent that has left for good; it comes back if others still tell of it.

        Raises:
            StateSyncError: it is this agent's own state.
        """
        if agent_id == self.agent_id:
            raise StateSyncError(f"an agent cannot forget its own state, got {agent_id!r}")
        self._replicas.pop(agent_id, None)

    def _digest_message(self, answer: bool = True) -> Message:
        if self._keep is None:
            return {"type": DIGEST, "digest": self.digest(), "answer": answer}
        wanted = {**dict.fromkeys(self._keep, (0, 0)), **self.digest()}
        return {"type": DIGEST, "digest": wanted, "answer": answer, "only": True}

    def _delta_message(self, theirs: Mapping[str, Stamp], *, only: bool = False) -> Message:
        """Return what is known here and not by who has the digest ``theirs``; ``only`` of those in it."""
        owners = [
            (agent, replica.stamp, replica.since(theirs.get(agent, (0, 0))), theirs.get(agent, (0, 0)))
            for agent, replica in self._replicas.items()
            if (agent in theirs or not only) and replica.version and replica.stamp > theirs.get(agent, (0, 0))
        ]
        return {"type": DELTA, "owners": owners}

    def _answer(self, sender: str, theirs: Mapping[str, Stamp], message: Message) -> Outgoing:
        """Return what the sender lacks, and a digest where this replica lacks something itself."""
        answers: Outgoing = []
        delta = self._delta_message(theirs, only=bool(message.get("only", False)))
        if delta["owners"]:
            answers.append((sender, delta))
        known = self.digest()
        behind = any(
            stamp > known.get(agent, (0, 0))
            for agent, stamp in theirs.items()
            if self._keep is None or agent in self._keep
        )
        if behind and message.get("answer", True):
            answers.append((sender, self._digest_message(answer=False)))
        return answers

    def _apply(self, agent: str, stamp: Stamp, changes: list[tuple[str, Any, int]], since: Stamp) -> None:
        """Take in changes of one owner, unless they are old or others are missing before them."""
        replica = self._replicas.get(agent) or _Replica()
        if agent == self.agent_id or stamp <= replica.stamp:
            return
        if self._keep is not None and agent not in self._keep:
            return
        complete = since[0] != stamp[0] or since[1] <= (replica.version if replica.epoch == stamp[0] else 0)
        if not complete:
            return
        if stamp[0] > replica.epoch:
            replica = _Replica(epoch=stamp[0])
        for key, value, version in changes:
            if version > replica.entries.get(key, (None, 0))[1]:
                replica.entries[key] = (value, version)
        replica.version = stamp[1]
        self._replicas[agent] = replica


def merged(full_states: Iterable[Message]) -> Message:
    """Return several replicas' `StateSync.full_state` as one, with the newest that is known of each owner."""
    newest: dict[str, tuple[Any, ...]] = {}
    for message in full_states:
        for owner in message["owners"]:
            if owner[0] not in newest or newest[owner[0]][1] < owner[1]:
                newest[owner[0]] = owner
    return {"type": DELTA, "owners": list(newest.values())}


def _same(old: Any, new: Any) -> bool:
    """Return whether two values are alike, arrays and tensors by their contents, also within containers."""
    if old is new:
        return True
    if type(old) is not type(new):
        return False
    if hasattr(old, "shape"):
        return bool(old.dtype == new.dtype and np.array_equal(np.asarray(old), np.asarray(new)))
    if isinstance(old, list | tuple):
        return len(old) == len(new) and all(map(_same, old, new))
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(_same(value, new[key]) for key, value in old.items())
    try:
        return bool(old == new)
    except (TypeError, ValueError):  # whoever cannot say so has changed
        return False


def _digest_in(message: Message) -> dict[str, Stamp]:
    try:
        return {str(agent): (int(e), int(v)) for agent, (e, v) in message["digest"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise StateSyncError(
            f"digest must map agents to (epoch, version), got {message.get('digest')!r}"
        ) from None


def _changes_in(message: Message) -> list[tuple[str, Stamp, list[tuple[str, Any, int]], Stamp]]:
    try:
        return [
            (
                str(agent),
                (int(e), int(v)),
                [(str(key), value, int(version)) for key, value, version in changes],
                (int(since[0]), int(since[1])),
            )
            for agent, (e, v), changes, since in message["owners"]
        ]
    except (KeyError, TypeError, ValueError, IndexError):
        raise StateSyncError(
            "owners must be a list of (agent, (epoch, version), [(key, value, version)], (epoch, version))"
        ) from None
