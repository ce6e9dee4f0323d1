"""Replicas of agents' states over a network that loses, doubles, delays and splits."""

import itertools
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camac_dra.coordination.state_sync import DELTA, GONE, StateSync
from camac_dra.utils.errors import StateSyncError


class Network:
    """Carries messages between replicas, losing, doubling and reordering some of them."""

    def __init__(self, replicas, edges, seed=0, loss=0.0):
        self.replicas, self.loss = replicas, loss
        self.neighbors = {a: [b for e in edges for b in e if a in e and b != a] for a in replicas}
        self.cut = lambda a, b: False
        self.rng = random.Random(seed)
        self.flying = []

    def step(self, number):
        for name, replica in self.replicas.items():
            self.post(name, replica.tick(number, self.neighbors[name]))
        self.deliver()

    def post(self, sender, messages):
        for recipient, message in messages:
            for _ in range(1 + (self.rng.random() < self.loss)):
                if self.rng.random() >= self.loss and not self.cut(sender, recipient):
                    self.flying.append((sender, recipient, pickle.dumps(message)))

    def deliver(self):
        while self.flying:
            place = self.rng.randrange(len(self.flying)) if self.loss else 0
            sender, recipient, message = self.flying.pop(place)
            self.post(recipient, self.replicas[recipient].receive(sender, pickle.loads(message)))


def line(count, **options):
    names = [f"a{i}" for i in range(count)]
    replicas = {name: StateSync(name, sync_interval=1, epoch=1) for name in names}
    return Network(replicas, list(itertools.pairwise(names)), **options)


def agree(network):
    digests = [replica.digest() for replica in network.replicas.values()]
    return all(digest == digests[0] for digest in digests)


def test_what_one_writes_others_read_after_a_hop_per_interval():
    network = line(3)
    first, _, last = network.replicas.values()
    first.update({"load": 3.0, "queue": np.arange(3)})
    network.step(0)
    network.step(1)
    assert last.get("a0")["load"] == 3.0
    assert last.get("a0")["queue"].tolist() == [0, 1, 2]
    assert last.get("nobody") is None
    assert last.version("a0") == (1, 2)


def test_digests_go_out_every_interval_only():
    sync = StateSync("a", sync_interval=10, epoch=1)
    assert [step for step in range(31) if sync.tick(step, ["b"])] == [0, 10, 20, 30]


def test_only_changes_travel():
    a, b = StateSync("a", epoch=1), StateSync("b", epoch=1)
    a.update({"small": 1, "large": np.zeros(1000)})
    b.receive("a", a.full_state())
    a.update({"small": 2, "large": np.zeros(1000)})
    [(_, delta)] = a.receive("b", {"type": "state_digest", "digest": b.digest()})
    [(owner, stamp, changes, since)] = delta["owners"]
    assert (owner, stamp, since) == ("a", (1, 3), (1, 2))
    assert changes == [("small", 2, 3)]


def test_versions_move_with_changes_only():
    sync = StateSync("a", epoch=1)
    for value in (1, "x", None, np.arange(3), torch.ones(2), {"nested": [1, 2]}):
        before = sync.update({"key": value})
        again = value.copy() if isinstance(value, np.ndarray) else value
        assert sync.update({"key": again}) == before
    assert sync.update({"key": 1.0}) == sync.update({"key": 1.0}) == 7
    assert sync.update({"key": 1}) == 8  # another type is another value


def test_deleted_keys_are_gone_everywhere():
    network = line(2)
    a, b = network.replicas.values()
    a.update({"x": 1, "y": 2})
    network.step(0)
    a.delete(["x", "never there"])
    network.step(1)
    assert b.get("a0") == a.get("a0") == {"y": 2}
    assert pickle.loads(pickle.dumps(GONE)) is GONE


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(0.0, 0.6))
def test_replicas_agree_after_losses_and_a_partition(seed, count, loss):
    network = line(count, seed=seed, loss=loss)
    names = list(network.replicas)
    rng = random.Random(seed)
    middle = count // 2
    network.cut = lambda a, b: (names.index(a) < middle) != (names.index(b) < middle)
    for step in range(8):
        writer = network.replicas[rng.choice(names)]
        writer.update({rng.choice("xyz"): rng.random()})
        if rng.random() < 0.2:
            writer.delete([rng.choice("xyz")])
        network.step(step)
    network.cut = lambda a, b: False
    network.loss = 0.0
    for step in range(8, 8 + count):
        network.step(step)
    assert agree(network)
    for owner, replica in network.replicas.items():
        for other in network.replicas.values():
            assert other.get(owner) == (replica.get(owner) if replica.version(owner)[1] else other.get(owner))


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_no_replica_shows_a_state_that_its_owner_never_had(seed):
    rng = random.Random(seed)
    network = line(3, seed=seed, loss=0.4)
    owner = network.replicas["a0"]
    history = [{}]
    for step in range(15):
        owner.update({key: (key, step) for key in rng.sample("xyz", rng.randint(1, 2))})
        history.append(owner.get("a0"))
        network.step(step)
        for other in ("a1", "a2"):
            assert (network.replicas[other].get("a0") or {}) in history


def test_a_later_life_replaces_the_earlier_one():
    old, peer = StateSync("a", epoch=1), StateSync("b", epoch=1)
    old.update({"x": 1, "y": 1})
    peer.receive("a", old.full_state())
    new = StateSync("a", epoch=2)
    new.update({"x": 9})
    peer.receive("a", new.full_state())
    assert peer.get("a") == {"x": 9}
    peer.receive("a", old.full_state())  # late
    assert peer.get("a") == {"x": 9}
    assert StateSync("a").version("a")[0] < StateSync("a").version("a")[0]


def test_who_comes_back_with_nothing_gets_everything_at_once():
    network = line(3)
    for name, replica in network.replicas.items():
        replica.update({"of": name})
    for step in range(2):
        network.step(step)
    back = StateSync("a2", epoch=2)
    back.receive("a1", network.replicas["a1"].full_state())
    assert back.get("a0") == {"of": "a0"}
    assert back.get("a2") == {}  # its own state is its own affair


def test_a_delta_with_others_missing_before_it_waits():
    owner, peer = StateSync("a", epoch=1), StateSync("b", epoch=1)
    owner.update({"x": 1})
    owner.update({"y": 2})
    [(_, late)] = owner.receive("b", {"type": "state_digest", "digest": {"a": (1, 1)}})
    peer.receive("a", late)
    assert peer.get("a") is None


def test_an_agent_that_left_is_forgotten():
    a, b = StateSync("a", epoch=1), StateSync("b", epoch=1)
    b.update({"x": 1})
    a.receive("b", b.full_state())
    a.forget("b")
    assert a.known_agents == ["a"]
    with pytest.raises(StateSyncError, match="cannot forget its own state, got 'a'"):
        a.forget("a")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"type": "hello"}, "must be 'state_digest' or 'state_delta', got 'hello'"),
        ({}, "got None"),
        ({"type": "state_digest", "digest": 3}, "digest must map agents"),
        ({"type": DELTA, "owners": [("b", (1, 1), [("x", 1, 1)], (0, 0)), ("c",)]}, "owners must be a list"),
    ],
)
def test_malformed_messages_change_nothing(message, expected):
    sync = StateSync("a", epoch=1)
    with pytest.raises(StateSyncError, match=expected):
        sync.receive("b", message)
    assert sync.known_agents == ["a"]


def test_the_interval_is_at_least_one_step():
    with pytest.raises(StateSyncError, match="sync_interval must be a whole number of at least 1, got 0"):
        StateSync("a", sync_interval=0)


def test_containers_are_compared_by_their_contents() -> None:
    def state() -> dict[str, object]:
        return {"list": [np.arange(3), 1], "nested": {"pair": (np.zeros(2), "x")}}

    sync = StateSync("a", epoch=1)
    assert sync.update(state()) == 2
    assert sync.update(state()) == 2, "nothing has changed"
    assert sync.update({"list": [np.arange(3), 2]}) == 3
    assert sync.update({"list": [np.arange(3)]}) == 4
    assert sync.update({"nested": {"pair": (np.ones(2), "x")}}) == 5
    assert sync.update({"nested": {"other": (np.ones(2), "x")}}) == 6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: StateSync(["a"]), "agent_id must be text"),
        (lambda: StateSync("a", "10"), "sync_interval must be a whole number of at least 1, got '10'"),
        (lambda: StateSync("a").update([1]), r"state must be a dict, got \[1\]"),
        (lambda: StateSync("a").delete(5), "keys must be a list of keys, got 5"),
        (lambda: StateSync("a").receive("b", "hello"), "message must be a dict, got 'hello'"),
        (lambda: StateSync("a").tick("1", ["b"]), "step must be a whole number of at least 0, got '1'"),
    ],
)
def test_arguments_of_another_kind_are_refused(call, message: str) -> None:
    with pytest.raises(StateSyncError, match=message):
        call()


def test_only_the_states_that_are_kept_travel() -> None:
    names = ["a0", "a1", "a2", "a3"]
    kept = {"a0": ["a1"], "a1": ["a0", "a2"], "a2": ["a1", "a3"], "a3": ["a2", "a0"]}
    replicas = {name: StateSync(name, 1, keep=kept[name], epoch=1) for name in names}
    network = Network(replicas, list(itertools.pairwise(names)))
    for name, replica in replicas.items():
        replica.update({"of": name})
    for step in range(6):
        network.step(step)
    known = {name: set(replica.known_agents) for name, replica in replicas.items()}
    assert known == {
        "a0": {"a0", "a1"},
        "a1": {"a1", "a0", "a2"},
        "a2": {"a2", "a1", "a3"},
        "a3": {"a3", "a2"},
    }
    [(_, delta)] = replicas["a1"].receive(
        "a0", {"type": "state_digest", "digest": {"a1": (0, 0)}, "only": True}
    )
    assert [owner for owner, *_ in delta["owners"]] == ["a1"]
