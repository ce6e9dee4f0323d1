"""Evaluation: the same episodes for all, shares and intervals as defined, tables that say what is unknown."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from camac_dra.environment.agreement import Agreement
from camac_dra.environment.oracle import record_episodes, solve_oracle
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.heuristics import HEURISTICS
from camac_dra.training.evaluation import (
    Comparison,
    EvaluationResult,
    Reference,
    compare,
    evaluate,
    reference_points,
    summarise,
)
from camac_dra.training.evaluation_table import render_table
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema.environment import EnvironmentConfig
from tests.environment.problems import problem

SEED, EPISODES = 11, 3


def result(efficiency: list[float], name: str = "some", **measures: list[float]) -> EvaluationResult:
    episodes = {"efficiency": np.array(efficiency), **{key: np.array(row) for key, row in measures.items()}}
    return EvaluationResult(name, "alone", episodes, rounds=0, messages=0, seconds=1.0)


class ByObservation:
    """Asks for a share of what is pending that it reads off its observations, as a trained policy does."""

    name = "ppo"

    def __init__(self, agreement: Agreement | None = None) -> None:
        self.agreement = agreement

    def begin(self, env: VectorEnvironment) -> None:
        self.decisions = 0

    def requests(self, env: VectorEnvironment) -> np.ndarray:
        # The first column is the new demand of the first resource, in fair shares.
        new = env.state.draw.arrivals[..., 0] / env.constraints.fair_share[:, 0]
        np.testing.assert_allclose(env.observations[..., 0], new, rtol=1e-5)
        self.decisions += 1
        return env.askable() * np.minimum(env.observations[..., :1], 1.0)


# Playing -----------------------------------------------------------------------------------------


def test_evaluation_plays_the_episodes_that_follow_the_seed() -> None:
    config = problem()
    env = VectorEnvironment(config, EPISODES, autoreset=False)
    env.reset(SEED)
    while True:
        played = env.step_requests(env.askable())
        if played.episodes:
            break
    evaluated = evaluate(HEURISTICS["greedy"](), config, EPISODES, SEED)
    assert evaluated.name == "greedy"
    assert set(evaluated.episodes) == {*played.episodes[0], "overload"}
    for name in played.episodes[0]:
        np.testing.assert_array_equal(
            evaluated.episodes[name], [episode[name] for episode in played.episodes]
        )
    assert (
        evaluated.efficiency != evaluate(HEURISTICS["greedy"](), config, EPISODES, SEED + 1).efficiency
    ).all()


def test_the_reward_is_that_before_credit() -> None:
    marginal = problem(credit="marginal", action_type="discrete")
    evaluated = evaluate(HEURISTICS["greedy"](), marginal, EPISODES, SEED)
    np.testing.assert_allclose(evaluated.episodes["reward"], evaluated.efficiency)
    fair = evaluate(HEURISTICS["greedy"](), problem(reward_function="fairness"), EPISODES, SEED)
    assert (fair.episodes["reward"] != fair.efficiency).all()


def test_a_trained_policy_acts_on_observations_under_its_agreement() -> None:
    config = problem()
    policy = ByObservation()
    alone = evaluate(policy, config, EPISODES, SEED)
    assert policy.decisions == config.max_episode_length
    assert (alone.name, alone.decides, alone.rounds, alone.messages) == ("ppo", "alone", 0, 0)
    agreement = HEURISTICS["greedy_agreed"]().agreement
    agreed = evaluate(ByObservation(agreement), config, EPISODES, SEED)
    assert (agreed.decides, agreed.rounds) == ("together", 1)
    assert (agreed.episodes["conflict_rate"] == 0.0).all()
    assert (alone.episodes["conflict_rate"] > 0.0).any()


def test_a_central_planner_hears_and_answers_everybody() -> None:
    evaluated = evaluate(HEURISTICS["myopic"](), problem(), 1, SEED)
    assert (evaluated.decides, evaluated.rounds, evaluated.messages) == ("centrally", 2, 8)


# Shares ------------------------------------------------------------------------------------------


def test_shares_are_of_sums_and_of_episodes() -> None:
    reference = Reference(fair_share=np.array([2.0, 4.0]), optimum=np.array([10.0, 20.0]))
    row = summarise([result([4.0, 20.0], jain=[0.5, 1.0])], reference)
    assert row.share_of_oracle == pytest.approx(24.0 / 30.0)
    assert row.mean_episode_share == pytest.approx((0.4 + 1.0) / 2)
    assert row.normalised_share == pytest.approx((24.0 - 6.0) / (30.0 - 6.0))
    assert row.measures == pytest.approx({"efficiency": 12.0, "jain": 0.75})


def test_an_episode_without_anything_to_earn_has_no_share() -> None:
    reference = Reference(fair_share=np.array([-3.0, 1.0]), optimum=np.array([-2.0, 4.0]))
    row = summarise([result([-2.5, 2.0])], reference)
    assert row.mean_episode_share == pytest.approx(0.5)
    assert row.share_of_oracle == pytest.approx(-0.25)
    hopeless = Reference(fair_share=np.array([-3.0]), optimum=np.array([-2.0]))
    row = summarise([result([-2.5])], hopeless)
    assert (row.share_of_oracle, row.mean_episode_share, row.interval) == (None, None, None)
    assert row.normalised_share == pytest.approx(0.5)


def test_the_interval_is_over_episodes_of_one_run_and_over_runs_of_several() -> None:
    reference = Reference(fair_share=np.zeros(8), optimum=np.full(8, 10.0))
    efficiency = np.arange(1.0, 9.0)
    one = summarise([result(list(efficiency))], reference)
    assert one.runs == 1
    assert one.interval is not None
    assert one.interval.estimate == pytest.approx(0.45)  # the middle half: 3, 4, 5, 6
    assert one.interval.low < 0.4 < 0.5 < one.interval.high
    alike = summarise([result(list(efficiency))] * 5, reference)
    assert alike.runs == 5
    assert alike.interval is not None
    assert alike.interval.estimate == pytest.approx(0.45)
    assert alike.interval.low == pytest.approx(alike.interval.high)  # runs that do not differ


def test_policies_of_one_name_share_a_row() -> None:
    reference = Reference(np.zeros(EPISODES), np.ones(EPISODES))
    policies = [
        ByObservation(),
        HEURISTICS["greedy"](),
        ByObservation(),
    ]
    comparison = compare(policies, problem(), EPISODES, SEED, reference)
    assert list(comparison.rows) == ["ppo", "greedy"]
    assert comparison.rows["ppo"].runs == 2


# Comparing ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared() -> tuple[EnvironmentConfig, Comparison]:
    config = problem()
    return config, compare([make() for make in HEURISTICS.values()], config, EPISODES, SEED)


def test_all_are_measured_against_the_same_optimum(compared: Any) -> None:
    config, comparison = compared
    solution = solve_oracle(config, record_episodes(config, EPISODES, SEED))
    np.testing.assert_allclose(comparison.reference.optimum, solution.efficiency)
    np.testing.assert_array_equal(
        comparison.reference.fair_share,
        evaluate(HEURISTICS["fair_share"](), config, EPISODES, SEED).efficiency,
    )
    assert comparison.rows["fair_share"].normalised_share == pytest.approx(0.0)
    for row in comparison.rows.values():
        assert row.share_of_oracle <= 1.0
        assert row.share_of_oracle == pytest.approx(
            row.measures["efficiency"] / np.mean(comparison.reference.optimum)
        )


def test_a_comparison_is_plain_values(compared: Any) -> None:
    _, comparison = compared
    data = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert data["num_episodes"] == EPISODES
    assert [row["name"] for row in data["rows"]] == list(HEURISTICS)
    assert data["rows"][0]["measures"]["lost_share"] > 0.0
    assert data["rows"][0]["interval"]["level"] == 0.95


def printed(comparison: Comparison, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(render_table(comparison, **options))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_has_a_line_for_each_policy(compared: Any) -> None:
    _, comparison = compared
    text = printed(comparison, highlight="price")
    lines = {line.split("│")[1].strip(): line for line in text.splitlines() if line.startswith("│")}
    assert list(lines) == list(HEURISTICS)
    share = comparison.rows["price"].share_of_oracle
    assert f"{100 * share:.1f} %" in lines["price"]
    assert "centrally" in lines["myopic"]
    assert "3 held-out episodes, seed 11" in text
    assert "clairvoyant optimum is" in text
    assert "myopic is told who leaves with this step, which agents are not." in text
    assert text.count("is told") == 1


def test_the_table_says_how_far_the_optimum_is_known() -> None:
    exact = Reference(fair_share=np.zeros(1), optimum=np.ones(1))
    row = summarise([evaluate(HEURISTICS["greedy"](), problem(), 1, SEED)], exact)
    loose = Reference(fair_share=np.zeros(1), optimum=np.ones(1), gap=0.034)
    assert "at most 3.4 % too high" in printed(Comparison({"greedy": row}, loose, 1, SEED))
    assert "too high" not in printed(Comparison({"greedy": row}, exact, 1, SEED))


def test_without_an_optimum_the_table_says_why() -> None:
    config = problem(coupling="leontief")
    reference = reference_points(config, 1, SEED)
    assert reference.optimum is None
    comparison = compare([HEURISTICS["greedy"]()], config, 1, SEED, reference)
    row = comparison.rows["greedy"]
    assert (row.share_of_oracle, row.normalised_share, row.interval) == (None, None, None)
    assert comparison.to_dict()["optimum"] is None
    text = printed(comparison)
    assert "No optimum: environment.backlog_limit" in text
    assert "–" in text


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="policies must be at least one, got none"):
        compare([], problem(), 1, SEED)
    with pytest.raises(ConfigurationError, match="num_envs must be at least 1, got 0"):
        evaluate(HEURISTICS["greedy"](), problem(), 0, SEED)
