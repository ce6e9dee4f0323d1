"""Messages sent together: packed once, and yet each of them a message of its own."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from camac_dra.coordination import MessageBus
from camac_dra.coordination.bus.payloads import RUN_BYTES, decode, encode_many, unpack_block
from camac_dra.utils.errors import MessageError

LIMIT = 10**6


def test_plain_messages_are_packed_together() -> None:
    items: list[tuple[str, dict[str, Any]]] = [("b", {"n": n, "text": "x"}) for n in range(3)]
    (batch,) = encode_many(items, LIMIT)
    assert batch.block is not None
    messages = [message for _, message in items]
    assert unpack_block(batch.block) == messages == [decode(payload) for payload in batch.payloads]


@pytest.mark.parametrize("value", [[1], {"a": 1}, np.zeros(2), np.float64(1.0), (1, [2])])
def test_messages_with_anything_else_are_packed_one_by_one(value: Any) -> None:
    (batch,) = encode_many([("b", {"n": 1}), ("b", {"n": value})], LIMIT)
    assert batch.block is None
    assert all(isinstance(payload, bytes) for payload in batch.payloads)


def test_large_and_lonely_messages_are_packed_one_by_one() -> None:
    long = [("b", {"n": letter * (RUN_BYTES // 2)}) for letter in "xy"]
    batches = encode_many([*long, ("c", {"n": 1}), ("b", {})], LIMIT)
    assert [(batch.recipient, len(batch.payloads), batch.block) for batch in batches] == [
        ("b", 2, None),
        ("c", 1, None),
        ("b", 1, None),
    ]


def test_the_limit_is_of_each_message() -> None:
    small = {"n": "x" * 60}
    (batch,) = encode_many([("b", small), ("b", {"n": "y" * 60})], 100)
    assert [decode(payload)["n"][0] for payload in batch.payloads] == ["x", "y"]
    with pytest.raises(MessageError, match=r"message: must take at most max_message_bytes = 100 bytes, got"):
        encode_many([("b", small), ("b", {"n": "y" * 100})], 100)


def test_messages_of_a_batch_are_nobody_elses() -> None:
    with MessageBus(backend="local") as bus:
        bus.register("a")
        bus.register("b", acknowledge="manual")
        message = {"n": 1}
        assert bus.send_many("a", [("b", message), ("b", message)]) == [True, True]
        message["n"] = 2
        first, second = bus.receive_many("b")
        first["n"] = 3
        assert second == {"n": 1}
        bus.unregister("b")
        assert [letter.message for letter in bus.dead_letters("a")] == []
        bus.register("b", acknowledge="manual")
        assert bus.send_many("a", [("b", message), ("b", message)]) == [True, True]
        envelope, other = bus.receive_envelopes("b")
        envelope.message["n"] = 4
        bus.reject(envelope, "no")
        bus.acknowledge("b")
        assert [letter.message for letter in bus.dead_letters("a")] == [{"n": 2}]
        assert other.message == {"n": 2}


def test_a_batch_that_exceeds_the_queue_waits_for_room_and_stays_in_order() -> None:
    with MessageBus(backend="local", max_queue_size=7) as bus:
        bus.register("a")
        bus.register("b")
        items = [("b", {"n": n}) for n in range(100)]
        assert bus.send_many("a", items[:10], timeout=0.0) == [True] * 7 + [False] * 3
        admitted: list[bool] = []
        thread = threading.Thread(target=lambda: admitted.extend(bus.send_many("a", items, timeout=30.0)))
        thread.start()
        found = [bus.receive("b", timeout=10.0) for _ in range(107)]
        thread.join(10.0)
        assert admitted == [True] * 100
        assert found == [message for _, message in items[:7] + items]
        assert bus.stats()["outstanding"] == 0


def test_a_batch_for_nobody_asks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with MessageBus(backend="local") as bus:
        bus.register("a")
        asked = []
        send = bus._client._send_slowly
        monkeypatch.setattr(bus._client, "_send_slowly", lambda *given: (asked.append(1), send(*given))[1])
        assert bus.send_many("a", [("nobody", {"n": n}) for n in range(50)]) == [False] * 50
        assert len(asked) == 1
