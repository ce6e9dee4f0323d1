"""A shard step by step: credit, registration, restarts. Time is what the tests say it is."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from camac_dra.coordination.bus.shard import CHALLENGE_SECONDS, DEAD_AFTER_SECONDS, Shard
from camac_dra.coordination.bus.wire import (
    Gone,
    Grant,
    Hello,
    InboxClaim,
    OutletClaim,
    Run,
    Segment,
    Upload,
)

KEY = ("s", "one")


def make_shard(grace: float = 0.0, size: int = 10) -> Shard:
    names = itertools.count(1)
    return Shard("i", size, now=0.0, grace=grace, new_life=lambda: f"life{next(names)}")


def greet(shard: Shard, client: str, now: float = 0.0, **claims: Any) -> None:
    every: dict[str, Any] = {"outlets": [], "inboxes": [], "tombstones": [], "publications": []}
    shard.hello(now, Hello(client, 1, **(every | claims)))


def register(shard: Shard, client: str, name: str, now: float = 0.0) -> str:
    status, life = shard.register(now, client, 1, InboxClaim(name, "", {}))
    return life if status == "ok" else status


def push(shard: Shard, client: str, now: float = 0.0, **said: Any) -> None:
    assert shard.push(now, Upload(client, 1, **said))


def grants(shard: Shard, client: str) -> list[Grant]:
    download = shard.collect(client)
    return [] if download is None else download.grants


@pytest.fixture
def shard() -> Shard:
    """Return a shard with clients one and two, and a recipient r at the client three."""
    made = make_shard()
    for client in ("one", "two", "three"):
        greet(made, client)
    assert register(made, "three", "r") == "life1"
    made.collect("three")
    return made


def test_credit_is_lent_until_it_is_all_gone_and_then_idle_credit_is_recalled(shard: Shard) -> None:
    push(shard, "one", wants=[("r", 8)])
    assert grants(shard, "one") == [Grant("r", "life1", 8, "granted")]
    push(shard, "two", wants=[("r", 8)])
    assert grants(shard, "two") == [Grant("r", "life1", 2, "granted")]
    push(shard, "two", wants=[("r", 4)])
    assert grants(shard, "two") == [], "it is not known yet whether the rest is in use"
    download = shard.collect("one")
    assert download is not None
    assert download.recalls == ["r"]
    push(shard, "one", returns=[("r", 3)])
    assert grants(shard, "two") == [Grant("r", "life1", 3, "granted")]


def test_who_wants_more_than_there_is_hears_that_the_queue_is_full(shard: Shard) -> None:
    push(shard, "one", wants=[("r", 10)])
    push(shard, "two", wants=[("r", 1)])
    push(shard, "one", returns=[("r", 0)])
    assert grants(shard, "two") == [Grant("r", "life1", 0, "full")]


def test_acknowledged_credit_goes_to_who_waits(shard: Shard) -> None:
    push(shard, "one", wants=[("r", 10)])
    grants(shard, "one")
    push(shard, "one", segments=[Segment("r", "life1", KEY, 1, Run(1, 4, b""))])
    push(shard, "two", wants=[("r", 3)])
    push(shard, "three", acks=[("r", KEY, 4)])
    download = shard.collect("one")
    assert download is not None
    assert download.acks == [("r", KEY, 4)]
    assert [grant.delta for grant in download.grants] == [-4]
    assert grants(shard, "two") == [Grant("r", "life1", 3, "granted")]


def test_unknown_recipients_are_named_so(shard: Shard) -> None:
    push(shard, "one", wants=[("nobody", 1)])
    assert grants(shard, "one") == [Grant("nobody", "", 0, "unknown")]


def test_after_a_restart_nobody_is_unknown_until_all_could_report() -> None:
    shard = make_shard(grace=1.0)
    greet(shard, "one")
    push(shard, "one", 0.1, wants=[("r", 1)])
    shard.tick(0.5)
    assert grants(shard, "one") == []
    greet(shard, "three", 0.6, inboxes=[InboxClaim("r", "life7", {})])
    shard.tick(1.1)
    assert grants(shard, "one") == [Grant("r", "life7", 1, "granted")]


def test_claims_after_a_restart_count_as_credit_in_use() -> None:
    shard = make_shard(grace=1.0)
    greet(shard, "three", inboxes=[InboxClaim("r", "life7", {})])
    greet(shard, "one", outlets=[OutletClaim("r", "life7", 9, ((KEY, 3),))])
    greet(shard, "two")
    push(shard, "two", 2.0, wants=[("r", 5)])
    assert grants(shard, "two") == [Grant("r", "life7", 1, "granted")]


def test_runs_that_overtook_others_are_delivered_in_order(shard: Shard) -> None:
    push(shard, "one", segments=[Segment("r", "life1", KEY, 1, Run(3, 2, b"second"))])
    assert shard.collect("three") is None
    push(shard, "one", segments=[Segment("r", "life1", KEY, 1, Run(1, 2, b"first"))])
    download = shard.collect("three")
    assert download is not None
    assert [segment.run.block for segment in download.segments] == [b"first", b"second"]


def test_a_live_host_keeps_its_agent_and_a_silent_one_loses_it(shard: Shard) -> None:
    assert register(shard, "two", "r", 5.0) == "wait"
    download = shard.collect("three")
    assert download is not None
    assert download.ping
    assert shard.alive(5.1, "three", 1)
    assert register(shard, "two", "r", 5.2) == "taken"
    assert register(shard, "two", "r", 6.0) == "wait"
    assert register(shard, "two", "r", 6.0 + CHALLENGE_SECONDS + 0.1) == "life1", "it is the same life"
    download = shard.collect("three")
    assert download is not None
    assert download.fenced == ["r"]
    push(shard, "three", 9.0, acks=[("r", KEY, 1)])  # the late answer of a host that was given up is ignored


def test_what_a_dead_sender_has_queued_still_arrives_and_the_rest_of_its_credit_is_free(shard: Shard) -> None:
    push(shard, "one", wants=[("r", 10)])
    push(shard, "one", segments=[Segment("r", "life1", KEY, 1, Run(1, 4, b"left"))])
    for client in ("two", "three"):
        assert shard.alive(DEAD_AFTER_SECONDS, client, 1)
    shard.tick(DEAD_AFTER_SECONDS + 1.0)
    push(shard, "two", DEAD_AFTER_SECONDS + 1.0, wants=[("r", 10)])
    assert grants(shard, "two") == [Grant("r", "life1", 6, "granted")]
    download = shard.collect("three")
    assert download is not None
    assert [segment.run.block for segment in download.segments] == [b"left"]


def test_the_end_of_a_life_is_told_to_its_senders_and_to_late_messages(shard: Shard) -> None:
    push(shard, "one", wants=[("r", 10)])
    grants(shard, "one")
    gone = Gone("r", "life1", {KEY: 2})
    shard.unregister("three", gone)
    push(shard, "one", segments=[Segment("r", "life1", KEY, 1, Run(3, 1, b"late"))])
    download = shard.collect("one")
    assert download is not None
    assert download.gone == [gone, gone]
    assert register(shard, "two", "r") == "life2"


def test_uploads_of_an_older_session_are_ignored(shard: Shard) -> None:
    assert not shard.push(0.0, Upload("one", 0, wants=[("r", 1)]))
    assert grants(shard, "one") == []
