"""Draw how far policies are from the clairvoyant optimum, from the figures of a comparison.

Run it with ``python experiments/plot_comparison.py runs/NAME/comparison.json docs/default_problem.png``, or
with the file that ``experiments/benchmarks/learning.py --json`` wrote. Bars are shares of the optimum;
whiskers are 95 % intervals of the interquartile mean of the episodes' shares.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"alone": "#4878a8", "together": "#8a6fb0", "centrally": "#9a9a9a"}
TRAINED = "#d9702f"
LABELS = {"alone": "each agent alone", "together": "after an agreement", "centrally": "one planner for all"}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the picture of the comparison's rows, the best policy on top."""
    rows = sorted(
        (row for row in rows if row["share_of_oracle"] is not None), key=lambda r: r["share_of_oracle"]
    )
    figure, axes = plt.subplots(figsize=(7.5, 0.38 * len(rows) + 1.1))
    for place, row in enumerate(rows):
        colour = TRAINED if row["name"] == "trained" else COLOURS[row["decides"]]
        share = 100 * row["share_of_oracle"]
        axes.barh(place, share, color=colour, height=0.7)
        edge = max(share, 0.0)
        if row["interval"] is not None:
            low, high = 100 * row["interval"]["low"], 100 * row["interval"]["high"]
            axes.plot([low, high], [place, place], color="black", linewidth=1.2)
            edge = max(edge, high)
        axes.text(edge + 1.5, place, f"{share:.0f} %", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [row["name"].replace("_", " ") for row in rows])
    axes.axvline(100, color="black", linestyle=":", linewidth=1)
    axes.set_xlim(right=112)
    axes.set_xlabel("share of the clairvoyant optimum, %")
    used = {row["decides"] for row in rows if row["name"] != "trained"}
    handles = [plt.Rectangle((0, 0), 1, 1, color=TRAINED)]
    handles += [plt.Rectangle((0, 0), 1, 1, color=COLOURS[kind]) for kind in COLOURS if kind in used]
    names = ["trained, each agent alone", *(LABELS[kind] for kind in COLOURS if kind in used)]
    axes.legend(handles, names, loc="upper left", fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Read the comparison, write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("figures", type=Path, metavar="COMPARISON_JSON")
    parser.add_argument("picture", type=Path, metavar="PNG")
    options = parser.parse_args()
    figures = json.loads(options.figures.read_text())
    draw(figures.get("comparison", figures)["rows"], options.picture)


if __name__ == "__main__":
    main()
