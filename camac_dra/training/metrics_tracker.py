"""Numbers that are recorded while something runs, what they come to, and a file of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from camac_dra.training.checkpoints import json_bytes
from camac_dra.utils.errors import CheckpointError, ConfigurationError
from camac_dra.utils.file_handler import StrPath, atomic_write_bytes

RECENT_EPISODES = 100  # episodes that training.success_rate is the mean of
STATISTICS: dict[str, Callable[[list[float]], Any]] = {
    "mean": np.mean,
    "std": np.std,
    "min": np.min,
    "max": np.max,
}


class MetricsTracker:
    """Series of numbers by name, in the order in which they came.

    A name with a slash belongs to a section: ``training/episode_rewards``. ``record`` adds to a series;
    ``set_value`` replaces a single number.
    """

    def __init__(self) -> None:
        self._series: dict[str, list[float]] = {}
        self._values: dict[str, float] = {}

    def record(self, metric_name: str, value: float) -> None:
        """Add a number to a series.

        Raises:
            ConfigurationError: it is no number, or the name is that of a single value.
        """
        self._check(metric_name, self._values)
        self._series.setdefault(metric_name, []).append(_number(metric_name, value))

    def set_value(self, metric_name: str, value: float) -> None:
        """Set a single number, such as a success rate over everything, in place of the one before.

        Raises:
            ConfigurationError: it is no number, or the name is that of a series.
        """
        self._check(metric_name, self._series)
        self._values[metric_name] = _number(metric_name, value)

    def _check(self, name: str, others: Mapping[str, Any]) -> None:
        if not name or name in others or name.startswith("/") or name.endswith("/") or name.count("/") > 1:
            raise ConfigurationError(
                "metric_name must be NAME or SECTION/NAME, and either a series or a single value, "
                f"got {name!r}"
            )

    def series(self, metric_name: str) -> list[float]:
        """Return a copy of what was recorded under a name; empty where nothing was."""
        return list(self._series.get(metric_name, ()))

    def get_summary(self) -> dict[str, float]:
        """Return ``NAME/mean``, ``std``, ``min``, ``max``, ``last`` and ``count`` of every series, and the
        single values by their names.

        Numbers that are not finite are left out of all but ``last`` and ``count``.
        """
        summary: dict[str, float] = {}
        for name, values in self._series.items():
            finite = [value for value in values if math.isfinite(value)]
            for statistic, function in STATISTICS.items():
                summary[f"{name}/{statistic}"] = float(function(finite)) if finite else math.nan
            summary[f"{name}/last"], summary[f"{name}/count"] = values[-1], float(len(values))
        return summary | self._values

    def reset(self) -> None:
        """Forget everything."""
        self._series.clear()
        self._values.clear()

    def export(self, path: StrPath) -> None:
        """Write everything into a file: JSON, or by the suffix ``.csv`` a table of name, index and value.

        In JSON sections are objects, series lists, and what is not finite is null. The file is there whole,
        or all is as it was; missing folders are made.

        Raises:
            OutputError: it cannot be written there, or the disk is full.
            ConfigurationError: the suffix is another one.
        """
        suffix = Path(path).suffix.lower()
        if suffix == ".json":
            atomic_write_bytes(path, json_bytes(self.to_dict()))
        elif suffix == ".csv":
            atomic_write_bytes(path, self._csv().encode())
        else:
            raise ConfigurationError(f"path of metrics must end in .json or .csv, got {str(path)!r}")

    def _csv(self) -> str:
        lines = ["metric,index,value"]
        for name, values in self._series.items():
            lines += [f"{name},{index},{value!r}" for index, value in enumerate(values)]
        lines += [f"{name},,{value!r}" for name, value in self._values.items()]
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values by section and name."""
        nested: dict[str, Any] = {}
        everything: dict[str, Any] = {name: list(values) for name, values in self._series.items()}
        for name, value in {**everything, **self._values}.items():
            section, _, rest = name.rpartition("/")
            (nested.setdefault(section, {}) if section else nested)[rest] = value
        return nested

    def load_dict(self, content: Mapping[str, Any]) -> None:
        """Hold what `to_dict` returned, or what a JSON file of `export` has, and nothing else.

        Raises:
            CheckpointError: it is something else; then nothing has changed.
        """
        loaded = MetricsTracker()
        try:
            for name, value in _flat(content):
                if isinstance(value, Sequence) and not isinstance(value, str):
                    loaded._series[name] = [_number(name, math.nan if v is None else v) for v in value]
                else:
                    loaded.set_value(name, math.nan if value is None else value)
        except (AttributeError, ConfigurationError) as error:
            raise CheckpointError(f"metrics must be numbers and lists of them by name: {error}") from None
        self._series, self._values = loaded._series, loaded._values


def _flat(content: Mapping[str, Any]) -> list[tuple[str, Any]]:
    entries: list[tuple[str, Any]] = []
    for name, value in content.items():
        if isinstance(value, Mapping):
            entries += [(f"{name}/{inner}", entry) for inner, entry in value.items()]
        else:
            entries.append((name, value))
    return entries


def _number(name: str, value: Any) -> float:
    try:
        if not isinstance(value, (bool, str)) and np.ndim(value) == 0:
            return float(value)
    except (TypeError, ValueError):
        pass
    raise ConfigurationError(f"value of the metric {name!r} must be a number, got {value!r}")
