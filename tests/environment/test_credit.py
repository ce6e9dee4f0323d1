"""The marginal credit against its definition: resolve the step again without the agent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camac_dra.environment import credit, plant
from camac_dra.environment.agreement import AgreementContext
from camac_dra.environment.allocation import STRATEGIES
from camac_dra.environment.constraints import Constraints
from camac_dra.environment.vector_environment import VectorEnvironment
from tests.environment.comparison import play_both
from tests.environment.problems import CONSTANT, EVENTFUL, problem, random_actions
from tests.environment.reference import Events, Limits, ReferenceEnvironment

MARGINAL: dict[str, Any] = {"credit": "marginal", "max_episode_length": 6}


@settings(max_examples=40, deadline=None)
@given(
    size=st.sampled_from([(1, 1), (2, 1), (7, 1), (7, 3)]),
    contention=st.sampled_from([(0.0, 0.3), (0.5, 0.0), (1.0, 0.3), (5.0, 0.1)]),
    costs=st.sampled_from([(0.003, 1.0), (0.5, 0.5), (2.0, 0.1), (0.0, 0.0)]),
    backlog_limit=st.sampled_from([None, 0.05, 0.5, 2.0]),
    eventful=st.booleans(),
    load=st.floats(0.1, 3.0),
    seed=st.integers(0, 2**20),
)
def test_the_closed_form_is_the_definition(
    size: Any, contention: Any, costs: Any, backlog_limit: Any, eventful: bool, load: float, seed: int
) -> None:
    config = problem(
        (EVENTFUL if eventful else {}) | {"load": load},
        num_agents=size[0],
        constraints={"num_groups": size[1]},
        contention=contention[0],
        contention_floor=contention[1],
        holding_cost=costs[0],
        loss_cost=costs[1],
        backlog_limit=backlog_limit,
        action_type="multi_discrete",
        **MARGINAL,
    )
    play_both(config, 2, seed)


@pytest.mark.parametrize("num_groups", [1, 3])
@pytest.mark.parametrize("costs", [(0.003, 1.0), (2.0, 0.1)])
def test_the_closed_form_for_many_agents_is_the_definition(
    num_groups: int, costs: tuple[float, float]
) -> None:
    config = problem(
        EVENTFUL | {"leave_probability": 0.05},
        num_agents=40,
        constraints={"num_groups": num_groups},
        holding_cost=costs[0],
        loss_cost=costs[1],
        backlog_limit=0.5,
        **MARGINAL,
    )
    play_both(config, 2, seed=1)


def test_agents_in_no_group_neither_take_from_others_nor_lose_to_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    membership = [
        [0, 1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 0, 1],
    ]  # agents 0 and 3 are bound by their limits alone
    limits = Limits(membership, [[9.0, math.inf], [4.0, 2.0]], [[3.0, 1.0]] * 7, [[1, 1]] * 7)
    constraints = Constraints.build(
        np.array(membership, float), np.array(limits.capacity), np.array(limits.agent_limit)
    )
    monkeypatch.setattr(Constraints, "from_config", lambda config: constraints)
    config = problem(EVENTFUL | {"load": 2.0}, num_agents=7, backlog_limit=0.3, **MARGINAL)
    assert constraints.groups.disjoint
    assert not constraints.groups.covered
    play_both(config, 3, seed=2, limits=limits)


def closed_form_rewards(config: Any, seed: int) -> list[np.ndarray]:
    env = VectorEnvironment(config, 3, seed)
    env.reset()
    rng = np.random.default_rng(seed)
    return [env.step(random_actions(config, 3, rng)).rewards for _ in range(config.max_episode_length)]


@pytest.mark.parametrize("seed", range(5))
def test_sorting_kinks_gives_what_comparing_all_pairs_gives(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = problem(EVENTFUL, num_agents=9, backlog_limit=0.4, **MARGINAL)
    pairs = closed_form_rewards(config, seed)
    calls = []
    by_sorting = credit._saved_by_sorting
    monkeypatch.setattr(credit, "_DENSE_AGENTS", 0)
    monkeypatch.setattr(credit, "_saved_by_sorting", lambda *args: calls.append(args) or by_sorting(*args))
    np.testing.assert_allclose(closed_form_rewards(config, seed), pairs, rtol=1e-9, atol=1e-12)
    assert calls


def test_units_make_no_difference_even_to_what_is_left_of_nothing() -> None:
    outages = EVENTFUL | {"outage_fraction": 1.0}

    def rewards(unit: float) -> list[np.ndarray]:
        pool = {"cpu": 40.0 * unit, "memory": 8.0 * unit}
        config = problem(outages, num_agents=40, resource_limits=pool, max_multiple=None, **MARGINAL)
        return closed_form_rewards(config, seed=3)

    for unit in (1e-12, 1e9):
        np.testing.assert_allclose(rewards(unit), rewards(1.0), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mechanism", [name for name in STRATEGIES if name != "weighted_random"])
@pytest.mark.parametrize("overlapping", [False, True])
def test_every_deterministic_mechanism_has_the_credit_of_the_definition(
    mechanism: str, overlapping: bool
) -> None:
    groups = [{"name": "cell", "agents": [0, 2, 4], "limits": {"cpu": 12.0}}] if overlapping else None
    config = problem(
        EVENTFUL,
        num_agents=5,
        constraints={"groups": groups},
        mechanism=mechanism,
        coupling="leontief" if mechanism == "drf" else "additive",
        **MARGINAL,
    )
    play_both(config, 2, seed=5)


def test_solving_again_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    config = problem(EVENTFUL, num_agents=7, mechanism="max_min", **MARGINAL)
    at_once = closed_form_rewards(config, seed=6)
    monkeypatch.setattr(credit, "_CHUNK_CELLS", 3 * 7 * 2 * 2)  # two of seven agents at a time
    np.testing.assert_allclose(closed_form_rewards(config, seed=6), at_once, rtol=1e-12, atol=1e-14)


def test_whoever_asks_for_nothing_is_rewarded_for_itself() -> None:
    env = VectorEnvironment(problem(CONSTANT | {"load": 4.0}, **MARGINAL), 3)
    env.reset()
    actions = np.array([[0, 9, 9, 0]] * 3)  # six of four fair shares are asked for
    result = env.step(actions)
    idle = actions == 0
    np.testing.assert_allclose(result.rewards[idle], result.info["values"][idle], rtol=1e-12)
    assert (result.rewards[~idle] < result.info["values"][~idle]).all()


def test_nothing_is_resolved_again_where_there_is_a_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> Any:
        raise AssertionError("solved again")

    monkeypatch.setattr(plant, "general_externality", refuse)
    closed_form_rewards(problem(EVENTFUL, constraints={"num_groups": 2}, **MARGINAL), seed=0)
    with pytest.raises(AssertionError, match="solved again"):
        closed_form_rewards(problem(EVENTFUL, coupling="leontief", **MARGINAL), seed=0)


class LossyAgreement:
    """Agents hear of the total load, or do not; who hears of too much asks for less."""

    rounds = 1
    messages = 0

    def __init__(self) -> None:
        self.heard: list[np.ndarray] = []

    def __call__(self, requests: np.ndarray, context: AgreementContext) -> np.ndarray:
        excess = context.groups.load(requests) / context.capacity  # (B, 1, R)
        heard = context.rng.random(requests.shape[:2]) < 0.5  # (B, N)
        self.heard.append(heard)
        return np.where(heard[..., None], requests / np.maximum(excess, 1.0), requests)


def test_under_an_agreement_by_lot_the_lots_fall_as_they_did() -> None:
    config = problem({"load": 2.0}, **MARGINAL)
    agreement = LossyAgreement()
    env = VectorEnvironment(config, 1, agreement=agreement)
    env.reset()
    reference = ReferenceEnvironment(config, env.state.weights[0].tolist())
    for _ in range(6):
        events = Events.of(env.state.draw, 0, 4)
        intended = env.requests_from_actions(np.full((1, 4), 6))[0]  # (N, R)
        agreement.heard.clear()
        result = env.step(np.full((1, 4), 6))
        assert len(agreement.heard) == 5
        heard = agreement.heard[0][0]  # (N,)
        assert all(np.array_equal(again[0], heard) for again in agreement.heard)
        values = [values_under(heard, intended, i, reference, events) for i in range(4)]
        everybody = values_under(heard, intended, None, reference, events)
        lost = [np.delete(without - everybody, i).sum() for i, without in enumerate(values)]
        np.testing.assert_allclose(result.rewards[0], everybody - lost, rtol=1e-9)
        reference.backlog = result.info["backlog"][0].tolist()


def values_under(
    heard: np.ndarray,
    intended: np.ndarray,
    without: int | None,
    reference: ReferenceEnvironment,
    events: Events,
) -> np.ndarray:
    """Return the values (N,) of agents some of whom ``heard`` of the load, with nothing asked for by one."""
    kept = intended * (np.arange(len(intended)) != without)[:, None]  # (N, R)
    excess = np.maximum(kept.sum(axis=0) / np.array(events.capacity[0]), 1.0)
    agreed = np.where(heard[:, None], kept / excess, kept)
    before = reference.backlog
    values = np.array(reference.step_requests(agreed.tolist(), events).values)
    reference.backlog = before
    return values


def test_the_credit_does_not_touch_the_draws_of_the_messages() -> None:
    def observations(credit_kind: str) -> list[np.ndarray]:
        config = problem(topology="ring", message_loss=0.5, credit=credit_kind)
        env = VectorEnvironment(config, 2, agreement=LossyAgreement())
        env.reset()
        return [env.step(np.full((2, 4), 5)).observations for _ in range(11)]

    np.testing.assert_array_equal(observations("individual"), observations("marginal"))


def test_lots_have_no_marginal_credit() -> None:
    with pytest.raises(
        ValueError, match=r"'marginal' needs a deterministic mechanism, got 'weighted_random'"
    ):
        problem(mechanism="weighted_random", credit="marginal")


@pytest.mark.parametrize("reward", [{"reward_function": "hybrid"}, {"reward_fn": lambda *_: 0.0}])
def test_the_marginal_credit_is_of_objectives_alone(reward: Any) -> None:
    with pytest.raises(
        ValueError, match=r"'marginal' is defined for reward_function 'efficiency' and 'weighted'"
    ):
        problem(credit="marginal", **reward)
