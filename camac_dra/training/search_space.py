"""What a hyperparameter search may change: settings by dotted path, each with where its values come from.

A file of it::

    model.learning_rate: {loguniform: [1e-4, 1e-2]}   # between the two, by their logarithms
    training.entropy_coeff: {uniform: [0.0, 0.02]}    # between the two
    training.num_epochs: {randint: [2, 8]}            # whole numbers, both ends among them
    training.batch_size: {choice: [1024, 2048]}       # one of these
    model.gamma: {grid: [0.9, 0.95]}                  # all of these, each with all of the others
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ray import tune

from camac_dra.training.environments import prove
from camac_dra.utils.config_file import read_config_file
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.environment_validator import EnvironmentValidator
from camac_dra.utils.errors import CamacError, ConfigurationError, did_you_mean
from camac_dra.utils.overrides import apply_overrides
from camac_dra.utils.schema import Config
from camac_dra.utils.validation import shown

RANGES: dict[str, Callable[[Any, Any], Any]] = {
    "uniform": tune.uniform,
    "loguniform": tune.loguniform,
    "randint": lambda low, high: tune.randint(low, high + 1),
}
LISTS: dict[str, Callable[[list[Any]], Any]] = {"choice": tune.choice, "grid": tune.grid_search}
KINDS = (*RANGES, *LISTS)
OWN = ("training.name", "training.output_dir", "training.num_episodes", "training.time_limit")
MOST_COMBINATIONS = 64  # that are tried before any trial


def read_space(path: str | Path, config: Config) -> dict[str, Any]:
    """Return the search space of a file as Tune takes it, by dotted path.

    Every value that can be drawn is checked against the configuration, of ranges both ends; and so are the
    combinations of what is in lists, with the lower ends of ranges: all, or 64 drawn ones of more.

    Raises:
        ConfigurationError: the file is malformed, a setting is unknown or one of the search's own, a value
            is out of its range, or values contradict each other.
    """
    data, origin = read_config_file(path)
    file = origin.name or str(path)
    space = {name: _domain(name, given, config, file) for name, given in data.items()}
    _check_combinations({name: _to_combine(given) for name, given in data.items()}, config, file)
    return space


def described(space: Mapping[str, Any]) -> dict[str, str]:
    """Return each setting's domain in words that are the same for the same domain only."""
    return {
        name: f"grid {domain['grid_search']}"
        if isinstance(domain, dict)
        else f"{type(domain).__name__} {domain.get_sampler()} {domain.domain_str}"
        for name, domain in space.items()
    }


def num_grid_points(space: Mapping[str, Any]) -> int:
    """Return how many trials a sample of the space has: one for each combination of what is in grids."""
    return math.prod(len(domain["grid_search"]) for domain in space.values() if isinstance(domain, dict))


def _domain(name: str, given: Any, config: Config, file: str) -> Any:
    head = f"{file}: {name}"
    if name in OWN:
        raise ConfigurationError(f"{head}: is set by the search itself; leave it out")
    if not isinstance(given, dict) or len(given) != 1:
        raise ConfigurationError(
            f"{head}: must be one of {', '.join(KINDS)} with its values, such as {{uniform: [0.0, 1.0]}}, "
            f"got {given!r}"
        )
    (kind, values), *_ = given.items()
    if kind not in KINDS:
        raise ConfigurationError(
            f"{head}: must be one of {', '.join(KINDS)}, got {kind!r}.{did_you_mean(str(kind), KINDS)}"
        )
    if not isinstance(values, list) or not values:
        raise ConfigurationError(f"{head}: {kind} needs a list of values, got {values!r}")
    if kind in RANGES:
        _check_range(head, kind, values)
    for value in values:
        build_config(config, {name: value})
    return RANGES[kind](*values) if kind in RANGES else LISTS[kind](values)


def _check_range(head: str, kind: str, values: list[Any]) -> None:
    """Refuse what is no pair of rising numbers, whole ones or positive ones where that is needed."""
    kinds = (int,) if kind == "randint" else (int, float)
    numbers = all(isinstance(v, kinds) and not isinstance(v, bool) for v in values)
    if len(values) != 2 or not numbers or not values[0] < values[1]:
        what = "whole numbers" if kind == "randint" else "numbers"
        raise ConfigurationError(f"{head}: {kind} needs two rising {what}, got {values!r}")
    if kind == "loguniform" and values[0] <= 0:
        raise ConfigurationError(f"{head}: loguniform needs numbers above 0, got {values!r}")


def _to_combine(given: Mapping[str, list[Any]]) -> list[Any]:
    (kind, values), *_ = given.items()
    return values[:1] if kind in RANGES else values


def _check_combinations(values: Mapping[str, list[Any]], config: Config, file: str) -> None:
    """Refuse combinations that no trial could begin with."""
    proven = set()
    for settings in _combinations(values):
        problem = repr([(name, v) for name, v in settings.items() if not name.startswith("training.")])
        try:
            combined = EnvironmentValidator(apply_overrides(config.model_dump(), settings)).validate()
            if problem not in proven:  # environments of others may be slow to make
                prove(combined)
        except CamacError as error:
            drawn = ", ".join(f"{name} {shown(value)}" for name, value in settings.items())
            raise ConfigurationError(
                f"{file}: has values that contradict each other or the configuration; with {drawn}: {error}"
            ) from error
        proven.add(problem)


def _combinations(values: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    if math.prod(map(len, values.values())) <= MOST_COMBINATIONS:
        for drawn in itertools.product(*values.values()):
            yield dict(zip(values, drawn, strict=True))
        return
    generator = random.Random(0)  # the same ones each time
    for _ in range(MOST_COMBINATIONS):
        yield {name: generator.choice(among) for name, among in values.items()}
