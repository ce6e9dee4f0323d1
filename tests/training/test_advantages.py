"""Generalised advantage estimation against a slow, obvious reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camac_dra.training.advantages import generalized_advantages


def obvious(rewards, values, final_values, terminated, done, active, gamma, gae_lambda):
    """Follow every agent forwards from every active row, summing discounted residuals."""
    T, B, N = rewards.shape
    finals = iter(final_values)
    final = {(t, b): next(finals) for t in range(T) for b in range(B) if done[t, b]}
    advantages = np.zeros((T, B, N))

    def residual(t, b, i):
        """Return the residual of an active row and the next active row that it may be traced to, or None."""
        u = t
        while True:
            if terminated[u, b, i]:
                return rewards[t, b, i] - values[t, b, i], None
            if done[u, b]:
                return rewards[t, b, i] + gamma * final[u, b][i] - values[t, b, i], None
            u += 1
            if u == T:
                return rewards[t, b, i] + gamma * values[T, b, i] - values[t, b, i], None
            if active[u, b, i]:
                return rewards[t, b, i] + gamma * values[u, b, i] - values[t, b, i], u

    for t, b, i in np.argwhere(active):
        row, factor = t, 1.0
        while row is not None:
            delta, row = residual(row, b, i)
            advantages[t, b, i] += factor * delta
            factor *= gamma * gae_lambda
    return advantages


@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(1, 3)),
    masked=st.booleans(),
    gamma=st.floats(0, 1),
    gae_lambda=st.floats(0, 1),
)
def test_advantages_are_the_sum_of_discounted_residuals(seed, shape, masked, gamma, gae_lambda) -> None:
    rng = np.random.default_rng(seed)
    T, B, N = shape
    done = rng.random((T, B)) < 0.2
    rewards = rng.normal(size=shape).astype(np.float32)
    values = rng.normal(size=(T + 1, B, N)).astype(np.float32)
    final_values = rng.normal(size=(int(done.sum()), N)).astype(np.float32)
    active = rng.random(shape) < (0.6 if masked else 1.1)
    terminated = (rng.random(shape) < 0.1) & active
    arguments = (rewards, values, final_values, terminated, done, active)
    found = generalized_advantages(*arguments, gamma=gamma, gae_lambda=gae_lambda)
    expected = obvious(*arguments, gamma, gae_lambda)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[active], expected[active], rtol=1e-4, atol=1e-4)


def one_agent(rewards, values, *, terminated=(), done=(), active=None, final_values=()):
    T = len(rewards)
    column = np.zeros((T, 1, 1), bool)
    ended, cut = column.copy(), column[..., 0].copy()
    ended[list(terminated)] = True
    cut[list(done)] = True
    taken = np.ones((T, 1, 1), bool) if active is None else np.array(active, bool)[:, None, None]
    return generalized_advantages(
        np.array(rewards, np.float32)[:, None, None],
        np.array(values, np.float32)[:, None, None],
        np.array(final_values, np.float32).reshape(-1, 1),
        ended,
        cut,
        taken,
        gamma=0.5,
        gae_lambda=1.0,
    )[:, 0, 0].tolist()


def test_truncation_bootstraps_and_termination_does_not() -> None:
    assert one_agent([1, 1], [0, 0, 8]) == [1 + 0.5 * (1 + 4), 1 + 4]  # cut by the fragment only
    assert one_agent([1, 1], [0, 0, 8], done=[1], final_values=[4]) == [1 + 0.5 * (1 + 2), 1 + 2]
    assert one_agent([1, 1], [0, 0, 8], terminated=[1]) == [1.5, 1]
    assert one_agent([1, 1], [0, 0, 8], terminated=[1], done=[1], final_values=[4]) == [1.5, 1]


def test_nothing_flows_across_an_episode_that_ended() -> None:
    assert one_agent([1, 100], [0, 0, 0], done=[0], final_values=[2])[0] == 1 + 0.5 * 2


def test_steps_away_are_passed_over() -> None:
    there = one_agent([1, 2, 3], [5, 6, 7, 8])
    away = one_agent([1, 0, 0, 2, 3], [5, 99, 99, 6, 7, 8], active=[1, 0, 0, 1, 1])
    assert [away[0], *away[3:]] == there


def test_an_episode_that_ends_while_the_agent_is_away_bootstraps_from_its_last_observation() -> None:
    found = one_agent([1, 0, 2], [0, 99, 0, 0], active=[1, 0, 1], done=[1], final_values=[6])
    assert found[0] == 1 + 0.5 * 6


@pytest.mark.parametrize("active", [True, False])
def test_inputs_are_left_alone(active: bool) -> None:
    rewards, values = np.ones((2, 1, 2), np.float32), np.ones((3, 1, 2), np.float32)
    off = np.zeros((2, 1, 2), bool)
    on = np.ones((2, 1, 2), bool)
    on[0, 0, 0] = active
    generalized_advantages(
        rewards, values, np.zeros((0, 2), np.float32), off, off[..., 0], on, gamma=0.9, gae_lambda=0.9
    )
    assert (rewards == 1).all()
    assert (values == 1).all()
