"""How the processes and threads of one machine share its processors."""

from __future__ import annotations

import os

SPINS = "GOMP_SPINCOUNT"
# A third of a millisecond: longer than the pauses between the operations of one minibatch (with less, two
# threads learn a tenth slower, waking each other up), shorter than those in which another process gets going.
FEW_SPINS = "30000"


def wait_briefly() -> None:
    """Let threads that wait for the others of their process soon leave the processor.

    Torch computes with GNU OpenMP on Linux, whose threads keep their processor for milliseconds between two
    operations, unless told otherwise: other processes get nothing of the time that is not used. Must be
    called before torch is loaded; what the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(SPINS, FEW_SPINS)


def yield_processor() -> bool:
    """Let the calling thread run only where no ordinary thread wants the processor, for good.

    It is interrupted at once by any that wakes up, and goes on in its pauses. Returns whether that took
    effect: only Linux has such a policy (SCHED_IDLE), elsewhere nothing changes.
    """
    policy = getattr(os, "SCHED_IDLE", None)
    if policy is None:
        return False
    try:
        os.sched_setscheduler(0, policy, os.sched_param(0))
    except OSError:  # a container may forbid it
        return False
    return True
