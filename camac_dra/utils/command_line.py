"""What the commands share: an error is one message and exit code 2, never a traceback."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from camac_dra.utils.errors import CamacError, ConfigurationError

BAD_INPUT = 2
INTERRUPTED = 130  # what shells report for a program ended by Ctrl-C


def add_config_file(parser: argparse.ArgumentParser) -> None:
    """Let a command take its configuration as an argument, or by ``--config`` as other commands do."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="YAML or JSON")
    parser.add_argument("--config", metavar="FILE", help="the same as FILE")


def config_file(known: argparse.Namespace) -> str:
    """Return the file that a command was given by `add_config_file`.

    Raises:
        ConfigurationError: it was given none, or two.
    """
    if known.file is not None and known.config is not None:
        raise ConfigurationError(
            f"{known.command}: takes one file, got {known.file!r} and --config {known.config!r}: give one"
        )
    given: str | None = known.file if known.config is None else known.config
    if given is None:
        raise ConfigurationError(f"{known.command}: needs a file, as in {known.command} FILE")
    return given


def run_command(command: Callable[[], int]) -> int:
    """Run a command and return its exit code.

    Errors that the package raises on purpose are written to standard error as one message and give 2. Ctrl-C
    gives 130. Whoever reads our output may stop reading (``| head``): that is no error. Everything else is a
    defect of ours and keeps its traceback.
    """
    try:
        code = command()
        sys.stdout.flush()
    except CamacError as error:
        sys.stderr.write(f"error: {error}\n")
        return BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # else the interpreter complains at its end
        return 0
    return code
