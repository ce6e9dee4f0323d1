"""What the message bus carries per second, and what it costs to wait for it, beside Ray's queue and Redis
Streams.

Run it with ``python experiments/benchmarks/messaging.py [--quick] [--json FILE] [--faults]``: about three
minutes, with ``--quick`` less than one. ``--faults`` instead sends 1,000,000 messages under kill -9 (a
quarter of an hour).

Throughput: 4 sending and 4 receiving threads in one process, one message of about 100 bytes at a time,
counted when acknowledged by its recipient. The rivals are timed in turn with the bus, round by round, and
ratios are of medians. Latency: from before ``send`` to after ``receive``, with senders paced to a share of
that throughput. Journal: 8 sending threads in one process, ``send_many`` of 100 messages at a time, every
True synced to the disk, and everything received and acknowledged meanwhile by 8 more threads of that process;
Redis adds to 8 streams from 8 threads in one process, pipelines of 100 over a connection each (prepared
beforehand), synced once per second, and nobody reads.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import argparse
import json
import logging
import pickle
import statistics
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import _messaging_faults as faults
import _messaging_rivals as rivals
import numpy as np
import ray
from _messaging_rivals import BATCH, MESSAGE, run_threads

from camac_dra.coordination import MessageBus

PAIRS = 4
JOURNAL_SENDERS = 8
AGENTS, NEIGHBOURS, PACKS = 1_000, 8, 4
TARGET_RATE, TARGET_RATIO, TARGET_JOURNAL, TARGET_TICK = 50_000.0, 100.0, 0.5, 0.5


def bus_rate(backend: str, count: int) -> float:
    """Return messages/s from ``send`` to acknowledgement, so many from each of four senders."""
    with MessageBus(backend=backend, timeout=60.0) as bus:  # type: ignore[arg-type]
        for index in range(PAIRS):
            bus.register(f"s{index}")
            bus.register(f"r{index}")

        def send(index: int) -> None:
            sender, recipient = f"s{index}", f"r{index}"
            for _ in range(count):
                bus.send(sender, recipient, MESSAGE)

        def receive(index: int) -> None:
            recipient = f"r{index}"
            for _ in range(count):
                bus.receive(recipient)

        def all_of(number: int) -> float:
            works = [partial(send, i) for i in range(PAIRS)] + [partial(receive, i) for i in range(PAIRS)]
            nonlocal count
            count = number
            start = time.perf_counter()
            run_threads(works)
            bus.flush(60.0)
            return PAIRS * number / (time.perf_counter() - start)

        full = count
        all_of(min(2_000, full))  # connections and credit
        return all_of(full)


def throughput(quick: bool) -> dict[str, list[float]]:
    """Return messages/s by who carries them, one entry per round."""
    count, seconds = (10_000, 2.0) if quick else (50_000, 5.0)
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(2 if quick else 5):
        rates["bus on ray"].append(bus_rate("ray", count))
        rates["ray.util.queue"].append(rivals.queue_rate(PAIRS, seconds))
        rates["bus, local"].append(bus_rate("local", count))
        rates["ray.util.queue, batches of 100"].append(rivals.queue_batch_rate(PAIRS, seconds))
        rates["actor calls, pipelined"].append(rivals.pipelined_rate(PAIRS, seconds))
    return rates


def latencies(full_rate: float, share: float, seconds: float) -> tuple[float, float]:
    """Return p50 and p99 milliseconds from ``send`` to ``receive`` at a share of the full rate."""
    samples: list[float] = []
    per_sender = full_rate * share / PAIRS
    with MessageBus(timeout=30.0) as bus:
        for index in range(PAIRS):
            bus.register(f"s{index}")
            bus.register(f"r{index}")

        def send(index: int) -> None:
            start, sent = time.perf_counter(), 0
            while (now := time.perf_counter()) < start + seconds:
                due = int((now - start) * per_sender)
                while sent < due:
                    bus.send(f"s{index}", f"r{index}", {**MESSAGE, "at": time.perf_counter()})
                    sent += 1
                time.sleep(0.001)
            bus.send(f"s{index}", f"r{index}", {"at": None})

        def receive(index: int) -> None:
            while (message := bus.receive(f"r{index}")) is not None and message["at"] is not None:
                samples.append(time.perf_counter() - message["at"])

        run_threads([partial(send, i) for i in range(PAIRS)] + [partial(receive, i) for i in range(PAIRS)])
    later = np.array(samples[len(samples) // 4 :])  # the first ones pay for connections and credit
    return float(np.percentile(later, 50) * 1e3), float(np.percentile(later, 99) * 1e3)


def journal_rate(folder: Path, seconds: float) -> float:
    """Return messages/s admitted, each synced before, and received and acknowledged meanwhile."""
    counts = [0] * JOURNAL_SENDERS
    with MessageBus(timeout=60.0, journal=folder, max_queue_size=20_000) as bus:
        for index in range(JOURNAL_SENDERS):
            bus.register(f"s{index}")
            bus.register(f"r{index}")
            bus.send(f"s{index}", f"r{index}", MESSAGE)
        deadline = time.perf_counter() + seconds

        def send(index: int) -> None:
            notes = (f"{index:4}{number:16}" for number in range(BATCH))  # no two messages are alike
            items = [(f"r{index}", {**MESSAGE, "note": note}) for note in notes]
            while time.perf_counter() < deadline:
                counts[index] += sum(bus.send_many(f"s{index}", items))
            bus.send(f"s{index}", f"r{index}", {})

        def receive(index: int) -> None:
            while not any(not message for message in bus.receive_many(f"r{index}")):
                pass

        every = range(JOURNAL_SENDERS)
        spent = run_threads([partial(send, i) for i in every] + [partial(receive, i) for i in every])
        bus.flush(60.0)
    return sum(counts) / spent


def journal(quick: bool) -> dict[str, list[float]]:
    """Return messages/s of the bus with a journal and of Redis, on the same disk, round by round."""
    rates: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(dir=".") as name, rivals.redis_server(Path(name)) as socket_path:
        for index in range(1 if quick else 3):
            seconds = 3.0 if quick else 8.0
            rates["bus with journal"].append(journal_rate(Path(name) / f"journal{index}", seconds))
            if socket_path is not None:
                payload = pickle.dumps(MESSAGE, 5)
                rates["redis streams"].append(
                    rivals.redis_rate(socket_path, JOURNAL_SENDERS, seconds, payload)
                )
    return rates


class Pack:
    """Many agents in one process, each of which publishes its state and reads its neighbours'."""

    def __init__(self, bus: MessageBus, first: int, count: int) -> None:
        self._bus = bus
        self._agents = [f"agent_{index}" for index in range(first, first + count)]
        self._state = {"state": np.zeros(8, dtype=np.float32)}
        for agent in self._agents:
            bus.register(agent)
        step = AGENTS // NEIGHBOURS
        self._keys = [
            (f"agent_{(first + own + 1 + step * other) % AGENTS}", "state")
            for own in range(count)
            for other in range(NEIGHBOURS)
        ]

    def tick(self, version: int) -> int:
        """Exchange states once; return how many of the neighbours' are of this tick."""
        self._bus.publish_many([(agent, "state", self._state, version) for agent in self._agents])
        values = self._bus.latest_many(self._keys, at_least=version, timeout=30.0)
        return sum(value is not None and value[0] == version for value in values)


def tick_seconds(quick: bool) -> list[float]:
    """Return the seconds of ticks of 1,000 agents that each read 8 neighbours, everyone the newest state."""
    with MessageBus(timeout=60.0) as bus:
        count = AGENTS // PACKS
        factory: Any = ray.remote(num_cpus=0)(Pack)
        packs = [factory.remote(bus, index * count, count) for index in range(PACKS)]
        times = []
        for version in range(1, 8 if quick else 25):
            start = time.perf_counter()
            fresh = sum(ray.get([pack.tick.remote(version) for pack in packs]))
            times.append(time.perf_counter() - start)
            if fresh != AGENTS * NEIGHBOURS:
                raise RuntimeError(f"every neighbour's state must be of tick {version}, got {fresh} that are")
        for pack in packs:
            ray.kill(pack)
    return times[2:]


def measure(quick: bool) -> dict[str, Any]:
    """Return all figures."""
    rates = throughput(quick)
    full = statistics.median(rates["bus on ray"])
    shares = (0.1, 0.5, 0.9)
    seconds = 2.0 if quick else 6.0
    return {
        "messages_per_second": dict(rates),
        "latency_ms": {f"{share:.0%}": latencies(full, share, seconds) for share in shares},
        "journal_messages_per_second": dict(journal(quick)),
        "tick_seconds": tick_seconds(quick),
    }


def targets(figures: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Return each target, what was reached, and whether it is met."""
    rates = {name: statistics.median(values) for name, values in figures["messages_per_second"].items()}
    rate, ratio = rates["bus on ray"], rates["bus on ray"] / rates["ray.util.queue"]
    tick = statistics.median(figures["tick_seconds"])
    found = [
        (f"at least {TARGET_RATE:,.0f} messages/s", f"{rate:,.0f}", rate >= TARGET_RATE),
        (f"at least {TARGET_RATIO:g} x ray.util.queue", f"{ratio:,.0f} x", ratio >= TARGET_RATIO),
        (
            f"a tick of {AGENTS:,} agents x {NEIGHBOURS} under {TARGET_TICK} s",
            f"{tick:.3f} s",
            tick < TARGET_TICK,
        ),
    ]
    journals = {name: statistics.median(v) for name, v in figures["journal_messages_per_second"].items()}
    if "redis streams" in journals:
        share = journals["bus with journal"] / journals["redis streams"]
        text = f"with a journal at least {TARGET_JOURNAL} x Redis Streams"
        found.append((text, f"{share:.2f} x", share >= TARGET_JOURNAL))
    return found


def show(figures: dict[str, Any]) -> None:
    """Print the tables and whether the targets are met."""
    print(
        f"Messages/s, {PAIRS} senders and {PAIRS} receivers, about {len(pickle.dumps(MESSAGE, 5))} bytes each"
    )
    tables = {**figures["messages_per_second"], **figures["journal_messages_per_second"]}
    print(f"{'':<34}{'median':>12}{'least':>12}{'most':>12}")
    for name, values in tables.items():
        print(f"{name:<34}{statistics.median(values):>12,.0f}{min(values):>12,.0f}{max(values):>12,.0f}")
    if "redis streams" not in tables:
        print("redis streams: left out, there is no redis-server here (Debian: apt-get install redis-server)")
    print("\nLatency at a share of that load, ms")
    for share, (p50, p99) in figures["latency_ms"].items():
        print(f"{share:>6}   p50 {p50:8.1f}   p99 {p99:8.1f}")
    print()
    for text, value, met in targets(figures):
        print(f"{'met   ' if met else 'MISSED'}  {text}: {value}")


def main() -> None:
    """Run, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less than a minute: few and short rounds")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    parser.add_argument("--faults", action="store_true", help="instead: 1,000,000 messages under kill -9")
    arguments = parser.parse_args()
    ray.init(
        include_dashboard=False, configure_logging=False, log_to_driver=False, logging_level=logging.ERROR
    )
    if arguments.faults:
        figures = faults.run(arguments.quick)
    else:
        figures = measure(arguments.quick)
        show(figures)
        found = [{"target": text, "value": value, "met": met} for text, value, met in targets(figures)]
        figures["targets"] = found
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    ray.shutdown()


if __name__ == "__main__":
    main()
