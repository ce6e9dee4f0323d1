"""How much faster training gets when other processes sample and learn, side by side with one process.

Run it with ``python experiments/benchmarks/remote.py [--quick] [--json FILE]``: about four minutes, with
``--quick`` one. All train PPO on the default problem with the settings of ``default.yaml`` and the
same train batch. Local mode samples and learns in one process, with one thread of torch and with two. Remote
mode samples in other processes, one fragment ahead of the learner, and learns in the main process or in
learning processes that share every minibatch. Its best counts. Sampling alone is what one and two sampling
processes deliver, with as many copies each, while nobody learns.

Times are by the clock, so run it on an idle machine with two cores: rounds alternate between the contenders,
and the best round of each counts.
"""

from __future__ import annotations

import os

from camac_dra.utils.processors import FEW_SPINS, SPINS

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault(SPINS, FEW_SPINS)  # as the command line does

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.environments import EnvironmentFactory, algorithm_settings
from camac_dra.training.ray_session import build_algorithm, quiet_ray, ray_session
from camac_dra.training.rllib_bridge import sample_fragments
from camac_dra.utils.config_loader import build_config

CONFIG = Path(__file__).resolve().parents[2] / "rllib_configs" / "default.yaml"
COPIES = 32  # of the environment, all processes together
LOCAL, LOCAL_TWO = "local, 1 thread", "local, 2 threads"
BEST = "1 sampler, learner with 2 threads"
WAYS: dict[str, dict[str, Any]] = {
    LOCAL: {},
    LOCAL_TWO: {"torch_threads": 2},
    "1 sampler, learner with 1 thread": {"num_workers": 1},
    BEST: {"num_workers": 1, "learner_threads": 2},
    "2 samplers, learner with 2 threads": {"num_workers": 2, "learner_threads": 2},
    "1 sampler, 2 learners": {"num_workers": 1, "num_learners": 2},
}
# Those of a group alternate. Fewer are there at a time, because processes that wait take a little as well.
GROUPS = ((LOCAL, LOCAL_TWO, BEST), tuple(WAYS)[2:3] + tuple(WAYS)[4:])
QUICK_GROUPS = ((LOCAL, LOCAL_TWO, BEST),)
SAMPLERS = ("1 sampler alone", "2 samplers alone")
ITERATIONS = {False: 8, True: 2}  # per round
ROUNDS = {False: 8, True: 2}
FRAGMENTS = 8  # sampled per round of sampling alone
TARGETS = ((LOCAL, 1.3), (LOCAL_TWO, 0.95))
TARGET_SAMPLING = 1.6


@dataclass
class Contender:
    """One way to train or to sample; keeps its best round."""

    name: str
    work: Callable[[], int] = field(repr=False)  # does one piece, returns agent-steps
    pieces: int
    lag: Callable[[], float] = field(repr=False, default=lambda: 0.0)
    rate: float = 0.0  # agent-steps per second
    off_policy_lag: float = 0.0

    def round(self) -> None:
        """Work, and keep the figure if it is better; the first piece, half done by then, does not count."""
        self.work()
        start = time.perf_counter()
        agent_steps = sum(self.work() for _ in range(self.pieces))
        self.rate = max(self.rate, agent_steps / (time.perf_counter() - start))
        time.sleep(0.3)  # what is sampled ahead must not disturb the next one


def make(settings: dict[str, Any], folder: Path, stack: ExitStack) -> Any:
    """Return an algorithm on the default problem."""
    copies = COPIES // max(1, settings.get("num_workers", 0))
    overrides = {f"training.{name}": value for name, value in {"num_envs": copies, **settings}.items()}
    config = build_config(CONFIG, overrides)
    factory = EnvironmentFactory(config.environment, config.coordination)
    algorithm = build_algorithm(build_algorithm_config(factory, algorithm_settings(config)), folder)
    stack.callback(algorithm.stop)
    return algorithm


def trainer(name: str, quick: bool, folder: Path, stack: ExitStack) -> Contender:
    """Return a way to train."""
    algorithm = make(WAYS[name], folder, stack)
    threads = algorithm.settings.threads_to_learn

    def work() -> int:
        torch.set_num_threads(threads)  # the contenders share this process
        before = algorithm.counters.agent_steps
        algorithm.train()
        return algorithm.counters.agent_steps - before

    return Contender(name, work, ITERATIONS[quick], lambda: algorithm.off_policy_lag)


def sampler(workers: int, folder: Path, stack: ExitStack) -> Contender:
    """Return so many sampling processes with ``COPIES`` copies each."""
    algorithm = make({"num_workers": workers, "num_envs": COPIES, "overlap": False}, folder, stack)

    def work() -> int:
        fragments, _ = sample_fragments(algorithm.env_runner_group, None)
        return sum(fragment.agent_steps for fragment in fragments)

    return Contender(SAMPLERS[workers - 1], work, FRAGMENTS)


def run(quick: bool) -> list[Contender]:
    """Measure everything."""
    makers: list[list[Callable[..., Contender]]] = [
        [partial(trainer, way, quick) for way in group] for group in (QUICK_GROUPS if quick else GROUPS)
    ]
    makers.append([partial(sampler, workers) for workers in (1, 2)])
    found = []
    with ray_session(16), tempfile.TemporaryDirectory() as name:
        for group in makers:
            with ExitStack() as stack:
                contenders = [maker(Path(name), stack) for maker in group]
                for _ in range(ROUNDS[quick]):
                    for contender in contenders:
                        contender.round()
                found += [replace(contender, off_policy_lag=contender.lag()) for contender in contenders]
    return found


def targets(contenders: list[Contender]) -> list[tuple[str, float, bool]]:
    """Return each target, the ratio reached, and whether it is met."""
    rates = {c.name: c.rate for c in contenders}
    best = max(rate for name, rate in rates.items() if name in WAYS and WAYS[name].get("num_workers"))
    found = []
    for name, least in TARGETS:
        ratio = best / rates[name]
        found.append((f"remote, overlapped: at least {least:g} times {name}", ratio, ratio >= least))
    ratio = rates[SAMPLERS[1]] / rates[SAMPLERS[0]]
    text = f"sampling alone: at least {TARGET_SAMPLING:g} times from 1 to 2 processes"
    return [*found, (text, ratio, ratio >= TARGET_SAMPLING)]


def show(contenders: list[Contender]) -> None:
    """Print the table and whether the targets are met."""
    local = next(c.rate for c in contenders if c.name == LOCAL)
    print(f"{'':<36}{'agent-steps/s':>15}{'to local':>10}{'lag':>6}")
    for c in contenders:
        ratio = f"{c.rate / local:.2f}" if c.name in WAYS else ""
        print(f"{c.name:<36}{c.rate:>15,.0f}{ratio:>10}{c.off_policy_lag:>6g}")
    print()
    for text, value, met in targets(contenders):
        print(f"{'met   ' if met else 'MISSED'}  {text}: {value:.2f} times")


def main() -> None:
    """Run, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="about a minute: few contenders and rounds")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    quiet_ray()
    contenders = run(arguments.quick)
    show(contenders)
    if arguments.json:
        keep: Any = [{k: v for k, v in asdict(c).items() if k not in ("work", "lag")} for c in contenders]
        reached = [{"target": t, "value": v, "met": m} for t, v, m in targets(contenders)]
        arguments.json.write_text(json.dumps({"contenders": keep, "targets": reached}, indent=2) + "\n")


if __name__ == "__main__":
    main()
