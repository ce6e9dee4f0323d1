"""What coordination is worth, and what it costs: consensus on fixed graphs, under losses, and in the loop.

Run it with ``python experiments/benchmarks/coordination.py [--config FILE] [--seeds N] [--minutes M] [--runs
DIR ...] [--quick] [--json FILE]``. Four tables:

1. The contraction of average consensus per round, seen and as the second largest eigenvalue modulus.
2. Consensus and gossip when 0, 5 and 20 % of the messages get lost: how far from the true mean after how many
   rounds, and how far the allocation is from the central one.
3. Value over rounds: the share of the clairvoyant optimum and the overload before any conflict is resolved,
   when greedy agents stop agreeing after so many rounds, on a ring, where information travels slowly.
4. The share of the optimum of heuristics and of the trained policy of ``rllib_configs/consensus.yaml`` under
   each protocol, all on the same held-out episodes, with messages and rounds per decision. Each of N seeds
   trains for as long as the configuration says, at most M minutes; ``--runs`` takes trained ones instead.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from _training_runs import train
from rich.console import Console
from rich.table import Table

from camac_dra.coordination.agreements import AveragingAgreement, agreement_for
from camac_dra.coordination.consensus import consensus_weights, contraction
from camac_dra.coordination.protocols.objectives import OBJECTIVES
from camac_dra.environment.agreement import AgreementContext, PerfectAgreement
from camac_dra.environment.constraints import Constraints
from camac_dra.environment.topology import Topology
from camac_dra.models.heuristics import HEURISTICS
from camac_dra.training.evaluation import Reference, Row, evaluate, reference_points, summarise
from camac_dra.training.policy import TrainedPolicy
from camac_dra.training.ray_session import quiet_ray
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.schema import Config, CoordinationConfig, EnvironmentConfig

CONFIG = Path(__file__).resolve().parents[2] / "rllib_configs" / "consensus.yaml"
LOSSES = (0.0, 0.05, 0.2)
Protocol = Literal["none", "centralized", "distributed_consensus", "gossip"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
RIVALS = ("greedy", "fair_share", "aimd_tuned", "price")
ALONE = ("greedy_agreed", "myopic", "receding_horizon")  # agree perfectly, or are planned for
QUICK_MINUTES = 0.2


def contractions() -> list[dict[str, Any]]:
    """Compare the contraction seen after many rounds with the eigenvalue, for every kind of weights."""
    rows = []
    for kind, size in (("ring", 10), ("grid", 16), ("star", 10), ("tree", 15), ("random", 20)):
        topology = Topology.generate(kind, [f"agent_{i}" for i in range(size)])
        for weights_kind in ("metropolis", "best_constant", "local_degree"):
            weights = consensus_weights(topology, weights_kind)
            values = np.random.default_rng(0).standard_normal(size)
            for _ in range(500):
                values -= values.mean()
                values = weights @ (values / np.linalg.norm(values))
            values -= values.mean()
            rows.append(
                {
                    "graph": f"{kind} of {size}",
                    "weights": weights_kind,
                    "eigenvalue": contraction(weights),
                    "seen": float(np.linalg.norm(values)),
                }
            )
    return rows


def losses(problem: EnvironmentConfig, copies: int) -> list[dict[str, Any]]:
    """Let agents with random demand agree under losses; compare with what is agreed on centrally."""
    rows = []
    constraints = Constraints.from_config(problem)
    for topology in ("fully_connected", "ring"):
        section = problem.model_copy(update={"topology": topology})
        for protocol in PROTOCOLS[2:]:
            for loss in LOSSES:
                rng = np.random.default_rng(0)
                cells = (copies, problem.num_agents)
                context = AgreementContext(
                    constraints.capacity[None],
                    constraints.groups,
                    np.ones(cells),
                    np.ones((*cells, problem.num_resources)),
                    np.ones(cells, bool),
                    0,
                    rng,
                )
                requests = rng.random((*cells, problem.num_resources)) * 3.0 * constraints.fair_share
                coordination = CoordinationConfig(protocol=protocol, message_loss=loss)
                agreement = agreement_for(coordination, section)
                assert isinstance(agreement, AveragingAgreement)
                trace = agreement.trace(requests, context)
                exact = PerfectAgreement()(requests, context)
                # What an agent keeps of its request is one over the sum that it believes in.
                errors = [float(np.abs(exact / agreed - 1.0).max()) for agreed in trace.agreed]
                rows.append(
                    {
                        "topology": topology,
                        "protocol": protocol,
                        "loss": loss,
                        "rounds": agreement.rounds,
                        "messages": agreement.messages,
                        "error_after": {str(t): errors[t - 1] for t in _some(agreement.rounds)},
                        "largest_error": errors[-1],
                        "allocation_error": float(np.abs(trace.agreed[-1] - exact).sum() / exact.sum()),
                        "overload": trace.overload[[t - 1 for t in _some(agreement.rounds)]].tolist(),
                    }
                )
    return rows


def _some(rounds: int) -> list[int]:
    """Return four rounds from the first to the last."""
    return sorted({1, max(1, rounds // 4), max(1, rounds // 2), rounds})


def value_over_rounds(
    problem: EnvironmentConfig, reference: Reference, episodes: int, seed: int
) -> list[Any]:
    """Play greedy agents on a ring that agree for ever more rounds."""
    section = problem.model_copy(update={"topology": "ring"})
    rows = []
    for rounds in (1, 2, 4, 8, 16, 32, 64):
        row: dict[str, Any] = {"rounds": rounds}
        for protocol in PROTOCOLS[2:]:
            agreement = agreement_for(CoordinationConfig(protocol=protocol, rounds=rounds), section)
            result = evaluate(HEURISTICS["greedy"](), section, episodes, seed, agreement)
            share = summarise([result], reference).share_of_oracle
            overload = float(result.episodes["overload"].mean())
            row[protocol] = {"share_of_oracle": share, "overload": overload}
        rows.append(row)
    return rows


def value(
    config: Config, policies: Sequence[TrainedPolicy], reference: Reference, episodes: int, seed: int
) -> list[tuple[str, str, Row]]:
    """Play heuristics and the trained policy under every protocol; return protocol, objective and row."""
    problem = config.environment.held_out()
    rows: list[tuple[str, str, Row]] = []
    for protocol in PROTOCOLS:
        for objective in OBJECTIVES if protocol != "none" else ("",):
            settings: dict[str, Any] = {"objective": objective} if objective else {}
            coordination = CoordinationConfig(protocol=protocol, **settings)
            agreement = agreement_for(coordination, problem)
            for name in RIVALS:
                result = evaluate(HEURISTICS[name](), problem, episodes, seed, agreement)
                rows.append((protocol, objective, summarise([result], reference)))
            if policies and (not objective or objective == config.coordination.objective):
                results = [evaluate(policy, problem, episodes, seed, agreement) for policy in policies]
                rows.append((protocol, objective, summarise(results, reference)))
    for name in ALONE:
        result = evaluate(HEURISTICS[name](), problem, episodes, seed)
        rows.append(("perfect" if name == "greedy_agreed" else "planned", "", summarise([result], reference)))
    return rows


def trained(config_path: Path, seeds: int, minutes: float) -> list[TrainedPolicy]:
    """Train one policy per seed."""
    policies = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            settings: dict[str, Any] = {"training.seed": seed, "training.time_limit": 60.0 * minutes}
            settings |= {"training.output_dir": folder, "training.name": f"seed{seed}"}
            config = build_config(config_path, settings)
            policy, took = train(config)
            policies.append(policy)
            print(f"seed {seed}: {took['status']} after {took['seconds']:.0f} s", flush=True)
    return policies


def main() -> None:
    """Measure, print, write."""
    options = _options()
    quiet_ray()
    config = build_config(options.config, {})
    problem, training = config.environment.held_out(), config.training
    console = Console(width=160)
    figures: dict[str, Any] = {"contraction": contractions()}
    _print_contractions(console, figures["contraction"])
    figures["losses"] = losses(problem, 3 if options.quick else 20)
    _print_losses(console, figures["losses"])
    episodes = 4 if options.quick else training.evaluation_episodes
    reference = reference_points(problem, episodes, training.evaluation_seed)
    play = (reference, episodes, training.evaluation_seed)
    figures["rounds"] = value_over_rounds(problem, *play)
    _print_rounds(console, figures["rounds"])
    if options.runs:
        policies = [TrainedPolicy.load(run) for run in options.runs]
    else:
        policies = trained(options.config, options.seeds, options.minutes)
    rows = value(config, policies, *play)
    _print_value(console, rows)
    figures["value"] = [{"protocol": p, "objective": o, **row.to_dict()} for p, o, row in rows]
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2))


def _print_contractions(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    table = Table("graph", "weights", "eigenvalue", "seen", title="Contraction per round")
    for row in rows:
        table.add_row(row["graph"], row["weights"], f"{row['eigenvalue']:.4f}", f"{row['seen']:.4f}")
    console.print(table)


def _print_losses(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    table = Table(
        *("topology", "protocol", "lost", "rounds", "messages", "error of the mean after so many rounds"),
        *("allocation", "overload before clipping"),
        title="Agreeing under losses; largest error of any agent, and of the allocation as a whole",
    )
    for row in rows:
        after = ", ".join(f"{t}: {100 * error:.2g} %" for t, error in row["error_after"].items())
        overload = ", ".join(f"{100 * share:.0f} %" for share in row["overload"])
        cells = (row["topology"], row["protocol"], f"{100 * row['loss']:.0f} %", str(row["rounds"]))
        error = f"{100 * row['allocation_error']:.2g} %"
        table.add_row(*cells, str(row["messages"]), after, error, overload)
    console.print(table)


def _print_rounds(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    table = Table("rounds", *PROTOCOLS[2:], title="Greedy agents on a ring: share of the optimum (overload)")
    for row in rows:
        cells = [
            f"{100 * row[p]['share_of_oracle']:.1f} % ({100 * row[p]['overload']:.0f} %)"
            for p in PROTOCOLS[2:]
        ]
        table.add_row(str(row["rounds"]), *cells)
    console.print(table)


def _print_value(console: Console, rows: Sequence[tuple[str, str, Row]]) -> None:
    table = Table(
        *("protocol", "objective", "policy", "of optimum", "per episode, IQM [95 %]", "overload"),
        *("rounds", "messages", "bytes"),
        title="Value of coordination on the same held-out episodes",
    )
    for protocol, objective, row in rows:
        name = row.name if row.runs == 1 else f"{row.name} ({row.runs} runs)"
        share = "" if row.share_of_oracle is None else f"{100 * row.share_of_oracle:.1f} %"
        interval = row.interval
        spread = (
            ""
            if interval is None
            else f"{100 * interval.estimate:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
        )
        cost = (str(row.rounds), str(row.messages), str(row.bytes))
        overload = f"{100 * row.measures['overload']:.1f} %"
        table.add_row(protocol, objective, name, share, spread, overload, *cost)
    console.print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="FILE")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N - 1 (default: 5)")
    parser.add_argument("--minutes", type=float, default=5.0, metavar="M", help="at most, per seed (5)")
    parser.add_argument("--runs", type=Path, nargs="*", metavar="DIR", help="trained runs, one per seed")
    parser.add_argument("--quick", action="store_true", help="one seed of 12 seconds, few episodes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.minutes = min(options.seeds, 1), QUICK_MINUTES
    return options


if __name__ == "__main__":
    main()
