"""The order of turns, and its fairness over time."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camac_dra.coordination.scheduler import Scheduler
from camac_dra.utils.errors import ConfigurationError

ABC = ["a", "b", "c"]


def names(turns):
    return [agent for turn in turns for agent in turn]


def test_simultaneous_is_one_turn_of_all():
    assert Scheduler().schedule(ABC) == [("a", "b", "c")]
    assert Scheduler().schedule([]) == []


def test_round_robin_goes_in_a_circle():
    scheduler = Scheduler("round_robin", slots=2)
    assert [names(scheduler.schedule(ABC)) for _ in range(3)] == [["a", "b"], ["c", "a"], ["b", "c"]]


def test_where_all_have_a_turn_the_first_goes_last_next_time():
    scheduler = Scheduler("round_robin")
    assert [names(scheduler.schedule(ABC)) for _ in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_who_is_not_ready_keeps_its_place():
    scheduler = Scheduler("round_robin", slots=1)
    assert names(scheduler.schedule(["b", "c", "a"])) == ["b"]
    assert names(scheduler.schedule(["b", "a"])) == ["a"]
    assert names(scheduler.schedule(["a", "b", "c"])) == ["c"]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.sampled_from(["round_robin", "random"]))
def test_turns_are_even_over_time(count, slots, steps, order):
    agents = [f"a{i}" for i in range(count)]
    scheduler = Scheduler(order, slots=slots, seed=7)
    turns = Counter(dict.fromkeys(agents, 0))
    for _ in range(steps):
        chosen = names(scheduler.schedule(agents))
        assert len(chosen) == len(set(chosen)) == min(slots, count)
        turns.update(chosen)
    assert max(turns.values()) - min(turns.values()) <= 1


def test_random_orders_are_all_as_likely():
    scheduler = Scheduler("random", seed=0)
    seen = Counter(tuple(names(scheduler.schedule(ABC))) for _ in range(3000))
    assert len(seen) == 6
    assert max(abs(count - 500) for count in seen.values()) < 90  # more than four standard deviations


def test_equal_seeds_shuffle_alike():
    def orders(seed):
        scheduler = Scheduler("random", seed=seed)
        return [names(scheduler.schedule(ABC)) for _ in range(12)]

    assert orders(1) == orders(1)
    assert orders(1) != orders(2)


def test_priority_starves_without_aging_and_not_with_it():
    priorities = {"a": 10.0, "b": 1.0, "c": 1.0}
    strict = Scheduler("priority", slots=1)
    assert {*(names(strict.schedule(ABC, priorities=priorities))[0] for _ in range(50))} == {"a"}
    assert strict.waiting() == {"a": 0, "b": 50, "c": 50}
    aging = Scheduler("priority", slots=1, aging=1.0)
    turns = [names(aging.schedule(ABC, priorities=priorities))[0] for _ in range(24)]
    assert turns[:9] == ["a"] * 9
    assert turns[9:12] == ["b", "c", "a"] or turns[9:12] == ["a", "b", "c"]
    assert {"b", "c"} <= set(turns)


def test_priority_goes_from_high_to_low_and_ties_in_the_given_order():
    order = Scheduler("priority").schedule(["a", "b", "c", "d"], priorities={"c": 2.0, "d": 1.0, "b": 2.0})
    assert order == [("b",), ("c",), ("d",), ("a",)]


def test_the_earliest_deadline_goes_first_and_none_goes_last():
    order = Scheduler("earliest_deadline", slots=3).schedule(
        ["x", "late", "soon", "never"], deadlines={"late": 9.0, "soon": -1.0, "x": 4}
    )
    assert names(order) == ["soon", "x", "late"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Scheduler("prioritty"), "got 'prioritty'. Did you mean 'priority'"),
        (
            lambda: Scheduler("random", slots=0),
            "slots must be a whole number of at least 1, or None for all, got 0",
        ),
        (lambda: Scheduler(slots=2), "slots has no effect with order 'simultaneous', got 2"),
        (lambda: Scheduler("priority", aging=-1.0), "aging must be a number of at least 0, got -1"),
        (lambda: Scheduler("random", aging=1.0), "aging acts with order 'priority' only, got 1.0"),
        (lambda: Scheduler().schedule(["a", "a"]), "named once each, got"),
        (lambda: Scheduler().schedule(ABC, priorities={}), "priorities act with order 'priority' only"),
        (
            lambda: Scheduler("priority").schedule(ABC, deadlines={}),
            "deadlines act with order",
        ),
        (
            lambda: Scheduler("priority").schedule(ABC, priorities={"z": 1.0}),
            "priorities must be of agents that are ready, got 'z'",
        ),
        (
            lambda: Scheduler("earliest_deadline").schedule(ABC, deadlines={"a": float("nan")}),
            "deadlines of 'a' must be a number, got nan",
        ),
        (lambda: Scheduler("random", slots="2"), "slots must be a whole number .* got '2'"),
        (lambda: Scheduler("priority", aging=float("inf")), "aging must be a finite number, got inf"),
        (lambda: Scheduler("random", seed=-1), "seed must be a whole number of at least 0, .* got -1"),
        (lambda: Scheduler().schedule("abc"), "agents must be a list of agents' ids, got 'abc'"),
        (lambda: Scheduler().schedule([["a"]]), "an agent's id must be text that is not empty, got"),
        (
            lambda: Scheduler("priority").schedule(ABC, priorities={"a": "high"}),
            "priorities of 'a' must be a number, got 'high'",
        ),
        (lambda: Scheduler("priority").schedule(ABC, priorities=[1]), "priorities must be a dict, got"),
    ],
)
def test_wrong_settings_and_ranks_are_named(build, message):
    with pytest.raises(ConfigurationError, match=message):
        build()
