"""How the processes and threads of one machine share its processors."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

SPINS = "GOMP_SPINCOUNT"
# A third of a millisecond: longer than the pauses between the operations of one minibatch (with less, two
# threads learn a tenth slower, waking each other up), shorter than those in which another process gets going.
FEW_SPINS = "30000"
LOAD = Path("/proc/loadavg")
LOWEST = 19  # niceness


def wait_briefly() -> None:
    """Let threads that wait for the others of their process soon leave the processor.

    Torch computes with GNU OpenMP on Linux, whose threads keep their processor for milliseconds between two
    operations, unless told otherwise: other processes get nothing of the time that is not used. Must be
    called before torch is loaded; what the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(SPINS, FEW_SPINS)


def processor_is_idle() -> bool:
    """Whether a processor of this machine stands idle right now; True where nobody can tell.

    Linux counts the threads that run or want to, over all processors and containers of a machine, those that
    this process may not use among them. Asking takes some microseconds.
    """
    if sys.platform != "linux":
        return True
    try:
        running = os.pread(_load_file(LOAD), 64, 0).split()[3].partition(b"/")[0]
        return int(running) < (os.cpu_count() or 1)
    except (OSError, IndexError, ValueError):
        return True


@cache
def _load_file(path: Path) -> int:
    """Return the descriptor of a file that stays open: opening it takes longer than reading it."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def let_others_first() -> None:
    """Give the calling thread the lowest ordinary priority, for good; without effect where threads of a
    process cannot have different ones (everywhere but on Linux).
    """
    if sys.platform == "linux":
        with suppress(OSError):  # a container may forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
