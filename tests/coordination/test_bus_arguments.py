"""Arguments of the bus that are not what they should be: the project's errors, and nothing has happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from camac_dra.coordination import MessageBus
from camac_dra.utils.errors import BusArgumentError, BusError, JournalError, UnknownAgentError

WRONG_NAMES: list[Any] = [5, None, [], {}, ("a",)]
WRONG_ITEMS: list[Any] = [None, 5, "ab", [5], [("b",)], [("b", {}, 3)], [(5, {})], [([], {})], ["ab"]]


@pytest.fixture
def bus() -> Iterator[MessageBus]:
    with MessageBus(backend="local", timeout=0.2) as opened:
        opened.register("a")
        opened.register("b")
        yield opened


@pytest.mark.parametrize("name", WRONG_NAMES)
@pytest.mark.parametrize(
    "call",
    [
        lambda bus, name: bus.send(name, "b", {}),
        lambda bus, name: bus.send("a", name, {}),
        lambda bus, name: bus.send_many("a", [("b", {}), (name, {})]),
        lambda bus, name: bus.broadcast(name, {}),
        lambda bus, name: bus.receive(name),
        lambda bus, name: bus.receive_envelopes(name),
        lambda bus, name: bus.register(name),
        lambda bus, name: bus.unregister(name),
        lambda bus, name: bus.acknowledge(name),
        lambda bus, name: bus.marks(name),
        lambda bus, name: bus.get_message_queue(name),
        lambda bus, name: bus.publish(name, "topic", {}),
        lambda bus, name: bus.publish("a", name, {}),
        lambda bus, name: bus.latest(name, "topic"),
        lambda bus, name: bus.latest("a", name),
        lambda bus, name: bus.reject(name, "no"),
        lambda bus, name: bus.kill_shard(name),
    ],
)
def test_names_that_are_no_text(bus: MessageBus, call: Callable[..., Any], name: Any) -> None:
    with pytest.raises(BusError, match=r"\w+: must be .*got "):
        call(bus, name)
    assert bus.receive("b", timeout=0.0) is None


@pytest.mark.parametrize("items", WRONG_ITEMS)
@pytest.mark.parametrize("method", ["send_many", "publish_many", "latest_many"])
def test_lists_of_something_else(bus: MessageBus, method: str, items: Any) -> None:
    call = getattr(bus, method)
    with pytest.raises((BusArgumentError, UnknownAgentError), match=r": must be .*got "):
        call("a", items) if method == "send_many" else call(items)
    assert bus.receive("b", timeout=0.0) is None


@pytest.mark.parametrize("value", ["1", [], float("nan"), -1])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("timeout", lambda bus, value: bus.send("a", "b", {}, timeout=value)),
        ("ttl", lambda bus, value: bus.send("a", "b", {}, ttl=value)),
        ("timeout", lambda bus, value: bus.receive("a", value)),
        ("max_messages", lambda bus, value: bus.receive_many("a", value)),
        ("timeout", lambda bus, value: bus.flush(value)),
        ("at_least", lambda bus, value: bus.latest_many([("a", "t")], at_least=value)),
        ("timeout", lambda bus, value: bus.latest_many([("a", "t")], timeout=value)),
        ("version", lambda bus, value: bus.publish("a", "t", {}, version=value)),
        ("marks", lambda bus, value: bus.acknowledge("a", value)),
    ],
)
def test_numbers_that_are_none(bus: MessageBus, name: str, call: Callable[..., Any], value: Any) -> None:
    with pytest.raises(BusArgumentError, match=rf"^{name}: must be .*, got "):
        call(bus, value)
    assert bus.receive("b", timeout=0.0) is None
    assert bus.latest("a", "t") is None


@pytest.mark.parametrize("value", ["x", -1, True, [1]])
def test_settings_of_another_kind(value: Any) -> None:
    for name in ("shard_options", *(["detached"] if value is not True else [])):
        with pytest.raises(BusArgumentError, match=rf"{name}: must be .*, got "):
            MessageBus(backend="local", **{name: value})
    if value != "x":
        with pytest.raises(JournalError, match=r"journal: must be a folder .* got "):
            MessageBus(backend="local", journal=value)
