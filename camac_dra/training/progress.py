"""What the user sees while a training runs: a progress bar on a terminal, plain lines elsewhere, or nothing.

Progress and remarks go to standard error, so that standard output holds results alone.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

SECONDS_BETWEEN_LINES = 10.0


class Display(ABC):
    """Shows how far a training is; ``done`` and ``total`` count steps of all copies."""

    @abstractmethod
    def begin(self, title: str, done: int, total: int) -> None:
        """Start to show progress."""

    @abstractmethod
    def update(self, done: int, rate: float, seconds_left: float, remark: str) -> None:
        """Show the progress, the rate in agent steps per second, and what was seen last."""

    @abstractmethod
    def end(self) -> None:
        """Stop to show progress."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Tell the user something."""


class QuietDisplay(Display):
    """Shows nothing."""

    def begin(self, title: str, done: int, total: int) -> None:
        """Show nothing."""

    def update(self, done: int, rate: float, seconds_left: float, remark: str) -> None:
        """Show nothing."""

    def end(self) -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""


class PlainDisplay(Display):
    """A line from time to time, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._seconds = seconds
        self._total = 0
        self._last = 0.0

    def begin(self, title: str, done: int, total: int) -> None:
        """Say what is done."""
        self._total, self._last = total, time.monotonic()
        self.say(title)

    def update(self, done: int, rate: float, seconds_left: float, remark: str) -> None:
        """Write a line where the last one is long enough ago, or training is done."""
        now = time.monotonic()
        if now - self._last < self._seconds and done < self._total:
            return
        self._last = now
        share = min(1.0, done / self._total)
        self.say(f"{share:6.1%}  {remark}  {rate_text(rate)}  {time_text(seconds_left)} left")

    def end(self) -> None:
        """Nothing to end."""

    def say(self, text: str) -> None:
        """Write a line."""
        self._stream.write(f"{text}\n")
        self._stream.flush()


class BarDisplay(Display):
    """A progress bar with rate and time left, for terminals."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def begin(self, title: str, done: int, total: int) -> None:
        """Draw the bar."""
        self.say(title)
        self._progress = Progress(
            TaskProgressColumn(),
            BarColumn(bar_width=None),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]} left"),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            expand=True,
        )
        self._task = self._progress.add_task("", total=total, completed=done, left="?", rate="")
        self._progress.start()

    def update(self, done: int, rate: float, seconds_left: float, remark: str) -> None:
        """Move the bar."""
        if self._progress is not None:
            self._progress.update(
                self._task,
                completed=done,
                description=remark,
                rate=rate_text(rate),
                left=time_text(seconds_left),
                refresh=True,
            )

    def end(self) -> None:
        """Leave the bar as it is."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def say(self, text: str) -> None:
        """Write a line above the bar."""
        self._console.print(text, markup=False, soft_wrap=True)


def make_display(*, quiet: bool) -> Display:
    """Return the display that suits standard error."""
    if quiet:
        return QuietDisplay()
    console = Console(stderr=True, highlight=False)
    return BarDisplay(console) if console.is_terminal else PlainDisplay()


def rate_text(rate: float) -> str:
    """Return agent steps per second in few characters: ``84.2k agent steps/s``."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if rate >= size:
            return f"{rate / size:.1f}{unit} agent steps/s"
    return f"{rate:.0f} agent steps/s"


def time_text(seconds: float) -> str:
    """Return a duration as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
