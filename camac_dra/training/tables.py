"""Tables as plain text and on the terminal."""

from __future__ import annotations

import io
import sys

from rich.console import Console
from rich.table import Table

MOST = 1000  # characters that a line of a table may take


def as_text(table: Table) -> str:
    """Return a table as plain text, as wide as it needs to be."""
    console = Console(file=io.StringIO(), color_system=None)
    console.width = _width(table, console)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def show(table: Table, fewest: int) -> None:
    """Write a table to standard output, in full or, on a terminal, the first columns that fit, but at least
    ``fewest``.
    """
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        sys.stdout.write(as_text(table))
        return
    while len(table.columns) > fewest and _width(table, console) > console.width:
        table.columns.pop()
    console.print(table)


def _width(table: Table, console: Console) -> int:
    """Return the characters that a table needs."""
    return console.measure(table, options=console.options.update(width=MOST)).maximum
