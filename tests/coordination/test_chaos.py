"""Faults on purpose: what is asked for, and when it happens."""

from __future__ import annotations

import pytest

from camac_dra.coordination.runtime.chaos import Chaos, ChaosSpec, Cut, Heal, KillAgents, KillBus
from camac_dra.utils.errors import ConfigurationError

AGENTS = [f"a{i}" for i in range(7)]


def count(events: list, kind: type) -> int:
    return sum(isinstance(event, kind) for event in events)


def test_a_spec_is_read_from_the_command_line() -> None:
    spec = ChaosSpec.parse(" kill_agents=0.1, drop=5e-2,partition_seconds=3,seed=4,")
    assert spec == ChaosSpec(kill_agents=0.1, drop=0.05, partition_seconds=3.0, seed=4)
    assert spec.message_faults
    assert ChaosSpec.parse("") == ChaosSpec()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kill_agent=1", r"got 'kill_agent'\. Did you mean 'kill_agents'"),
        ("drop=1.5", "drop must be a finite number from 0 to 1, got 1.5"),
        ("drop=nan", "got nan"),
        ("kill_bus=-1", "kill_bus must be a finite number zero or more, got -1.0"),
        ("kill_bus=inf", "got inf"),
        ("kill_bus", "kill_bus must be a number as in kill_bus=1, got 'kill_bus'"),
        ("delay=much", "delay must be a number as in delay=1, got 'much'"),
        ("drop=0.1,drop=0.2", "drop must be given once"),
        ("seed=-1", "seed must be zero or more, got -1"),
    ],
)
def test_wrong_specs_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ChaosSpec.parse(text)


def test_kills_come_at_the_stated_rates() -> None:
    chaos = Chaos(ChaosSpec(kill_agents=0.1, kill_bus=3.0, seed=1), AGENTS, processes=20, shards=2)
    events = [event for second in range(60 * 200) for event in chaos.due(second)]
    assert count(events, KillAgents) == pytest.approx(400, abs=80)  # 10 % of 20, 200 minutes; four deviations
    assert count(events, KillBus) == pytest.approx(600, abs=100)
    assert {event.process for event in events if isinstance(event, KillAgents)} == set(range(20))
    assert {event.shard for event in events if isinstance(event, KillBus)} == {0, 1}


def test_the_network_is_cut_in_halves_and_heals() -> None:
    chaos = Chaos(ChaosSpec(partitions=6.0, partition_seconds=4.0, seed=2), AGENTS, 1, 1)
    open_since, cuts = None, 0
    for tenth in range(6000):
        for event in chaos.due(tenth / 10):
            if isinstance(event, Cut):
                assert open_since is None
                assert len(event.side) == 3
                assert event.side < set(AGENTS)
                open_since, cuts = tenth / 10, cuts + 1
            else:
                assert isinstance(event, Heal)
                assert tenth / 10 - open_since == pytest.approx(4.0, abs=0.11)
                open_since = None
    assert cuts > 20


def test_equal_seeds_go_wrong_alike_however_often_one_looks() -> None:
    spec = ChaosSpec(kill_agents=1.0, kill_bus=5.0, partitions=2.0, seed=9)
    seldom = Chaos(spec, AGENTS, 3, 2).due(600.0)
    often = Chaos(spec, AGENTS, 3, 2)
    assert [event for second in range(601) for event in often.due(second)] == seldom
    assert Chaos(ChaosSpec(kill_bus=5.0, seed=8), AGENTS, 3, 2).due(600.0) != seldom


def test_nothing_goes_wrong_unless_asked_for() -> None:
    assert Chaos(ChaosSpec(), AGENTS, 3, 2).due(1e9) == []
