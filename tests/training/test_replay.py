"""From fragments to replay buffers, beside a slow reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camac_dra.training.experience_buffer import ExperienceBuffer
from camac_dra.training.fragments import Fragment
from camac_dra.training.replay import remember
from tests.training.replay_algorithms import Make, making
from tests.training.toy_environment import ToyVectorEnvironment


@pytest.fixture
def make(tmp_path: Path):
    yield from making(tmp_path)


def transitions_by_hand(fragments: list[Fragment], n: int, gamma: float) -> dict[bytes, Any]:
    """Return (sum of rewards, discount, number of the next row) of every complete transition, by its first
    observation.
    """
    observations = np.concatenate([f.observations[:-1] for f in fragments])  # (T, B, N, F)
    finals = iter(np.concatenate([f.final_observations for f in fragments]))
    active, done, terminated, rewards = (
        np.concatenate([getattr(f, name) for f in fragments])
        for name in ("active", "done", "terminated", "rewards")
    )
    final_of = {(t, b): next(finals) for t, b in zip(*np.nonzero(done), strict=True)}
    found = {}
    for b, i in np.ndindex(active.shape[1:]):
        waiting: list[tuple[int, float]] = []  # step, reward
        for t in range(len(active)):
            if active[t, b, i]:
                if len(waiting) == n:  # n steps are over, and here it decides again
                    add(found, waiting, observations, b, i, observations[t, b, i], gamma**n, gamma)
                    waiting.pop(0)
                waiting.append((t, rewards[t, b, i]))
            if terminated[t, b, i] or done[t, b]:
                after = np.zeros(7) if terminated[t, b, i] else final_of[t, b][i]
                while waiting:
                    discount = 0.0 if terminated[t, b, i] else gamma ** len(waiting)
                    add(found, waiting, observations, b, i, after, discount, gamma)
                    waiting.pop(0)
    return found


def add(
    found: dict[bytes, Any],
    waiting: list[tuple[int, float]],
    observations: np.ndarray,
    b: int,
    i: int,
    after: np.ndarray,
    discount: float,
    gamma: float,
) -> None:
    """Add what the first of the steps that wait has become."""
    total = sum(gamma**k * reward for k, (_, reward) in enumerate(waiting))
    following = after.astype(np.float32).tobytes() if discount else b""
    found[observations[waiting[0][0], b, i].tobytes()] = (total, discount, following)


@pytest.mark.parametrize("n", [1, 3])
def test_what_is_remembered_of_fragments_is_what_happened(make: Make, n: int) -> None:
    """Agents leave, come back and terminate; episodes end within fragments and span several."""
    algorithm = make({"absent": True, "terminate": True}, fragment_length=7)
    buffer = ExperienceBuffer(10_000, n_step=n, gamma=0.9, seed=0)
    fragments, rows = [], 0
    for _ in range(4):
        fragment = algorithm.env_runner.sample()
        rows += remember(buffer, fragment, None)
        names = ("observations", "actions", "rewards", "terminated", "active", "done", "final_observations")
        for name in names:  # the next fragment overwrites them
            setattr(fragment, name, getattr(fragment, name).copy())
        fragments.append(fragment)
    expected = transitions_by_hand(fragments, n, 0.9)
    assert rows == sum(f.agent_steps for f in fragments)
    assert rows - 3 * 4 * n <= len(expected) <= rows
    assert buffer._memory is not None
    t = buffer._memory.take(np.arange(len(buffer)))
    found = {
        state.tobytes(): (reward, discount, following.tobytes() if discount else b"")
        for state, reward, discount, following in zip(
            t.states, t.rewards, t.discounts, t.next_states, strict=True
        )
    }
    # The last step's transition is complete already where its agent decides next.
    assert len(buffer) - len(expected) <= 3 * 4
    for state, (total, discount, following) in expected.items():
        assert found[state][0] == pytest.approx(total, abs=1e-5)
        assert found[state][1] == pytest.approx(discount, abs=1e-6)
        assert found[state][2] == following


def test_env_runners_take_turns_and_a_gap_ends_what_waits(make: Make) -> None:
    algorithm = make({"length": 100}, fragment_length=2, num_envs=2)
    buffer = ExperienceBuffer(100, n_step=3, gamma=0.9, seed=0)
    first = algorithm.env_runner.sample()
    remember(buffer, first, None)
    first.worker_index = 1
    remember(buffer, first, None)
    assert len(buffer) == 0  # all of them wait for a third step
    second = algorithm.env_runner.sample()
    remember(buffer, second, None)
    assert len(buffer) == 2 * 2 * 3
    algorithm.env_runner.sample()
    gap = algorithm.env_runner.sample()
    gap.worker_index = 1
    remember(buffer, gap, None)
    assert len(buffer) == 2 * 2 * 3


class Masked(ToyVectorEnvironment):
    """Action 2 is possible in even steps only."""

    @property
    def action_masks(self) -> np.ndarray:
        masks = np.ones((*self.present.shape, 3), bool)
        masks[..., 2] = (self.clock % 2 == 0)[:, None]
        return masks


def test_impossible_actions_are_not_taken_and_what_is_possible_next_is_remembered(make: Make) -> None:
    algorithm = make({"length": 9}, factory=Masked, num_envs=3, fragment_length=5, epsilon_end=1.0)
    for _ in range(4):
        fragment = algorithm.env_runner.sample()
        remember(algorithm.buffers["shared"], fragment, None)
        assert ((fragment.actions == 2) <= fragment.masks[..., 2]).all()
    t = algorithm.buffers["shared"].sample_batch(180).transitions
    assert t.next_masks is not None
    lengths = 9 + t.next_states[:, 3]  # of the copy
    step = np.round(t.next_states[:, 2] * lengths).astype(int)
    assert np.array_equal(t.next_masks[:, 2], (step % 2 == 0) | (step == lengths))


def test_every_policy_learns_from_its_own_rows_only(make: Make) -> None:
    algorithm = make({"absent": True, "length": 100}, policies="per_agent")
    algorithm.train()
    for number, (policy, buffer) in enumerate(algorithm.buffers.items()):
        assert policy == f"agent_{number}"
        states = buffer.sample_batch(20).transitions.states
        assert (states[:, 6] == number).all()
        assert (states[:, 5] == 1).all()  # present


def test_rows_are_learned_from_as_often_as_said(make: Make) -> None:
    algorithm = make(batch_size=50, num_epochs=3)
    for _ in range(5):
        algorithm.train()
    assert algorithm.learner.updates == 5 * 120 * 3 // 50


def test_learning_waits_until_enough_is_remembered(make: Make) -> None:
    algorithm = make(learning_starts=300)
    updates = []
    for _ in range(4):
        algorithm.train()
        updates.append(algorithm.learner.updates)
    assert updates[:2] == [0, 0]
    assert updates[3] > 0
