"""Train on whatever Ray cluster this machine belongs to, else on this machine alone.

The job of ``python -m camac_dra.run``, with its arguments, as one file that can be sent to a cluster::

    python experiments/train.py --config rllib_configs/default.yaml --environment.num_agents 20
    python experiments/train.py --address 10.0.0.1:6379 --num_workers 8
    ray submit cluster/local.yaml experiments/train.py -- --config rllib_configs/default.yaml --num_workers 2
    python experiments/train.py --num_workers 16 --num_learners 2 --num_gpus 1 --training.learner_threads 4

Without ``--address`` a running cluster is looked for on this machine. A configuration that is not found
from the current folder is looked for where the project is installed, since a submitted job starts in the
home folder. ``--num_workers`` sampling processes are placed wherever the cluster has cores, and so are
``--num_learners`` learning processes, each with ``--num_gpus`` of a GPU; with 0 of them learning happens in
this process.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from ray._private.utils import read_ray_address  # where `ray start` writes the address; no public way to it

import camac_dra
from camac_dra.run import main

PROJECT = Path(camac_dra.__file__).resolve().parents[1]


def with_found_config(arguments: list[str]) -> list[str]:
    """Return the arguments, ``--config`` led to the project's folder where the file lies there."""
    found = list(arguments)
    for place, argument in enumerate(found):
        name, equals, value = argument.partition("=")
        if name != "--config":
            continue
        if equals:
            found[place] = f"--config={_find(value)}"
        elif place + 1 < len(found):
            found[place + 1] = _find(found[place + 1])
    return found


def _find(path: str) -> str:
    elsewhere = PROJECT / path
    return str(elsewhere) if not Path(path).exists() and elsewhere.exists() else path


def with_cluster(arguments: list[str]) -> list[str]:
    """Return the arguments with the running cluster's address where none is given."""
    if any(argument.partition("=")[0] == "--address" for argument in arguments):
        return arguments
    address = running_cluster()
    return arguments if address is None else [*arguments, "--address", address]


def running_cluster() -> str | None:
    """Return the address of the cluster that this machine belongs to, None where none answers."""
    address = os.environ.get("RAY_ADDRESS") or read_ray_address()
    if not address:
        return None
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except (OSError, ValueError):
        return None
    return address


if __name__ == "__main__":
    sys.exit(main(with_cluster(with_found_config(sys.argv[1:]))))
