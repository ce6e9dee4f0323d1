"""What is made of answers that come, come late, or make no sense."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camac_dra.coordination.plant import PlantState
from camac_dra.coordination.runtime.decision import Answer, Inputs, assemble
from camac_dra.environment.groups import Groups

N, R = 4, 2
MEMBERS = [np.array([0, 1]), np.array([2]), np.array([3])]


def state(askable: float = 5.0, capacity: float = 8.0, present: list[bool] | None = None) -> PlantState:
    here = np.array(present or [True] * N)
    return PlantState(
        step=7,
        observations=np.arange(N * 3, dtype=np.float32).reshape(N, 3),
        present=here,
        askable=np.full((N, R), askable) * here[:, None],
        fair_share=np.full((N, R), capacity / N),
        capacity=np.full((1, R), capacity),
        weights=np.array([1.0, 2.0, 4.0, 1.0]),
    )


def answer(rows: list[float], **more) -> Answer:
    return Answer(7, np.repeat(np.array(rows, float)[:, None], R, axis=1), **more)


def put(answers, quorum=0.5, **changes):
    return assemble(state(**changes), MEMBERS, answers, Groups.one(N), quorum)


def test_everybody_is_told_what_concerns_it() -> None:
    inputs = Inputs.of(state(), MEMBERS[1], 0.25)
    assert inputs.step == 7
    assert inputs.observations.tolist() == [[6.0, 7.0, 8.0]]
    assert inputs.weights.tolist() == [4.0]
    assert inputs.seconds == 0.25


def test_sound_answers_are_taken_as_they_are() -> None:
    decided = put(
        {
            0: answer([3.0, 4.0], rounds=5, messages=10, message_bytes=99, residual=0.1),
            1: answer([1.0], rounds=6, messages=5, residual=0.3),
            2: answer([9.0]),
        }
    )
    assert decided.requests[:, 0].tolist() == [3.0, 4.0, 1.0, 5.0]  # the last is cut to what may be asked for
    assert not decided.fallbacks
    assert (decided.rounds, decided.messages, decided.message_bytes, decided.residual) == (6, 15, 99, 0.3)


def test_the_dead_ask_for_nothing_and_the_late_for_their_fair_share() -> None:
    decided = put({0: answer([1.0, 1.0]), 1: "dead", 2: "late"})
    assert decided.requests[:, 0].tolist() == [1.0, 1.0, 0.0, 2.0]
    assert decided.fallbacks == {"dead": 1, "late": 1}


def test_who_is_not_there_is_late() -> None:
    assert put({0: answer([1.0, 1.0]), 1: answer([1.0])}).fallbacks == {"late": 1}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_answers_without_sense_fall_back_agent_by_agent(bad: float) -> None:
    decided = put({0: answer([bad, 1.0]), 1: answer([1.0]), 2: answer([1.0])})
    assert decided.requests[:, 0].tolist() == [2.0, 1.0, 1.0, 1.0]
    assert decided.fallbacks == {"not_finite": 1}


def test_answers_of_the_wrong_shape_fall_back() -> None:
    decided = put({0: answer([1.0]), 1: answer([1.0]), 2: answer([1.0])}, quorum=0.25)
    assert decided.requests[:, 0].tolist() == [2.0, 2.0, 1.0, 1.0]
    assert decided.fallbacks == {"not_finite": 2}


def test_where_anybody_fell_back_all_requests_are_made_to_fit() -> None:
    decided = put({0: answer([5.0, 5.0]), 1: "late", 2: answer([5.0])})
    np.testing.assert_allclose(decided.requests.sum(axis=0), 8.0)
    np.testing.assert_allclose(decided.requests[:, 0], np.array([5, 5, 2, 5]) * 8 / 17)


def test_without_a_quorum_everybody_gets_the_fair_share() -> None:
    decided = put({0: answer([0.0, 0.0]), 1: "dead", 2: "dead"}, quorum=0.6)
    assert decided.requests[:, 0].tolist() == [2.0] * N
    assert decided.fallbacks == {"dead": 2, "no_quorum": 4}


def test_absent_agents_ask_for_nothing_and_do_not_count() -> None:
    decided = put({0: answer([1.0, np.nan]), 1: "late", 2: answer([1.0])}, present=[True, False, False, True])
    assert decided.requests[:, 0].tolist() == [1.0, 0.0, 0.0, 1.0]
    assert not decided.fallbacks


ANSWERS = st.one_of(
    st.just("dead"), st.just("late"), st.lists(st.floats(allow_nan=True), min_size=1, max_size=3).map(answer)
)


@given(
    st.dictionaries(st.integers(0, 2), ANSWERS),
    st.floats(0, 1),
    st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_whatever_comes_what_is_asked_for_makes_sense(answers, quorum, present) -> None:
    given_state = state(present=present)
    decided = put(answers, quorum, present=present)
    assert np.isfinite(decided.requests).all()
    assert (decided.requests >= 0.0).all()
    assert (decided.requests <= given_state.askable).all()
    if decided.fallbacks:
        assert (decided.requests.sum(axis=0) <= 8.0 * (1 + 1e-9)).all()
