"""Each action component is credited with what its own resource brings, by every kind of network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from camac_dra.environment import Environment
from camac_dra.environment.vector_api import StepResult
from camac_dra.models import PolicyNetwork
from camac_dra.models.distributions import ActionHead, factored_head, make_action_head
from camac_dra.models.policy_loading import load_policy
from camac_dra.training import Trainer
from camac_dra.training.advantages import generalized_advantages
from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.environments import EnvironmentFactory
from camac_dra.training.evaluation import evaluate
from camac_dra.training.experiment import Experiment
from camac_dra.training.losses import LossTerm, LossWeights, policy_term, value_term
from camac_dra.training.policy import TrainedPolicy
from camac_dra.training.ray_session import build_algorithm
from camac_dra.training.settings import PPOSettings
from camac_dra.training.train_batch import counted
from camac_dra.training.training_loop import Status
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema import Config
from experiments.games.matrix_games import FixedLengthEnvironment
from tests.training.small_runs import SignalAfter, assert_same_training, metrics_of, resume, train
from tests.training.test_networks_of_all_kinds import LEAVING, config_of

ROWS, SIZES = 40, [2, 5, 3]
KINDS = [
    "policy_gradient",
    "custom",
    "gru",
    "gru_centralized",
    "attention_centralized",
    "per_agent_gnn",
    "by_group",
]


def factored(kind: str, folder: Path, leaving: bool = False, resources: int = 2, **training: Any) -> Config:
    plain = config_of(kind, folder).model_dump()
    environment = {**plain["environment"], "action_type": "multi_discrete", "num_resources": resources}
    if leaving:
        environment["dynamics"] = LEAVING
    options = {"factored_credit": True, **training}
    return Config.model_validate(
        {**plain, "environment": environment, "training": {**plain["training"], **options}}
    )


# The loss


def reference_loss(
    logits: torch.Tensor, values: torch.Tensor, given: dict[str, torch.Tensor], weights: LossWeights
) -> torch.Tensor:
    """PPO of each component by itself, differentiated by torch; ``logits`` are (C * W, rows)."""
    total, width = torch.zeros(()), max(SIZES)
    for c, size in enumerate(SIZES):
        own = torch.distributions.Categorical(logits=logits[c * width : c * width + size].t())
        log_prob, advantage = own.log_prob(given["actions"][:, c]), given["advantages"][:, c]
        ratio = (log_prob - given["log_probs"][:, c]).exp()
        if weights.clip_param is None:
            gain = advantage * log_prob
        else:
            clipped = ratio.clamp(1.0 - weights.clip_param, 1.0 + weights.clip_param)
            gain = torch.minimum(advantage * ratio, advantage * clipped)
        error = (values[:, c] - given["targets"][:, c]).square().clamp(max=weights.value_clip)
        total = total - gain.mean() - weights.entropy_coeff * own.entropy().mean()
        total = total + weights.value_loss_coeff * error.mean() / len(SIZES)
    return total


def terms_of(
    head: ActionHead, logits: torch.Tensor, values: torch.Tensor, given: Any, weights: LossWeights
) -> tuple[LossTerm, LossTerm]:
    rest = {name: column for name, column in given.items() if name != "targets"}
    policy = policy_term(head.distribution(logits.detach()), **rest, weights=weights)
    return policy, value_term(values.detach(), given["targets"], weights)


@pytest.mark.parametrize("value_clip", [float("inf"), 0.7])
@pytest.mark.parametrize("clip_param", [0.2, None])
def test_loss_and_gradients_are_those_of_each_component(clip_param: float | None, value_clip: float) -> None:
    head = factored_head(spaces.MultiDiscrete(SIZES))
    logits = torch.randn(head.num_outputs, ROWS, requires_grad=True)
    values = torch.randn(ROWS, len(SIZES), requires_grad=True)
    actions, log_probs = head.distribution(logits.detach()).sample(torch.Generator().manual_seed(0))
    cells = (ROWS, len(SIZES))
    given = {
        "actions": actions,
        "log_probs": log_probs + 0.4 * torch.randn(cells),  # ratios within and beyond the clip range
        "advantages": torch.randn(cells),
        "targets": torch.randn(cells),
    }
    weights = LossWeights(clip_param, value_clip, 0.5, 0.05)
    loss = reference_loss(logits, values, given, weights)
    expected = torch.autograd.grad(loss, [logits, values])
    policy, value = terms_of(head, logits, values, given, weights)
    assert policy.loss + value.loss == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close((policy.gradient, value.gradient), expected, rtol=1e-4, atol=1e-6)


def test_log_probabilities_are_the_parts_of_the_joint_one() -> None:
    space = spaces.MultiDiscrete(SIZES)
    one, other = make_action_head(space), factored_head(space)
    logits = torch.randn(one.num_outputs, ROWS)
    drawn = [h.distribution(logits).sample(torch.Generator().manual_seed(3)) for h in (one, other)]
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert drawn[1][1].shape == (ROWS, len(SIZES))
    torch.testing.assert_close(drawn[1][1].sum(1), drawn[0][1])
    torch.testing.assert_close(other.distribution(logits).log_prob(drawn[1][0]), drawn[1][1])


def test_one_component_is_credited_as_ever() -> None:
    space, weights = spaces.MultiDiscrete([4]), LossWeights(0.2, 0.7, 0.5, 0.05)
    heads, logits = (make_action_head(space), factored_head(space)), torch.randn(4, ROWS)
    actions, log_probs = heads[0].distribution(logits).sample(torch.Generator().manual_seed(0))
    arrays = [log_probs + 0.4 * torch.randn(ROWS), *torch.randn(3, ROWS)]
    names = ("log_probs", "advantages", "targets")
    plain, own = (
        terms_of(head, logits, values, {"actions": actions, **dict(zip(names, rest, strict=True))}, weights)
        for head, (*rest, values) in zip(heads, (arrays, [a[:, None] for a in arrays]), strict=True)
    )
    torch.testing.assert_close(own[0].gradient, plain[0].gradient)
    torch.testing.assert_close(own[1].gradient[:, 0], plain[1].gradient)
    for one, other in zip(own, plain, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.figures == pytest.approx(other.figures, rel=1e-5)


def test_training_with_one_resource_is_what_it_was(tmp_path: Path) -> None:
    runs = [
        train(factored("gru", tmp_path, resources=1, name=str(wanted), factored_credit=wanted))[1]
        for wanted in (False, True)
    ]
    first, second = (TrainedPolicy.load(run)._modules[0].policy.state_dict() for run in runs)
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=1e-3, atol=1e-4)


# Advantages


@pytest.mark.parametrize("present", [1.0, 0.6])
def test_advantages_of_a_component_come_from_its_own_rewards_and_values(present: float) -> None:
    rng = np.random.default_rng(0)
    T, B, N, C = 9, 2, 3, 4
    done = rng.random((T, B)) < 0.2
    rewards, values = rng.normal(size=(T, B, N, C)), rng.normal(size=(T + 1, B, N, C))
    finals = rng.normal(size=(int(done.sum()), N, C))
    active = rng.random((T, B, N)) < present
    terminated = (rng.random((T, B, N)) < 0.1) & active
    rest = (terminated, done, active)
    found = generalized_advantages(rewards, values, finals, *rest, gamma=0.9, gae_lambda=0.8)
    assert found.shape == rewards.shape
    for c in range(C):
        own = (rewards[..., c], values[..., c], finals[..., c])
        expected = generalized_advantages(*own, *rest, gamma=0.9, gae_lambda=0.8)
        np.testing.assert_allclose(found[..., c][active], expected[active], rtol=1e-6)


def test_advantages_are_centred_by_component_and_scaled_together(tmp_path: Path) -> None:
    with Experiment.start(factored("gru", tmp_path, leaving=True)) as experiment:
        algorithm = experiment.algorithm
        fragment = algorithm.env_runner_group.local_env_runner.sample()
        assert fragment.rewards.shape == (*fragment.active.shape, 2) == fragment.log_probs.shape
        (columns,) = algorithm._columns([fragment]).values()
        advantages = counted(columns, "advantages")
        assert advantages.shape == (fragment.agent_steps, 2)
        torch.testing.assert_close(advantages.mean(0), torch.zeros(2), atol=1e-5, rtol=0.0)
        assert float(advantages.square().mean()) == pytest.approx(1.0, rel=1e-4)


# Training


class OneComponentEarns(FixedLengthEnvironment):
    """One agent with two components: the first earns 1 by its level 2, and the second nothing but noise."""

    def __init__(self, num_envs: int, seed: int, noise: float = 30.0, split: bool = True) -> None:
        self.noise, self.split = noise, split
        super().__init__(num_envs, seed, num_agents=1, observation_shape=(1,), num_actions=3, length=4)
        self.single_action_space: Any = spaces.MultiDiscrete([3, 3])

    def _draw(self) -> np.ndarray:
        return np.zeros(self.num_envs)

    def _observe(self) -> np.ndarray:
        return np.ones((self.num_envs, 1, 1), np.float32)

    def _play(self, actions: np.ndarray) -> np.ndarray:
        return (actions == 2).astype(float)

    def step(self, actions: np.ndarray) -> StepResult:
        self.single_action_space = spaces.Discrete(3)  # what the game itself takes
        result = super().step(actions[..., 0])
        self.single_action_space = spaces.MultiDiscrete([3, 3])
        noise = self.noise * self.rng.normal(size=result.rewards.shape)
        by_resource = np.stack([result.rewards, noise], axis=-1)
        result.rewards = by_resource.sum(axis=-1)
        result.rewards_by_resource = by_resource if self.split else None
        return result


def learned(folder: Path, wanted: bool) -> float:
    """Return how likely the first component's level 2 has become."""
    settings = PPOSettings(
        num_envs=16,
        fragment_length=8,
        hidden_sizes=(8,),
        learning_rate=1e-2,
        entropy_coeff=0.0,
        batch_size=64,
        factored_credit=wanted,
    )
    algorithm = build_algorithm(build_algorithm_config(OneComponentEarns, settings), folder)
    for _ in range(60):
        algorithm.train()
    module = algorithm.learner.actor_critic("shared")
    with torch.no_grad():
        logits = module.distribution_inputs(torch.ones(1, 1))[:3, 0]
    algorithm.stop()
    return float(logits.softmax(0)[2])


def test_a_component_learns_whatever_the_others_earn(tmp_path: Path) -> None:
    assert learned(tmp_path, True) > 0.95
    assert learned(tmp_path, False) < 0.8  # the noise of the other one drowns it


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_goes_on_to_the_bit_and_acts_as_saved(kind: str, tmp_path: Path) -> None:
    leaving = kind in ("gru", "by_group")
    config = factored(kind, tmp_path, leaving, name="whole")
    status, whole = train(config)
    assert status is Status.COMPLETE
    status, stopped = train(factored(kind, tmp_path, leaving, name="stopped"), SignalAfter(4))
    assert status is Status.INTERRUPTED
    assert resume(stopped)[0] is Status.COMPLETE
    assert_same_training(whole, stopped)
    trained, loaded = TrainedPolicy.load(whole), load_policy(whole)
    observations = EnvironmentFactory(config.environment)(1, 5).reset(5)
    actions = trained.actions(observations)
    np.testing.assert_array_equal(loaded.act_many(observations[0]), actions[0])
    assert np.isfinite(evaluate(trained, config, 2, 7).efficiency).all()


@pytest.mark.parametrize("kind", KINDS)
def test_learning_sees_what_sampling_saw(kind: str, tmp_path: Path) -> None:
    with Experiment.start(factored(kind, tmp_path)) as experiment:
        algorithm = experiment.algorithm
        runner = algorithm.env_runner_group.local_env_runner
        runner.sample()
        for module_id, columns in algorithm._columns([runner.sample()]).items():
            module = algorithm.learner.actor_critic(module_id)
            with torch.no_grad():
                outputs = module.forward_train(columns)
            rows = module.counted(columns)
            distribution = module.head.distribution(outputs["action_dist_inputs"].t())
            found = distribution.log_prob(rows["actions"])
            torch.testing.assert_close(found, rows["action_logp"], rtol=1e-4, atol=1e-5)
            values = module.compute_values(rows, embeddings=outputs["embeddings"])
            assert values.shape == rows["advantages"].shape == rows["value_targets"].shape == found.shape


@pytest.mark.ray
def test_it_samples_ahead_and_learns_in_other_processes(ray_cluster: Any, tmp_path: Path) -> None:
    status, run = train(factored("gru", tmp_path, num_workers=1, num_learners=2, num_episodes=8))
    assert status is Status.COMPLETE
    assert np.isfinite(metrics_of(run)["curves"]["policy_loss"]).all()


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"environment.action_type": "discrete"}, r"environment\.action_type: must be 'multi_discrete'"),
        ({"environment.reward_function": "hybrid"}, r"environment\.reward_function: must be 'efficiency'"),
        (
            {"environment.reward_fn": "numpy.mean"},
            r"environment\.reward_fn: must be null .* got 'numpy\.mean'",
        ),
        (
            {"environment.coupling": "leontief"},
            r"environment\.coupling: must be 'additive' .* got 'leontief'",
        ),
        ({"training.sampler": "stock"}, r"training\.sampler: must be 'array' .* got 'stock'"),
        ({"model.type": "dqn"}, r"training\.factored_credit: must be false or null with model\.type 'dqn'"),
    ],
)
def test_what_it_does_not_go_with_is_refused(settings: dict[str, Any], message: str) -> None:
    given = {"environment.action_type": "multi_discrete", "training.factored_credit": True}
    build_config(None, given)
    with pytest.raises(ConfigurationError, match=message):
        build_config(None, {**given, **settings})


def test_the_algorithm_refuses_what_it_cannot_split(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"sampler must be 'array' with factored_credit"):
        PPOSettings(factored_credit=True, sampler="stock")
    with pytest.raises(ConfigurationError, match=r"must be MultiDiscrete .* got Discrete\(3\)"):
        factored_head(spaces.Discrete(3))
    algorithm = build_algorithm(
        build_algorithm_config(
            lambda num_envs, seed: OneComponentEarns(num_envs, seed, split=False),
            PPOSettings(factored_credit=True, num_envs=2, fragment_length=4, hidden_sizes=(4,)),
        ),
        tmp_path,
    )
    with pytest.raises(ConfigurationError, match="must return rewards by resource, got none"):
        algorithm.train()
    algorithm.stop()


def test_a_trainer_refuses_it_for_its_models_have_one_value(tmp_path: Path) -> None:
    config = factored("centralized", tmp_path)
    env = Environment(config.environment)
    space, features = env.core.single_action_space, int(np.prod(env.core.single_observation_space.shape))
    model = PolicyNetwork(features, 8, action_space=space, hidden_sizes=(8,))
    with pytest.raises(ConfigurationError, match=r"training\.factored_credit must be false .* got true"):
        Trainer(env, model, config)
