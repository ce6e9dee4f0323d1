"""Service, cost and fairness against each other: train, evaluate, plot the front and its hypervolume.

Run it with ``python experiments/pareto.py [--config FILE] [--sweep | --conditioned] [--weights N]
[--seeds S ...] [--longer K] [--output DIR] [--quick] [--section.setting VALUE ...]``.

- ``--sweep`` trains one policy for each of the N weights of the objectives: a lattice on the simplex, its
  corners included (3, 6, 10, 15, ... weights; the next number is taken).
- ``--conditioned`` trains one policy on weights that are drawn per episode and shown to it, on K times the
  episodes of a policy of the sweep, and then tells it each of the N weights.
- Without either, both; heuristics always play the same held-out episodes.

What is in DIR already is not done again, and an interrupted training goes on, so that a study can be stopped
and taken up with the same command. It writes ``pareto.json`` (all points, the front, hypervolumes with the
reference point) and ``pareto.png``. Hypervolumes are shares of the box from the reference point, a little
beyond the worst that any heuristic does in each objective, to the ideal: all demand served at once, nothing
paid, perfect fairness.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from camac_dra.models.heuristics import HEURISTICS
from camac_dra.training.pareto import CONDITIONED, SWEEP, Box, ParetoStudy, Point
from camac_dra.training.ray_session import quiet_ray
from camac_dra.utils.command_line import run_command
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.file_handler import atomic_write_text
from camac_dra.utils.overrides import parse_overrides
from camac_dra.utils.pareto_front import hypervolume, lattice_of, non_dominated
from camac_dra.utils.schema.objectives import OBJECTIVES, checked_weights

CONFIG = Path(__file__).resolve().parents[1] / "rllib_configs" / "pareto.yaml"
QUICK = {
    "training.num_episodes": 64,
    "training.evaluation_episodes": 4,
    "training.evaluation_interval": None,
}
QUICK_WEIGHTS = 3
LARGEST_SEED = 2**32 - 1
HEURISTIC, PLANNER = "heuristics", "central planners"
COLOURS = {SWEEP: "#4878a8", CONDITIONED: "#d9702f", HEURISTIC: "#5f9e6e", PLANNER: "#9a9a9a"}
MARKERS = {SWEEP: "s", CONDITIONED: "o", HEURISTIC: "^", PLANNER: "v"}
# Plots show Jain's index itself: the objective is its change, summed over agents.
AXES = {
    "cost": "cost (price times granted fair shares, lower is better)",
    "objective_service": "service objective",
    "jain": "fairness (Jain's index)",
}


def kind_of(point: Point) -> str:
    """Return under what heading a point is reported."""
    if point.method in (SWEEP, CONDITIONED):
        return point.method
    return PLANNER if point.decides == "centrally" else HEURISTIC


def values_of(points: Sequence[Point]) -> np.ndarray:
    """Return the objectives of points (P, O)."""
    return np.array([point.objectives for point in points]).reshape(-1, len(OBJECTIVES))


def volumes(points: Sequence[Point], box: Box) -> dict[str, dict[str, Any]]:
    """Return the hypervolume of each kind of policy, as a share of the box; of trained ones for each seed."""
    found: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(map(kind_of, points)):
        own = [point for point in points if kind_of(point) == kind]
        by_seed = {}
        for seed in dict.fromkeys(point.seed for point in own):
            scaled = box.within(values_of([point for point in own if point.seed == seed]))
            by_seed[str(seed)] = hypervolume(scaled, np.zeros(len(OBJECTIVES)))
        mean = float(np.mean(list(by_seed.values())))
        found[kind] = {"mean": mean, "by_seed": by_seed if own[0].seed is not None else None}
    together = hypervolume(box.within(values_of(points)), np.zeros(len(OBJECTIVES)))
    return {**found, "all together": {"mean": together, "by_seed": None}}


def utilities(points: Sequence[Point], weights: np.ndarray, scales: np.ndarray) -> dict[str, list[float]]:
    """Return what the best point of each kind is worth under each of the ``weights`` (P, O).

    Zintgraf et al. 2015: whoever has a preference takes from a set of policies the one that suits it best.
    Of trained policies it is the mean over seeds.
    """
    found = {}
    for kind in dict.fromkeys(map(kind_of, points)):
        own = [point for point in points if kind_of(point) == kind]
        best = [
            (weights * scales @ values_of([p for p in own if p.seed == seed]).T).max(axis=1)
            for seed in dict.fromkeys(point.seed for point in own)
        ]
        found[kind] = np.mean(best, axis=0).tolist()
    return found


def draw(points: Sequence[Point], front: np.ndarray, found: dict[str, dict[str, Any]], path: Path) -> None:
    """Write the picture: two views of the points, those on the common front filled."""
    figure, panels = plt.subplots(1, 2, figsize=(12, 5.6))
    for axes, x in zip(panels, ("cost", "jain"), strict=True):
        named = 0
        for point, best in zip(points, front, strict=True):
            kind = kind_of(point)
            place = -point.objectives[1] if x == "cost" else point.measures["jain"], point.objectives[0]
            face = COLOURS[kind] if best else "none"
            axes.scatter(*place, s=46, marker=MARKERS[kind], facecolors=face, edgecolors=COLOURS[kind])
            if point.weights is None:
                offset = (5, 4) if named % 2 else (5, -9)  # neighbours would else be written over each other
                named += 1
                name = point.method.replace("_", " ")
                axes.annotate(name, place, offset, textcoords="offset points", fontsize=7)
        axes.set_xlabel(AXES[x])
        axes.set_ylabel(AXES["objective_service"] + " (higher is better)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    panels[0].invert_xaxis()  # better is to the right in both
    handles = [
        plt.Line2D([], [], color=COLOURS[kind], marker=MARKERS[kind], linestyle="", label=kind)
        for kind in COLOURS
        if kind in found
    ]
    handles.append(
        plt.Line2D([], [], color="black", marker="o", linestyle="", fillstyle="none", label="dominated")
    )
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=9)
    shares = ", ".join(f"{kind} {volume['mean']:.3f}" for kind, volume in found.items())
    figure.suptitle(
        f"Hypervolume, share of the box from the reference point to the ideal:\n{shares}", fontsize=11
    )
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def report(points: list[Point], study: ParetoStudy, box: Box, weights: np.ndarray, folder: Path) -> None:
    """Print what was found, write ``pareto.json`` and ``pareto.png``."""
    scales = study.config.environment.objective_scales
    scale = np.array([1.0 if scales is None else getattr(scales, name) for name in OBJECTIVES])
    front, found = non_dominated(values_of(points)), volumes(points, box)
    worth = utilities(points, weights, scale)
    for point, best in zip(points, front, strict=True):
        told = "" if point.weights is None else " ".join(f"{w:.2f}" for w in point.weights)
        run = "" if point.seed is None else f"seed {point.seed}"
        service, cost, _ = point.objectives
        print(
            f"{point.method:<20}{told:<16}{run:<8}service {service:>8.1f}  cost {-cost:>7.1f}"
            f"  jain {point.measures['jain']:.3f}  {'' if best else 'dominated'}"
        )
    print()
    for kind, volume in found.items():
        utility = f"   mean utility {np.mean(worth[kind]):>8.1f}" if kind in worth else ""
        print(f"{kind:<18} hypervolume {volume['mean']:.4f}{utility}")
    figures = {
        "objectives": list(OBJECTIVES),
        "scales": scale.tolist(),
        "episodes": study.config.training.evaluation_episodes,
        "evaluation_seed": study.config.training.evaluation_seed,
        "reference": box.reference.tolist(),
        "ideal": box.ideal.tolist(),
        "hypervolume": found,
        "weights": weights.tolist(),
        "utility": worth,
        "points": [
            {**asdict(point), "dominated": not best} for point, best in zip(points, front, strict=True)
        ],
        "front": [place for place, best in enumerate(front.tolist()) if best],
    }
    atomic_write_text(folder / "pareto.json", json.dumps(figures, indent=2) + "\n")
    draw(points, front, found, folder / "pareto.png")
    print(f"\nWritten: {folder / 'pareto.json'}, {folder / 'pareto.png'}")


def main() -> int:
    """Train, evaluate, report."""
    options, settings = _options()
    quiet_ray()
    overrides = {**(QUICK if options.quick else {}), **parse_overrides(settings)}
    config = build_config(options.config, overrides)
    weights = (
        lattice_of(len(OBJECTIVES), options.weights)
        if options.weight is None
        else np.array([checked_weights(weight, "--weight") for weight in options.weight])
    )
    study = ParetoStudy(config, options.output, lambda text: print(text, flush=True))
    both = not (options.sweep or options.conditioned)
    planned = [name for name in HEURISTICS if not (options.quick and HEURISTICS[name]().central)]
    known = study.heuristics(planned)
    points: list[Point] = []
    if options.sweep or both:
        points += study.sweep(weights, options.seeds)
    if options.conditioned or both:
        points += study.conditioned(weights, options.seeds, options.longer)
    report(points + known, study, study.box(known), weights, options.output)
    return 0


def _options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", default=str(CONFIG))
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--sweep", action="store_true", help="a policy per weights only")
    kind.add_argument("--conditioned", action="store_true", help="one policy that is told the weights only")
    parser.add_argument("--weights", type=_whole, default=10, metavar="N", help="at least (default: 10)")
    parser.add_argument(
        "--weight",
        nargs=len(OBJECTIVES),
        type=float,
        action="append",
        metavar=tuple(name.upper() for name in OBJECTIVES),
        help="these instead of a lattice; may be given again",
    )
    parser.add_argument(
        "--seeds", type=_seed, nargs="+", default=[0], metavar="S", help="of training (default: 0)"
    )
    parser.add_argument(
        "--longer",
        type=_whole,
        default=1,
        metavar="K",
        help="conditioned: on K times the episodes (default: 1)",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/pareto"), metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="64 episodes each, 3 weights, no planners")
    options, settings = parser.parse_known_args()
    if options.quick:
        options.weights = min(options.weights, QUICK_WEIGHTS)
    return options, settings


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number <= LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"must be from 0 to {LARGEST_SEED}, got {text}")
    return number


if __name__ == "__main__":
    raise SystemExit(run_command(main))
