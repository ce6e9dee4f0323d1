"""Graph networks among more agents than they were trained with: trained on 20, run on 200.

Run it with ``python experiments/benchmarks/transfer.py [--seeds N] [--agent-steps M] [--quick] [--json
FILE]``. Two kinds of runs have the default problem on a grid, ``observation_type: graph``, ``model.type:
gnn`` and the same number of agent-steps and updates: on few agents and on many. Every capacity, price and
action is in fair shares, so the problem of many is that of few, larger. Their last policies then play the
same held-out episodes of the problem of many, beside the heuristics. The figure is the sum of the
efficiencies of those trained on few over that of those trained on many, with a bootstrap 95 % interval over
seeds and episodes; the share above the fair share, ``(x - fair share) / (trained on many - fair share)``,
stands beside it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from camac_dra.models.heuristics import HEURISTICS
from camac_dra.training.evaluation import evaluate
from camac_dra.training.experiment import Experiment
from camac_dra.training.policy import TrainedPolicy
from camac_dra.training.ray_session import quiet_ray
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.schema import Config

ROWS = 8_000  # agent-steps per iteration
FRAGMENT = 20
RESAMPLES = 10_000
SEED = 1_000_000  # of the held-out episodes


def config_of(agents: int, agent_steps: int, seed: int, folder: str) -> Config:
    """Return the configuration of one run: the default problem over so many agents, as a graph."""
    settings: dict[str, Any] = {
        "environment.num_agents": agents,
        "environment.observation_type": "graph",
        "environment.topology": "grid",
        "model.type": "gnn",
        "model.hidden_sizes": [32, 32],
        "model.learning_rate": 2e-3,
        "training.batch_size": 1_000,
        "training.num_envs": ROWS // (FRAGMENT * agents),
        "training.fragment_length": FRAGMENT,
        "training.evaluation_interval": None,
        "training.evaluation_episodes": 2,
        "training.seed": seed,
        "training.output_dir": folder,
        "training.name": f"agents{agents}_seed{seed}",
    }
    length = build_config(None, settings).environment.max_episode_length
    return build_config(None, {**settings, "training.num_episodes": agent_steps // (agents * length)})


def train(config: Config) -> tuple[Path, dict[str, Any]]:
    """Train one seed and return its run's folder, and what it took."""
    with Experiment.start(config) as experiment:
        status = experiment.train()
        took = {
            "agents": config.environment.num_agents,
            "seed": config.training.seed,
            "status": status.value,
            "seconds": experiment.loop.history.seconds,
            "agent_steps": experiment.algorithm.counters.agent_steps,
        }
        return experiment.run.path, took


def ratio_interval(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Return the ratio of the sums of (M, E) and (M', E), and its bootstrap interval over runs and episodes.

    The episodes are the same ones for both, and are drawn together.
    """
    rng = np.random.default_rng(0)
    values = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        episodes = rng.integers(first.shape[1], size=first.shape[1])
        one = first[rng.integers(len(first), size=len(first))].mean(0)[episodes]
        two = second[rng.integers(len(second), size=len(second))].mean(0)[episodes]
        values[index] = one.sum() / two.sum()
    low, high = np.quantile(values, (0.025, 0.975))
    return float(first.mean() / second.mean()), float(low), float(high)


def main() -> None:
    """Train, play, print, write."""
    options = _options()
    quiet_ray()
    problem = config_of(options.many, options.agent_steps, 0, "runs").environment.held_out()
    played: dict[str, list[np.ndarray]] = {}  # efficiencies (E,) of runs by method
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for agents in (options.few, options.many):
            for seed in range(options.seeds):
                path, took = train(config_of(agents, options.agent_steps, seed, folder))
                policy = TrainedPolicy.load(path, problem)
                result = evaluate(policy, problem, options.episodes, SEED)
                played.setdefault(f"trained on {agents}", []).append(result.efficiency)
                runs.append({**took, "efficiency": float(result.efficiency.mean())})
                print(
                    f"{agents} agents, seed {seed}: {took['seconds']:.0f} s, "
                    f"{took['agent_steps'] / 1e6:.2f} M agent steps, efficiency {runs[-1]['efficiency']:.1f}",
                    flush=True,
                )
    for name in options.heuristics:
        played[name] = [evaluate(HEURISTICS[name](), problem, options.episodes, SEED).efficiency]
    rows = _rows({name: np.stack(results) for name, results in played.items()}, f"trained on {options.many}")
    Console(width=110).print(_table(rows, options))
    if options.json is not None:
        options.json.write_text(json.dumps({"runs": runs, "rows": rows}, indent=2))


def _rows(played: dict[str, np.ndarray], reference: str) -> list[dict[str, Any]]:
    base, fair = played[reference], played["fair_share"].mean()
    return [
        {
            "name": name,
            "efficiency": float(results.mean()),
            "share": ratio_interval(results, base),
            "share_above_fair_share": float((results.mean() - fair) / (base.mean() - fair)),
        }
        for name, results in played.items()
    ]


def _table(rows: list[dict[str, Any]], options: argparse.Namespace) -> Table:
    table = Table(
        f"on {options.many} agents, {options.episodes} episodes",
        "efficiency",
        f"share of trained on {options.many} [95 %]",
        "share above fair share",
    )
    for row in rows:
        share, low, high = (100.0 * value for value in row["share"])
        table.add_row(
            row["name"],
            f"{row['efficiency']:.1f}",
            f"{share:.1f} % [{low:.1f}, {high:.1f}]",
            f"{100.0 * row['share_above_fair_share']:.1f} %",
        )
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--few", type=int, default=20, metavar="N", help="agents trained on (default: 20)")
    parser.add_argument("--many", type=int, default=200, metavar="N", help="agents run on (default: 200)")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="seeds 0 to N - 1 (default: 2)")
    parser.add_argument(
        "--agent-steps", type=int, default=320_000, metavar="M", help="of each run (default: 320000)"
    )
    parser.add_argument("--episodes", type=int, default=10, metavar="E", help="held-out ones (default: 10)")
    parser.add_argument(
        "--heuristics", nargs="*", default=[n for n in HEURISTICS if n != "receding_horizon"], metavar="NAME"
    )
    parser.add_argument("--quick", action="store_true", help="a seed each, 40000 agent-steps, 4 episodes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    options.heuristics = list(dict.fromkeys(["fair_share", *options.heuristics]))
    if options.quick:
        options.seeds, options.agent_steps, options.episodes = 1, 40_000, 4
        options.heuristics = ["fair_share", "greedy"]
    return options


if __name__ == "__main__":
    main()
