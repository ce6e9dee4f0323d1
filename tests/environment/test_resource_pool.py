import copy
import pickle
import threading
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from camac_dra.environment.resource_pool import ResourcePool
from camac_dra.utils.errors import ResourceError


def test_takes_all_or_nothing() -> None:
    pool = ResourcePool({"cpu": 100, "memory": 50})
    assert pool.allocate("cpu", 50)
    assert pool.get_available("cpu") == 50
    assert not pool.allocate("cpu", 100)
    assert pool.get_available("cpu") == 50
    assert pool.allocate("cpu", 50)
    assert not pool.allocate("cpu", 1e-6)
    assert pool.allocate("cpu", 0)
    assert pool.get_utilization() == {"cpu": 1.0, "memory": 0.0}


def test_gives_back_no_more_than_was_taken() -> None:
    pool = ResourcePool({"cpu": 10.0})
    pool.allocate("cpu", 4.0)
    assert pool.deallocate("cpu", 1.0) == 1.0
    assert pool.deallocate("cpu", 100.0) == 3.0
    assert pool.deallocate("cpu", 1.0) == 0.0
    assert pool.get_available("cpu") == 10.0


def test_shares_of_a_capacity_that_add_up_to_it_fit() -> None:
    for parts in (3, 7, 10, 49, 1000):
        pool = ResourcePool({"cpu": 1.0})
        assert all(pool.allocate("cpu", 1.0 / parts) for _ in range(parts)), parts
        assert pool.get_utilization()["cpu"] <= 1.0
        assert pool.get_utilization()["cpu"] == pytest.approx(1.0, abs=1e-12)
        assert not pool.allocate("cpu", 1e-9)


def test_books_do_not_drift() -> None:
    pool = ResourcePool({"cpu": 1000.0})
    rng = np.random.default_rng(0)
    amounts = rng.lognormal(0.0, 3.0, 50) % 10.0
    for _ in range(40):
        assert all(pool.allocate("cpu", amount) for amount in amounts)
        for amount in rng.permutation(amounts):
            assert pool.deallocate("cpu", amount) == amount
    assert pool.allocated == {"cpu": 0.0}


def test_arrays_and_dicts_follow_the_order_of_the_resources() -> None:
    pool = ResourcePool({"b": 4.0, "a": 2.0, "none": 0.0})
    pool.allocate("a", 0.5)
    assert pool.resource_ids == ["b", "a", "none"]
    assert pool.capacities == {"b": 4.0, "a": 2.0, "none": 0.0}
    assert pool.as_array().tolist() == [4.0, 1.5, 0.0]
    assert pool.as_array("allocated").tolist() == [0.0, 0.5, 0.0]
    assert pool.as_array("capacity").tolist() == [4.0, 2.0, 0.0]
    assert pool.as_array().dtype == np.float64
    assert pool.get_utilization() == {"b": 0.0, "a": 0.25, "none": 0.0}
    with pytest.raises(ResourceError, match="available, allocated, capacity, got 'free'"):
        pool.as_array("free")  # type: ignore[arg-type]
    pool.capacities["b"] = 100.0
    assert pool.get_available("b") == 4.0


def test_set_allocated_replaces_everything_or_nothing() -> None:
    pool = ResourcePool({"cpu": 4.0, "memory": 2.0})
    pool.set_allocated(np.array([1.0, 2.0 + 1e-12]))
    assert pool.allocated == {"cpu": 1.0, "memory": 2.0}
    pool.set_allocated({"cpu": 3.0})
    assert pool.allocated == {"cpu": 3.0, "memory": 0.0}
    for wrong, message in [
        ([1.0], "one entry per resource .cpu, memory., got 1 entries"),
        ([1.0, 2.1], "'memory' must be at most its capacity 2, got 2.1"),
        ([0.0, float("nan")], "'memory' must be a finite number"),
        ({"gpu": 1.0}, "got 'gpu'"),
    ]:
        with pytest.raises(ResourceError, match=message):
            pool.set_allocated(wrong)  # type: ignore[arg-type]
        assert pool.allocated == {"cpu": 3.0, "memory": 0.0}


def test_bad_input_is_named() -> None:
    pool = ResourcePool({"cpu": 1.0, "memory": 1.0})
    for use in (pool.allocate, pool.deallocate):
        with pytest.raises(ResourceError, match=r"cpu, memory, got 'memroy'\. Did you mean 'memory'"):
            use("memroy", 1.0)
        for amount in (-1.0, float("nan"), float("inf"), "much", None):
            with pytest.raises(ResourceError, match="amount of 'cpu' must be a finite number, zero"):
                use("cpu", amount)  # type: ignore[arg-type]
    with pytest.raises(ResourceError, match="got 'gpu'"):
        pool.get_available("gpu")
    with pytest.raises(ResourceError, match="at least one resource"):
        ResourcePool({})
    for capacity in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ResourceError, match="capacity of 'cpu' must be a finite number"):
            ResourcePool({"cpu": capacity})
    assert pool.allocated == {"cpu": 0.0, "memory": 0.0}


def test_pickles_and_copies_are_independent() -> None:
    pool = ResourcePool({"cpu": 2.0})
    pool.allocate("cpu", 0.5)
    for twin in (pickle.loads(pickle.dumps(pool)), copy.deepcopy(pool)):
        assert twin.allocated == {"cpu": 0.5}
        assert twin.allocate("cpu", 1.5)
        assert repr(twin) == "ResourcePool(cpu: 2/2)"
    assert pool.allocated == {"cpu": 0.5}


def test_threads_never_take_the_same_unit_twice() -> None:
    pool = ResourcePool({"cpu": 500.0})
    taken = [0] * 8

    def grab(number: int) -> None:
        for _ in range(200):
            taken[number] += pool.allocate("cpu", 1.0)

    threads = [threading.Thread(target=grab, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 500
    assert pool.get_available("cpu") == 0.0


class PoolAgainstExactBooks(RuleBasedStateMachine):
    """Any sequence of calls against books kept as a list of amounts."""

    capacities = {"cpu": 10.0, "memory": 0.3}  # noqa: RUF012
    resources = st.sampled_from(sorted(capacities))
    amounts = st.one_of(st.floats(0.0, 12.0), st.sampled_from([0.1, 0.3, 1 / 3, 10.0, 5e-324]))

    def __init__(self) -> None:
        super().__init__()
        self.pool = ResourcePool(self.capacities)
        self.taken = dict.fromkeys(self.capacities, Fraction(0))

    @rule(resource=resources, amount=amounts)
    def allocate(self, resource: str, amount: float) -> None:
        capacity = Fraction(self.capacities[resource])
        left = capacity - self.taken[resource]
        if self.pool.allocate(resource, amount):
            assert amount <= left + capacity / 10**12
            self.taken[resource] += min(Fraction(amount), left)
        else:
            assert amount > left

    @rule(resource=resources, amount=amounts)
    def deallocate(self, resource: str, amount: float) -> None:
        expected = min(Fraction(amount), self.taken[resource])
        assert self.pool.deallocate(resource, amount) == float(expected)
        self.taken[resource] -= expected

    @rule(resource=resources)
    def take_what_is_left(self, resource: str) -> None:
        left = Fraction(self.capacities[resource]) - self.taken[resource]
        available = self.pool.get_available(resource)
        assert self.pool.allocate(resource, available)
        self.taken[resource] += min(Fraction(available), left)

    @rule(resource=resources)
    def give_everything_back(self, resource: str) -> None:
        self.pool.deallocate(resource, 1e6)
        self.taken[resource] = Fraction(0)

    @invariant()
    def books_agree(self) -> None:
        for name, capacity in self.capacities.items():
            taken = self.pool.allocated[name]
            assert 0.0 <= taken <= capacity
            assert taken == pytest.approx(float(self.taken[name]), abs=1e-12)
            assert 0.0 <= self.pool.get_available(name) <= capacity
            assert 0.0 <= self.pool.get_utilization()[name] <= 1.0


TestPoolAgainstExactBooks = PoolAgainstExactBooks.TestCase
TestPoolAgainstExactBooks.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
