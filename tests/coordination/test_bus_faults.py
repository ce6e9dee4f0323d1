"""What Ray's processes go through: kill -9 of actors and of recipients, sharing, too little room."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from camac_dra.coordination import MessageBus
from camac_dra.coordination.checker import History
from camac_dra.utils.errors import (
    BusArgumentError,
    BusClosedError,
    BusNameError,
    BusPlacementError,
    DuplicateAgentError,
)
from tests.coordination.bus_recipient import Caller, Recipient

MESSAGES = 50_000
pytestmark = pytest.mark.ray


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def actor_pids(class_name: str) -> list[int]:
    """Return the processes of living actors of a class."""
    from ray._private import state

    return [
        actor["Pid"]
        for actor in state.actors().values()
        if actor["ActorClassName"] == class_name and actor["State"] == "ALIVE"
    ]


def kill_one(class_name: str) -> None:
    """Kill -9 a process of such an actor, once there is one that has not been killed before."""
    assert wait_until(lambda: bool(actor_pids(class_name)))
    os.kill(actor_pids(class_name)[0], signal.SIGKILL)


def remote(cluster: Any, cls: type, *arguments: Any, **options: Any) -> Any:
    return cluster.remote(cls).options(num_cpus=0, **options).remote(*arguments)


@pytest.mark.slow
def test_nothing_is_lost_doubled_or_reordered_when_actors_and_recipients_are_killed(
    ray_cluster: Any, tmp_path: Path
) -> None:
    kills = {MESSAGES // 6: "ShardActor", MESSAGES // 3: "Recipient", MESSAGES // 2: "ShardActor"}
    kills |= {2 * MESSAGES // 3: "Recipient", 5 * MESSAGES // 6: "ShardActor"}
    history = History()
    with MessageBus(timeout=60.0, num_shards=2) as bus:
        bus.register("s0")
        bus.register("s1")
        recipients = [
            remote(ray_cluster, Recipient, bus, name, str(tmp_path), max_restarts=-1)
            for name in ("r0", "r1", "r2")
        ]
        ray_cluster.get([recipient.pid.remote() for recipient in recipients])
        for value in range(MESSAGES):
            sender, recipient = f"s{value % 2}", f"r{value % 3}"
            history.sent(sender, recipient, value, bus.send(sender, recipient, {"value": value}))
            if value in kills:
                kill_one(kills[value])
        bus.flush(timeout=60.0)
        figures = bus.stats()
        assert bus.dead_letters() == []
        for recipient in recipients:
            ray_cluster.kill(recipient)
    for path in tmp_path.glob("*.json"):
        for sender, value in json.loads(path.read_text())["received"]:
            history.received(sender, path.stem, value)
    report = history.check()
    assert report.ok, str(report)
    assert report.sent == report.received == MESSAGES
    assert figures["shard_restarts"] >= 1


def test_a_shard_that_dies_idle_is_back_and_knows_everybody(ray_cluster: Any) -> None:
    with MessageBus(timeout=30.0, num_shards=1) as bus:
        for name in "ab":
            bus.register(name)
        bus.publish("a", "state", {"x": 1}, version=4)
        assert bus.send("a", "b", {"n": 1})
        kill_one("ShardActor")
        assert wait_until(lambda: bus.stats()["shard_restarts"] == 1)
        assert bus.send("a", "b", {"n": 2})
        assert [bus.receive("b"), bus.receive("b")] == [{"n": 1}, {"n": 2}]
        assert bus.send("a", "nobody", {}) is False
        caller = remote(ray_cluster, Caller, bus)
        assert ray_cluster.get(caller.call.remote("latest", "a", "state")) == (4, {"x": 1})
        ray_cluster.kill(caller)


def test_a_bus_passed_to_other_processes_is_the_same_bus(ray_cluster: Any) -> None:
    with MessageBus(timeout=20.0, num_shards=1) as bus:
        bus.register("here")
        assert pickle.loads(pickle.dumps(bus)) is bus
        caller = remote(ray_cluster, Caller, bus)
        ray_cluster.get(caller.call.remote("register", "there"))
        assert bus.send("here", "there", {"n": 1})
        assert ray_cluster.get(caller.call.remote("receive", "there")) == {"n": 1}
        assert ray_cluster.get(caller.call.remote("send", "there", "here", {"n": 2}))
        assert bus.receive("here") == {"n": 2}
        assert ray_cluster.get(caller.call.remote("broadcast", "there", {"n": 3})) == ["here"]
        with pytest.raises(DuplicateAgentError, match="got 'there', which another process has registered"):
            bus.register("there")
        ray_cluster.get(caller.call.remote("close"))
        assert bus.receive("here") == {"n": 3}, "a handle that closes leaves the bus alone"
        ray_cluster.kill(caller)


def test_an_agent_whose_process_was_killed_registers_elsewhere(ray_cluster: Any) -> None:
    with MessageBus(timeout=20.0, num_shards=1) as bus:
        bus.register("a")
        caller = remote(ray_cluster, Caller, bus)
        ray_cluster.get(caller.call.remote("register", "m", acknowledge="manual"))
        assert bus.send_many("a", [("m", {"n": n}) for n in range(3)]) == [True] * 3
        assert ray_cluster.get(caller.call.remote("receive", "m")) == {"n": 0}
        marks = ray_cluster.get(caller.call.remote("marks", "m"))
        assert ray_cluster.get(caller.call.remote("receive", "m")) == {"n": 1}
        os.kill(ray_cluster.get(caller.pid.remote()), signal.SIGKILL)
        bus.register("m", acknowledge="manual", marks=marks)
        assert [bus.receive("m"), bus.receive("m")] == [{"n": 1}, {"n": 2}]
        bus.acknowledge("m")
        bus.flush()


def test_every_actor_is_gone_after_close(ray_cluster: Any) -> None:
    before = set(actor_pids("ShardActor"))
    bus = MessageBus(num_shards=3)
    assert len(set(actor_pids("ShardActor")) - before) == 3
    caller = remote(ray_cluster, Caller, bus)
    ray_cluster.get(caller.call.remote("register", "there"))
    bus.close()
    assert wait_until(lambda: set(actor_pids("ShardActor")) <= before)
    with pytest.raises(Exception, match=r"cannot be used: its actor for shard .* is gone for good"):
        wait_until(lambda: not ray_cluster.get(caller.call.remote("latest", "there", "t")), 0.0)
        time.sleep(3.0)
        ray_cluster.get(caller.call.remote("stats"))
    ray_cluster.kill(caller)


def test_shards_import_neither_torch_nor_rllib(root: Path) -> None:
    program = (
        "import sys; import camac_dra.coordination.bus.shard_actor; "
        "print([n for n in ('torch', 'ray.rllib', 'scipy') if n in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_a_detached_bus_is_shared_by_name(ray_cluster: Any) -> None:
    settings: dict[str, Any] = {"name": "shared", "detached": True, "num_shards": 1}
    first = MessageBus(**settings)
    try:
        with pytest.raises(
            BusNameError, match=r"name: 'shared' is a bus with other settings: .*'max_queue_size': 1000"
        ):
            MessageBus(**settings, max_queue_size=7)
        with pytest.raises(BusNameError, match=r"name: must be new on this cluster, got 'shared'"):
            MessageBus(name="shared", num_shards=1)
        first.register("a")
        first.close()
        second = MessageBus(**settings)
        second.register("b")
        assert second.send("b", "a", {}) is True, "an agent that was not unregistered is still known"
        second.close()
    finally:
        MessageBus(**settings).destroy()


def test_actors_that_find_no_room_say_what_is_missing(
    ray_cluster: Any,
) -> None:
    with pytest.raises(
        BusPlacementError,
        match=r"2 shard actors must find CPU 3, wings 1; 2 did not within \d\.\d s\. "
        r"Missing: .*wings: 0 of 0 free, 1 needed",
    ):
        MessageBus(0.5, num_shards=2, shard_options={"num_cpus": 3, "resources": {"wings": 1}})
    with pytest.raises(
        BusArgumentError, match=r"shard_options: must be what Ray's actors take, got \{'wings': 2\}"
    ):
        MessageBus(shard_options={"wings": 2})


def test_a_bus_whose_cluster_is_gone_says_so_and_starts_no_other(root: Path) -> None:
    script = """
import threading, time, ray
from camac_dra.coordination import MessageBus
from camac_dra.utils.errors import BusClosedError
failed = []
threading.excepthook = failed.append
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
bus = MessageBus(timeout=30.0)
bus.register("a")
bus.register("b")
receiver = threading.Thread(target=lambda: said.append(call(bus.receive, "b")))
said = []
def call(function, *arguments):
    try:
        return function(*arguments)
    except BusClosedError as error:
        return str(error)
receiver.start()
ray.shutdown()
receiver.join(10.0)
for function, *arguments in (
    (bus.send, "a", "b", {}), (bus.register, "c"), (bus.broadcast, "a", {}), (bus.latest, "a", "t"),
    (bus.stats,), (bus.flush,),
):
    said.append(call(function, *arguments))
bus.close()
print(set(said), failed, ray.is_initialized(), [t.name for t in threading.enumerate() if "camac" in t.name])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=60
    )
    why = "the message bus cannot be used: ray.shutdown() was called under it: close the bus before"
    assert done.stdout.splitlines()[-1:] == [f"{ {why} } [] False []"], done.stdout + done.stderr


def test_a_local_bus_does_not_reach_other_processes() -> None:
    with MessageBus(backend="local") as bus:
        passed = pickle.dumps(bus)
        assert pickle.loads(passed) is bus
    with pytest.raises(BusClosedError, match="a message bus that was closed cannot be passed on"):
        pickle.dumps(bus)
    with pytest.raises(BusClosedError, match=r"a local bus lives in one process .* backend='ray'"):
        pickle.loads(passed)
