"""What a step of the vectorised environment costs per agent, from 16 agents to 10,000, and how much memory
it takes.

Run it with ``python experiments/benchmarks/environment.py [--quick] [--json FILE]``: about two minutes,
with ``--quick`` less than one. The problem is the default one (5 resources, one pool, partial observations,
levels drawn at random) with other numbers of agents, on a grid and where everybody hears everybody, with
the marginal and the individual credit. Each number of agents is shown with one copy and at its best number
of copies.

Times are processor seconds of this process, which computes on one thread: other processes disturb them
less. They are the best of several rounds over whole episodes, resets included; rounds alternate between the
sizes, so that ratios are of the same minutes. Memory is what Python and NumPy allocate for the environment
and an episode, at the worst moment.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import itertools
import json
import time
import tracemalloc
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.schema.environment import EnvironmentConfig

SIZES = (16, 100, 1_000, 10_000)
COPIES = (1, 4, 16, 64)
MOST_AGENTS = 10_000  # over all copies
TOPOLOGIES = ("grid", "fully_connected")
CREDITS = ("marginal", "individual")
EPISODE = {False: 200, True: 50}  # steps, by whether the run is a quick one
ROUNDS = {False: 5, True: 2}
TARGET_RATIO = 1.5


@dataclass(frozen=True)
class Row:
    """Cost of one setting."""

    topology: str
    credit: str
    agents: int
    copies: int  # the best number
    microseconds: float  # per agent and step, at that number
    microseconds_one_copy: float  # per agent and step
    memory_mib: float  # with one copy


class Case:
    """One environment under random levels."""

    def __init__(self, topology: str, credit: str, agents: int, copies: int, episode: int) -> None:
        """Build and start it."""
        config = EnvironmentConfig.model_validate(
            {"num_agents": agents, "topology": topology, "credit": credit, "max_episode_length": episode}
        )
        self.env = VectorEnvironment(config, copies)
        self._actions = np.random.default_rng(0).integers(config.action_size, size=(8, copies, agents))
        self.env.reset()
        self.best = float("inf")  # microseconds per agent and step

    def play(self, steps: int) -> None:
        """Advance by so many steps."""
        for step in range(steps):
            self.env.step(self._actions[step % len(self._actions)])

    def round(self) -> None:
        """Time an episode, and the start of the next."""
        steps = self.env.episode_length
        start = time.process_time()
        self.play(steps)
        spent = time.process_time() - start
        self.best = min(self.best, spent / (steps * self.env.num_envs * self.env.num_agents) * 1e6)


def peak_memory(topology: str, credit: str, agents: int) -> float:
    """Return the MiB allocated at the worst moment of building one copy and playing a few steps of it."""
    tracemalloc.start()
    try:
        Case(topology, credit, agents, 1, EPISODE[False]).play(5)
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def measure(topology: str, credit: str, quick: bool) -> list[Row]:
    """Return the rows of one topology and credit, measured side by side."""
    copies = (COPIES[0], COPIES[-1]) if quick else COPIES
    cases = {
        (agents, count): Case(topology, credit, agents, count, EPISODE[quick])
        for agents, count in itertools.product(SIZES, copies)
        if agents * count <= MOST_AGENTS
    }
    for _ in range(ROUNDS[quick]):
        for case in cases.values():
            case.round()
    rows = []
    for agents in SIZES:
        costs = {count: case.best for (size, count), case in cases.items() if size == agents}
        best = min(costs, key=lambda count: costs[count])
        memory = peak_memory(topology, credit, agents)
        rows.append(Row(topology, credit, agents, best, costs[best], costs[1], memory))
    return rows


def targets(rows: list[Row]) -> list[tuple[str, float, bool]]:
    """Return each target, what was reached, and whether it is met."""
    found = []
    for topology, credit in itertools.product(TOPOLOGIES, CREDITS):
        cost = {row.agents: row for row in rows if (row.topology, row.credit) == (topology, credit)}
        for name, ratio in (
            ("one copy each", cost[10_000].microseconds_one_copy / cost[100].microseconds_one_copy),
            ("each at its best", cost[10_000].microseconds / cost[100].microseconds),
        ):
            text = f"10,000 agents over 100, {topology}, {credit}, {name}: at most {TARGET_RATIO}"
            found.append((text, ratio, ratio <= TARGET_RATIO))
    return found


def show(rows: list[Row]) -> None:
    """Print the table and whether the targets are met."""
    print("Microseconds per agent and step")
    print(f"{'topology':<16}{'credit':<12}{'agents':>8}{'one copy':>10}{'best':>8}{'copies':>8}{'MiB':>8}")
    for row in rows:
        print(
            f"{row.topology:<16}{row.credit:<12}{row.agents:>8,}{row.microseconds_one_copy:>10.2f}"
            f"{row.microseconds:>8.2f}{row.copies:>8}{row.memory_mib:>8.1f}"
        )
    print()
    for text, ratio, met in targets(rows):
        print(f"{'met   ' if met else 'MISSED'}  {text}: {ratio:.2f}")


def main() -> None:
    """Run, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less than a minute: short episodes, few rounds")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    arguments = parser.parse_args()
    rows = []
    for topology, credit in itertools.product(TOPOLOGIES, CREDITS):
        rows += measure(topology, credit, arguments.quick)
    show(rows)
    if arguments.json:
        found = [{"target": text, "value": value, "met": met} for text, value, met in targets(rows)]
        figures = {"rows": [asdict(row) for row in rows], "targets": found}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
