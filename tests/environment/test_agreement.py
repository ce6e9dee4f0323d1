"""Agreements between request and contention."""

from __future__ import annotations

import numpy as np
import pytest

from camac_dra.environment.agreement import AgreementContext, PerfectAgreement, in_fair_shares
from camac_dra.environment.allocation import STRATEGIES, is_deterministic
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.errors import AllocationError
from tests.environment.problems import EVENTFUL, problem


@pytest.mark.parametrize("mechanism", [name for name in STRATEGIES if is_deterministic(name)])
def test_under_perfect_agreement_nothing_is_asked_for_in_vain(mechanism: str) -> None:
    groups = [{"name": "cell", "agents": [0, 1], "limits": {"cpu": 4.0}}]
    config = problem(EVENTFUL, constraints={"groups": groups})
    env = VectorEnvironment(config, 3, agreement=PerfectAgreement(mechanism))
    env.reset()
    for _ in range(12):
        intended = env.requests_from_actions(np.full((3, 4), 9))
        result = env.step(np.full((3, 4), 9))
        info = result.info
        assert (info["requests"] <= intended).all()
        assert info["overload"].max() < 1e-9
        np.testing.assert_allclose(info["grants"], info["requests"], rtol=1e-8)
    assert all(measures["conflict_rate"] == 0.0 for measures in result.episodes)


def test_lots_are_no_agreement() -> None:
    with pytest.raises(
        AllocationError, match=r"must be deterministic, got 'weighted_random': use 'proportional'"
    ):
        PerfectAgreement("weighted_random")
    with pytest.raises(AllocationError, match=r"got 'max_mim'\. Did you mean 'max_min'"):
        PerfectAgreement("max_mim")


class Greedy:
    """Returns more than anybody asked for, and remembers what it was told."""

    rounds = 0
    messages = 0

    def __call__(self, requests: np.ndarray, context: AgreementContext) -> np.ndarray:
        self.context = context
        return requests * 2.0 + 1.0


def test_an_agreement_cannot_raise_requests() -> None:
    config = problem(EVENTFUL)
    env = VectorEnvironment(config, 2, agreement=Greedy())
    env.reset()
    for _ in range(12):
        intended = env.requests_from_actions(np.full((2, 4), 5))
        np.testing.assert_array_equal(env.step(np.full((2, 4), 5)).info["requests"], intended)


def test_an_agreement_is_told_what_agents_may_know() -> None:
    agreement = Greedy()
    env = VectorEnvironment(problem(EVENTFUL), 2, agreement=agreement)
    env.reset()
    for time in range(12):
        state, present = env.state, env.present
        weights, capacity, askable = state.weights, state.draw.capacity, env.askable()
        env.step(np.full((2, 4), 5))
        context = agreement.context
        assert context.time == time
        assert context.groups is env.constraints.groups
        np.testing.assert_array_equal(context.present, present)
        np.testing.assert_array_equal(context.weights, weights)
        np.testing.assert_array_equal(context.capacity, capacity)
        nominal = np.array([40.0, 8.0]) / 4  # of four agents, whoever is away
        np.testing.assert_allclose(context.queues, askable / nominal, rtol=1e-12)


def test_nothing_waits_in_fair_shares_of_nothing() -> None:
    fair_share = np.array([[2.0, 0.0, np.inf]])
    np.testing.assert_array_equal(in_fair_shares(np.array([[3.0, 3.0, 3.0]]), fair_share), [[1.5, 0.0, 0.0]])
