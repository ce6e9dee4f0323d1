"""``messaging.py --faults``: 1,000,000 unique messages while processes are killed with kill -9.

Actors of the bus are killed at least 100 times, recipients 20 times; recipients keep what they received
atomically with the bus's marks. The histories of all are then held against the promise. Time to recover:
from a kill until a message that was sent after it to the killed actor's agents, or recipient, is
acknowledged.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray

from camac_dra.coordination import MessageBus
from camac_dra.coordination.checker import History

SENDERS, RECIPIENTS, SHARDS = 2, 4, 2
FULL = (1_000_000, 100, 20)  # messages, kills of actors of the bus, kills of recipients
QUICK = (50_000, 4, 2)


class Recipient:
    """Receives; keeps what it received in an append-only file, and marks with the length they belong to
    beside it.
    """

    def __init__(self, bus: MessageBus, agent_id: str, folder: str) -> None:
        self._bus, self._agent_id = bus, agent_id
        self._log = Path(folder) / f"{agent_id}.log"
        self._state = Path(folder) / f"{agent_id}.state"
        state: dict[str, Any] = {"length": 0, "marks": {}}
        if self._state.exists():
            state = json.loads(self._state.read_text())
        with self._log.open("ab") as file:
            file.truncate(state["length"])  # what was written without its marks did not happen
        bus.register(agent_id, acknowledge="manual", marks=state["marks"])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self._log.open("ab") as file:
            while True:
                envelopes = self._bus.receive_envelopes(self._agent_id, timeout=0.5)
                if not envelopes:
                    continue
                file.write("".join(f"{e.sender} {e.message['value']}\n" for e in envelopes).encode())
                file.flush()
                marks = self._bus.marks(self._agent_id)
                aside = self._state.with_suffix(".new")
                aside.write_text(json.dumps({"length": file.tell(), "marks": marks}))
                aside.rename(self._state)
                self._bus.acknowledge(self._agent_id, marks)

    def pid(self) -> int:
        """Return the process to kill."""
        return os.getpid()


def _living(class_name: str) -> list[int]:
    from ray._private import state

    return [
        actor["Pid"]
        for actor in state.actors().values()
        if actor["ActorClassName"] == class_name and actor["State"] == "ALIVE"
    ]


def _kill(class_name: str, rng: np.random.Generator) -> None:
    while not (found := _living(class_name)):
        time.sleep(0.02)
    os.kill(int(rng.choice(found)), signal.SIGKILL)


class Senders:
    """Threads that send until all is admitted, and the history of it."""

    def __init__(self, bus: MessageBus, messages: int) -> None:
        self.bus = bus
        self.each = messages // SENDERS
        self.histories = [History() for _ in range(SENDERS)]
        self.sent = [0] * SENDERS

    def send(self, index: int) -> None:
        """Send one thread's share, to all recipients in turn."""
        bus, history, sender = self.bus, self.histories[index], f"s{index}"
        for value in range(self.each):
            recipient = f"r{value % RECIPIENTS}"
            while not bus.send(sender, recipient, {"value": value}):
                time.sleep(0.01)
            history.sent(sender, recipient, value)
            self.sent[index] += 1


def _recovery(bus: MessageBus, threads: list[threading.Thread]) -> float:
    """Return the seconds until each sender's next message to each recipient is acknowledged.

    Those for the killed one went through its successor. Senders that come to their end meanwhile end it.
    """
    start = time.perf_counter()
    core = bus._client.core
    goals = {
        (outlet.recipient, key): stream.last + 1
        for outlet in list(core.outlets.values())
        for key, stream in list(outlet.streams.items())
    }
    while any(
        core.outlets[recipient].streams[key].settled < last for (recipient, key), last in goals.items()
    ):
        time.sleep(0.01)
        if not any(thread.is_alive() for thread in threads):
            break
    return time.perf_counter() - start


def run(quick: bool) -> dict[str, Any]:
    """Run it, print what was found, and return the figures."""
    messages, shard_kills, recipient_kills = QUICK if quick else FULL
    rng = np.random.default_rng(0)
    kills = rng.permutation(["ShardActor"] * shard_kills + ["Recipient"] * recipient_kills)
    recovered: list[float] = []
    with tempfile.TemporaryDirectory() as folder, MessageBus(timeout=60.0, num_shards=SHARDS) as bus:
        for index in range(SENDERS):
            bus.register(f"s{index}")
        factory: Any = ray.remote(Recipient)
        options = {"num_cpus": 0, "max_restarts": -1}
        recipients = [factory.options(**options).remote(bus, f"r{i}", folder) for i in range(RECIPIENTS)]
        ray.get([recipient.pid.remote() for recipient in recipients])
        senders = Senders(bus, messages)
        threads = [threading.Thread(target=senders.send, args=(index,)) for index in range(SENDERS)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for number, kind in enumerate(kills):
            while sum(senders.sent) < messages * (number + 1) / (len(kills) + 1):
                time.sleep(0.01)
            _kill(str(kind), rng)
            recovered.append(_recovery(bus, threads))
        for thread in threads:
            thread.join()
        bus.flush(120.0)
        spent = time.perf_counter() - start
        figures = bus.stats()
        for recipient in recipients:
            ray.kill(recipient)
        history = History()
        for own in senders.histories:
            history.extend(own)
        for path in Path(folder).glob("*.log"):
            for line in path.read_text().splitlines():
                sender, value = line.split()
                history.received(sender, path.stem, int(value))
    report = history.check()
    p50, p99 = np.percentile(recovered, [50, 99])
    kinds = f"{shard_kills} of bus actors, {recipient_kills} of recipients"
    print(f"\nFaults: {len(kills)} kills ({kinds}), {spent:,.0f} s")
    print(f"{report}; {figures['doubles']:,} doubles weeded out here")
    print(f"{'met   ' if report.ok else 'MISSED'}  0 lost, 0 duplicated, 0 reordered")
    print(f"{'met   ' if p99 < 5.0 else 'MISSED'}  recovery p99 under 5 s: p50 {p50:.2f} s, p99 {p99:.2f} s")
    return {
        "messages": report.sent,
        "kills": {"bus actors": shard_kills, "recipients": recipient_kills},
        "kept": report.ok,
        "report": str(report),
        "seconds": spent,
        "recovery_seconds": recovered,
    }
