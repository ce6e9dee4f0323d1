"""What a deployment counts, worked by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from camac_dra.coordination.message_exchange import Talk
from camac_dra.coordination.plant import Outcome
from camac_dra.coordination.runtime import telemetry as module
from camac_dra.coordination.runtime.decision import Decided
from camac_dra.coordination.runtime.telemetry import Telemetry, format_summary


def outcome(served: list[float], load: float = 0.5) -> Outcome:
    amounts = np.array(served)[:, None]
    return Outcome(np.array([1.0, 2.0]), amounts, amounts, np.full((2, 1), 4.0), np.array([[load]]))


def summary_of(telemetry: Telemetry):
    return telemetry.summary(9.0, 2, 1, [3.0], {"admitted": 5})


def test_figures_are_those_of_the_decisions() -> None:
    telemetry = Telemetry()
    decided = Decided(
        np.zeros((2, 1)), Counter(late=1), rounds=4, messages=10, message_bytes=80, residual=0.5
    )
    decided.talk = Talk(6, 3072, 1) + Talk(2, 1024, 0)
    telemetry.add(decided, outcome([4.0, 2.0]), latency=0.1, duration=0.2, over_capacity=False)
    telemetry.add(
        Decided(np.zeros((2, 1))), outcome([4.0, 2.0], 1.5), latency=0.3, duration=0.1, over_capacity=True
    )
    summary = summary_of(telemetry)
    assert (summary.decisions, summary.reward, summary.reward_per_decision) == (2, 6.0, 3.0)
    assert (summary.latency_p50, summary.longest_step) == (0.2, 0.2)
    assert summary.jain == pytest.approx(1.5**2 / (2 * 1.25))
    assert (summary.conflict_rate, summary.over_capacity, summary.fallbacks) == (0.5, 1, {"late": 1})
    assert (summary.rounds, summary.messages, summary.message_bytes) == (2.0, 5.0, 40.0)
    learned = (summary.learned_messages, summary.learned_bytes, summary.missed_messages)
    assert learned == (4.0, 2048.0, 0.5)
    assert (summary.deaths, summary.restarts, summary.recovery_p99) == (2, 1, 3.0)
    figures = telemetry.figures(decided, outcome([4.0, 2.0]))
    assert figures["decision/latency_p50"] == 0.2
    assert figures["fallback/late"] == 1
    assert (figures["decision/learned_messages"], figures["decision/missed_messages"]) == (8, 1)
    assert "4.0 messages, 2.0 KiB per decision; 0.50 not in time" in format_summary(summary)
    assert "2 deaths, 1 restarts, back after 3.0 s" in format_summary(summary)


def test_a_deployment_without_end_keeps_a_bounded_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT", 3)
    telemetry = Telemetry()
    for number in range(5):
        telemetry.add(Decided(np.zeros((2, 1))), outcome([4.0, 4.0]), float(number), 0.1, over_capacity=False)
    assert summary_of(telemetry).decisions == 5
    assert summary_of(telemetry).latency_p50 == 3.0


def test_without_decisions_there_are_no_figures() -> None:
    summary = summary_of(Telemetry())
    assert (summary.decisions, summary.latency_p50, summary.jain) == (0, 0.0, 1.0)
    assert "not in time" not in format_summary(summary)
