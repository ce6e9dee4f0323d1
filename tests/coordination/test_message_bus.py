"""The contract of the bus, on both backends."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camac_dra.coordination import MessageBus
from camac_dra.coordination.checker import History
from camac_dra.utils.errors import (
    BusArgumentError,
    BusClosedError,
    BusNameError,
    DuplicateAgentError,
    MessageDeliveryTimeout,
    MessageError,
    UnknownAgentError,
)

MakeBus = Callable[..., MessageBus]


@pytest.fixture(scope="module")
def shared_bus(ray_session: Any) -> Iterator[MessageBus]:
    """Give one bus to all tests that want no settings of their own: starting actors takes a second."""
    with MessageBus(num_shards=2) as bus:
        yield bus


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def make_bus(request: pytest.FixtureRequest) -> Iterator[MakeBus]:
    """Return what makes a bus of the backend under test with agents a, b and c."""
    buses: list[MessageBus] = []
    borrowed: list[MessageBus] = []
    if request.param == "ray":
        request.getfixturevalue("shared_bus")
        request.getfixturevalue("ray_cluster")

    def make(agents: str = "abc", **options: Any) -> MessageBus:
        if request.param == "ray" and not options:
            bus = request.getfixturevalue("shared_bus")
            borrowed.append(bus)
        else:
            bus = MessageBus(backend=request.param, **options)
            buses.append(bus)
        for agent in agents:
            bus.register(agent)
        return bus

    yield make
    for bus in buses:
        bus.close()
    for bus in borrowed:
        for agent in ("a", "b", "c", "m", "late"):
            with contextlib.suppress(UnknownAgentError):
                bus.unregister(agent)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# -- reliable messages ----


def test_messages_arrive_once_in_order_and_as_they_were(make_bus: MakeBus) -> None:
    bus = make_bus(timeout=6.0)
    message = {"type": "request", "amount": [1.5]}
    assert bus.send("a", "b", message)
    message["amount"][0] = 9.9
    for number in range(300):
        assert bus.send("a", "b", {"number": number})
    assert bus.receive("b") == {"type": "request", "amount": [1.5]}
    assert [bus.receive("b") for _ in range(300)] == [{"number": number} for number in range(300)]
    assert bus.receive("b", timeout=0) is None
    bus.flush()
    figures = bus.stats()
    assert (figures["admitted"], figures["acknowledged"], figures["outstanding"]) == (301, 301, 0)


def test_an_agent_may_send_to_itself(make_bus: MakeBus) -> None:
    bus = make_bus()
    assert bus.send("a", "a", {"n": 1})
    assert bus.receive("a") == {"n": 1}


def test_threads_send_and_receive_at_once(make_bus: MakeBus) -> None:
    bus = make_bus(max_queue_size=50, num_shards=2, timeout=60.0)
    history, count = History(), 400

    def send(sender: str) -> None:
        for value in range(count):
            for recipient in "bc":
                history.sent(sender, recipient, value, bus.send(sender, recipient, {"value": value}))

    def receive(recipient: str) -> None:
        for _ in range(count * 3 // 2):
            (envelope,) = bus.receive_envelopes(recipient, 1)
            history.received(envelope.sender, recipient, envelope.message["value"])

    threads = [threading.Thread(target=send, args=(name,)) for name in "abc"]
    threads += [threading.Thread(target=receive, args=(name,)) for name in "bbcc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bus.flush()
    report = history.check()
    assert report.lost == report.duplicated == report.never_sent == [], str(report)
    assert report.sent == 6 * count  # order across two threads of one recipient is theirs, not the bus's


def test_send_many_and_receive_many(make_bus: MakeBus) -> None:
    bus = make_bus()
    items = [("b", {"n": 1}), ("c", {"n": 2}), ("nobody", {"n": 3}), ("b", {"n": 4})]
    assert bus.send_many("a", items) == [True, True, False, True]
    assert len(bus.get_message_queue("b")) == 2
    assert bus.receive_many("b", 1) == [{"n": 1}]
    assert bus.receive_many("b") == [{"n": 4}]
    assert bus.receive_many("c") == [{"n": 2}]
    assert bus.receive_many("c", timeout=0) == []


def test_broadcast_reaches_everybody_else(make_bus: MakeBus) -> None:
    bus = make_bus("abcd", num_shards=2)
    assert bus.broadcast("b", {"hello": 1}) == ["a", "c", "d"]
    assert [bus.receive(name) for name in "acd"] == [{"hello": 1}] * 3
    assert bus.receive("b", timeout=0) is None


def test_envelopes_tell_who_and_which(make_bus: MakeBus) -> None:
    bus = make_bus(timeout=6.0)
    bus.send("a", "c", {"n": 1})
    bus.send("a", "c", {"n": 2})
    bus.send("b", "c", {"n": 3})
    found = []
    while len(found) < 3:
        found += bus.receive_envelopes("c")
    assert [(e.sender, e.sequence, e.message["n"]) for e in sorted(found, key=lambda e: e.message["n"])] == [
        ("a", 1, 1),
        ("a", 2, 2),
        ("b", 1, 3),
    ]


def test_peeking_hands_nothing_over(make_bus: MakeBus) -> None:
    bus = make_bus()
    for number in range(3):
        bus.send("a", "b", {"n": number})
    assert bus.get_message_queue("b") == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert bus.receive("b") == {"n": 0}
    assert bus.get_message_queue("b") == [{"n": 1}, {"n": 2}]


def test_arrays_and_tensors_arrive_as_they_were(make_bus: MakeBus) -> None:
    bus = make_bus()
    rng = np.random.default_rng(0)
    small, large = rng.random(10), rng.random((300, 300))  # (10,), (300, 300)
    message = {
        "small": small,
        "large": large,
        "strided": large[::2, ::3],
        "tensor": torch.arange(6.0).reshape(2, 3).requires_grad_(),
        "large tensor": torch.from_numpy(rng.random((200, 200))),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "scalar": torch.tensor(True),
        "empty": torch.empty(0, 4),
        "nested": [{"x": torch.zeros(2)}],
    }
    copies = {"large": large.copy(), "large tensor": message["large tensor"].clone()}
    assert bus.send("a", "b", message)
    large[:] = 0.0
    message["large tensor"].zero_()
    got = bus.receive("b")
    assert got is not None
    assert np.array_equal(got["small"], small)
    assert np.array_equal(got["large"], copies["large"])
    assert np.array_equal(got["strided"], copies["large"][::2, ::3])
    assert torch.equal(got["large tensor"], copies["large tensor"])
    assert torch.equal(got["tensor"], torch.arange(6.0).reshape(2, 3))
    assert not got["tensor"].requires_grad
    assert got["half"].dtype == torch.bfloat16
    assert (got["scalar"].shape, got["empty"].shape) == ((), (0, 4))
    got["large tensor"] += 1.0  # tensors are the receiver's own
    with pytest.raises(ValueError, match="read-only"):
        got["large"][0] = 1.0


# -- bounds ----


def test_a_full_queue_pushes_back_until_there_is_room(make_bus: MakeBus) -> None:
    bus = make_bus(max_queue_size=3)
    assert [bus.send("a", "b", {"n": n}, timeout=0) for n in range(5)] == [True, True, True, False, False]
    assert not bus.send("c", "b", {"n": 5}, timeout=0.05), "a full queue is full for everybody"
    assert bus.send("a", "c", {"n": 0}, timeout=0), "another's queue is not"
    assert bus.receive("b") == {"n": 0}
    assert bus.send("c", "b", {"n": 6}, timeout=10.0)
    assert [bus.receive("b")["n"] for _ in range(3)] == [1, 2, 6]  # type: ignore[index]


def test_a_sender_waits_for_room(make_bus: MakeBus) -> None:
    bus = make_bus(max_queue_size=1)
    assert bus.send("a", "b", {"n": 0})
    sent: list[bool] = []
    thread = threading.Thread(target=lambda: sent.append(bus.send("c", "b", {"n": 1}, timeout=30.0)))
    thread.start()
    assert bus.receive("b") == {"n": 0}
    assert bus.receive("b", timeout=30.0) == {"n": 1}
    thread.join()
    assert sent == [True]


def test_unknown_recipients_are_refused_and_unknown_senders_an_error(make_bus: MakeBus) -> None:
    bus = make_bus()
    assert bus.send("a", "nobody", {}) is False
    with pytest.raises(UnknownAgentError, match=r"got 'nobody'"):
        bus.send("nobody", "a", {})
    with pytest.raises(UnknownAgentError, match=r"agent_id: must be registered .* got 'zz'"):
        bus.receive("zz")
    bus.register("late")
    bus.unregister("late")
    assert bus.send("a", "late", {}) is False


def test_what_expires_is_a_dead_letter(make_bus: MakeBus) -> None:
    bus = make_bus(timeout=6.0)
    assert bus.send("a", "b", {"n": 1}, ttl=0.05)
    assert bus.send("a", "b", {"n": 2})
    time.sleep(0.1)
    assert bus.receive("b") == {"n": 2}
    bus.flush()
    (letter,) = bus.dead_letters("a")
    assert (letter.sender, letter.recipient, letter.reason, letter.message) == ("a", "b", "expired", {"n": 1})
    assert bus.dead_letters("c") == []


def test_expired_messages_free_the_queue_of_an_agent_that_does_not_receive(make_bus: MakeBus) -> None:
    bus = make_bus(max_queue_size=2, ttl=0.05)
    assert bus.send("a", "b", {"n": 1})
    assert bus.send("a", "b", {"n": 2})
    bus.flush(timeout=20.0)
    assert len(bus.dead_letters()) == 2
    assert bus.send("a", "b", {"n": 3}, timeout=10.0)


def test_what_an_agent_leaves_behind_goes_back(make_bus: MakeBus) -> None:
    bus = make_bus(timeout=6.0)
    for number in range(3):
        assert bus.send("a", "b", {"n": number})
    assert bus.receive("b") == {"n": 0}
    bus.unregister("b")
    bus.flush()
    assert [(letter.message, letter.reason) for letter in bus.dead_letters()] == [
        ({"n": 1}, "recipient gone"),
        ({"n": 2}, "recipient gone"),
    ]
    bus.register("b")
    assert bus.receive("b", timeout=0.05) is None
    assert bus.send("a", "b", {"n": 3})
    assert bus.receive("b") == {"n": 3}


# -- acknowledging ----


def test_manual_agents_acknowledge_when_they_say_so(make_bus: MakeBus) -> None:
    bus = make_bus("a", timeout=6.0)
    bus.register("m", acknowledge="manual")
    for number in range(3):
        bus.send("a", "m", {"n": number})
    received = [bus.receive("m") for _ in range(2)]
    marks = bus.marks("m")
    assert bus.receive("m") == {"n": 2}
    with pytest.raises(MessageDeliveryTimeout, match=r"flush: all messages .* got 3 .* 'm' \(3\)"):
        bus.flush(timeout=0.2)
    bus.acknowledge("m", marks)
    assert wait_until(lambda: bus.stats()["outstanding"] == 1)
    bus.acknowledge("m")
    bus.flush()
    assert received == [{"n": 0}, {"n": 1}]


def test_a_new_life_with_marks_gets_what_they_do_not_cover(make_bus: MakeBus) -> None:
    bus = make_bus("a")
    bus.register("m", acknowledge="manual")
    for number in range(4):
        bus.send("a", "m", {"n": number})
    assert [bus.receive("m") for _ in range(2)] == [{"n": 0}, {"n": 1}]
    assert bus.marks("m")["handed"]["a"]
    with pytest.raises(
        BusArgumentError, match=r"marks: must be what bus\.marks\(agent_id\) returned, got \{'a': 3\}"
    ):
        bus.acknowledge("m", {"a": 3})


@pytest.mark.parametrize("mode", ["auto", "manual"])
def test_a_message_that_cannot_be_handled_goes_back_and_the_agent_lives(make_bus: MakeBus, mode: Any) -> None:
    bus = make_bus("a", timeout=6.0)
    bus.register("m", acknowledge=mode)
    for number in range(3):
        bus.send("a", "m", {"n": number})
    for _ in range(3):
        (envelope,) = bus.receive_envelopes("m", 1)
        if envelope.message["n"] == 1:
            bus.reject(envelope, "handler raised: boom")
    if mode == "manual":
        bus.acknowledge("m")
    bus.flush()
    assert wait_until(lambda: len(bus.dead_letters()) == 1)
    (letter,) = bus.dead_letters()
    assert (letter.message, letter.reason, letter.sequence) == ({"n": 1}, "handler raised: boom", 2)


class Unreadable:
    """Encodes well, and raises when it is decoded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


def test_a_message_that_cannot_be_decoded_goes_back(make_bus: MakeBus) -> None:
    bus = make_bus(timeout=6.0)
    bus.send("a", "b", {"poison": Unreadable()})
    bus.send("a", "b", {"n": 1})
    assert bus.receive("b") == {"n": 1}
    assert wait_until(lambda: len(bus.dead_letters()) == 1)
    (letter,) = bus.dead_letters()
    assert letter.reason.startswith("cannot be decoded: invalid literal")
    assert letter.message is None


# -- the newest values ----


def test_only_the_newest_value_is_kept(make_bus: MakeBus) -> None:
    bus = make_bus(num_shards=2)
    assert bus.latest("a", "state") is None
    bus.publish("a", "state", {"x": 1})
    bus.publish("a", "state", {"x": 2})
    assert bus.latest("a", "state") == (2, {"x": 2})
    bus.publish("a", "state", {"x": 7}, version=10)
    bus.publish("a", "state", {"x": 8}, version=9)
    bus.publish("b", "state", {"y": 1}, version=3)
    assert bus.latest_many([("a", "state"), ("b", "state"), ("c", "state")]) == [
        (10, {"x": 7}),
        (3, {"y": 1}),
        None,
    ]


def test_waiting_for_versions(make_bus: MakeBus) -> None:
    bus = make_bus(timeout=6.0)
    bus.publish_many([("a", "s", {"round": 1}, 1), ("b", "s", {"round": 1}, 1)])
    keys = [("a", "s"), ("b", "s")]
    assert bus.latest_many(keys, at_least=2, timeout=0.05) == [(1, {"round": 1})] * 2
    thread = threading.Timer(0.1, lambda: bus.publish_many([(name, "s", {"round": 2}, 2) for name in "ab"]))
    thread.start()
    assert bus.latest_many(keys, at_least=2, timeout=30.0) == [(2, {"round": 2})] * 2
    thread.join()


# -- bad input ----


def test_messages_that_cannot_be_sent(make_bus: MakeBus) -> None:
    bus = make_bus(max_message_bytes=2**20)
    with pytest.raises(MessageError, match=r"message: must be a dict, got list"):
        bus.send("a", "b", [1])  # type: ignore[arg-type]
    with pytest.raises(MessageError, match=r"must be what pickle can encode, got 'lock': lock"):
        bus.send("a", "b", {"fine": 1, "lock": threading.Lock()})
    with pytest.raises(MessageError, match=r"at most max_message_bytes = 1,048,576 bytes, got 2,0"):
        bus.send("a", "b", {"data": np.zeros(250_001)})
    with pytest.raises(MessageError, match=r"at most max_message_bytes"):
        bus.publish("a", "t", {"data": "x" * 2**21})
    assert bus.receive("b", timeout=0) is None


def test_arguments_out_of_range(make_bus: MakeBus) -> None:
    bus = make_bus()
    with pytest.raises(BusArgumentError, match=r"timeout: must be seconds of at least 0, got -1"):
        bus.receive("a", timeout=-1)
    with pytest.raises(BusArgumentError, match=r"timeout: must be seconds of at least 0, got nan"):
        bus.send("a", "b", {}, timeout=float("nan"))
    with pytest.raises(BusArgumentError, match=r"ttl: must be None or seconds above 0, got 0"):
        bus.send("a", "b", {}, ttl=0)
    with pytest.raises(BusArgumentError, match=r"max_messages: .* got 0"):
        bus.receive_many("a", 0)
    with pytest.raises(BusArgumentError, match=r"version: .* got -1"):
        bus.publish("a", "t", {}, version=-1)
    with pytest.raises(BusArgumentError, match=r"agent_id: must be text that is not empty, got ''"):
        bus.register("")
    with pytest.raises(BusArgumentError, match=r"acknowledge: must be 'auto' or 'manual', got 'never'"):
        bus.register("d", acknowledge="never")  # type: ignore[arg-type]
    with pytest.raises(
        DuplicateAgentError, match=r"agent_id: must be new, got 'a', which is registered here"
    ):
        bus.register("a")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeout": -1.0}, "timeout: must be seconds above 0, got -1.0"),
        ({"backend": "carrier pigeon"}, "backend: must be 'ray' or 'local', got 'carrier pigeon'"),
        ({"max_queue_size": 0}, "max_queue_size: must be a whole number of at least 1, got 0"),
        ({"num_shards": 1.5}, "num_shards: must be a whole number of at least 1, got 1.5"),
        ({"max_message_bytes": True}, "max_message_bytes: must be a whole number of at least 1, got True"),
        ({"ttl": 0.0}, "ttl: must be None or seconds above 0, got 0.0"),
        ({"name": ""}, "name: must be None or text that is not empty, got ''"),
        ({"detached": True}, "detached: must be False without a name"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BusArgumentError, match=said):
        MessageBus(**({"backend": "local"} | options))


def test_two_buses_of_one_name(make_bus: MakeBus) -> None:
    bus = make_bus(name="the only one")
    with pytest.raises(BusNameError, match=r"name: must be new .* got 'the only one', which a bus has"):
        make_bus(name="the only one")
    bus.close()
    make_bus(name="the only one")


def test_a_closed_bus_says_so_and_wakes_who_waits(make_bus: MakeBus) -> None:
    bus = make_bus(timeout=6.0)
    raised: list[str] = []

    def wait() -> None:
        try:
            bus.receive("a", timeout=30.0)
        except BusClosedError as error:
            raised.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    bus.close()
    thread.join(20.0)
    assert len(raised) == 1
    assert "closed" in raised[0]
    bus.close()
    for call in (
        lambda: bus.send("a", "b", {}),
        lambda: bus.receive("a", timeout=0),
        lambda: bus.register("z"),
        bus.flush,
        lambda: bus.latest("a", "t"),
        bus.stats,
    ):
        with pytest.raises(BusClosedError, match="the message bus cannot be used: it was closed"):
            call()


# -- the journal ----


def test_a_journal_outlives_sender_and_bus(make_bus: MakeBus, tmp_path: Path) -> None:
    bus = make_bus("ab", journal=tmp_path / "journal")
    assert bus.send_many("a", [("b", {"n": n}) for n in range(5)]) == [True] * 5
    assert bus.receive_many("b", 2) == [{"n": 0}, {"n": 1}]
    assert wait_until(lambda: bus.stats()["outstanding"] == 3)
    bus.close()
    second = make_bus("ab", journal=tmp_path / "journal")
    assert [second.receive("b") for _ in range(3)] == [{"n": 2}, {"n": 3}, {"n": 4}]
    second.flush()
    second.close()
    assert list((tmp_path / "journal").iterdir()) == [], "what is settled needs no file"


def test_a_bus_without_actors_has_none_to_kill() -> None:
    with MessageBus(backend="local", num_shards=3) as bus:
        assert bus.num_shards == 3
        assert "shards" not in bus.stats(shards=False)
        with pytest.raises(BusArgumentError, match="must be of the 0 actors of the bus, got 0"):
            bus.kill_shard(0)
