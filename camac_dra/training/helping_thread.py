"""A second thread that computes beside the first one, wherever a processor stands idle for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from camac_dra.utils.processors import let_others_first, processor_is_idle

T = TypeVar("T")


class HelpingThread:
    """Takes work over from the thread that owns it.

    It pays where the work is large operations of torch, during which Python is free for the other thread.
    Where all processors are busy, its owner does everything by itself, as if there were no helping thread:
    two threads that wait for each other are slow beside others that want the same processors. Nothing that is
    computed depends on who does it, as long as torch has as many threads in one as in the other.
    """

    def __init__(self, torch_threads: int) -> None:
        """The thread begins with the first work that it gets, and ends with this object. Torch computes in it
        with ``torch_threads`` threads.
        """
        self._executor = ThreadPoolExecutor(
            1, thread_name_prefix="helping", initializer=_begin, initargs=(torch_threads,)
        )

    def offer(self, work: Callable[[], T]) -> Callable[[], T]:
        """Return what gives the result of ``work``, or raises what it raised; to be called once.

        Whoever calls it does the work where the helping thread has not begun with it.
        """
        if not processor_is_idle():
            return work
        future = self._executor.submit(work)
        return lambda: work() if future.cancel() else future.result()


def _begin(torch_threads: int) -> None:
    torch.set_num_threads(torch_threads)
    let_others_first()
