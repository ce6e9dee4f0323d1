"""Ray where it is needed, and an algorithm without it where it is not.

RLlib needs Ray for remote env runners only: with ``num_workers`` 0 everything runs in this process, and
nothing has to be started (which takes about ten seconds and half a gigabyte).
"""

from __future__ import annotations

import logging
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
import torch
from ray.rllib.env import env_runner_group

from camac_dra.training.array_algorithm import LOGDIR
from camac_dra.training.rllib_bridge import ArrayConfig
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.provenance import available_cores
from camac_dra.utils.ray_settings import set_surroundings

CONNECT_SECONDS = 10.0
NOISY = ("ray.rllib", "ray.rllib.algorithms.sac.sac", "ray.tune", "ray._common.deprecation")


@contextmanager
def ray_session(processes: int, address: str | None = None) -> Iterator[None]:
    """Run the block with the Ray that so many other processes need: one at ``address``, one started here, or
    none.

    A Ray that runs already in this process is used and left running.

    Raises:
        ConfigurationError: no Ray cluster answers at ``address``.
    """
    set_surroundings()
    if ray.is_initialized() or (processes == 0 and address is None):
        yield
        return
    quiet: dict[str, Any] = {
        "configure_logging": False,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    if address is None:
        # As many logical CPUs as there are processes, whatever the machine has: else RLlib would wait
        # forever.
        _start(max(processes + 1, available_cores()), quiet)
    else:
        _connect(address, quiet)
    try:
        yield
    finally:
        ray.shutdown()


def _start(num_cpus: int, options: dict[str, Any]) -> None:
    try:
        ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **options)
    except Exception as error:  # Ray raises plain ones, when its processes do not come up in time say
        raise ConfigurationError(
            "training.num_workers and num_learners: other processes need Ray, which did not start here: "
            f"{_reason(error)}; doctor says what is amiss, and 0 of both trains without Ray"
        ) from error


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _connect(address: str, options: dict[str, Any]) -> None:
    try:
        _knock(address)
        ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigurationError(
            "--address: must be where a Ray cluster answers (HOST:PORT, or auto), "
            f"got {address!r}: {_reason(error)}"
        ) from None


def _knock(address: str) -> None:
    """Find out at once whether anybody listens at HOST:PORT: Ray itself would keep trying for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def quiet_ray() -> None:
    """Keep RLlib's remarks about its own past off the screen; errors still come through."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


def build_algorithm(config: ArrayConfig, folder: Path) -> Any:
    """Return the algorithm of ``config``, without starting Ray where it does not run and is not needed.

    ``folder`` is where RLlib would put files of its own; it writes none at present.
    """
    config.env_config[LOGDIR] = str(folder)
    # Our seeds go to generators of our own. RLlib's would seed global ones, and loads torch's compiler for
    # that.
    config.debugging(seed=None)
    _refuse_missing_gpus(config)
    if config.num_env_runners:
        return _build_on_ray(config)
    if ray.is_initialized():
        return _build(config)
    with _without_object_store():
        return config.build_algo()


def _build_on_ray(config: ArrayConfig) -> Any:
    """Build with remote env runners; say it plainly where none of them started."""
    try:
        return _build(config)
    except IndexError as error:  # RLlib asks the first healthy env runner for its spaces
        raise ConfigurationError(
            f"training.num_workers: none of {config.num_env_runners} sampling processes started; the project "
            "must be installed on every node of the cluster (see cluster/local.yaml), reward_fn included"
        ) from error


def _build(config: ArrayConfig) -> Any:
    """Build where Ray runs, past what Ray warns of in itself when it makes learning processes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return config.build_algo()


def _refuse_missing_gpus(config: ArrayConfig) -> None:
    """Raise where there are fewer GPUs than the learners ask for: Ray would wait for some forever."""
    share, learners = float(config.num_gpus_per_learner), config.num_learners
    if not share:
        return
    needed = share * max(1, learners)
    found = ray.cluster_resources().get("GPU", 0.0) if learners else float(torch.cuda.device_count())
    if found < needed:
        where = "the Ray cluster has" if learners else "torch sees"
        raise ConfigurationError(
            f"training.num_gpus: {needed:g} GPUs are needed, {share:g} for each learner, got {found:g}, "
            f"which is what {where}; 0 learns on the processor"
        )


@contextmanager
def _without_object_store() -> Iterator[None]:
    """Let an ``EnvRunnerGroup`` keep its configuration by itself: it puts it into Ray's store for remote
    actors only.

    Contract with Ray 2.60: ``ray.put`` of the configuration is all that its constructor asks of Ray.
    """
    module: Any = env_runner_group
    original = module.ray
    module.ray = SimpleNamespace(put=lambda value: value)
    try:
        yield
    finally:
        module.ray = original
