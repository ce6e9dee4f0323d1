"""Options, fixtures and guards that all tests share.

``--benchmark`` adds the benchmarks in their quick form; ``--config FILE`` is the configuration of integration
tests. Tests that need Ray ask for ``ray_cluster``: one Ray per run, and a test that leaves
an actor alive fails.
"""

from __future__ import annotations

import os

# Before anything imports NumPy or torch: with more threads than cores, two processes run many times slower.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MPLBACKEND", "Agg")
# Ray would otherwise hide the GPUs of workers without one, and warns that it will stop doing so.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import gc  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# Tests assert behaviour, never timings: a busy machine must not fail a property.
settings.register_profile("no_deadlines", deadline=None)
settings.load_profile("no_deadlines")

ROOT = Path(__file__).resolve().parent.parent
RAY_CPUS = 4  # logical ones, whatever the machine has: placement then is the same everywhere
OBJECT_STORE_BYTES = 200 * 2**20
GRACE_SECONDS = 10.0  # an actor whose last handle is gone ends by itself, but not at once
_reported: set[str] = set()  # ids of leaked actors that a test has failed for already


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--benchmark`` and ``--config FILE``."""
    group = parser.getgroup("camac-dra")
    group.addoption("--benchmark", action="store_true", help="also run the benchmarks in their quick form")
    group.addoption(
        "--config",
        metavar="FILE",
        default=str(ROOT / "rllib_configs" / "test.yaml"),
        help="configuration that integration tests use (default: rllib_configs/test.yaml)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what uses Ray, and skip benchmarks unless they were asked for."""
    skip = pytest.mark.skip(reason="a benchmark: add --benchmark")
    for item in items:
        if "ray_session" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")
        if item.get_closest_marker("performance") and not config.getoption("--benchmark"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def config_path(pytestconfig: pytest.Config) -> Path:
    """Return the configuration file named by ``--config``."""
    path = Path(pytestconfig.getoption("--config"))
    if not path.is_file():
        pytest.exit(f"--config {path}: no such file", returncode=pytest.ExitCode.USAGE_ERROR)
    return path.resolve()


def live_actors() -> dict[str, str]:
    """Return class names of all actors that are not dead, by actor id."""
    from ray._private import state  # the public state API needs the dashboard

    return {key: actor["ActorClassName"] for key, actor in state.actors().items() if actor["State"] != "DEAD"}


def fail_on_new_actors(before: set[str], where: str) -> None:
    """Fail when actors besides ``before`` outlive a time of grace; each is reported once, none is killed."""
    deadline = time.monotonic() + GRACE_SECONDS
    while True:
        gc.collect()
        leaked = {key: name for key, name in live_actors().items() if key not in before | _reported}
        if not leaked:
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    _reported.update(leaked)
    pytest.fail(
        f"{where} left {len(leaked)} Ray actors alive: {', '.join(sorted(leaked.values()))}", pytrace=False
    )


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Any]:
    """Start one Ray for the whole run with a fixed size; at the end no actor may be left."""
    import ray

    ray.init(
        num_cpus=RAY_CPUS,
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        configure_logging=False,
        log_to_driver=False,
    )
    yield ray
    try:
        fail_on_new_actors(set(), "The run")
    finally:
        ray.shutdown()


@pytest.fixture
def ray_cluster(ray_session: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Give the run's Ray (the module ``ray``, initialised) to one test, which must leave no actor alive."""
    before = set(live_actors())
    yield ray_session
    fail_on_new_actors(before, request.node.nodeid)


@pytest.fixture(scope="session", autouse=True)
def _ray_is_shut_down() -> Iterator[None]:
    """Fail the run when Ray still runs at its end: started without the fixture above, and not shut down."""
    yield
    ray = sys.modules.get("ray")
    if ray is not None and getattr(ray, "is_initialized", bool)():
        ray.shutdown()
        pytest.fail("A test started Ray by itself and did not shut it down: use ray_cluster", pytrace=False)
