"""What a deployment holds, how fast it decides, and what is left of the reward while agents are killed.

Run it with ``python experiments/benchmarks/deployment.py [--quick] [--only sizes|chaos] [--json FILE]``:
about ten minutes, with ``--quick`` about one (starting processes takes most of it). Agents ask for all that
they need and agree on what fits, so that figures do not depend on a trained policy. It needs Linux.

- size: as many agents as one process each, and many packed into few; seconds per decision, memory.
- chaos: the same episodes undisturbed and with processes of agents, and actors of the bus, killed with
  SIGKILL at a stated rate per minute, decisions at a steady pace.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from camac_dra.coordination.plant import SimulatedPlant
from camac_dra.coordination.runtime.chaos import ChaosSpec
from camac_dra.coordination.runtime.deployment import Deployment, Options
from camac_dra.coordination.runtime.telemetry import Summary
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.ray_settings import set_surroundings
from camac_dra.utils.schema import Config
from camac_dra.utils.validation import validated

PACE = 0.1  # seconds from one decision to the next under chaos
TARGET_REWARD = 0.9  # share of the undisturbed reward
MIB = 2**20


@dataclass(frozen=True)
class Greedy:
    """Asks for the most that an action can ask for."""

    action: int

    def build(self) -> Greedy:
        """Return itself: there are no weights."""
        return self

    def act(self, observations: np.ndarray, agents: Any = None) -> np.ndarray:
        """Return the highest level (1, n) for n agents."""
        return np.full(observations.shape[:2], self.action)


def available_memory() -> int:
    """Return the bytes that processes could still use on this machine (Linux)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def configuration(agents: int, protocol: str, topology: str, timeout: float) -> Config:
    """Return the default problem with so many agents and a protocol."""
    settings = {
        "environment.num_agents": agents,
        "environment.topology": topology,
        "environment.credit": "individual",
    }
    plain = build_config(None, settings).model_dump()
    return validated({**plain, "coordination": {"protocol": protocol, "message_timeout": timeout}})


def deploy(config: Config, decisions: int, options: Options, seed: int = 0) -> tuple[Summary, float, float]:
    """Run a deployment; return its figures, the seconds that its start took, and its memory in MiB."""
    plant = SimulatedPlant(config.environment, seed)
    began = time.perf_counter()
    before = available_memory()
    policy = Greedy(config.environment.action_size - 1)
    with Deployment(plant, policy, config.coordination, options) as deployment:
        started = time.perf_counter() - began
        summary = deployment.run(decisions)
        memory = (before - available_memory()) / MIB
    return summary, started, memory


def sizes(quick: bool) -> list[dict[str, Any]]:
    """Measure how many agents fit, and how long a decision of theirs takes."""
    cases = [
        ("packed", 1_000, 500, "centralized"),
        *([] if quick else [("one process each", 40, 1, "centralized")]),
        *([] if quick else [("packed", 10_000, 2_500, "centralized")]),
    ]
    rows = []
    for kind, agents, per, protocol in cases:
        config = configuration(agents, protocol, "grid", 60.0)
        summary, started, memory = deploy(config, 5 if agents > 100 else 50, Options(agents_per_actor=per))
        rows.append(
            {
                "kind": kind,
                "agents": agents,
                "processes": -(-agents // per),
                "protocol": protocol,
                "start_seconds": started,
                "decision_p50": summary.latency_p50,
                "memory_mib": memory,
                "fallbacks": summary.fallbacks,
            }
        )
        print(
            f"{agents:>7,} agents in {rows[-1]['processes']:>3} processes ({kind}, {protocol}): up in "
            f"{started:5.1f} s, a decision takes {summary.latency_p50:.3f} s, {memory:,.0f} MiB",
            flush=True,
        )
    return rows


def chaos(quick: bool, protocol: str, kills: float) -> dict[str, Any]:
    """Compare the reward under kills with the undisturbed one, on the same episodes."""
    config = configuration(10, protocol, "fully_connected", 5.0)
    decisions, per_actor = (200, 5) if quick else (900, 1)
    calm, _, _ = deploy(config, decisions, Options(per_actor, interval=PACE))
    # What is dropped on its way to a coordinator is sent again, by the reliable channel, and comes late.
    spec = ChaosSpec(kill_agents=kills, kill_bus=1.0, drop=0.02, seed=1)
    wild, _, _ = deploy(config, decisions, Options(per_actor, interval=PACE, chaos=spec))
    row = {
        "protocol": protocol,
        "kills_per_minute": kills,
        "decisions": decisions,
        "undisturbed_reward": calm.reward,
        "reward": wild.reward,
        "share": wild.reward / calm.reward,
        "over_capacity": wild.over_capacity,
        "longest_step": wild.longest_step,
        "message_timeout": config.coordination.message_timeout,
        "deaths": wild.deaths,
        "recovery_p50": wild.recovery_p50,
        "recovery_p99": wild.recovery_p99,
        "latency_p99": wild.latency_p99,
        "fallbacks": wild.fallbacks,
    }
    recovery = "" if wild.recovery_p99 is None else f", back within {wild.recovery_p99:.1f} s (p99)"
    print(
        f"{protocol}, {kills:.0%} of the agents killed per minute: {row['share']:.1%} of the undisturbed "
        f"reward in {decisions} decisions, {wild.deaths} deaths{recovery}, longest step "
        f"{wild.longest_step:.2f} s, over capacity {wild.over_capacity} times, fell back "
        f"{wild.fallbacks or 'never'}",
        flush=True,
    )
    return row


def judged(rows: list[dict[str, Any]]) -> list[str]:
    """Say which targets are met."""
    lines = []
    for row in rows:
        fits = row["over_capacity"] == 0 and row["longest_step"] <= row["message_timeout"]
        met = fits and row["share"] >= TARGET_REWARD
        lines.append(
            f"{'met   ' if met else 'MISSED'}  {row['protocol']}, {row['kills_per_minute']:.0%} killed per "
            f"minute: at least {TARGET_REWARD:.0%} of the reward, never over capacity, no step longer than "
            "the timeout"
        )
    return lines


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="about a minute: fewer sizes and decisions")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    parser.add_argument("--only", choices=("sizes", "chaos"), help="one half of it")
    arguments = parser.parse_args()
    set_surroundings()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        held = [] if arguments.only == "chaos" else sizes(arguments.quick)
        protocols = ["centralized"] if arguments.quick else ["centralized", "distributed_consensus"]
        kills = 1.0 if arguments.quick else 0.1  # a short run sees a kill only at a higher rate
        if arguments.only == "sizes":
            protocols = []
        rows = [chaos(arguments.quick, protocol, kills) for protocol in protocols]
    finally:
        ray.shutdown()
    print("\n" + "\n".join(judged(rows)))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"sizes": held, "chaos": rows}, indent=2))


if __name__ == "__main__":
    main()
