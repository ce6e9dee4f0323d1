"""A second thread that computes beside the first one, wherever a processor stands idle for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch

from camac_dra.utils.processors import let_others_first, processor_is_idle

K = TypeVar("K")
T = TypeVar("T")


class HelpingThread:
    """Takes work over from the thread that owns it.

    It pays where the work is large operations of torch, during which Python is free for the other thread.
    Where all processors are busy, its owner does everything by itself, as if there were no helping thread:
    two threads that wait for each other are slow beside others that want the same processors. What is
    computed must not depend on who does it: nothing of the work may draw random numbers, and torch must have
    as many threads in one as in the other.
    """

    def __init__(self, torch_threads: int) -> None:
        """The thread begins with the first work that it gets. Torch computes in it with ``torch_threads``
        threads.
        """
        self._executor = ThreadPoolExecutor(
            1, thread_name_prefix="helping", initializer=_begin, initargs=(torch_threads,)
        )
        self._offered: list[Future[Any]] = []

    def offer(self, works: Mapping[K, Callable[[], T]]) -> dict[K, Callable[[], T]]:
        """Return what gives the result of each work, or raises what it raised; to be called once.

        Whoever calls it does the work where the helping thread has not begun with it. `settle` must follow.
        """
        if not works or not processor_is_idle():
            return dict(works)
        futures = {key: self._executor.submit(work) for key, work in works.items()}
        self._offered += futures.values()
        return {key: partial(_result, futures[key], work) for key, work in works.items()}

    def settle(self) -> None:
        """Take back what was offered and nobody began with, and wait for the rest: after this the helping
        thread does nothing.
        """
        offered, self._offered = self._offered, []
        begun = [future for future in offered if not future.cancel()]
        for future in begun:
            future.exception()  # waits

    def close(self) -> None:
        """End the thread."""
        self.settle()
        self._executor.shutdown()


def _result(future: Future[T], work: Callable[[], T]) -> T:
    return work() if future.cancel() else future.result()


def _begin(torch_threads: int) -> None:
    torch.set_num_threads(torch_threads)
    let_others_first()
