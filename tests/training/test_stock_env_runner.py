"""RLlib's own env runner as a sampler: fragments equal to ours on the same actions, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns

from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.array_env_runner import ArrayEnvRunner
from camac_dra.training.experiment import Experiment
from camac_dra.training.fragments import Fragment
from camac_dra.training.settings import PPOSettings
from camac_dra.training.stock_env_runner import StockEnvRunner
from camac_dra.utils.errors import CapabilityError, ConfigurationError
from tests.training.test_against_stock import ScriptedModule, scripted
from tests.training.toy_environment import ToyMultiAgentEnv, ToyVectorEnvironment

pytestmark = pytest.mark.filterwarnings("ignore:.*Overriding environment")  # RLlib has one name for all


@dataclass
class Toys:
    """Makes the toy environment for both samplers."""

    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, num_envs: int, seed: int) -> ToyVectorEnvironment:
        return ToyVectorEnvironment(num_envs, seed, **self.options)

    def single(self, context: Any) -> ToyMultiAgentEnv:
        return ToyMultiAgentEnv(self.options)


def make_config(toys: Toys, steps: int, sampler: str) -> Any:
    settings = PPOSettings(num_envs=1, fragment_length=steps, hidden_sizes=(16,), sampler=sampler)
    config = build_algorithm_config(toys, settings)
    specs = config.rl_module_spec
    for spec in specs.rl_module_specs.values():
        spec.module_class = ScriptedModule
    return config.rl_module(rl_module_spec=specs)


def array_fragments(toys: Toys, steps: int, times: int) -> list[Fragment]:
    runner = ArrayEnvRunner(config=make_config(toys, steps, "array"), worker_index=0)
    module = runner.module["shared"].unwrapped()

    def act(observations: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        actions = scripted(observations)
        inputs = module.forward_inference({"obs": observations.flatten(0, 1)})[Columns.ACTION_DIST_INPUTS]
        log_probs = module.head.distribution(inputs.t()).log_prob(actions.flatten()).detach()
        return actions, log_probs.reshape(actions.shape)

    runner.policy.act = act
    found = []
    for _ in range(times):
        fragment = runner.sample()
        arrays = ("observations", "actions", "log_probs", "rewards", "terminated", "active", "done")
        for name in arrays:  # views of buffers that the next one overwrites
            setattr(fragment, name, getattr(fragment, name).copy())
        found.append(fragment)
    return found


@pytest.mark.parametrize(
    ("steps", "options"),
    [
        pytest.param(13, {}, id="episodes cut by the fragment"),
        pytest.param(11, {"absent": True}, id="agents that leave and come back"),
        pytest.param(12, {"terminate": True}, id="an agent that is done for good"),
        pytest.param(8, {}, id="an episode that ends with the fragment"),
    ],
)
def test_fragments_are_equal(steps: int, options: dict[str, Any]) -> None:
    toys = Toys({**options, "noise": False})
    stock = StockEnvRunner(config=make_config(toys, steps, "stock"), worker_index=0)
    for ours in array_fragments(toys, steps, 3):
        theirs = stock.sample()
        for name in ("active", "done", "terminated"):
            np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name), err_msg=name)
        rows = ours.active
        for name in ("actions", "log_probs", "rewards"):
            one, two = getattr(theirs, name)[rows], getattr(ours, name)[rows]
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(theirs.observations[:-1][rows], ours.observations[:-1][rows], atol=1e-6)
        seen = theirs.final_observations.any(-1)  # agents that are done see no last observation
        np.testing.assert_allclose(theirs.final_observations[seen], ours.final_observations[seen], atol=1e-6)
        assert len(theirs.final_observations) == len(ours.final_observations)


def test_copies_out_of_step_are_refused() -> None:
    toys = Toys()
    config = make_config(toys, 12, "stock")
    config.env_runners(num_envs_per_env_runner=2)
    stock = StockEnvRunner(config=config, worker_index=0)
    stock.env.envs[1].unwrapped.core.lengths -= 5
    with pytest.raises(CapabilityError, match=r"num_envs 1: of 12 steps the copies made \["):
        for _ in range(3):
            stock.sample()


def test_a_tiny_training_runs_from_a_configuration_and_resumes(small: Any, tmp_path: Path) -> None:
    config = small(training__sampler="stock", training__num_episodes=8)
    with Experiment.start(config) as experiment:
        experiment.train()
        run = experiment.run.path
    metrics = json.loads((run / "metrics.json").read_text())
    assert len(metrics["training"]["episode_rewards"]) == 8
    assert metrics["curves"]["env_steps"] == [80, 160]
    assert metrics["curves"]["success_rate"][-1] is not None
    with Experiment.resume(run, {"training.num_episodes": 12}) as experiment:
        experiment.train()
        assert experiment.algorithm.counters.env_steps == 240


def test_what_it_cannot_do_is_refused_by_name(small: Any) -> None:
    stock = {"sampler": "stock"}
    with pytest.raises(CapabilityError, match="sampler: 'stock' needs the allocation problem"):
        build_algorithm_config(ToyVectorEnvironment, PPOSettings(**stock))
    with pytest.raises(CapabilityError, match="max_episode_steps must be None"):
        build_algorithm_config(Toys(), PPOSettings(**stock, max_episode_steps=3))
    with pytest.raises(ConfigurationError, match="curriculum: must be empty where sampler is stock"):
        small(
            training__sampler="stock",
            training__curriculum={"contention": [{"progress": 0.0, "contention": 0.5}]},
        )
