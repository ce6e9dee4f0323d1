"""What training is worth: several seeds of one configuration beside every heuristic and the optimum.

Run it with ``python experiments/benchmarks/learning.py [--config FILE] [--seeds N] [--minutes M] [--quick]
[--json FILE]``. Each seed trains for as long as the configuration says, at most M minutes (5 by default),
one after the other in this process, as ``python -m camac_dra.run`` does with ``num_workers: 0``. The best
checkpoint of each, chosen on episodes of its own, then plays the same held-out episodes as the heuristics,
all with the configuration's protocol in the loop.
The figure of a method is the interquartile mean over seeds and episodes of the share of the clairvoyant
optimum, with a stratified bootstrap 95 % interval (Agarwal et al. 2021), beside the share of the sums.
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

from _training_runs import train
from rich.console import Console

from camac_dra.coordination.agreements import agreement_for
from camac_dra.models.heuristics import HEURISTICS
from camac_dra.training.evaluation import compare
from camac_dra.training.evaluation_table import render_table
from camac_dra.training.policy import TrainedPolicy
from camac_dra.training.ray_session import quiet_ray
from camac_dra.utils.config_loader import build_config

QUICK_MINUTES = 0.25


def main() -> None:
    """Train, compare, print, write."""
    options = _options()
    quiet_ray()
    overrides: dict[str, Any] = {"training.time_limit": 60.0 * options.minutes}
    runs, policies = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            settings = {**overrides, "training.seed": seed, "training.output_dir": folder}
            config = build_config(options.config, {**settings, "training.name": f"seed{seed}"})
            policy, took = train(config)
            policies.append(policy)
            runs.append(took)
            print(
                f"seed {seed}: {took['status']} after {took['seconds']:.0f} s, "
                f"{took['agent_steps'] / 1e6:.1f} M agent steps",
                flush=True,
            )
    problem, training = config.environment.held_out(), config.training
    rivals = [HEURISTICS[name]() for name in options.heuristics]
    comparison = compare(
        [*policies, *rivals],
        problem,
        training.evaluation_episodes,
        training.evaluation_seed,
        agreement=agreement_for(config.coordination, problem),
    )
    Console(width=200).print(render_table(comparison, highlight=TrainedPolicy.name))
    if options.json is not None:
        options.json.write_text(json.dumps({"runs": runs, "comparison": comparison.to_dict()}, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--config", metavar="FILE", help="without it, the default problem")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N - 1 (default: 5)")
    parser.add_argument(
        "--minutes", type=float, default=5.0, metavar="M", help="at most, per seed (default: 5)"
    )
    parser.add_argument("--heuristics", nargs="*", default=list(HEURISTICS), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="two seeds of a quarter of a minute, no planner")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.minutes = min(options.seeds, 2), QUICK_MINUTES
        options.heuristics = [n for n in options.heuristics if not HEURISTICS[n]().central]
    return options


if __name__ == "__main__":
    main()
