"""Starting, finding and ending the actors of a bus."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayError

from camac_dra.coordination.bus.shard_actor import ShardActor
from camac_dra.utils.errors import BusArgumentError, BusNameError, BusPlacementError
from camac_dra.utils.provenance import available_cores
from camac_dra.utils.ray_settings import set_surroundings

NAMESPACE = "camac_dra"
PLACEMENT_SECONDS = 30.0  # for processes to start, where there is room for them
CONCURRENCY = 10_000  # polls that one shard keeps open at once


def start_ray() -> bool:
    """Start Ray where this process has none; return whether it did."""
    if ray.is_initialized():
        return False
    set_surroundings()
    ray.init(
        num_cpus=available_cores(),
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    return True


def actor_name(bus: str, number: int) -> str:
    """Return the name of one shard's actor."""
    return f"message-bus/{bus}/{number}"


def create_shards(
    bus: str, named: bool, detached: bool, description: dict[str, Any], options: Mapping[str, Any]
) -> list[Any]:
    """Start the actors of a new bus.

    Raises:
        BusNameError: a bus of that name exists.
        BusPlacementError: an actor finds no room within the bus's timeout, or does not start within half a
            minute where there is room.
        BusArgumentError: Ray does not know an option.
    """
    settings: dict[str, Any] = {
        "num_cpus": 0,
        "max_restarts": -1,
        "max_concurrency": CONCURRENCY,
        **options,
        "namespace": NAMESPACE,
    }
    if detached:
        settings["lifetime"] = "detached"
    actors: list[Any] = []
    try:
        factory: Any = ray.remote(ShardActor)
        for number in range(description["num_shards"]):
            name = {"name": actor_name(bus, number)} if named else {}
            actors.append(
                factory.options(**settings, **name).remote(description["max_queue_size"], description)
            )
        _await_placement(actors, settings, description["timeout"])
    except BaseException as error:
        end_shards(actors)
        if isinstance(error, ValueError) and "already" in str(error):
            raise BusNameError(
                f"name: must be new on this cluster, got {bus!r}, which a bus has; "
                "detached=True on both shares it"
            ) from None
        if isinstance(error, ValueError | TypeError):
            raise BusArgumentError(
                f"shard_options: must be what Ray's actors take, got {dict(options)}: {error}"
            ) from error
        raise
    return actors


def _await_placement(actors: list[Any], settings: Mapping[str, Any], timeout: float) -> None:
    began = time.monotonic()
    waiting = [actor.describe.remote() for actor in actors]
    first = min(timeout, PLACEMENT_SECONDS)
    ready, missing = ray.wait(waiting, num_returns=len(waiting), timeout=first)
    if missing and not _lacking(settings):
        ready, missing = ray.wait(waiting, num_returns=len(waiting), timeout=PLACEMENT_SECONDS - first)
    if missing:
        lacking = _lacking(settings)
        raise BusPlacementError(
            f"message bus: each of {len(actors)} shard actors must find {_needs(settings)}; "
            f"{len(missing)} did not within {time.monotonic() - began:.1f} s. "
            + (f"Missing: {'; '.join(lacking)}" if lacking else "Resources suffice; no process started.")
        )
    ray.get(ready)


def _needed(settings: Mapping[str, Any]) -> dict[str, float]:
    named = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    needed = {resource: float(settings.get(option) or 0) for resource, option in named.items()}
    needed.update(settings.get("resources") or {})
    return {resource: amount for resource, amount in needed.items() if amount}


def _needs(settings: Mapping[str, Any]) -> str:
    needed = _needed(settings)
    return ", ".join(f"{resource} {amount:g}" for resource, amount in needed.items()) or "a node"


def _lacking(settings: Mapping[str, Any]) -> list[str]:
    total, free = ray.cluster_resources(), ray.available_resources()
    return [
        f"{resource}: {free.get(resource, 0.0):g} of {total.get(resource, 0.0):g} free, {amount:g} needed"
        for resource, amount in _needed(settings).items()
        if free.get(resource, 0.0) < amount
    ]


def find_shards(bus: str, description: dict[str, Any]) -> list[Any] | None:
    """Return the actors of the detached bus of that name, or None where there is none.

    Raises:
        BusNameError: it has other settings, or belongs to one driver alone.
    """
    actors = []
    for number in range(description["num_shards"]):
        try:
            actors.append(ray.get_actor(actor_name(bus, number), namespace=NAMESPACE))
        except ValueError:
            if number == 0:
                return None
            break
    found = ray.get(actors[0].describe.remote(), timeout=PLACEMENT_SECONDS)
    if found != description:
        different = {key: value for key, value in found.items() if description.get(key) != value}
        raise BusNameError(
            f"name: {bus!r} is a bus with other settings: {different}; give the same, or another name"
        )
    while len(actors) < description["num_shards"]:  # another driver is just starting it
        actors.append(_await_actor(bus, len(actors)))
    return actors


def _await_actor(bus: str, number: int) -> Any:
    deadline = time.monotonic() + PLACEMENT_SECONDS
    while True:
        try:
            return ray.get_actor(actor_name(bus, number), namespace=NAMESPACE)
        except ValueError:
            if time.monotonic() > deadline:
                raise BusNameError(
                    f"name: shard {number} of the bus {bus!r} does not exist; close the rest of it"
                ) from None
            time.sleep(0.05)


def end_shards(actors: list[Any]) -> None:
    """Kill actors for good."""
    for actor in actors:
        try:
            ray.kill(actor, no_restart=True)
        except (RayError, ValueError):
            continue
