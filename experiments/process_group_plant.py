"""A real plant: worker processes that share this machine's cores, each held to the CPU time it is granted.

Run it with ``python experiments/process_group_plant.py [--steps N]`` to see fair shares at work, or deploy
trained agents on it with ``python -m camac_dra.run deploy --checkpoint RUN --plant
experiments.process_group_plant.make_plant``. It needs Linux: CPU time is read from ``/proc``.

It shows all that an adapter to something real has to do: `measure` what is pending, `actuate` what was
granted. Here an agent is a process with jobs to do, one resource is shared (seconds of CPU time per step),
and a process that has used up its grant is stopped until the next step (SIGSTOP, SIGCONT), which needs no
privileges.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import numpy as np

from camac_dra.coordination.plant import MeasuredPlant, Measurement
from camac_dra.utils.schema.environment import EnvironmentConfig

JOB_SECONDS = 0.01  # CPU time of one job
GOVERNOR_PERIOD = 0.005  # seconds between two looks at the CPU time used
TICKS = os.sysconf("SC_CLK_TCK")


def work(submitted: Synchronized[int], done: Synchronized[int], parent: int) -> None:
    """Do jobs, one after the other, as long as the parent lives."""
    with done.get_lock():
        done.value = 0  # it was -1 until now
    while os.getppid() == parent:
        if done.value >= submitted.value:
            time.sleep(0.002)
            continue
        end = time.process_time() + JOB_SECONDS
        while time.process_time() < end:
            pass
        with done.get_lock():
            done.value += 1


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class ProcessGroupPlant(MeasuredPlant):
    """N worker processes that share the cores of this machine; capacity is in CPU seconds per step."""

    def __init__(
        self,
        config: EnvironmentConfig | Mapping[str, Any],
        interval: float = 0.5,
        load: float = 0.9,
        seed: int = 0,
    ) -> None:
        """Start a worker per agent. Jobs arrive at random, ``load`` of the capacity on average."""
        context = multiprocessing.get_context("spawn")  # forks of threaded processes hang
        section = (
            config if isinstance(config, EnvironmentConfig) else EnvironmentConfig.model_validate(config)
        )
        self._submitted = [context.Value("q", 0) for _ in range(section.num_agents)]
        self._done = [context.Value("q", -1) for _ in range(section.num_agents)]
        self._rng, self._load = np.random.default_rng(seed), load
        self._capacity = 0.0
        arguments = zip(self._submitted, self._done, strict=True)
        self._workers = [
            context.Process(target=work, args=(*pair, os.getpid()), daemon=True) for pair in arguments
        ]
        for worker in self._workers:
            worker.start()
        while any(done.value < 0 for done in self._done) and all(
            worker.is_alive() for worker in self._workers
        ):
            time.sleep(0.01)
        self._budgets = [0.0] * section.num_agents  # CPU time up to which each may run
        self._closing = threading.Event()
        self._governor = threading.Thread(target=self._govern, name="governor", daemon=True)
        self._capacity = float(next(iter(section.resource_limits.values())))
        super().__init__(section, interval)
        self._governor.start()

    def measure(self) -> Measurement:
        """Submit the jobs of a step, and return the CPU time that everybody's unfinished jobs will take."""
        mean = self._load * self._capacity / JOB_SECONDS / len(self._workers)
        for submitted, jobs in zip(self._submitted, self._rng.poisson(mean, len(self._workers)), strict=True):
            submitted.value += int(jobs)
        waiting = [s.value - d.value for s, d in zip(self._submitted, self._done, strict=True)]
        return Measurement(np.array(waiting, float)[:, None] * JOB_SECONDS)

    def actuate(self, grants: np.ndarray) -> None:
        """Let every worker use its grant of CPU time, from now on."""
        for index, (worker, grant) in enumerate(zip(self._workers, grants[:, 0].tolist(), strict=True)):
            assert worker.pid is not None
            self._budgets[index] = cpu_seconds(worker.pid) + grant
            os.kill(worker.pid, signal.SIGCONT)

    def close(self) -> None:
        """End the workers."""
        self._closing.set()
        if self._governor.is_alive():
            self._governor.join(timeout=5.0)
        for worker in self._workers:
            worker.kill()
            worker.join(timeout=5.0)
        super().close()

    @property
    def finished_jobs(self) -> list[int]:
        """How many jobs each worker has done."""
        return [done.value for done in self._done]

    def _govern(self) -> None:
        """Stop whoever has used up its budget."""
        while not self._closing.wait(GOVERNOR_PERIOD):
            for worker, budget in zip(self._workers, self._budgets, strict=True):
                assert worker.pid is not None
                if worker.is_alive() and cpu_seconds(worker.pid) >= budget:
                    os.kill(worker.pid, signal.SIGSTOP)


def make_plant(config: EnvironmentConfig, seed: int) -> ProcessGroupPlant:
    """Return the plant for ``deploy --plant``."""
    return ProcessGroupPlant(config, seed=seed)


def example_config(num_agents: int, interval: float) -> EnvironmentConfig:
    """Return a problem of so many workers on all cores of this machine."""
    cores = len(os.sched_getaffinity(0))
    return EnvironmentConfig.model_validate(
        {
            "num_agents": num_agents,
            "num_resources": 1,
            "resource_limits": {"cpu_seconds": 0.8 * cores * interval},
            "backlog_limit": None,
        }
    )


def main() -> None:
    """Run the workers under fair shares and print what they got."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    plant = ProcessGroupPlant(example_config(4, 0.5))
    try:
        for _ in range(options.steps):
            state = plant.observe()
            outcome = plant.apply(plant.allocate(np.minimum(state.askable, state.fair_share)))
            shown = "  ".join(
                f"{need:.2f}>{got:.2f}"
                for need, got in zip(outcome.demand[:, 0], outcome.grants[:, 0], strict=True)
            )
            print(f"CPU seconds needed > granted:  {shown}   jobs done: {plant.finished_jobs}")
    finally:
        plant.close()


if __name__ == "__main__":
    main()
