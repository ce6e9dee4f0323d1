"""What every kind of model learns on the default problem, beside heuristics with the same coordination.

Run it with ``python experiments/benchmarks/models.py [--models NAME ...] [--protocol none|consensus]
[--seeds N] [--minutes M] [--quick] [--json FILE]``. Each model is what its file in ``rllib_configs`` says;
``--protocol consensus`` adds what ``rllib_configs/consensus.yaml`` says of coordination, rewards and actions.
Each seed trains in this process for as long as its configuration says, at most M minutes (5 by default), and
its best checkpoint, chosen on episodes of its own, plays the same held-out episodes as the heuristics.

Figures are interquartile means over seeds and episodes of the share of the clairvoyant optimum, with
stratified bootstrap 95 % intervals (Agarwal et al. 2021). A model is above the heuristics where its interval
is above the estimate of the best one that has the same coordination.
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
from rich.table import Table

from camac_dra.models.heuristics import HEURISTICS
from camac_dra.training.evaluation import Comparison, Row, compare, reference_points
from camac_dra.training.ray_session import quiet_ray
from camac_dra.utils.config_file import read_config_file
from camac_dra.utils.config_loader import ConfigLoader, build_config
from camac_dra.utils.schema import EFFECTLESS_WITH, Config
from camac_dra.utils.schema.model import REPLAY_MODELS

CONFIGS = Path(__file__).resolve().parents[2] / "rllib_configs"
MODELS = ("actor_critic", "policy_gradient", "attention", "gnn", "communication", "dqn", "sac")
PLANNERS = ("myopic", "receding_horizon")
QUICK_MINUTES = 0.1


def main() -> None:
    """Train, compare, print, write."""
    options = _options()
    quiet_ray()
    results: dict[str, dict[str, Any]] = {}
    rivals: Comparison | None = None
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            runs, policies = [], []
            for seed in range(options.seeds):
                config = config_of(name, options.protocol, seed, options.minutes, folder)
                policy, took = train(config)
                runs.append(took)
                policies.append(policy)
                print(f"{name}, seed {seed}: {took['status']} after {took['seconds']:.0f} s", flush=True)
            if rivals is None:
                rivals = _rivals(config, options.heuristics)
            training = config.training
            found = compare(
                policies,
                _held_out(config),
                training.evaluation_episodes,
                training.evaluation_seed,
                rivals.reference,
            )
            results[name] = {"row": found.rows["trained"], "runs": runs}
            _print(name, found.rows["trained"], runs)
    assert rivals is not None
    Console(width=160).print(_table(results, rivals, options.protocol))
    if options.json is not None:
        models = {name: {"row": r["row"].to_dict(), "runs": r["runs"]} for name, r in results.items()}
        record = {"protocol": options.protocol, "models": models, "heuristics": rivals.to_dict()}
        options.json.write_text(json.dumps(record, indent=2))


def config_of(name: str, protocol: str, seed: int, minutes: float, folder: str) -> Config:
    """Return the configuration of a model: its file, and that of the protocol beneath it."""
    own = CONFIGS / f"{name}.yaml"
    merged: dict[str, Any] = {}
    for path in ([CONFIGS / "consensus.yaml"] if protocol == "consensus" else []) + [own] * own.is_file():
        merged = ConfigLoader.merge_configs(merged, read_config_file(path)[0])
    only_ppo = {**EFFECTLESS_WITH, "training.factored_credit": REPLAY_MODELS}
    for dotted, kinds in only_ppo.items():  # the protocol's file is written for PPO
        section, setting = dotted.split(".")
        if merged.get("model", {}).get("type") in kinds:
            merged.get(section, {}).pop(setting, None)
    overrides = {
        "training.seed": seed,
        "training.time_limit": 60.0 * minutes,
        "training.output_dir": folder,
        "training.name": f"{name}_{seed}",
    }
    return build_config(merged, overrides)


def _held_out(config: Config) -> Config:
    return config.model_copy(update={"environment": config.environment.held_out()})


def _rivals(config: Config, heuristics: list[str]) -> Comparison:
    """Return the heuristics' figures; those that decide alone agree by the protocol that is configured."""
    problem, training = _held_out(config), config.training
    episodes, seed = training.evaluation_episodes, training.evaluation_seed
    reference = reference_points(problem, episodes, seed)
    return compare([HEURISTICS[name]() for name in heuristics], problem, episodes, seed, reference)


def _print(name: str, row: Row, runs: list[dict[str, Any]]) -> None:
    seconds = max(run["seconds"] for run in runs)
    print(f"{name}: {_interval(row)} in at most {seconds:.0f} s per seed", flush=True)


def _interval(row: Row) -> str:
    if row.interval is None:
        return "-"
    estimate, low, high = (
        100.0 * value for value in (row.interval.estimate, row.interval.low, row.interval.high)
    )
    return f"{estimate:.1f} [{low:.1f}, {high:.1f}]"


def _table(results: dict[str, dict[str, Any]], rivals: Comparison, protocol: str) -> Table:
    table = Table(title=f"Share of the optimum (percent), protocol {protocol}")
    for column in ("policy", "decides", "IQM [95 %]", "above the best heuristic alike", "seconds per seed"):
        table.add_column(column, justify="left" if column in ("policy", "decides") else "right")
    decides = next(iter(results.values()))["row"].decides  # alone, or together by the protocol
    alike = [row for row in rivals.rows.values() if row.decides == decides and row.interval is not None]
    best = max(alike, key=lambda row: row.interval.estimate if row.interval else -1.0)
    for name, found in results.items():
        row, interval = found["row"], found["row"].interval
        above = "yes" if interval.low > best.interval.estimate else "no"  # type: ignore[union-attr]
        seconds = max(run["seconds"] for run in found["runs"])
        table.add_row(f"{name} ({row.runs} seeds)", row.decides, _interval(row), above, f"{seconds:.0f}")
    table.add_section()
    for row in rivals.rows.values():
        table.add_row(row.name, row.decides, _interval(row), "is it" if row is best else "", "")
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    parser.add_argument("--protocol", choices=("none", "consensus"), default="none")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default: 3)")
    parser.add_argument(
        "--minutes", type=float, default=5.0, metavar="M", help="at most, per seed (default: 5)"
    )
    parser.add_argument("--heuristics", nargs="*", default=list(HEURISTICS), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="one seed of six seconds each, no planner")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.minutes = 1, QUICK_MINUTES
        options.heuristics = [n for n in options.heuristics if not HEURISTICS[n]().central]
    return options


if __name__ == "__main__":
    main()
