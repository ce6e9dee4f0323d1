"""Building a bus from its settings, and a handle on one that exists."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from camac_dra.coordination.bus.carrier import Carrier, new_name
from camac_dra.coordination.bus.client import Client
from camac_dra.coordination.bus.client_core import ClientCore
from camac_dra.coordination.bus.local import LocalCarrier
from camac_dra.coordination.bus.payloads import pack_block
from camac_dra.utils.arguments import check_mapping
from camac_dra.utils.errors import BusArgumentError, BusClosedError
from camac_dra.utils.provenance import available_cores

if TYPE_CHECKING:
    from camac_dra.coordination.bus.journal import Journal
    from camac_dra.utils.file_handler import StrPath

MOST_SHARDS = 4  # unless more are asked for


@dataclass(frozen=True)
class BusSettings:
    """The settings of a bus, checked; times in seconds."""

    timeout: float
    backend: str
    max_queue_size: int
    num_shards: int | None
    name: str | None
    detached: bool
    max_message_bytes: int
    ttl: float | None

    def __post_init__(self) -> None:
        """Check.

        Raises:
            BusArgumentError: a setting is out of range.
        """
        if not (isinstance(self.timeout, int | float) and 0 < self.timeout < float("inf")):
            raise BusArgumentError(f"timeout: must be seconds above 0, got {self.timeout!r}")
        if self.backend not in ("ray", "local"):
            raise BusArgumentError(f"backend: must be 'ray' or 'local', got {self.backend!r}")
        for name, value in (
            ("max_queue_size", self.max_queue_size),
            ("num_shards", self.num_shards),
            ("max_message_bytes", self.max_message_bytes),
        ):
            optional = value is None and name == "num_shards"
            if not optional and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise BusArgumentError(f"{name}: must be a whole number of at least 1, got {value!r}")
        if self.ttl is not None and not (isinstance(self.ttl, int | float) and self.ttl > 0):
            raise BusArgumentError(f"ttl: must be None or seconds above 0, got {self.ttl!r}")
        if self.name is not None and (not isinstance(self.name, str) or not self.name):
            raise BusArgumentError(f"name: must be None or text that is not empty, got {self.name!r}")
        if not isinstance(self.detached, bool):
            raise BusArgumentError(f"detached: must be True or False, got {self.detached!r}")
        if self.detached and (self.name is None or self.backend == "local"):
            raise BusArgumentError(
                "detached: must be False without a name, by which others find it, and for 'local'"
            )

    @property
    def shards(self) -> int:
        """How many shards there are."""
        if self.num_shards is not None:
            return self.num_shards
        return 1 if self.backend == "local" else max(1, min(MOST_SHARDS, available_cores() // 2))

    def description(self) -> dict[str, Any]:
        """Return what all handles on one bus must agree on."""
        return {**asdict(self), "num_shards": self.shards}


@dataclass
class Built:
    """A bus in this process: its carrier, and what must end with it."""

    settings: BusSettings
    identity: str
    actors: list[Any] = field(default_factory=list)
    owner: bool = True
    started_ray: bool = False
    journal: Journal | None = None
    client: Client | None = None

    def lost(self, why: str) -> None:
        """Stop, because the bus's actors are gone."""
        if self.client is not None:
            self.client.close(why)

    def kill(self, number: int) -> None:
        """Kill an actor as a crash would."""
        if not isinstance(number, int) or not 0 <= number < len(self.actors):
            raise BusArgumentError(
                f"number: must be of the {len(self.actors)} actors of the bus, got {number!r}"
            )
        import ray

        ray.kill(self.actors[number], no_restart=False)

    def handle(self) -> tuple[Any, ...]:
        """Return what another process needs to reach the bus."""
        journal = None if self.journal is None else str(self.journal.folder)
        return self.identity, self.settings, self.actors, journal, os.getpid()

    def close(self) -> None:
        """End what this process owns."""
        if self.journal is not None:
            self.journal.close()
        if self.owner and not self.settings.detached:
            self.destroy()
        if self.started_ray:
            import ray

            ray.shutdown()

    def destroy(self) -> None:
        """End the bus for everybody."""
        if self.actors:
            import ray

            from camac_dra.coordination.bus.ray_shards import end_shards

            if ray.is_initialized():  # else they have ended with the cluster
                end_shards(self.actors)
        elif self.settings.name is not None:
            _local_names.discard(self.settings.name)


_local_names: set[str] = set()


def build(settings: BusSettings, journal: StrPath | None, options: Mapping[str, Any] | None) -> Built:
    """Start a bus, or find the detached one of that name."""
    if options is not None:
        check_mapping("shard_options:", options, BusArgumentError)
    if settings.backend == "local":
        built = _build_local(settings, options)
    else:
        built = _build_ray(settings, options or {})
    try:
        return _with_journal(built, journal)
    except BaseException:
        built.close()
        raise


def _with_journal(built: Built, journal: StrPath | None) -> Built:
    if journal is not None:
        from camac_dra.coordination.bus.journal import Journal

        built.journal = Journal(journal)
    return built


def _build_local(settings: BusSettings, options: Mapping[str, Any] | None) -> Built:
    from camac_dra.utils.errors import BusNameError

    if options:
        raise BusArgumentError(f"shard_options: must be left out for the local backend, got {dict(options)}")
    if settings.name is not None:
        if settings.name in _local_names:
            raise BusNameError(f"name: must be new in this process, got {settings.name!r}, which a bus has")
        _local_names.add(settings.name)
    return Built(settings, uuid.uuid4().hex)


def _build_ray(settings: BusSettings, options: Mapping[str, Any]) -> Built:
    from camac_dra.coordination.bus import ray_shards

    started = ray_shards.start_ray()
    description = settings.description()
    name = settings.name or uuid.uuid4().hex
    if settings.detached and (actors := ray_shards.find_shards(name, description)):
        return Built(settings, name, actors, owner=False, started_ray=started)
    actors = ray_shards.create_shards(
        name, settings.name is not None, settings.detached, description, options
    )
    return Built(settings, name, actors, started_ray=started)


def attach(passed: tuple[Any, ...]) -> Built:
    """Return a handle on a bus that another process passed on."""
    identity, settings, actors, journal, process = passed
    if settings.backend == "local":
        raise BusClosedError(
            f"a local bus lives in one process ({process}) until it is closed; to reach other processes "
            f"(this is {os.getpid()}), make it with backend='ray'"
        )
    built = Built(settings, identity, actors, owner=False)
    return _with_journal(built, journal)


def open_client(built: Built) -> Client:
    """Return the calls on a bus, with its carrier running."""
    settings = built.settings
    carrier: Carrier
    if built.actors:
        from camac_dra.coordination.bus.ray_carrier import RayCarrier

        carrier = RayCarrier(built.actors, built.lost)
    else:
        carrier = LocalCarrier(settings.shards, settings.max_queue_size)
    journal = built.journal
    core = ClientCore(
        new_name(),
        settings.shards,
        settings.max_queue_size,
        carrier.wake,
        log=None if journal is None else journal.add,
        settled=None if journal is None else journal.settle,
        pack=pack_block if built.actors else list,
    )
    client = Client(core, carrier, settings.timeout)
    built.client = client
    if journal is not None:
        for recipient, stream in journal.recover():
            core.adopt(recipient, stream)
    carrier.start(core)
    return client
