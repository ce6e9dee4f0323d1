"""What ``messaging.py`` compares the message bus with: Ray's queue, plain actor calls, Redis Streams.

Run ``messaging.py``; this file only holds the others. Redis is spoken to over its socket, without a client
library.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.util.queue import Queue

MESSAGE = {"type": "request", "amount": 1.5, "resource": "cpu", "round": 3, "note": "x" * 20}
BATCH = 100


def run_threads(works: Sequence[Callable[[], None]]) -> float:
    """Run all at once, each in a thread; return the seconds that took."""
    threads = [threading.Thread(target=work) for work in works]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def queue_rate(pairs: int, seconds: float) -> float:
    """Return messages/s of ``ray.util.queue``: so many putting and getting threads, one queue for each
    pair.
    """
    queues = [Queue(actor_options={"num_cpus": 0}) for _ in range(pairs)]
    counts = [0] * pairs
    for queue in queues:
        queue.put(None)
        queue.get()
    deadline = time.perf_counter() + seconds

    def put(queue: Any) -> None:
        while time.perf_counter() < deadline:
            queue.put(MESSAGE)
        queue.put(None)

    def get(index: int) -> None:
        while queues[index].get() is not None:
            counts[index] += 1

    spent = run_threads(
        [*(partial(put, queue) for queue in queues), *(partial(get, index) for index in range(pairs))]
    )
    for queue in queues:
        queue.shutdown()
    return sum(counts) / spent


def queue_batch_rate(pairs: int, seconds: float) -> float:
    """Return messages/s of ``put_nowait_batch`` and ``get_nowait_batch`` with 100 messages each."""
    queues = [Queue(actor_options={"num_cpus": 0}) for _ in range(pairs)]
    counts = [0] * pairs
    deadline = time.perf_counter() + seconds
    batch = [MESSAGE] * BATCH

    def work(index: int) -> None:
        while time.perf_counter() < deadline:
            queues[index].put_nowait_batch(batch)
            counts[index] += len(queues[index].get_nowait_batch(BATCH))

    spent = run_threads([partial(work, index) for index in range(pairs)])
    for queue in queues:
        queue.shutdown()
    return sum(counts) / spent


class Sink:
    """An actor that takes messages."""

    def take(self, message: object) -> None:
        """Take one."""


def pipelined_rate(pairs: int, seconds: float) -> float:
    """Return messages/s of plain actor calls, 200 under way per thread; nobody receives anything."""
    factory: Any = ray.remote(num_cpus=0)(Sink)
    sinks = [factory.remote() for _ in range(pairs)]
    ray.get([sink.take.remote(None) for sink in sinks])
    counts = [0] * pairs
    deadline = time.perf_counter() + seconds

    def work(index: int) -> None:
        while time.perf_counter() < deadline:
            ray.get([sinks[index].take.remote(MESSAGE) for _ in range(200)])
            counts[index] += 200

    spent = run_threads([partial(work, index) for index in range(pairs)])
    for sink in sinks:
        ray.kill(sink)
    return sum(counts) / spent


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[str | None]:
    """Run Debian's redis-server with its log in ``folder``; give the path of its socket, or None without
    one.
    """
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    folder = folder.resolve()  # it changes to that folder before it reads the other settings
    path = folder / "redis.sock"
    options = {"port": "0", "unixsocket": str(path), "dir": str(folder), "appendonly": "yes", "save": ""}
    options["appendfsync"] = "everysec"
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20.0
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        yield str(path)
    finally:
        process.terminate()
        process.wait(20.0)


def redis_rate(path: str, clients: int, seconds: float, payload: bytes) -> float:
    """Return entries/s that clients add to streams of their own, in pipelines of 100, answers awaited."""
    counts = [0] * clients
    deadline = time.perf_counter() + seconds

    def work(index: int) -> None:
        words = [b"XADD", b"stream%d" % index, b"MAXLEN", b"~", b"100000", b"*", b"m", payload]
        command = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        pipeline = command * BATCH
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            while time.perf_counter() < deadline:
                connection.sendall(pipeline)
                answered = 0
                while answered < 2 * BATCH:  # each answer is a length and an entry's name, a line each
                    answered += connection.recv(2**16).count(b"\r\n")
                counts[index] += BATCH

    spent = run_threads([partial(work, index) for index in range(clients)])
    return sum(counts) / spent
