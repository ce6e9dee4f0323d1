"""Search hyperparameters with Ray Tune: ASHA stops the trials that fall behind on held-out episodes.

::

    python experiments/tune.py --config rllib_configs/default.yaml --space experiments/spaces/default.yaml
                               [--samples N] [--output DIR] [--resume] [--address ADDRESS]

Any setting can be given as well (``--training.num_episodes 400``); it is the same in all trials. Trials run
side by side as far as there are cores: one for each trial, and one for each of its ``training.num_workers``
and ``num_learners``. Each is a run as any other, in ``DIR/trials``; ``DIR/results.csv`` has a row per trial,
``DIR/best.yaml`` is the best one's configuration, for ``python -m camac_dra.run --config DIR/best.yaml``. Its
score is that of the best of many on the same held-out episodes, so it promises a little too much. An
interrupted search goes on with ``--resume`` and all else as it was, its trials from their latest checkpoints.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

from camac_dra.training.ray_session import quiet_ray, ray_session
from camac_dra.training.search import BEST, RESULTS, Search, Trial
from camac_dra.training.search_space import num_grid_points, read_space
from camac_dra.utils.command_line import run_command
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.overrides import parse_overrides, split_settings
from camac_dra.utils.provenance import available_cores

MOST_ROWS = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the search and return its exit code."""
    return run_command(partial(_run, list(sys.argv[1:] if arguments is None else arguments)))


def _run(given: list[str]) -> int:
    tokens, settings = split_settings(given)
    known, rest = _parser().parse_known_args(tokens)
    if known.samples < 1:
        raise ConfigurationError(f"--samples: must be at least 1, got {known.samples}")
    config = build_config(known.config, parse_overrides([*rest, *settings]))
    space = read_space(known.space, config)
    folder = Path(known.output)
    search = Search(config, space, folder, known.samples)
    trials = known.samples * num_grid_points(space)
    print(f"{trials} trials of {search.processes} processes each, in {folder}", flush=True)
    quiet_ray()
    with ray_session(max(available_cores(), search.processes) - 1, known.address):
        found = search.run(resume=known.resume)
    show(found, list(space))
    print(f"All of them: {folder / RESULTS}\nThe best:    {folder / BEST}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="YAML or JSON; without it, the default problem")
    parser.add_argument("--space", metavar="FILE", required=True, help="what may change, and how")
    parser.add_argument("--samples", type=int, default=16, metavar="N", help="draws of it (16)")
    parser.add_argument("--output", default="runs/search", metavar="DIR", help="of the search (runs/search)")
    parser.add_argument("--resume", action="store_true", help="go on with the search in DIR")
    parser.add_argument("--address", help="of a running Ray cluster: HOST:PORT, or auto")
    return parser


def show(trials: list[Trial], names: list[str]) -> None:
    """Print the best trials, best first."""
    heads = [name.rpartition(".")[2] for name in names]
    print("  ".join([f"{'score':>10}", f"{'env steps':>10}", *(f"{head:>14}" for head in heads), "status"]))
    for trial in trials[:MOST_ROWS]:
        score = "" if trial.score is None else f"{trial.score:.5g}"
        values = [trial.settings[name] for name in names]
        cells = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in values]
        print(
            "  ".join([f"{score:>10}", f"{trial.env_steps:>10,}", *(f"{c:>14}" for c in cells), trial.status])
        )


if __name__ == "__main__":
    sys.exit(main())
