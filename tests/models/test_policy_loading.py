"""Policies from files and from checkpoints act as those that were saved, without Ray."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from camac_dra.environment import VectorEnvironment
from camac_dra.models import (
    AttentionNetwork,
    DQNAgent,
    PolicyNetwork,
    ValueNetwork,
    load_policy,
    with_action_head,
)
from camac_dra.models.checkpoint_files import saved_config
from camac_dra.models.policy_loading import CheckpointPolicy, NetworkPolicy
from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.checkpoints import Checkpoint, environment_fingerprint, write_checkpoint
from camac_dra.training.environments import EnvironmentFactory, algorithm_settings
from camac_dra.training.policy import TrainedPolicy
from camac_dra.training.rllib_bridge import modules_of
from camac_dra.utils.config_loader import as_yaml, build_config
from camac_dra.utils.errors import CheckpointError, ConfigurationError, ModelError

Saver = Callable[..., Path]


@pytest.fixture
def save(root: Path, tmp_path: Path) -> Saver:
    """Write a checkpoint of an untrained policy with weights that matter, and return its folder."""

    def write(iteration: int = 1, score: float | None = None, **overrides: Any) -> Path:
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        config = build_config(root / "rllib_configs" / "test.yaml", dotted)
        algorithm = build_algorithm_config(EnvironmentFactory(config.environment), algorithm_settings(config))
        modules = modules_of(algorithm.rl_module_spec.build(), algorithm.module_ids)
        generator = torch.Generator().manual_seed(iteration)
        for module in modules:
            for tensor in module.state_dict().values():
                tensor.add_(torch.rand(tensor.shape, generator=generator) - 0.5)
        path = tmp_path / "run" / "checkpoints" / f"iteration_{iteration:06d}"
        write_checkpoint(
            path,
            Checkpoint(
                weights={
                    name: module.state_dict()
                    for name, module in zip(algorithm.module_ids, modules, strict=True)
                },
                optimizers={},
                state={},
                config=as_yaml(config),
                metrics={},
                environment=environment_fingerprint(VectorEnvironment(config.environment)),
                iteration=iteration,
                env_steps=0,
                score=score,
            ),
        )
        return path

    return write


def observe(policy: CheckpointPolicy, seed: int = 0) -> np.ndarray:
    shape = (len(policy.agent_ids), *(policy.observation_space.shape or ()))
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"training__policies": "per_agent"},
        {"environment__action_type": "continuous", "model__activation": "relu"},
        {"environment__action_type": "multi_discrete", "training__policies": "per_agent"},
        {"environment__observation_type": "graph", "training__normalize_observations": False},
    ],
    ids=str,
)
def test_checkpoints_act_as_the_trained_policy_to_the_bit(save: Saver, kind: dict[str, Any]) -> None:
    path = save(**kind)
    policy, trained = load_policy(path), TrainedPolicy.load(path)
    assert isinstance(policy, CheckpointPolicy)
    observations = observe(policy)
    expected = trained.actions(observations[None])[0]
    np.testing.assert_array_equal(policy.act_many(observations), expected)
    for number, agent_id in enumerate(policy.agent_ids):
        action = policy.act(observations[number], agent_id)
        np.testing.assert_array_equal(action, expected[number])
        assert type(action) is int or not isinstance(policy.action_space, spaces.Discrete)
    np.testing.assert_array_equal(
        policy.act_many(observations[[1, 0]], [policy.agent_ids[i] for i in (1, 0)]), expected[[1, 0]]
    )


def test_of_a_run_the_best_is_taken_and_else_the_latest(save: Saver) -> None:
    first, second = save(1), save(2)
    run = first.parent.parent
    observations = observe(CheckpointPolicy.load(first))
    one, two = (load_policy(path).act_many(observations).tolist() for path in (first, second))
    assert one != two
    assert load_policy(run).act_many(observations).tolist() == two
    save(3, score=1.0)
    three = load_policy(run).act_many(observations).tolist()
    save(4)
    assert load_policy(run.joinpath("checkpoints")).act_many(observations).tolist() == three not in (one, two)


def test_agents_are_named_where_it_matters(save: Saver) -> None:
    shared, apart = load_policy(save(1)), load_policy(save(2, training__policies="per_agent"))
    observation = observe(shared)[0]
    assert shared.act(observation) == shared.act(observation, "agent_0")
    with pytest.raises(ModelError, match=r"agent_id must be one of the \d+ agents .*got None"):
        apart.act(observation)
    with pytest.raises(ModelError, match=r"got 'agent_00'.*Did you mean 'agent_0'"):
        shared.act(observation, "agent_00")
    with pytest.raises(ModelError, match=r"observation must have shape \(\d+,\), got \(3,\)"):
        shared.act(np.zeros(3))
    with pytest.raises(ModelError, match=r"observations must have shape \(\d+, \d+\), got \(1, \d+\)"):
        shared.act_many(observation[None])


def test_damaged_checkpoints_are_refused(save: Saver, tmp_path: Path) -> None:
    path = save()
    weights = path / "model_weights.pt"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match="it is truncated"):
        load_policy(path)
    weights.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(CheckpointError, match="its SHA-256 is not that of the manifest"):
        load_policy(path)
    with pytest.raises(CheckpointError, match="is neither a checkpoint"):
        load_policy(tmp_path)
    with pytest.raises(CheckpointError, match="no such model file"):
        load_policy(tmp_path / "none")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_agent_and_feature(save: Saver, wrong: float) -> None:
    policy = load_policy(save())
    observations = observe(policy)
    observations[1, 3] = wrong
    with pytest.raises(ModelError, match=f"^observation must be finite, got {wrong} in feature 3$"):
        policy.act(observations[1])
    with pytest.raises(ModelError, match=f"^observation of 'agent_1' must be finite, got {wrong} in feature"):
        policy.act(observations[1], "agent_1")
    with pytest.raises(ModelError, match=f"^observation of 'agent_1' must be finite, got {wrong} in feature"):
        policy.act_many(observations)
    with pytest.raises(ModelError, match=r"^observation of 'agent_2' must be finite"):
        policy.act_many(observations[1:2], ["agent_2"])
    policy.act_many(observations[[0, 2]], ["agent_0", "agent_2"])


def test_what_stands_in_rows_of_nobody_does_not_matter(save: Saver) -> None:
    policy = load_policy(save(environment__observation_type="graph", model__type="attention"))
    observation = observe(policy)[0]  # (E, F + 1)
    observation[:, -1] = 1.0
    observation[2, -1] = 0.0
    expected = policy.act(observation)
    observation[2, :-1] = np.nan
    assert policy.act(observation) == expected
    observation[1, 4] = np.inf
    with pytest.raises(ModelError, match=r"got inf in feature 4 of row 1$"):
        policy.act(observation)
    observation[:, -1] = np.nan
    with pytest.raises(ModelError, match=r"got nan in feature \d+ of row 0$"):
        policy.act(observation)


def test_runs_that_were_given_what_never_acted_still_load() -> None:
    """Such settings are refused today; the configurations of older runs may have them."""
    saved = "{model: {type: dqn}, training: {entropy_coeff: 0.2, num_envs: 3}}"
    config = saved_config(saved, "config.yaml")
    assert (config.training.entropy_coeff, config.training.num_envs) == (0.01, 3)
    with pytest.raises(ConfigurationError, match=r"entropy_coeff: has no effect with model\.type 'dqn'"):
        saved_config(saved, "config.yaml", {"training.entropy_coeff": 0.3})
    acting = "{training: {entropy_coeff: 0.2}}"
    assert saved_config(acting, "config.yaml").training.entropy_coeff == 0.2
    with pytest.raises(ConfigurationError, match=r"training: must be"):
        saved_config("{model: {type: dqn}, training: 3}", "config.yaml")


# Files of models


def test_what_is_not_finite_is_refused_by_models_from_files(tmp_path: Path) -> None:
    path, state = tmp_path / "model.pt", np.zeros(6)
    state[5] = np.nan
    for model in (DQNAgent(6, 4), PolicyNetwork(6, 8, action_space=spaces.MultiDiscrete([4, 4]))):
        model.save(path)
        policy = load_policy(path)
        policy.act(np.zeros(6))
        with pytest.raises(ModelError, match=r"^observation must be finite, got nan in feature 5$"):
            policy.act(state)
    agent = DQNAgent(6, 4)
    agent.save(path)
    with pytest.raises(ModelError, match=r"^observation in row 1 must be finite, got nan in feature 5$"):
        load_policy(path).act_many(np.stack([np.zeros(6), state]))


def test_files_of_models_act(tmp_path: Path) -> None:
    path, state = tmp_path / "model.pt", np.random.default_rng(0).normal(size=6)
    agent = DQNAgent(6, 4, hidden_sizes=(8,))
    agent.save(path)
    assert load_policy(path).act(state) == agent.select_action(state)
    headed = with_action_head(AttentionNetwork(6, 3), 4)
    headed.save(path)
    assert load_policy(path).act(state) == headed(torch.tensor(state, dtype=torch.float32)).argmax()


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize(
    ("space", "outputs"),
    [(spaces.MultiDiscrete([4, 3]), 8), (spaces.Box(np.zeros(3, np.float32), np.full(3, 2, np.float32)), 3)],
)
def test_policies_of_several_components_act(
    space: spaces.Space, outputs: int, recurrent: bool, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"shared_torso": True, "recurrent_size": 5} if recurrent else {}
    model = PolicyNetwork(6, outputs, action_space=space, **options)
    with torch.no_grad():
        model.policy.output.weight.mul_(200.0)
    model.save(tmp_path / "model.pt")
    policy = load_policy(tmp_path / "model.pt")
    assert isinstance(policy, NetworkPolicy)
    states = torch.randn(5, 1, 6)
    memory, actions = model.initial_memory(1), []
    for state in states:
        outputs_now, memory = model.step(state, memory)
        expected = model.head.to_environment(model.read(outputs_now).mode().detach())[0]
        actions.append(policy.act(state[0].numpy()))
        np.testing.assert_allclose(actions[-1], expected)
        assert space.contains(actions[-1].astype(space.dtype))
    policy.reset()
    np.testing.assert_allclose(policy.act(states[0, 0].numpy()), actions[0])
    with pytest.raises(ModelError, match="must have 6 features"):
        policy.act(np.zeros(5))


def test_models_that_do_not_act_are_refused(tmp_path: Path) -> None:
    for model in (ValueNetwork(6), AttentionNetwork(6, 3)):
        model.save(tmp_path / "model.pt")
        with pytest.raises(
            CheckpointError, match=r"must hold a model that scores actions, got a \w+ without"
        ):
            load_policy(tmp_path / "model.pt")


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None  # importing it fails
import numpy as np
from camac_dra.models import load_policy
policy = load_policy({run!r})
action = policy.act(np.zeros(policy.observation_space.shape))
assert isinstance(action, int)
assert load_policy({model!r}).act(np.zeros(6)) in range(4)
"""


def test_neither_needs_ray(save: Saver, tmp_path: Path) -> None:
    run = save().parent.parent
    DQNAgent(6, 4).save(tmp_path / "model.pt")
    code = WITHOUT_RAY.format(run=str(run), model=str(tmp_path / "model.pt"))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_settings_that_exist_no_more_are_left_out_of_what_was_saved() -> None:
    saved = "model: {type: actor_critic}\ntraining: {num_workers: 1, yield_to_learner: null}\n"
    assert saved_config(saved, "config.yaml").training.num_workers == 1
    assert saved_config(saved.splitlines()[1], "config.yaml").training.num_workers == 1
    with pytest.raises(ConfigurationError, match=r"training\.yield_to_learners"):
        saved_config(saved.replace("yield_to_learner", "yield_to_learners"), "config.yaml")
