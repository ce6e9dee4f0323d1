"""How long the allocation mechanisms take, and max-min fairness against the same problem as LPs.

Run it with ``python experiments/benchmarks/allocation.py [--quick] [--json FILE]``: about ten minutes, with
``--quick`` less than one. Times are processor seconds of this process, which computes on one thread: other
processes disturb them less, and on an idle machine they are what passes on the clock. Those of the mechanisms
are the best of several repetitions.

The LPs are progressive filling as it is written with a solver: one sparse LP (HiGHS) per stage finds the
highest level that all open agents can share, and its multipliers say whom that stage closes. Where requests
bind, a stage ends at nearly every agent, which no solver ends in reasonable time for 10,000: there some LPs,
spread evenly over the stages (each starts from our solution for who is closed by then), are timed and
multiplied by the number of stages, which is that of different levels in the solution. Where requests never
bind there is only one stage per group: over overlapping groups those LPs are also run to their end, to check
that estimate.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from camac_dra.environment.allocation import STRATEGIES, get_mechanism
from camac_dra.environment.groups import FloatArray, Groups

RESOURCES = 5
LARGE = (10_000, 100)  # agents, groups
TARGET_MS = {1: 20.0, 3: 200.0}  # by groups per agent
TARGET_RATIO = 100.0
PROPORTIONAL_TARGET_US = 12.0


@dataclass(frozen=True)
class Problem:
    """Requests (1, N, R), capacity (1, K, R) and groups of one max-min problem."""

    requests: FloatArray
    capacity: FloatArray
    groups: Groups

    @classmethod
    def draw(cls, num_agents: int, num_groups: int, memberships: int, binding_requests: bool) -> Problem:
        """Draw one: lognormal requests, capacities of 40 to 100 % of what each group's members ask for.

        Without `binding_requests` everybody asks for more than any of its groups has.
        """
        rng = np.random.default_rng(0)
        membership = np.zeros((num_groups, num_agents))  # (K, N)
        for agent in range(num_agents):
            membership[rng.choice(num_groups, memberships, replace=False), agent] = 1.0
        requests = rng.lognormal(0.0, 1.0, (1, num_agents, RESOURCES))  # (B, N, R)
        groups = Groups.from_membership(membership)
        capacity = groups.load(requests) * rng.uniform(0.4, 1.0, (1, num_groups, RESOURCES))  # (B, K, R)
        if not binding_requests:
            requests = np.full_like(requests, 2.0 * capacity.max())
        return cls(requests, capacity, groups)

    def solve(self) -> FloatArray:
        """Return the max-min fair grants (N, R)."""
        return get_mechanism("max_min")(self.requests, self.capacity, self.groups)[0]


class Filling:
    """Progressive filling of one resource by linear programmes."""

    def __init__(self, requests: FloatArray, capacity: FloatArray, groups: Groups) -> None:
        """Take requests (N,) and capacity (K,) of one resource."""
        self._membership = sparse.csr_array(groups.members)  # (K, N)
        self._requests = requests
        self._capacity = capacity
        self.grants = np.zeros(len(requests))
        self.open = np.ones(len(requests), dtype=bool)

    def stage(self) -> None:
        """Find the highest level of all open agents, and close those that it stops."""
        agents = np.flatnonzero(self.open)
        members = self._membership[:, agents]  # (K, n)
        room = self._capacity - self._membership @ self.grants  # (K,)
        size = len(agents)
        level_below = sparse.hstack([-sparse.eye_array(size), np.ones((size, 1))])  # level - grant <= 0
        within = sparse.hstack([members, sparse.csr_array((members.shape[0], 1))])
        result = linprog(
            np.append(np.zeros(size), -1.0),
            A_ub=sparse.vstack([within, level_below]).tocsr(),
            b_ub=np.concatenate([np.maximum(room, 0.0), np.zeros(size)]),
            bounds=np.column_stack([np.zeros(size + 1), np.append(self._requests[agents], np.inf)]),
            method="highs",
        )
        if result.status != 0:
            raise RuntimeError(f"HiGHS must solve every stage, got: {result.message}")
        stopped = -result.ineqlin.marginals[members.shape[0] :] > 1e-9  # (n,), whose level is what limits it
        self.grants[agents[stopped]] = result.x[-1]
        self.open[agents[stopped]] = False

    def run(self) -> int:
        """Run to the end; return how many stages there were."""
        count = 0
        while self.open.any():
            self.stage()
            count += 1
        return count

    def jump(self, solution: FloatArray, level: float) -> None:
        """Go to the stage that ends at `level`, taking what is closed by then from the solution (N,)."""
        self.open = solution >= level
        self.grants = np.where(self.open, 0.0, solution)


@dataclass(frozen=True)
class Comparison:
    """Max-min fairness here, and by linear programmes."""

    agents: int
    groups: int
    groups_per_agent: int
    requests_bind: bool
    ours_ms: float
    programmes_s: float
    programmes: int
    extrapolated: bool
    difference: float | None  # largest, as a share of the largest grant; None where extrapolated

    @property
    def ratio(self) -> float:
        """How many times faster this is."""
        return self.programmes_s * 1e3 / self.ours_ms


def best_time(call: Callable[[], object], seconds: float = 0.5) -> float:
    """Return the least processor seconds per call, over about so many seconds of repetitions."""
    call()
    start = time.process_time()
    call()
    inner = max(1, int(0.02 / max(time.process_time() - start, 1e-7)))
    least = float("inf")
    end = time.perf_counter() + seconds
    while least == float("inf") or time.perf_counter() < end:
        start = time.process_time()
        for _ in range(inner):
            call()
        least = min(least, (time.process_time() - start) / inner)
    return least


def compare(size: tuple[int, int], memberships: int, binding: bool, samples: int | None = None) -> Comparison:
    """Time both on one problem: all of its LPs, or so many `samples` spread over the first resource's."""
    problem = Problem.draw(*size, memberships, binding)
    ours = problem.solve()  # (N, R)
    milliseconds = best_time(problem.solve) * 1e3
    fillings = [
        Filling(problem.requests[0, :, resource], problem.capacity[0, :, resource], problem.groups)
        for resource in range(RESOURCES)
    ]
    if samples is None:
        start = time.process_time()
        done = sum(filling.run() for filling in fillings)
        spent = time.process_time() - start
        theirs = np.stack([filling.grants for filling in fillings], axis=1)  # (N, R)
        difference = float(np.abs(ours - theirs).max() / ours.max())
        return Comparison(*size, memberships, binding, milliseconds, spent, done, False, difference)
    stages = [np.unique(column.round(12)) for column in ours.T]  # the levels at which each resource's LPs end
    spent = 0.0
    for sample in range(samples):
        fillings[0].jump(ours[:, 0], stages[0][int((sample + 0.5) / samples * len(stages[0]))] - 1e-12)
        start = time.process_time()
        fillings[0].stage()
        spent += time.process_time() - start
    needed = sum(len(levels) for levels in stages)
    return Comparison(*size, memberships, binding, milliseconds, spent / samples * needed, needed, True, None)


def comparisons(quick: bool) -> list[Comparison]:
    """Compare on sizes that the programmes end, and on the full one."""
    sizes = (60,) if quick else (100, 200, 400)
    rows = [compare((num_agents, num_agents // 10), 3, True) for num_agents in sizes]
    samples = 4 if quick else 20
    for memberships in (1, 3):
        rows.append(compare(LARGE, memberships, True, samples))
        rows.append(compare(LARGE, memberships, False, samples))
    if not quick:
        rows.append(compare(LARGE, 3, False))
    return rows


def mechanism_times(quick: bool) -> dict[str, dict[str, float]]:
    """Return microseconds per call, by setting and mechanism."""
    rng = np.random.default_rng(1)
    sizes: dict[str, tuple[int, int, int | None]] = {
        "B=1 N=16": (1, 16, None),
        "B=64 N=16": (64, 16, None),
        "B=1 N=10000": (1, 10_000, None),
        "N=10000 K=100 x1": (1, 10_000, 1),
        "N=10000 K=100 x3": (1, 10_000, 3),
    }
    times: dict[str, dict[str, float]] = {}
    for label, (copies, num_agents, memberships) in sizes.items():
        if memberships is None:
            groups = Groups.one(num_agents)
        else:
            groups = Problem.draw(num_agents, LARGE[1], memberships, True).groups
        requests = rng.lognormal(0.0, 1.0, (copies, num_agents, RESOURCES))  # (B, N, R)
        capacity = groups.load(requests) * 0.7  # (B, K, R)
        weights = rng.choice([1.0, 2.0, 4.0], (copies, num_agents))  # (B, N)
        bids = rng.random((copies, num_agents))  # (B, N)
        times[label] = {}
        for name in STRATEGIES:
            call = partial(get_mechanism(name), requests, capacity, groups, weights, None, bids, rng)
            times[label][name] = best_time(call, 0.1 if quick else 0.5) * 1e6
    return times


def show(rows: list[Comparison], times: dict[str, dict[str, float]]) -> None:
    """Print both tables and whether the targets are met."""
    print(f"Max-min fairness, {RESOURCES} resources: here against sequential LPs (HiGHS)")
    heads = {"agents": 7, "groups": 8, "each in": 9, "requests": 10, "here ms": 10, "LPs s": 11, "LPs": 8}
    print("".join(f"{head:>{width}}" for head, width in heads.items()) + f"{'ratio':>12}")
    for row in rows:
        binding = "bind" if row.requests_bind else "free"
        mark = "~" if row.extrapolated else ""
        spent, ratio = f"{mark}{row.programmes_s:.1f}", f"{mark}{row.ratio:,.0f}"
        print(
            f"{row.agents:>7}{row.groups:>8}{row.groups_per_agent:>9}{binding:>10}{row.ours_ms:>10.2f}"
            f"{spent:>11}{row.programmes:>8}{ratio:>12}"
            + ("" if row.difference is None else f"   differ by {row.difference:.0e}")
        )
    print("~ extrapolated: mean time of LPs spread over one resource's, times the LPs that all five take\n")
    print("Microseconds per call, 5 resources; one group of all, or each agent in 1 or 3 of 100 groups")
    print(f"{'':<20}" + "".join(f"{label:>18}" for label in times))
    for name in STRATEGIES:
        print(f"{name:<20}" + "".join(f"{column[name]:>18,.1f}" for column in times.values()))
    print()
    for text, value, met in targets(rows, times):
        print(f"{'met   ' if met else 'MISSED'}  {text}: {value}")


def targets(rows: list[Comparison], times: dict[str, dict[str, float]]) -> list[tuple[str, str, bool]]:
    """Return each target, what was reached, and whether it is met."""
    found = []
    large = [row for row in rows if (row.agents, row.groups) == LARGE]
    for memberships, limit in TARGET_MS.items():
        worst = max(row.ours_ms for row in large if row.groups_per_agent == memberships)
        text = f"10,000 agents, each in {memberships} of 100 groups, under {limit:g} ms"
        found.append((text, f"{worst:.1f} ms", worst < limit))
    least = min(row.ratio for row in large)
    text = f"at least {TARGET_RATIO:g} times faster than LPs at 10,000 agents"
    found.append((text, f"{least:,.0f} times (the least of {len(large)})", least >= TARGET_RATIO))
    proportional = times["B=1 N=16"]["proportional"]
    text = f"proportional at B=1, N=16 under {PROPORTIONAL_TARGET_US:g} us"
    found.append((text, f"{proportional:.1f} us", proportional < PROPORTIONAL_TARGET_US))
    return found


def main() -> None:
    """Run, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="less than a minute: fewer sizes and repetitions"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    arguments = parser.parse_args()
    times = mechanism_times(arguments.quick)
    rows = comparisons(arguments.quick)
    show(rows, times)
    if arguments.json:
        found = [{"target": text, "value": value, "met": met} for text, value, met in targets(rows, times)]
        compared = [asdict(row) | {"ratio": row.ratio} for row in rows]
        figures = {"max_min_against_programmes": compared, "microseconds_per_call": times, "targets": found}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
