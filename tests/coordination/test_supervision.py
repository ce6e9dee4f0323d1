"""Who is alive, by what the caller saw and when."""

from __future__ import annotations

from camac_dra.coordination.runtime.supervision import Supervisor


def watching(count: int = 3, patience: float = 10.0) -> Supervisor:
    supervisor = Supervisor(patience)
    supervisor.watch(count, 0.0)
    return supervisor


def test_a_death_and_a_return_are_counted_once() -> None:
    supervisor = watching()
    assert supervisor.died(1, 4.0)
    assert not supervisor.died(1, 5.0)
    assert (supervisor.alive, supervisor.down, supervisor.deaths) == ([0, 2], [1], 1)
    supervisor.back(1, 6.5)
    assert (supervisor.alive, supervisor.restarts, supervisor.recoveries) == ([0, 1, 2], 1, [2.5])


def test_who_is_silent_for_too_long_counts_as_dead() -> None:
    supervisor = watching()
    supervisor.heard(0, 6.0)
    assert supervisor.hanging(10.0) == []
    assert supervisor.hanging(10.1) == [1, 2]
    assert supervisor.hanging(10.2) == []
    assert supervisor.deaths == 2
    assert supervisor.alive == [0]


def test_who_came_back_has_all_its_patience_again() -> None:
    supervisor = watching(1)
    supervisor.died(0, 1.0)
    assert supervisor.hanging(50.0) == []
    supervisor.back(0, 60.0)
    assert supervisor.hanging(69.0) == []
    assert supervisor.hanging(70.5) == [0]


def test_whoever_was_never_dead_does_not_count_as_restarted() -> None:
    supervisor = watching(1)
    supervisor.back(0, 5.0)
    assert (supervisor.restarts, supervisor.recoveries) == (0, [])
