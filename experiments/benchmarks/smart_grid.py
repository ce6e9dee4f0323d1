"""What training is worth at charging stations: energy delivered and emissions saved on days of another year.

Run it with ``python experiments/benchmarks/smart_grid.py [--config FILE] [--seeds N] [--minutes M] [--quick]
[--json FILE] [--section.setting VALUE ...]``: about a quarter of an hour, with ``--quick`` less than a
minute. Each seed trains ``rllib_configs/smart_grid.yaml`` for at most M minutes (5 by default), one after the
other in this process. The best checkpoint of each, chosen on the days of the training, then plays every day
on which evaluation plays (all of May to August 2021) once, as do the heuristics of the field, among them

- least laxity, which charges as soon as it can: energy is shown as a share of what it delivers, and savings
  are of its emissions per kWh;
- each station's own plan: what it would do by itself with the forecasts and its announced departure, which is
  what agents observe besides all else;
- the rolling plan: a linear programme solved anew in every slot with the real forecasts of the emissions and
  the announced departures, nothing else;
- the clairvoyant plan: the same programme, everything known.

Plans put energy first: a unit lost costs them ``PLAN_LOSS_COST`` whatever it costs in training, so that the
rolling plan delivers what least laxity does. Savings are also shown as shares of what the clairvoyant plan
saves. Intervals are percentile bootstrap intervals over days and seeds; days are drawn for all policies
alike, so that what makes a day clean or dirty cancels out of the difference between two of them.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from _training_runs import train

from camac_dra.environment.dynamics.sessions import SessionsDynamics
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.charging_heuristics import CHARGING_HEURISTICS
from camac_dra.models.charging_sessions import sessions_of
from camac_dra.models.heuristics import RequestPolicy
from camac_dra.training.policy import TrainedPolicy
from camac_dra.training.ray_session import quiet_ray
from camac_dra.utils.command_line import run_command
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.overrides import parse_overrides
from camac_dra.utils.schema import EnvironmentConfig

CONFIG = Path(__file__).resolve().parents[2] / "rllib_configs" / "smart_grid.yaml"
BASELINE, RIVAL, BOUND = "least_laxity", "rolling_plan", "clairvoyant_plan"
HEURISTICS = ("first_come", "equal_share", BASELINE, "own_plan", RIVAL, "rolling_plan_informed", BOUND)
LEAST_ENERGY = 0.995  # of what least laxity delivers
LEAST_SHORT = 0.2  # of the active slots, those in which the cap must bind under least laxity
RESAMPLES = 2_000
PLAN_LOSS_COST = 15.0
SLACK = 1e-9  # kW
QUICK_DAYS, QUICK_MINUTES = 10, 0.2


@dataclass(frozen=True)
class Days:
    """What one policy did on each of D days."""

    kwh: np.ndarray  # (D,) energy delivered
    kg: np.ndarray  # (D,) emissions of that energy
    short: (
        float  # share of the slots with anybody to charge in which all together could take more than the cap
    )


@dataclass(frozen=True)
class Estimate:
    """A figure and its bootstrap 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One method: energy over least laxity's, and savings of emissions per kWh."""

    name: str
    runs: int
    kwh: float
    kg_per_kwh: float
    energy: Estimate  # share of what least laxity delivers
    saving: Estimate  # share of least laxity's emissions per kWh
    of_clairvoyant: Estimate  # share of what the clairvoyant plan saves
    above_rival: Estimate  # kg per kWh above the rolling plan's


def every_day(problem: EnvironmentConfig, most: int | None) -> VectorEnvironment:
    """Return an environment with a copy for each day (the first ``most``) on which evaluation plays."""
    sessions = problem.dynamics.sessions
    assert sessions is not None
    dynamics = problem.dynamics.model_copy(
        update={"sessions": sessions.model_copy(update={"order": "sequential"})}
    )
    # Credit only redistributes rewards, at the cost of a larger step; what agents see depends on neither.
    changes = {"dynamics": dynamics, "credit": "individual", "loss_cost": PLAN_LOSS_COST}
    problem = problem.model_copy(update=changes)
    known = sessions_of(VectorEnvironment(problem), "the benchmark")
    number = len(known.table.midnights)
    return VectorEnvironment(problem, num_envs=number if most is None else min(most, number), autoreset=False)


def play(policy: RequestPolicy, env: VectorEnvironment) -> Days:
    """Play all days once."""
    env.reset(seed=0)
    policy.begin(env)
    dynamics = env.dynamics
    assert isinstance(dynamics, SessionsDynamics)
    config = dynamics.config
    kwh, kg = np.zeros(env.num_envs), np.zeros(env.num_envs)
    active = short = 0  # slots
    while True:
        wanted = env.askable().sum(axis=(1, 2))  # (D,) kW
        result = env.step_requests(policy.requests(env))
        active += int(np.count_nonzero(wanted > SLACK))
        short += int(np.count_nonzero(wanted > result.info["capacity"].min(axis=(1, 2)) + SLACK))
        used = result.info["grants"].sum(axis=(1, 2)) * dynamics.slot_hours  # (D,)
        kwh += used
        kg += used * (result.info["price"][:, 0] - config.price_base) / config.price_scale
        if result.done.all():
            return Days(kwh, kg, short / active)


def summarise(name: str, runs: Sequence[Days], known: dict[str, Days]) -> Row:
    """Return the row of a method from its runs; ``known`` has the days of those it is compared with."""
    rng = np.random.default_rng(0)
    mine = np.stack([np.stack([run.kwh, run.kg]) for run in runs])  # (M, 2, D)
    others = {key: np.stack([known[key].kwh, known[key].kg]) for key in (BASELINE, RIVAL, BOUND)}  # (2, D)
    figures = np.empty((RESAMPLES + 1, 4))
    for sample in range(RESAMPLES + 1):
        chosen, days = np.arange(len(mine)), np.arange(mine.shape[2])
        if sample:  # the first one is what was seen
            chosen, days = (
                rng.integers(len(chosen), size=len(chosen)),
                rng.integers(len(days), size=len(days)),
            )
        kwh, kg = mine[chosen][:, :, days].sum(axis=(0, 2)) / len(chosen)
        energy = {key: days_of[0, days].sum() for key, days_of in others.items()}
        rate = {key: days_of[1, days].sum() / energy[key] for key, days_of in others.items()}
        saved = rate[BASELINE] - kg / kwh
        figures[sample] = (
            kwh / energy[BASELINE],
            saved / rate[BASELINE],
            saved / (rate[BASELINE] - rate[BOUND]),
            kg / kwh - rate[RIVAL],
        )
    low, high = np.quantile(figures[1:], (0.025, 0.975), axis=0)
    estimates = [Estimate(*map(float, figure)) for figure in zip(figures[0], low, high, strict=True)]
    kwh, kg = mine.sum(axis=(0, 2)) / len(mine)
    return Row(name, len(mine), float(kwh), float(kg / kwh), *estimates)


def targets(trained: Row, short: float) -> list[tuple[str, str, bool]]:
    """Return each target, what was reached, and whether it is met; ``short`` is least laxity's."""
    energy, above = trained.energy, trained.above_rival
    return [
        (
            f"the cap binds in at least {LEAST_SHORT:.0%} of the active slots under least laxity",
            f"{short:.1%}",
            short >= LEAST_SHORT,
        ),
        (
            f"trained policies deliver at least {LEAST_ENERGY:.1%} of least laxity's energy",
            f"{energy.value:.2%} [{energy.low:.2%}, {energy.high:.2%}]",
            energy.value >= LEAST_ENERGY,
        ),
        (
            "their emissions per kWh are no higher than the rolling plan's",
            f"{1000 * above.value:+.2f} g [{1000 * above.low:+.2f}, {1000 * above.high:+.2f}]",
            above.value <= 0.0,
        ),
    ]


def show(rows: Sequence[Row], days: int) -> None:
    """Print the table."""
    print(f"{days} held-out days; 95 % intervals over days and seeds")
    print(
        f"{'policy':<24}{'kWh':>9}{'of least laxity':>17}{'g/kWh':>8}{'saving':>9}{'':>18}"
        f"{'of clairvoyant':>16}{'g/kWh above the rolling plan':>32}"
    )
    for row in rows:
        name = row.name if row.runs == 1 else f"{row.name} ({row.runs} seeds)"
        saving, above = row.saving, row.above_rival
        interval = f"[{100 * saving.low:.2f}, {100 * saving.high:.2f}]"
        difference = f"{1000 * above.value:+.2f} [{1000 * above.low:+.2f}, {1000 * above.high:+.2f}]"
        print(
            f"{name:<24}{row.kwh:>9,.0f}{row.energy.value:>17.2%}{1000 * row.kg_per_kwh:>8.1f}"
            f"{saving.value:>9.2%}{interval:>18}{row.of_clairvoyant.value:>16.0%}{difference:>32}"
        )
    print()


def main() -> int:
    """Train, compare, print, write."""
    options, settings = _options()
    quiet_ray()
    overrides = {"training.time_limit": 60.0 * options.minutes, **parse_overrides(settings)}
    policies, took = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            own = {"training.seed": seed, "training.output_dir": folder, "training.name": f"seed{seed}"}
            config = build_config(options.config, {**overrides, **own})
            policy, run = train(config)
            policies.append(policy)
            took.append(run)
            print(f"seed {seed}: {run['status']} after {run['seconds']:.0f} s", flush=True)
    env = every_day(config.environment.held_out(), QUICK_DAYS if options.quick else None)
    known = {}
    for name in HEURISTICS:
        started = time.perf_counter()
        known[name] = play(CHARGING_HEURISTICS[name](), env)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    rows = [summarise(TrainedPolicy.name, [play(policy, env) for policy in policies], known)]
    rows += [summarise(name, [days], known) for name, days in known.items()]
    print()
    show(rows, env.num_envs)
    reached = targets(rows[0], known[BASELINE].short)
    for text, value, met in reached:
        print(f"{'met   ' if met else 'MISSED'}  {text}: {value}")
    if options.json is not None:
        figures = {
            "days": env.num_envs,
            "runs": took,
            "rows": [asdict(row) for row in rows],
            "targets": [{"target": text, "value": value, "met": met} for text, value, met in reached],
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def _options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", default=str(CONFIG))
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default: 3)")
    parser.add_argument(
        "--minutes", type=float, default=5.0, metavar="M", help="at most, per seed (default: 5)"
    )
    parser.add_argument("--quick", action="store_true", help="two seeds of seconds each, ten days")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options, settings = parser.parse_known_args()
    if options.quick:
        options.seeds, options.minutes = min(options.seeds, 2), QUICK_MINUTES
    return options, settings


if __name__ == "__main__":
    raise SystemExit(run_command(main))
