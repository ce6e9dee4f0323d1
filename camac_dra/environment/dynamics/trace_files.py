"""Read CSV traces strictly: every error names the file, the line, the rule and what was found there."""

from __future__ import annotations

import csv
import functools
import gzip
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from camac_dra.utils.errors import TraceError, did_you_mean

BUILTIN = "builtin:"
_DATA = resources.files("camac_dra.environment") / "data"


class _MalformedError(Exception):
    """A file is no table; its message becomes part of a ``TraceError``."""


class Trace:
    """The rows of one CSV file as text, with checked conversions of its columns.

    Attributes:
        name: what messages call the file.
        columns: names in the header.
    """

    def __init__(self, path: str, required: tuple[str, ...]) -> None:
        """Read ``path``, a ``.csv`` or ``.csv.gz`` file, or ``builtin:NAME`` for data that
        come with the package.

        Raises:
            TraceError: the file cannot be read, is empty, or lacks a required column.
        """
        self.name = path
        self._frame = _read(path)
        self.columns = list(self._frame.columns)
        missing = [name for name in required if name not in self.columns]
        if missing:
            raise TraceError(
                f"{path}, line 1: must have the column{'s' * (len(missing) > 1)} {', '.join(missing)}, "
                f"got {', '.join(self.columns)}.{did_you_mean(missing[0], self.columns)}"
            )
        if self._frame.empty:
            raise TraceError(f"{path}: must have rows below its header, got none")

    def __len__(self) -> int:
        return len(self._frame)

    def text(self, column: str) -> np.ndarray:
        """Return a column (J,) as stripped text, which must not be empty."""
        values = self._frame[column].str.strip()
        self.refuse(values == "", column, "must not be empty", values)
        return values.to_numpy(object)

    def is_number(self, column: str) -> bool:
        """Return whether a column begins with a number, and so is meant to hold numbers."""
        return bool(pd.to_numeric(self._frame[column].iloc[:1], errors="coerce").notna().iloc[0])

    def amounts(self, column: str) -> np.ndarray:
        """Return a column (J,) of finite numbers, zero or more."""
        values = self.numbers(column)
        self.refuse(values < 0.0, column, "must be zero or more", values)
        return values

    def numbers(self, column: str) -> np.ndarray:
        """Return a column (J,) of finite numbers."""
        given = self._frame[column]
        values = pd.to_numeric(given, errors="coerce").to_numpy(np.float64)
        self.refuse(~np.isfinite(values), column, "must be a finite number", given)
        return values

    def times(self, column: str, timezone: str | None = None, optional: bool = False) -> np.ndarray:
        """Return a column of dates in ISO 8601 as nanoseconds since 1970 UTC (J,) int64.

        Times with an offset mean what they say; those without one are local in ``timezone``, or UTC without
        one. A local time that does not exist, or exists twice, because clocks were changed, is refused. Where
        ``optional``, an empty cell is the least integer.
        """
        given = self._frame[column].str.strip()
        empty = (given == "").to_numpy()
        if not optional:
            self.refuse(empty, column, "must not be empty", given)
        offset = given.str.contains(r"(?:Z|[+-]\d\d:?\d\d)$", regex=True).to_numpy()
        times = np.full(len(given), np.iinfo(np.int64).min)
        for kind in (offset & ~empty, ~offset & ~empty):
            if kind.any():
                times[kind] = self._parsed(given[kind], column, timezone)
        return times

    def offsets(self, column: str) -> np.ndarray:
        """Return the offsets from UTC, in nanoseconds (J,) int64, that a column's times are written with; 0
        if none.
        """
        parts = self._frame[column].str.extract(r"([+-])(\d\d):?(\d\d)\s*$")
        minutes = pd.to_numeric(parts[1]) * 60 + pd.to_numeric(parts[2])
        signed = minutes.where(parts[0] != "-", -minutes).fillna(0).to_numpy(np.int64)
        return signed * 60_000_000_000

    def line(self, row: int) -> int:
        """Return the line of the file that row ``row`` stands in; the header is line 1."""
        return int(self._frame.index[row])

    def refuse(
        self, wrong: np.ndarray | pd.Series, column: str, rule: str, values: object, known: Sequence[str] = ()
    ) -> None:
        """Raise ``TraceError`` for the first row that is ``wrong`` (J,), with its line and value.

        Of the ``known`` names, the one nearest to that value is suggested.
        """
        rows = np.flatnonzero(np.asarray(wrong))
        if len(rows):
            value = np.asarray(values, object)[rows[0]]
            hint = did_you_mean(str(value), known)
            place = f"{self.name}, line {self.line(rows[0])}"
            raise TraceError(f"{place}: {column} {rule}, got {_shown(value)}{'.' * bool(hint)}{hint}")

    def _parsed(self, given: pd.Series, column: str, timezone: str | None) -> np.ndarray:
        """Return times that all carry an offset, or all do not, as nanoseconds UTC."""
        naive = not given.str.contains(r"(?:Z|[+-]\d\d:?\d\d)$", regex=True).iloc[0]
        parsed = pd.to_datetime(given, format="ISO8601", errors="coerce", utc=True)
        self._refuse_here(
            given, parsed.isna(), column, "must be a date and time as in 2019-05-01T08:15:00-07:00"
        )
        if naive and timezone is not None:
            local = parsed.dt.tz_localize(None).dt.tz_localize(timezone, ambiguous="NaT", nonexistent="NaT")
            rule = f"must be a time that {timezone} has once: write its offset from UTC"
            self._refuse_here(given, local.isna(), column, rule)
            parsed = local.dt.tz_convert("UTC")
        return parsed.dt.as_unit("ns").astype("int64").to_numpy()

    def _refuse_here(self, given: pd.Series, wrong: pd.Series, column: str, rule: str) -> None:
        """Raise ``TraceError`` for the first wrong one of some rows, which are indexed by their lines."""
        if wrong.any():
            first = int(wrong.to_numpy().argmax())
            line, value = given.index[first], given.iloc[first]
            raise TraceError(f"{self.name}, line {line}: {column} {rule}, got {_shown(value)}")


def _shown(value: object) -> str:
    """Return a value as messages show it."""
    return repr(value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def _read(path: str) -> pd.DataFrame:
    """Return the file's cells as text, indexed by their lines."""
    try:
        if path.startswith(BUILTIN):
            with resources.as_file(_builtin(path)) as file:
                return _cells(str(file), _version(file))
        return _cells(path, _version(Path(path)))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error, _MalformedError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise TraceError(f"{path}: must be a readable CSV file with a header, got: {reason}") from error


def _builtin(path: str) -> resources.abc.Traversable:
    """Return the file of the package that ``builtin:NAME`` means."""
    name = path.removeprefix(BUILTIN)
    file = _DATA.joinpath(*name.split("/"))
    if ".." in name or not file.is_file():
        known = sorted(builtin_names())
        raise TraceError(f"{path}: must be one of {', '.join(known)}.{did_you_mean(path, known)}")
    return file


def builtin_names() -> list[str]:
    """Return the names of the data sets that come with the package, as configurations name them."""
    return [
        f"{BUILTIN}{folder.name}/{file.name}"
        for folder in _DATA.iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
        if file.name.endswith((".csv", ".csv.gz"))
    ]


def _version(file: Path) -> tuple[int, int]:
    """Return what changes when the file does."""
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


@functools.lru_cache(maxsize=8)
def _cells(path: str, version: tuple[int, int]) -> pd.DataFrame:
    """Return the cells of a file in this version; nobody may change the result."""
    opened = gzip.open if path.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = [name.strip() for name in next(reader, [])]
        lines, rows = [], []
        for row in reader:
            if row:
                lines.append(reader.line_num)
                rows.append(row)
    if not any(header):
        raise _MalformedError("an empty file")
    if len(set(header)) < len(header):
        raise _MalformedError(f"a header that names a column twice: {', '.join(header)}")
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(header):
            raise _MalformedError(f"line {line} has {len(row)} cells, where the header has {len(header)}")
    return pd.DataFrame(rows, index=lines, columns=header, dtype=str)
