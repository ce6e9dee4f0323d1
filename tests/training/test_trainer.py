"""The trainer: models learn in place, numbers have the documented form, checkpoints go on exactly."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camac_dra.environment import Environment
from camac_dra.models import AttentionNetwork, DQNAgent, PolicyNetwork, ValueNetwork
from camac_dra.models.base import BaseModel, class_path
from camac_dra.models.heuristics import HEURISTICS
from camac_dra.training import ExperienceBuffer, Trainer
from camac_dra.training.deep_q import DeepQ
from camac_dra.training.evaluation import evaluate
from camac_dra.utils import ConfigLoader
from camac_dra.utils.errors import CheckpointError, ConfigurationError, ModelError, TrainingDivergedError
from tests.training.custom_model import CustomModel

FEATURES, LEVELS = 64, 4


@pytest.fixture
def settings(root: Path) -> dict[str, Any]:
    config = ConfigLoader.load_config(root / "rllib_configs" / "test.yaml")
    del config["model"]["type"]
    config["training"].update(num_envs=4, learning_rate_schedule="constant")
    return config


def dqn(seed: int = 0, **options: Any) -> DQNAgent:
    return DQNAgent(FEATURES, LEVELS, hidden_sizes=(32,), seed=seed, target_update_freq=20, **options)


def policy(**options: Any) -> PolicyNetwork:
    return PolicyNetwork(FEATURES, LEVELS, hidden_sizes=(16,), activation="tanh", seed=0, **options)


def normalizing() -> PolicyNetwork:
    return policy(normalize_observations=True, normalize_returns=True)


def remembering() -> PolicyNetwork:
    return policy(shared_torso=True, recurrent_size=4)


def own() -> CustomModel:
    torch.manual_seed(0)
    return CustomModel(FEATURES, LEVELS, hidden_sizes=(16,))


def attention() -> AttentionNetwork:
    return AttentionNetwork(FEATURES, 4, output_size=LEVELS, hidden_sizes=(16,), width=16, seed=0)


MODELS = {
    "dqn": dqn,
    "actor_critic": normalizing,
    "recurrent": remembering,
    "own": own,
    "attention": attention,
}


def trainer_of(settings: dict[str, Any], model: BaseModel, **options: Any) -> Trainer:
    return Trainer(Environment(settings["environment"]), model, settings, **options)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


# Training


@pytest.mark.parametrize("kind", MODELS)
def test_results_are_lists_of_numbers_and_the_model_has_new_weights(
    settings: dict[str, Any], kind: str
) -> None:
    model = MODELS[kind]()
    before = weights(model)
    trainer = trainer_of(settings, model)
    results = trainer.train(num_episodes=6, num_steps=8)
    names = {"dqn": "dqn", "actor_critic": "actor_critic", "recurrent": "actor_critic"}
    assert trainer.config.model.type == names.get(kind, class_path(type(model)))
    assert {"episode_rewards", "episode_losses", "success_rate", "jain", "learning_rate"} <= set(results)
    assert {len(values) for values in results.values()} == {6}  # two rounds of three copies
    assert np.isfinite([np.mean(values) for values in results.values()]).all()
    assert (trainer.episodes, trainer.env_steps) == (6, 6 * 8)
    assert not same(before, weights(model))
    assert trainer.metrics_tracker.series("training/episode_rewards") == results["episode_rewards"]
    one = trainer.train_episode()
    assert set(one) == set(results)
    assert (trainer.episodes, trainer.env_steps) == (7, 6 * 8 + 20)
    success = trainer.metrics_tracker.get_summary()["training/success_rate"]
    assert success == pytest.approx(np.mean([*results["success_rate"], one["success_rate"]]))


@pytest.mark.parametrize("kind", MODELS)
def test_one_seed_gives_one_training(settings: dict[str, Any], kind: str) -> None:
    models = [MODELS[kind]() for _ in range(3)]
    played = []
    for model, seed in zip(models, (7, 7, 8), strict=True):
        settings["training"]["seed"] = seed
        played.append(trainer_of(settings, model).train(4))
    assert played[0] == played[1]
    assert same(weights(models[0]), weights(models[1]))
    assert played[0]["episode_rewards"] != played[2]["episode_rewards"]


def test_dqn_learns_the_small_problem(settings: dict[str, Any]) -> None:
    """From below the random policy to well above it, on held-out episodes; measured 9 to 15 over 2 seeds."""
    settings["model"]["gamma"] = 0.9
    settings["training"].update(num_envs=8, batch_size=64, num_epochs=4, grad_clip=10.0)
    trainer = trainer_of(settings, dqn(n_step=3, epsilon_decay=0.97, epsilon_end=0.05))
    trainer.train(num_episodes=160)
    problem, seed = trainer.env.core.config, trainer.config.training.evaluation_seed
    random = evaluate(HEURISTICS["random"](), problem, 20, seed).efficiency.mean()
    assert trainer.evaluate(20)["efficiency"] > random + 10.0
    assert trainer.model.epsilon == pytest.approx(0.05)  # type: ignore[union-attr]


def test_ppo_learns_the_small_problem(settings: dict[str, Any]) -> None:
    settings["training"].update(num_envs=16, num_epochs=4)
    settings["model"].update(learning_rate=0.005, gamma=0.9)
    trainer = trainer_of(settings, normalizing())
    problem, seed = trainer.env.core.config, trainer.config.training.evaluation_seed
    random = evaluate(HEURISTICS["random"](), problem, 20, seed).efficiency.mean()
    trainer.train(num_episodes=320)
    assert trainer.evaluate(20)["efficiency"] > random + 10.0


def test_sgd_moves_otherwise_than_adam(settings: dict[str, Any]) -> None:
    """The optimiser of the configuration is the one that steps."""
    moved = []
    for optimizer in ("adam", "sgd"):
        settings["training"]["optimizer"] = optimizer
        model = dqn()
        trainer_of(settings, model).train(2)
        moved.append(weights(model))
    assert not same(*moved)


def test_epsilon_falls_per_episode_and_the_learning_rate_over_the_call(settings: dict[str, Any]) -> None:
    settings["training"].update(num_envs=1, learning_rate_schedule="linear", epsilon_decay=0.5)
    settings["model"].update(type="dqn", learning_rate=0.01)
    trainer = trainer_of(settings, dqn(epsilon_decay=0.9, epsilon_end=0.1))
    results = trainer.train(5)
    assert results["epsilon"] == pytest.approx([1.0, 0.5, 0.25, 0.125, 0.1])
    assert results["learning_rate"] == pytest.approx([0.01, 0.008, 0.006, 0.004, 0.002])
    assert trainer.train(2)["learning_rate"] == pytest.approx([0.01, 0.005])
    one = trainer.train_episode()
    assert one["learning_rate"] == pytest.approx(0.01 * (1 - 7 / settings["training"]["num_episodes"]))


@pytest.mark.parametrize(
    ("kind", "last"), [("cosine", 0.5 * (1 + np.cos(0.75 * np.pi))), ("exponential", 0.01**0.75)]
)
def test_learning_rates_fall_as_the_configuration_says(
    settings: dict[str, Any], kind: str, last: float
) -> None:
    settings["training"].update(num_envs=1, learning_rate_schedule=kind, optimizer="adamw")
    settings["model"]["learning_rate"] = 0.01
    rates = trainer_of(settings, dqn()).train(4)["learning_rate"]
    assert (rates[0], rates[-1]) == (pytest.approx(0.01), pytest.approx(0.01 * last))


def test_early_stopping_ends_a_training_that_no_longer_rises(settings: dict[str, Any]) -> None:
    settings["training"].update(early_stopping=True, evaluation_interval=1, early_stopping_patience=8)
    trainer = trainer_of(settings, dqn())
    trainer.score = lambda: 1.0  # type: ignore[method-assign]
    assert len(trainer.train(40)["episode_rewards"]) == 12  # 4 with the best score, and 8 without a better
    settings["training"]["early_stopping"] = False
    assert len(trainer_of(settings, dqn()).train(16)["episode_rewards"]) == 16


def test_a_training_that_diverges_leaves_finite_weights(settings: dict[str, Any]) -> None:
    settings["model"]["learning_rate"] = 1e30
    settings["training"].update(grad_clip=None, optimizer="sgd")
    model = dqn(dueling=False)
    trainer = trainer_of(settings, model)
    with pytest.raises(TrainingDivergedError, match="must be finite"):
        trainer.train(40)
    assert all(torch.isfinite(value).all() for value in weights(model).values())


def test_experience_may_be_prioritised_and_on_a_disk(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["model"]["gamma"] = 0.9
    buffer = ExperienceBuffer(100, gamma=0.9, n_step=2, prioritized=True, directory=tmp_path, seed=0)
    trainer = trainer_of(settings, dqn(n_step=2), buffer=buffer)
    trainer.train(3)
    assert len(buffer) == 100
    assert buffer._tree is not None
    assert len(np.unique(buffer._tree.get(np.arange(100)))) > 10  # errors came back


def test_rows_are_learned_from_as_often_as_said(settings: dict[str, Any]) -> None:
    settings["training"].update(num_epochs=3, batch_size=10)
    model = dqn()
    trainer_of(settings, model).train(4)
    assert model.updates == 3 * 4 * 20 * 3 / 10  # episodes, steps, agents, epochs over rows


def test_a_curriculum_acts_in_both_ways_of_learning(settings: dict[str, Any]) -> None:
    plan = {"contention": [{"progress": 0.0, "contention": 0.0}], "mechanism": []}
    for kind, make in MODELS.items():
        plain = trainer_of(settings, make()).train(8)["conflict_rate"]
        eased = copy.deepcopy(settings)
        eased["training"]["curriculum"] = plan
        results = trainer_of(eased, make()).train(8)
        assert results["conflict_rate"] != plain, kind


def test_a_reward_of_ones_own_is_what_is_learned(settings: dict[str, Any]) -> None:
    settings["environment"].update(reward_fn=lambda agent, allocation, resources: 1.0, credit="individual")
    results = trainer_of(settings, dqn()).train(2)
    assert results["episode_rewards"] == [60.0, 60.0]


def test_two_trainers_of_one_model_both_train_it(settings: dict[str, Any]) -> None:
    model = dqn()
    first, second = trainer_of(settings, model), trainer_of(settings, model)
    for trainer in (second, first, second):
        before = weights(model.online)
        trainer.train(2)
        assert not same(before, weights(model.online))


# Evaluation


@pytest.mark.parametrize("kind", MODELS)
def test_evaluation_is_the_same_every_time_and_explores_nothing(settings: dict[str, Any], kind: str) -> None:
    trainer = trainer_of(settings, MODELS[kind]())
    found = trainer.evaluate(num_episodes=5)
    assert found == trainer.evaluate(num_episodes=5)
    assert 0.0 <= found["success_rate"] <= 1.0
    assert found["avg_reward"] == pytest.approx(found["efficiency"])
    assert trainer.metrics_tracker.get_summary()["evaluation/avg_reward"] == found["avg_reward"]
    assert trainer.episodes == 0


def test_a_model_evaluates_as_its_own_best_actions(settings: dict[str, Any]) -> None:
    """One that always asks for nothing is as good as nothing served."""
    model = dqn(dueling=False)
    with torch.no_grad():
        model.online.advantage.weight.zero_()
        model.online.advantage.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert trainer_of(settings, model).evaluate(3)["served"] == 0.0


@pytest.mark.parametrize("action_type", ["multi_discrete", "continuous"])
def test_other_actions_are_trained_and_evaluated(settings: dict[str, Any], action_type: str) -> None:
    settings["environment"]["action_type"] = action_type
    env = Environment(settings["environment"])
    outputs = 2 * LEVELS if action_type == "multi_discrete" else 2
    model = PolicyNetwork(FEATURES, outputs, action_space=env.action_space, hidden_sizes=(8,), seed=0)
    trainer = Trainer(env, model, settings)
    trainer.train(2)
    assert np.isfinite(trainer.evaluate(2)["avg_reward"])


# Checkpoints


def test_ppo_goes_on_from_a_checkpoint_to_the_last_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    first, second = normalizing(), normalizing()
    straight = trainer_of(settings, first)
    straight.train(4)
    straight.save_checkpoint(tmp_path / "checkpoint")
    resumed = trainer_of(settings, second)
    resumed.load_checkpoint(tmp_path / "checkpoint")
    assert same(weights(first), weights(second))
    assert (resumed.episodes, resumed.metrics_tracker.to_dict()) == (4, straight.metrics_tracker.to_dict())
    assert straight.train(4) == resumed.train(4)
    assert same(weights(first), weights(second))


def test_dqn_goes_on_from_a_checkpoint_but_for_what_it_remembers(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    model, again = dqn(), dqn(seed=1)
    trainer = trainer_of(settings, model)
    trainer.train(4)
    trainer.save_checkpoint(tmp_path / "checkpoint")
    trainer.save_checkpoint(tmp_path / "checkpoint")  # replaces the first
    resumed = trainer_of(settings, again)
    resumed.load_checkpoint(tmp_path / "checkpoint")
    assert same(weights(model), weights(again))
    assert (again.updates, resumed.episodes) == (model.updates, 4)
    for one in (trainer, resumed):
        assert isinstance(one._learner, DeepQ)
        one._learner.buffer.clear()
    assert resumed.train(2)["episode_rewards"] == trainer.train(2)["episode_rewards"]
    names = {path.name for path in (tmp_path / "checkpoint").iterdir()}
    assert {"model_weights.pt", "optimizer_state.pt", "config.yaml", "metrics.json"} <= names


def test_foreign_checkpoints_are_refused_and_change_nothing(settings: dict[str, Any], tmp_path: Path) -> None:
    trainer_of(settings, dqn(n_step=2)).save_checkpoint(tmp_path / "other")
    trainer_of(settings, dqn()).save_checkpoint(tmp_path / "damaged")
    with (tmp_path / "damaged" / "model_weights.pt").open("r+b") as file:
        file.write(b"12345678")
    bigger = copy.deepcopy(settings)
    bigger["environment"]["num_agents"] = 5
    trainer_of(bigger, dqn()).save_checkpoint(tmp_path / "bigger")
    model = dqn()
    trainer = trainer_of(settings, model)
    before = weights(model)
    for name, match in {
        "other": "belongs to another model",
        "damaged": "model_weights.pt",
        "bigger": "belongs to another environment",
        "nowhere": "nowhere",
    }.items():
        with pytest.raises(CheckpointError, match=match):
            trainer.load_checkpoint(tmp_path / name)
    assert same(before, weights(model))


# Bad input


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model": {"type": "actor_critic"}}, "model.type must be 'dqn' for a DQNAgent, got 'actor_critic'"),
        ({"environment": {"num_agents": 7}}, r"environment must be that of env, .*num_agents 3, got 7"),
        ({"model": {"action_size": 4, "state_size": 70}}, "model.state_size: must be 64"),
        ({"model": {"gama": 0.9}}, "model.gama: is not a setting. Did you mean"),
    ],
)
def test_contradictions_are_refused(
    settings: dict[str, Any], change: dict[str, dict[str, Any]], match: str
) -> None:
    env = Environment(settings["environment"])
    for section, values in change.items():
        settings[section] = {**settings[section], **values}
    with pytest.raises(ConfigurationError, match=match):
        Trainer(env, dqn(), settings)


def test_models_that_do_not_fit_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="must score actions to be trained, got a ValueNetwork without"):
        trainer_of(settings, ValueNetwork(FEATURES))
    with pytest.raises(ModelError, match=r"must decide on Discrete\(4\), .* a DQNAgent with Discrete\(5\)"):
        trainer_of(settings, DQNAgent(FEATURES, 5))
    with pytest.raises(ModelError, match=r"must take 64 features, .* got a DQNAgent for 60"):
        trainer_of(settings, DQNAgent(60, LEVELS))


def test_buffers_that_do_not_fit_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"n_step of the buffer must be 1, .* got 3"):
        trainer_of(settings, dqn(), buffer=ExperienceBuffer(n_step=3, gamma=settings["model"]["gamma"]))
    with pytest.raises(ConfigurationError, match=r"gamma of the buffer must be 0\.95, .* got 0\.5"):
        trainer_of(settings, dqn(), buffer=ExperienceBuffer(gamma=0.5))
    with pytest.raises(ConfigurationError, match="buffer must be None without a DQNAgent"):
        trainer_of(settings, policy(), buffer=ExperienceBuffer())


@pytest.mark.parametrize("numbers", [(0, 5), (3, 0), (2.5, 5), (True, 5)])
def test_numbers_below_one_are_refused(settings: dict[str, Any], numbers: tuple[Any, Any]) -> None:
    trainer = trainer_of(settings, dqn())
    with pytest.raises(ConfigurationError, match="must be a whole number of at least 1, got"):
        trainer.train(*numbers)
    assert trainer.episodes == 0
