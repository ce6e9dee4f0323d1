"""A comparison as a table for the terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.table import Table
from rich.text import Text

from camac_dra.models.charging_heuristics import CHARGING_HEURISTICS
from camac_dra.models.heuristics import HEURISTICS, Heuristic
from camac_dra.training.evaluation import Comparison, Reference, Row

_LARGEST_SILENT_GAP = 0.001  # below this, a table need not say that the optimum is not quite known
_NOTHING = "–"

_COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("of oracle", lambda row: _percent(row.share_of_oracle)),
    ("per episode [95 %]", lambda row: _interval(row)),  # noqa: PLW0108 - defined below
    ("above fair", lambda row: _percent(row.normalised_share)),
    ("reward", lambda row: f"{row.measures['reward']:.0f}"),
    ("success", lambda row: _percent(row.measures["success_rate"])),
    ("Jain", lambda row: f"{row.measures['jain']:.2f}"),
    ("used", lambda row: _percent(row.measures["utilisation"])),
    ("conflicts", lambda row: _percent(row.measures["conflict_rate"])),
    ("lost", lambda row: _percent(row.measures["lost_share"])),
    ("rounds", lambda row: str(row.rounds)),
    ("messages", lambda row: str(row.messages)),
)


def render_table(comparison: Comparison, highlight: str | None = None) -> Table:
    """Return the comparison as a table, with the row of the name ``highlight`` in bold.

    ``of oracle`` is the sum of the efficiencies over the sum of the optima; ``per episode`` the
    interquartile mean of the episodes' shares; ``above fair`` what of the way from the fair share to the
    optimum was gone. Rounds and messages are per decision.
    """
    table = Table(
        title=_title(comparison), caption=_caption(comparison), title_justify="left", caption_justify="left"
    )
    table.add_column("policy", no_wrap=True)
    table.add_column("decides", no_wrap=True)
    for heading, _ in _COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in comparison.rows.items():
        label = name if row.runs == 1 else f"{name} ({row.runs} runs)"
        style = "bold" if name == highlight else ""
        table.add_row(Text(label), row.decides, *(cell(row) for _, cell in _COLUMNS), style=style)
    return table


def _title(comparison: Comparison) -> str:
    return f"{comparison.num_episodes} held-out episodes, seed {comparison.seed}"


def _caption(comparison: Comparison) -> str:
    """Return what has to be said about the optimum, and about planners that are told more than agents see."""
    return "\n".join([_about_the_optimum(comparison.reference), *map(_about_planner, _told(comparison))])


def _about_the_optimum(reference: Reference) -> str:
    if reference.optimum is None:
        return f"No optimum: {reference.unknown_because}"
    optimum = f"The clairvoyant optimum is {reference.optimum.mean():.0f} per episode"
    if reference.gap > _LARGEST_SILENT_GAP:
        return f"{optimum}, an upper bound at most {100 * reference.gap:.1f} % too high."
    return f"{optimum}."


def _told(comparison: Comparison) -> list[Heuristic]:
    """Return the heuristics of the comparison that are told what agents are not."""
    known = {**HEURISTICS, **CHARGING_HEURISTICS}
    planners = [known[name]() for name in comparison.rows if name in known]
    return [planner for planner in planners if planner.told is not None]


def _about_planner(planner: Heuristic) -> str:
    return f"{planner.name} is told {planner.told}, which agents are not."


def _percent(value: float | None) -> str:
    return _NOTHING if value is None else f"{100 * value:.1f} %"


def _interval(row: Row) -> str:
    if row.interval is None:
        return _NOTHING
    low, high = 100 * row.interval.low, 100 * row.interval.high
    return f"{100 * row.interval.estimate:.1f} [{low:.1f}, {high:.1f}]"
