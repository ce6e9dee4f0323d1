"""What is shown while a training runs, and how signals reach it."""

from __future__ import annotations

import io
import os
import signal
import threading
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from camac_dra.training.progress import (
    BarDisplay,
    PlainDisplay,
    QuietDisplay,
    make_display,
    rate_text,
    time_text,
)
from camac_dra.training.stopping import StopRequest
from camac_dra.utils.errors import OutputError
from camac_dra.utils.event_writer import EventWriter


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0.0, "0 agent steps/s"),
        (999.4, "999 agent steps/s"),
        (84_210.0, "84.2k agent steps/s"),
        (2.5e6, "2.5M agent steps/s"),
    ],
)
def test_rates_are_short(rate: float, text: str) -> None:
    assert rate_text(rate) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3.0, "0:00"), (59.6, "1:00"), (3599.0, "59:59"), (7384.0, "2:03:04")]
)
def test_times_are_short(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


def test_plain_lines_come_from_time_to_time_and_at_the_end() -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream, seconds=3600.0)
    display.begin("Training", 0, 100)
    display.update(10, 50.0, 9.0, "reward 1")
    display.update(100, 50.0, 0.0, "reward 2")
    display.end()
    assert stream.getvalue().splitlines() == ["Training", "100.0%  reward 2  50 agent steps/s  0:00 left"]
    stream = io.StringIO()
    display = PlainDisplay(stream, seconds=0.0)
    display.begin("Training", 0, 100)
    display.update(10, 50.0, 9.0, "reward 1")
    assert stream.getvalue().splitlines()[1] == " 10.0%  reward 1  50 agent steps/s  0:09 left"


def test_the_bar_shows_share_rate_and_time_left_and_takes_text_as_it_is() -> None:
    stream = io.StringIO()
    display = BarDisplay(Console(file=stream, force_terminal=True, width=120, color_system=None))
    display.begin("Training [bold]", 0, 100)
    display.update(40, 1234.0, 61.0, "reward [1]")
    display.say("a remark")
    display.end()
    shown = stream.getvalue()
    for text in ("Training [bold]", " 40%", "1.2k agent steps/s", "1:01 left", "reward [1]", "a remark"):
        assert text in shown


def test_without_a_terminal_there_is_no_bar() -> None:
    assert isinstance(make_display(quiet=False), PlainDisplay)
    assert isinstance(make_display(quiet=True), QuietDisplay)


# Signals


def test_the_first_signal_asks_and_the_second_one_interrupts() -> None:
    asked: list[int] = []
    before = signal.getsignal(signal.SIGINT)  # jobs in the background are started with it ignored
    with pytest.raises(KeyboardInterrupt, match=r"^$"), StopRequest(lambda: asked.append(1)) as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop
        assert (stop.signal_number, asked) == (signal.SIGTERM, [1])
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_are_left_alone() -> None:
    seen: list[bool] = []

    def enter() -> None:
        with StopRequest() as stop:
            seen.append(bool(stop))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [False]


# Events


def steps(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def test_steps_written_again_count_once(tmp_path: Path) -> None:
    first = EventWriter(tmp_path)
    for step in (10, 20, 30):
        first.add_scalars({"loss": float(step), "early": 0.0}, step)
    first.close()
    second = EventWriter(tmp_path, purge_step=21)
    for step in (30, 40):
        second.add_scalars({"loss": -float(step)}, step)
    second.close()
    assert steps(tmp_path) == {
        "loss": [(10, 10.0), (20, 20.0), (30, -30.0), (40, -40.0)],
        "early": [(10, 0.0), (20, 0.0)],
    }


def test_events_survive_a_kill_between_two_of_them(tmp_path: Path) -> None:
    """Each is handed to the system at once, so the file is whole without being closed."""
    writer = EventWriter(tmp_path)
    writer.add_scalars({"loss": 1.0}, 10)
    assert steps(tmp_path) == {"loss": [(10, 1.0)]}
    with writer.path.open("ab") as file:
        file.write(b"\x18\x00\x00")  # the beginning of a record
    assert steps(tmp_path) == {"loss": [(10, 1.0)]}
    writer.close()


def test_events_that_cannot_be_written_are_an_error_not_a_traceback_in_a_thread(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere/events.*cannot be written: No such file"):
        EventWriter(tmp_path / "nowhere")
    writer = EventWriter(tmp_path)
    writer.close()
    writer._file = Path("/dev/full").open("wb")  # noqa: SIM115
    writer._records._writer = writer._file
    with pytest.raises(OutputError, match=r"events.*cannot be written: No space left on device"):
        writer.add_scalars({"loss": 1.0}, 1)
    writer.close()
