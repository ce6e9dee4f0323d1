"""The checker finds planted faults, and nothing in histories that keep the promise."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camac_dra.coordination.checker import History
from camac_dra.utils.errors import BusArgumentError


def history(*events: tuple[str, int]) -> History:
    """Return a history from a to b."""
    return History([(kind, "a", "b", value) for kind, value in events])


def values(entries: list[tuple[str, str, int]]) -> list[int]:
    return [value for _, _, value in entries]


@given(st.lists(st.sampled_from(["received", "dead", "refused"]), max_size=30), st.data())
def test_kept_promises_pass_however_histories_interleave(fates: list[str], data: st.DataObject) -> None:
    sends = [("refused" if fate == "refused" else "sent", value) for value, fate in enumerate(fates)]
    ends = [(fate, value) for value, fate in enumerate(fates) if fate == "received"]
    letters = data.draw(
        st.permutations([(fate, value) for value, fate in enumerate(fates) if fate == "dead"])
    )
    report = history(*sends, *letters, *ends).check()
    assert report.ok, str(report)
    assert (report.sent, report.received, report.dead) == (len(ends) + len(letters), len(ends), len(letters))


@given(st.integers(2, 20), st.data())
def test_every_planted_fault_is_found_and_named(count: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, count - 2))
    sends = [("sent", value) for value in range(count)]
    receipts = [("received", value) for value in range(count)]
    lost = history(*sends, *receipts[:at], *receipts[at + 1 :]).check()
    assert values(lost.lost) == [at]
    twice = history(*sends, *receipts, receipts[at]).check()
    assert values(twice.duplicated) == [at]
    assert not twice.reordered
    swapped = history(*sends, *receipts[:at], receipts[at + 1], receipts[at], *receipts[at + 2 :]).check()
    assert values(swapped.reordered) == [at]
    invented = history(*sends, *receipts, ("received", -1)).check()
    assert values(invented.never_sent) == [-1]
    both = history(*sends, *receipts, ("dead", at)).check()
    assert values(both.contradictory) == [at]
    for report in (lost, twice, swapped, invented, both):
        assert not report.ok


def test_a_refused_message_must_not_arrive() -> None:
    assert values(history(("refused", 1), ("received", 1)).check().never_sent) == [1]


def test_a_send_without_an_answer_may_arrive_or_not() -> None:
    assert history(("maybe", 1), ("sent", 2), ("received", 2)).check().ok
    assert history(("maybe", 1), ("sent", 2), ("received", 1), ("received", 2)).check().ok


def test_orders_of_different_senders_are_their_own() -> None:
    found = History()
    for sender in "ab":
        for value in (1, 2):
            found.sent(sender, "c", value)
    for sender, value in (("b", 1), ("a", 1), ("a", 2), ("b", 2)):
        found.received(sender, "c", value)
    assert found.check().ok


def test_values_must_tell_messages_apart() -> None:
    with pytest.raises(BusArgumentError, match="unique from 'a' to 'b', got 7 twice"):
        history(("sent", 7), ("sent", 7)).check()


def test_the_report_says_what_was_found() -> None:
    text = str(history(*[("sent", value) for value in range(9)]).check())
    assert text.startswith("9 sent, 0 received, 0 dead letters: 9 lost (('a', 'b', 0)")
    assert text.endswith("...)")
    assert "nothing lost" in str(history(("sent", 1), ("received", 1)).check())


def test_histories_of_several_processes_are_put_together(tmp_path: Path) -> None:
    senders, receivers = history(("sent", 1), ("sent", 2)), history(("received", 1), ("received", 2))
    receivers.dead("a", "b", 3)
    receivers.save(tmp_path / "b.jsonl")
    senders.sent("a", "b", 3)
    senders.extend(History.load(tmp_path / "b.jsonl"))
    assert senders.check().ok


def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('["sent", "a", "b", 1]\n["received", "a", "b')
    assert History.load(path).events == [("sent", "a", "b", 1)]
    path.write_text('["sent", "a"]\n')
    with pytest.raises(BusArgumentError, match="line 1: must be an event"):
        History.load(path)
    path.write_text('["eaten", "a", "b", 1]\n')
    with pytest.raises(BusArgumentError, match=r"must be one of .* got 'eaten'"):
        History.load(path)
