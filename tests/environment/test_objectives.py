"""Several objectives at once: what each is, how it is weighed and credited, and who is shown the weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from camac_dra.environment import plant
from camac_dra.environment.agreement import PerfectAgreement
from camac_dra.environment.allocation import is_deterministic
from camac_dra.environment.environment import Environment
from camac_dra.environment.vector_api import StepResult
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema.environment import EnvironmentConfig
from camac_dra.utils.schema.objectives import OBJECTIVES, checked_weights
from tests.environment.problems import EVENTFUL, problem, random_actions, sections

WEIGHTED: dict[str, Any] = {
    "reward_function": "weighted",
    "objective_weights": {"service": 0.7, "cost": 2.0, "fairness": 0.4},
    "objective_scales": {"fairness": 50.0},
}
FACTORS = np.array([0.7, 2.0, 20.0])
SAMPLED: dict[str, Any] = {"reward_function": "weighted", "objective_weights": "sampled"}


def steps_of(config: EnvironmentConfig, seed: int = 0, copies: int = 3, **made: Any) -> list[StepResult]:
    """Return the steps of one episode under random actions."""
    env = VectorEnvironment(config, copies, seed, **made)
    env.reset()
    rng = np.random.default_rng(seed)
    return [env.step(random_actions(config, copies, rng)) for _ in range(config.max_episode_length)]


def test_objectives_have_a_documented_order() -> None:
    assert OBJECTIVES == ("service", "cost", "fairness")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    section=sections(),
    credit=st.sampled_from(["individual", "team", "marginal"]),
    weights=st.tuples(*[st.just(0.0) | st.floats(0.01, 10.0)] * 3).filter(any),
    seed=st.integers(0, 2**20),
)
def test_weighted_components_add_up_to_the_reward(section: Any, credit: str, weights: Any, seed: int) -> None:
    if not is_deterministic(section["mechanism"]) and credit == "marginal":
        credit = "team"
    named = dict(zip(OBJECTIVES, weights, strict=True))
    reward = {"reward_function": "weighted", "objective_weights": named, "credit": credit}
    for result in steps_of(EnvironmentConfig.model_validate(section | reward), seed, copies=2):
        np.testing.assert_allclose(
            result.rewards, (result.info["objective_rewards"] * weights).sum(axis=2), rtol=1e-12, atol=1e-12
        )
        earned = result.info["objectives"]
        np.testing.assert_allclose(earned[..., :2].sum(axis=2), result.info["values"], rtol=1e-9, atol=1e-9)
        assert (earned[..., 1] <= 0.0).all()
        assert (result.rewards[~result.active] == 0.0).all()


@pytest.mark.parametrize("credit", ["individual", "team"])
@pytest.mark.parametrize(
    ("reward", "weights"),
    [
        ({"reward_function": "efficiency"}, {"service": 1.0, "cost": 1.0}),
        ({"reward_function": "fairness"}, {"fairness": 1.0}),
        (
            {"reward_function": "hybrid", "hybrid_fairness": 0.25},
            {"service": 0.75, "cost": 0.75, "fairness": 0.25},
        ),
    ],
)
def test_other_reward_functions_are_special_weights(credit: str, reward: Any, weights: Any) -> None:
    known = steps_of(problem(EVENTFUL, credit=credit, **reward))
    weighted = {"reward_function": "weighted", "objective_weights": weights}
    for one, other in zip(known, steps_of(problem(EVENTFUL, credit=credit, **weighted)), strict=True):
        np.testing.assert_allclose(other.rewards, one.rewards, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(other.observations, one.observations)
        for mine, theirs in zip(other.episodes, one.episodes, strict=True):
            assert mine == pytest.approx(theirs)


def test_efficiency_with_marginal_credit_is_service_and_cost_alike() -> None:
    weighted = {"reward_function": "weighted", "objective_weights": {"service": 1.0, "cost": 1.0}}
    known = steps_of(problem(EVENTFUL, credit="marginal"))
    for one, other in zip(known, steps_of(problem(EVENTFUL, credit="marginal", **weighted)), strict=True):
        np.testing.assert_allclose(other.rewards, one.rewards, rtol=1e-9, atol=1e-9)


def test_rewards_of_the_default_problem_are_what_they_were() -> None:
    """Figures of the version before there were several objectives."""
    expected = {
        ("efficiency", "marginal"): (-3199.043719461, -10947.706525287),
        ("efficiency", "individual"): (390.92843995, 4539.619802628),
        ("fairness", "team"): (-0.147872933, -0.858621639),
        ("hybrid", "individual"): (273.605546085, 3177.476275348),
    }
    for (function, credit), (first, total) in expected.items():
        env = VectorEnvironment({"reward_function": function, "credit": credit}, 8, seed=3)
        env.reset()
        rng = np.random.default_rng(0)
        for _ in range(env.episode_length):
            result = env.step(rng.integers(10, size=(8, 10)))
        rewards = [episode["reward"] for episode in result.episodes]
        assert (rewards[0], sum(rewards)) == pytest.approx((first, total), rel=1e-7, abs=1e-6)


def jain_of(served: np.ndarray, demanded: np.ndarray, fair_share: np.ndarray, left_out: int | None) -> float:
    """Return Jain's index of one copy's agents that had demand, from sums (N, R), without one of them."""
    asked, got = (demanded / fair_share).sum(axis=1), (served / fair_share).sum(axis=1)
    ratios = [got[j] / asked[j] for j in range(len(got)) if asked[j] > 0.0 and j != left_out]
    squares = sum(ratio**2 for ratio in ratios)
    return sum(ratios) ** 2 / (len(ratios) * squares) if squares > 0.0 else 1.0


def assert_marginal_by_definition(config: EnvironmentConfig, seed: int, **made: Any) -> None:
    """Play an episode; at every step, ask again for each agent without its request, from the same state, and
    leave each agent out of Jain's index.
    """
    env, again = (VectorEnvironment(config, 2, seed, autoreset=False, **made) for _ in range(2))
    env.reset()
    again.reset()
    rng, share = np.random.default_rng(seed), env.constraints.fair_share
    served = demanded = np.zeros(env.state.pending.shape)  # (B, N, R)
    before = np.zeros((2, env.num_agents))  # what an agent adds to Jain's index
    while not env._over:
        requests = env.requests_from_actions(random_actions(config, 2, rng))  # (B, N, R)
        state, arrivals = env.get_state(), env.state.draw.arrivals
        result = env.step_requests(requests)
        earned, credited = result.info["objectives"], result.info["objective_rewards"]  # (B, N, O)
        served, demanded = served + result.info["served"], demanded + arrivals
        for i in range(env.num_agents):
            again.set_state(state)
            without = requests.copy()
            without[:, i] = 0.0
            gain = again.step_requests(without).info["objectives"] - earned
            gain[:, i] = 0.0
            expected = (earned[:, i] - gain.sum(axis=1)) * result.active[:, i, None]
            for b in range(2):
                adds = jain_of(served[b], demanded[b], share, None) - jain_of(
                    served[b], demanded[b], share, i
                )
                expected[b, 2] = (adds - before[b, i]) * result.active[b].sum() * result.active[b, i]
                before[b, i] = adds
            np.testing.assert_allclose(credited[:, i], expected, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(result.rewards, credited @ FACTORS, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backlog_limit", [None, 0.4])
@pytest.mark.parametrize("num_groups", [1, 3])
def test_the_closed_form_is_the_definition_in_each_objective(
    num_groups: int, backlog_limit: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plant, "general_externality", None)
    config = problem(
        EVENTFUL,
        num_agents=6,
        constraints={"num_groups": num_groups},
        backlog_limit=backlog_limit,
        credit="marginal",
        **WEIGHTED,
    )
    assert_marginal_by_definition(config, seed=4)


@pytest.mark.parametrize(
    "made",
    [{"mechanism": "max_min"}, {"coupling": "leontief"}, {"agreement": PerfectAgreement()}],
    ids=["max_min", "leontief", "agreement"],
)
def test_solving_again_is_the_definition_in_each_objective(made: dict[str, Any]) -> None:
    agreed = {"agreement": made["agreement"]} if "agreement" in made else {}
    section = {} if agreed else made
    assert_marginal_by_definition(problem(EVENTFUL, credit="marginal", **section, **WEIGHTED), 5, **agreed)


def test_a_team_shares_each_objective() -> None:
    for result in steps_of(problem(EVENTFUL, credit="team", **WEIGHTED)):
        earned, active = result.info["objectives"], result.active
        count = np.maximum(active.sum(axis=1), 1)[:, None]
        mean = (earned * active[..., None]).sum(axis=1) / count  # (B, O)
        expected = mean[:, None] * active[..., None]
        np.testing.assert_allclose(result.info["objective_rewards"], expected, rtol=1e-9, atol=1e-12)


def test_episodes_report_the_sum_of_each_objective() -> None:
    steps = steps_of(problem({"load": 2.0}, **WEIGHTED))  # everybody is there, always
    sums = sum(result.info["objectives"].sum(axis=1) for result in steps)  # (B, O)
    for episode, expected in zip(steps[-1].episodes, sums, strict=True):
        got = [episode[f"objective_{name}"] for name in OBJECTIVES]
        np.testing.assert_allclose(got, expected, rtol=1e-9)
        assert episode["reward"] == pytest.approx(float(expected @ FACTORS))


def test_a_face_for_loops_by_hand_shows_what_each_agent_earned() -> None:
    env = Environment(problem(**WEIGHTED))
    env.reset()
    _, rewards, _, info = env.step(dict.fromkeys(env.agent_ids, 4))
    for agent in env.agent_ids:
        assert rewards[agent] == pytest.approx(float(info[agent]["objectives"] @ FACTORS))


# Preferences --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "size"), [("partial", 64), ("full", 66 + 3 * 5), ("graph", None)])
def test_conditioned_observations_hold_the_preference(kind: str, size: int | None) -> None:
    config = problem(EVENTFUL, observation_type=kind, **SAMPLED)
    env = VectorEnvironment(config, 5)
    observations = env.reset()
    plain = problem(EVENTFUL, observation_type=kind)
    own = VectorEnvironment(plain, 5)._observer._own.size  # type: ignore[attr-defined]
    assert size is None or observations.shape[-1] >= own + 3
    for _ in range(14):  # into the second episode
        rows = observations[:, :, 0] if kind == "graph" else observations  # (B, N, F)
        assert env.preferences is not None
        expected = np.repeat(env.preferences[:, None], env.num_agents, axis=1)
        np.testing.assert_allclose(rows[:, :, own : own + 3], expected, rtol=1e-6)
        observations = env.step(random_actions(config, 5, np.random.default_rng(0))).observations


def test_all_else_is_as_without_preferences() -> None:
    config, plain = problem(EVENTFUL, **SAMPLED), problem(EVENTFUL)
    for one, other in zip(steps_of(config), steps_of(plain), strict=True):
        for name in ("grants", "served", "price", "values"):
            np.testing.assert_array_equal(one.info[name], other.info[name])
        np.testing.assert_array_equal(one.observations[..., :21], other.observations[..., :21])


def test_preferences_are_drawn_per_episode_from_the_seed() -> None:
    def drawn(seed: int) -> list[np.ndarray]:
        env = VectorEnvironment(problem(**SAMPLED), 4, seed)
        found = []
        for _ in range(3):
            env.reset()
            assert env.preferences is not None
            found.append(env.preferences)
        return found

    first, again, other = drawn(1), drawn(1), drawn(2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len({row.tobytes() for batch in first for row in batch}) == 12
    np.testing.assert_allclose(np.sum(first, axis=-1), 1.0)


@pytest.mark.parametrize(("concentration", "low", "high"), [(None, 0.3, 0.45), (50.0, 0.0, 0.01)])
def test_the_concentration_says_how_far_preferences_spread(
    concentration: float | None, low: float, high: float
) -> None:
    env = VectorEnvironment(problem(objective_concentration=concentration, **SAMPLED), 2000)
    env.reset()
    assert env.preferences is not None
    extreme = (env.preferences.max(axis=1) > 0.7).mean()  # 3 * 0.3**2 = 0.27 where uniform
    assert low - 0.06 <= extreme <= high


def test_a_preference_is_set_from_the_next_reset_on() -> None:
    env = VectorEnvironment(problem(**SAMPLED), 3)
    env.reset()
    before = env.preferences
    env.set_preference({"service": 1.0, "fairness": 3.0})
    np.testing.assert_array_equal(env.preferences, before)
    env.reset()
    np.testing.assert_array_equal(env.preferences, [[0.25, 0.0, 0.75]] * 3)
    env.set_preference([0.0, 2.0, 0.0])
    env.reset()
    np.testing.assert_array_equal(env.preferences, [[0.0, 1.0, 0.0]] * 3)
    env.set_preference(None)
    env.reset()
    assert env.preferences is not None
    assert len(np.unique(env.preferences, axis=0)) == 3


def test_preferences_survive_a_snapshot() -> None:
    config = problem(EVENTFUL, credit="marginal", **SAMPLED)
    env, other = VectorEnvironment(config, 3, seed=1), VectorEnvironment(config, 3, seed=2)
    env.reset()
    other.reset()
    for _ in range(4):
        env.step(np.full((3, 4), 5))
    other.set_state(env.get_state())
    for _ in range(20):
        one, two = env.step(np.full((3, 4), 5)), other.step(np.full((3, 4), 5))
        np.testing.assert_array_equal(one.rewards, two.rewards)
        np.testing.assert_array_equal(one.observations, two.observations)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"service": -1.0}, r"service: must be a finite number from 0, got -1.0"),
        ({"cost": math.nan}, r"cost: must be a finite number from 0, got nan"),
        ({"cost": math.inf}, r"cost: must be a finite number from 0, got inf"),
        ({"cost": True}, r"cost: must be a finite number from 0, got True"),
        ({"servce": 1.0}, r"must be of service, cost, fairness, got 'servce'\. Did you mean 'service'\?"),
        ({}, r"one of service, cost, fairness must be above 0, got 0 for all"),
        ([0.0, 0.0, 0.0], r"one of service, cost, fairness must be above 0, got 0 for all"),
        ([1.0, 2.0], r"must be 3 numbers \(service, cost, fairness\), got 2"),
    ],
)
def test_wrong_preferences_are_refused(weights: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        checked_weights(weights)
    env = VectorEnvironment(problem(**SAMPLED), 1)
    with pytest.raises(ConfigurationError, match=message):
        env.set_preference(weights)


def test_a_preference_that_nobody_sees_is_refused() -> None:
    env = VectorEnvironment(problem(**WEIGHTED), 1)
    with pytest.raises(ConfigurationError, match=r"acts only with environment.objective_weights 'sampled'"):
        env.set_preference({"service": 1.0})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"reward_function": "weighted"}, "objective_weights: is needed with reward_function 'weighted'"),
        ({"objective_weights": "sampled"}, "objective_weights: acts only with reward_function 'weighted'"),
        ({"objective_scales": {}}, "objective_scales: acts only with reward_function 'weighted'"),
        ({**WEIGHTED, "objective_concentration": 1.0}, "acts only with objective_weights 'sampled'"),
        ({**SAMPLED, "reward_fn": "a.b", "credit": "team"}, "takes the place of reward_function 'weighted'"),
        ({**WEIGHTED, "mechanism": "weighted_random", "credit": "marginal"}, "needs a deterministic mech"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        problem(**section)
