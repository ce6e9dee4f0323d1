"""Agents train, are judged and go on with the coordination that is configured."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest

from camac_dra.coordination import make_agreement
from camac_dra.coordination.agreements import AveragingAgreement
from camac_dra.environment.agreement import PerfectAgreement
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.heuristics import HEURISTICS
from camac_dra.training.environments import EnvironmentFactory
from camac_dra.training.evaluation import compare, evaluate
from camac_dra.training.experiment import Experiment
from camac_dra.training.held_out import held_out_measures
from camac_dra.training.policy import TrainedPolicy
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema import Config, CoordinationConfig
from tests.training.small_runs import SignalAfter, assert_same_training, resume, train

CONSENSUS = {"coordination.protocol": "distributed_consensus", "coordination.objective": "weighted"}
SEED = 7


@pytest.fixture
def agreed(small: Any) -> Config:
    """The small problem under consensus with a price."""
    return small(**{name.replace(".", "__"): value for name, value in CONSENSUS.items()})


def test_training_samples_under_the_protocol(agreed: Config) -> None:
    factory = EnvironmentFactory(agreed.environment, agreed.coordination, agreed.training.deferral_price)
    env = pickle.loads(pickle.dumps(factory))(3, SEED)
    assert isinstance(env.agreement, AveragingAgreement)
    env.reset()
    result = env.step_requests(env.askable())
    assert (result.info["load"] <= 1.0 + 1e-9).all()
    assert EnvironmentFactory(agreed.environment)(1, SEED).agreement is None


def test_runs_are_chosen_judged_and_resumed_under_the_protocol(agreed: Config) -> None:
    with Experiment.start(agreed) as experiment:
        agreement: Any = experiment.algorithm.env_runner.env.agreement
        assert isinstance(agreement, AveragingAgreement)
        experiment.train()
        rows = experiment.judge(["greedy", "fair_share", "myopic"]).comparison.rows
        path = experiment.run.path
        live = TrainedPolicy.from_algorithm(experiment.algorithm)
    for name in ("trained", "greedy", "fair_share"):
        row = rows[name]
        assert (row.decides, row.rounds, row.messages) == ("together", agreement.rounds, agreement.messages)
        assert row.bytes == agreement.bytes > 0
        assert row.measures["overload"] == 0.0
    assert (rows["myopic"].decides, rows["myopic"].rounds) == ("centrally", 2)
    written = json.loads((path / "comparison.json").read_text())
    assert [row["messages"] for row in written["rows"]][:2] == [agreement.messages] * 2
    alone = agreed.model_copy(update={"coordination": CoordinationConfig()})
    assert held_out_measures(agreed, live)["overload"] == 0.0 < held_out_measures(alone, live)["overload"]
    with pytest.raises(ConfigurationError, match=r"--coordination\.protocol: cannot be changed"):
        resume(path, coordination__protocol="gossip")


def test_a_run_that_goes_on_agrees_as_before(small: Any) -> None:
    settings = {"coordination__protocol": "gossip", "coordination__message_loss": 0.2}
    settings |= {"coordination__rounds": 4, "training__name": "whole", "training__num_episodes": 16}
    _, whole = train(small(**settings))
    _, cut = train(small(**settings | {"training__name": "cut"}), SignalAfter(2))
    resume(cut)
    assert_same_training(whole, cut)


def test_evaluation_takes_the_coordination_of_a_whole_configuration(agreed: Config) -> None:
    greedy = HEURISTICS["greedy"]()
    together = evaluate(greedy, agreed, 2, SEED)
    assert (together.decides, together.episodes["overload"].tolist()) == ("together", [0.0, 0.0])
    as_given = evaluate(greedy, agreed.environment, 2, SEED, make_agreement(agreed))
    np.testing.assert_array_equal(together.efficiency, as_given.efficiency)
    raw = {"environment": agreed.environment.model_dump(), "coordination": agreed.coordination.model_dump()}
    np.testing.assert_array_equal(evaluate(greedy, raw, 2, SEED).efficiency, together.efficiency)
    alone = evaluate(greedy, agreed.environment, 2, SEED)
    assert alone.decides == "alone"
    assert (alone.episodes["overload"] > 0.0).all()
    assert (alone.rounds, alone.messages, alone.bytes) == (0, 0, 0)


def test_policies_keep_an_agreement_of_their_own(agreed: Config) -> None:
    result = evaluate(HEURISTICS["greedy_agreed"](), agreed, 2, SEED)
    assert (result.rounds, result.messages) == (PerfectAgreement.rounds, PerfectAgreement.messages)


def test_references_of_a_comparison_are_the_problems_own(agreed: Config) -> None:
    policies = [HEURISTICS["greedy"]()]
    together = compare(policies, agreed, 2, SEED)
    alone = compare(policies, agreed.environment, 2, SEED)
    np.testing.assert_array_equal(together.reference.fair_share, alone.reference.fair_share)
    assert together.rows["greedy"].share_of_oracle > alone.rows["greedy"].share_of_oracle  # type: ignore[operator]


@pytest.mark.parametrize("protocol", ["centralized", "distributed_consensus", "gossip"])
@pytest.mark.parametrize("objective", ["proportional", "weighted", "max_weight"])
def test_every_protocol_serves_greed_as_the_perfect_agreement_does(protocol: str, objective: str) -> None:
    config = build_config(
        None,
        {
            "coordination.protocol": protocol,
            "coordination.objective": objective,
            "environment.max_episode_length": 50,
        },
    )
    perfect = evaluate(HEURISTICS["greedy_agreed"](), config, 2, SEED).efficiency.sum()
    greedy = evaluate(HEURISTICS["greedy"](), config, 2, SEED).efficiency.sum()
    assert greedy >= 0.98 * perfect


def test_deferring_moves_rewards_but_no_measure(small: Any) -> None:
    environment = small(environment__credit="individual").environment
    plain, deferring = (EnvironmentFactory(environment, deferral_price=p)(2, SEED) for p in (None, 0.9))
    for env in (plain, deferring):
        env.reset(SEED)
    shares = plain.constraints.fair_share * plain.num_resources  # (N, R)
    due = np.maximum(plain.state.weights - 0.9, 0.0)[..., None] / shares  # (B, N, R)
    for _ in range(plain.episode_length):
        first, second = (env.step_requests(0.6 * env.askable()) for env in (plain, deferring))
        gone = first.info["served"] + first.info["lost"]
        np.testing.assert_allclose(second.rewards, first.rewards - (due * gone).sum(axis=2), atol=1e-12)
        np.testing.assert_array_equal(first.info["values"], second.info["values"])
    for one, other in zip(first.episodes, second.episodes, strict=True):
        assert {**one, "reward": 0.0} == {**other, "reward": 0.0}
        assert one["reward"] != other["reward"]


def test_deferring_gives_marginal_credit_of_what_it_rewards(small: Any) -> None:
    """What the others gain without an agent is counted as they are rewarded for it."""
    environment = small(environment__credit="marginal", environment__contention=0.0).environment
    env = EnvironmentFactory(environment, deferral_price=0.9)(1, SEED)
    alone = VectorEnvironment(environment.model_copy(update={"credit": "individual"}), 1, SEED)
    for one in (env, alone):
        one.reset(SEED)
    alone.set_deferral_price(0.9)
    alone.reset(SEED)
    requests = 3.0 * np.broadcast_to(env.state.fair_share, env.askable().shape)
    base = env.get_state()
    result = env.step_requests(requests)
    own = alone.step_requests(requests).rewards[0]
    for agent in range(env.num_agents):
        without = requests.copy()
        without[0, agent] = 0.0
        alone.set_state(base)
        others = alone.step_requests(without).rewards[0]
        gain = np.delete(others - own, agent).sum()
        assert result.rewards[0, agent] == pytest.approx(own[agent] - gain, abs=1e-9)


def test_deferring_needs_the_efficiency_as_reward() -> None:
    settings = {"training.deferral_price": 0.9, "environment.reward_function": "fairness"}
    with pytest.raises(ConfigurationError, match=r"training\.deferral_price: acts only with .* got 0\.9"):
        build_config(None, settings)
    with pytest.raises(ConfigurationError, match=r"training\.deferral_price: .* got -1"):
        build_config(None, {"training.deferral_price": -1.0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"objective": "weighted"},
            r"coordination\.objective: has no effect with protocol 'none', got 'weighted'",
        ),
        ({"rounds": 3}, r"coordination\.rounds: has no effect with protocol 'none', got 3"),
        ({"message_loss": 0.1}, r"coordination\.message_loss: has no effect .* got 0\.1"),
        ({"message_delay": 1}, r"coordination\.message_delay: has no effect .* got 1"),
        ({"protocol": "centralized", "rounds": 3}, r"rounds: must be a multiple of 2 .* got 3"),
        (
            {"protocol": "centralized", "rounds": 4, "message_delay": 2},
            r"rounds: must be a multiple of 6 .* got 4",
        ),
        ({"protocol": "gossip", "rounds": 2, "message_delay": 2}, r"must be above message_delay 2: .* got 2"),
        ({"protocol": "gossip", "message_loss": 1.0}, r"coordination\.message_loss: .* got 1"),
        ({"protocol": "gossip", "objective": "max_min"}, r"coordination\.objective: .* got 'max_min'"),
        ({"protocol": "concensus"}, r"coordination\.protocol: .* Did you mean 'distributed_consensus'"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_config(None, {f"coordination.{name}": value for name, value in settings.items()})


def test_the_file_of_the_trained_policy_means_what_it_says(root: Any) -> None:
    config = build_config(root / "rllib_configs" / "consensus.yaml", {})
    assert config.coordination.protocol == "distributed_consensus"
    assert config.training.deferral_price is not None
    defaults = build_config(None, {})
    changed = {"credit", "action_type", "max_multiple"}
    assert config.environment.model_dump(exclude=changed) == defaults.environment.model_dump(exclude=changed)
