"""What the commands share: an error is one message and exit code 2, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from camac_dra.utils.errors import CamacError

BAD_INPUT = 2
INTERRUPTED = 130  # what shells report for a program ended by Ctrl-C


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
