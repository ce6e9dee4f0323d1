"""The same actions through RLlib's sampling and advantages, and through ours, give the same batch."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner

from camac_dra.models.rl_module import ActorCriticModule
from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.array_env_runner import ArrayEnvRunner
from camac_dra.training.settings import PPOSettings
from camac_dra.training.train_batch import policy_columns
from tests.training.toy_environment import ToyMultiAgentEnv, ToyVectorEnvironment

GAMMA, LAMBDA = 0.9, 0.8
NETWORK = {"network": {"hidden_sizes": (16,)}, "seed": 3}


def scripted(observations: torch.Tensor) -> torch.Tensor:
    """Actions (...) that follow from what an observation (..., F) says: clock, copy and agent."""
    step, copy, agent = observations[..., 2], observations[..., 3], observations[..., 6]
    return ((step * 40).round() + 2 * copy + 3 * agent).long() % 3


class ScriptedModule(ActorCriticModule):
    """Takes scripted actions; log-probabilities and values come from its networks."""

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        outputs = self._forward(batch)
        actions = scripted(batch[Columns.OBS])
        distribution = self.get_exploration_action_dist_cls().from_logits(outputs[Columns.ACTION_DIST_INPUTS])
        log_probs = distribution.logp(actions).detach()
        return {**outputs, Columns.ACTIONS: actions, Columns.ACTION_LOGP: log_probs}


def stock_batch(copies: int, steps: int, options: dict[str, Any]) -> dict[str, np.ndarray]:
    """Sample every copy with RLlib's env runner, and let its learner pipeline make one batch."""
    episodes = []
    for copy in range(copies):
        config = stock_config({**options, "first_copy": copy}, steps)
        runner = MultiAgentEnvRunner(config=config, worker_index=0)
        episodes += runner.sample(num_timesteps=steps)
    space = ToyVectorEnvironment(1, 0)
    spaces = {"shared": (space.single_observation_space, space.single_action_space)}
    learner = config.build_learner(spaces=spaces)
    batch = learner._make_batch_if_necessary(TrainingData(episodes=episodes))
    columns = batch.policy_batches["shared"]
    keep = columns[Columns.LOSS_MASK].bool()
    names = (Columns.OBS, Columns.ACTIONS, Columns.REWARDS, Columns.ADVANTAGES, Columns.VALUE_TARGETS)
    kept = {name: columns[name][keep].numpy() for name in (*names, Columns.ACTION_LOGP)}
    # RLlib standardises over the rows that it appends for bootstrapping and masks later, too: do it anew.
    advantages = kept[Columns.ADVANTAGES]
    kept[Columns.ADVANTAGES] = (advantages - advantages.mean()) / advantages.std()
    return kept


def stock_config(options: dict[str, Any], steps: int) -> PPOConfig:
    config = PPOConfig()
    config.environment(ToyMultiAgentEnv, env_config=options, disable_env_checking=True)
    config.multi_agent(policies={"shared"}, policy_mapping_fn=lambda *a, **k: "shared")
    config.rl_module(rl_module_spec=RLModuleSpec(module_class=ScriptedModule, model_config=NETWORK))
    config.env_runners(num_env_runners=0, rollout_fragment_length=steps)
    config.training(gamma=GAMMA, lambda_=LAMBDA, train_batch_size_per_learner=steps)
    return config


def our_batch(copies: int, steps: int, options: dict[str, Any]) -> dict[str, np.ndarray]:
    """Sample all copies at once with the array env runner."""
    settings = PPOSettings(num_envs=copies, fragment_length=steps, hidden_sizes=(16,))
    config = build_algorithm_config(partial(ToyVectorEnvironment, **options), settings)
    runner = ArrayEnvRunner(config=config, worker_index=0)
    space = runner.env
    module = ActorCriticModule(
        observation_space=space.single_observation_space,
        action_space=space.single_action_space,
        model_config=NETWORK,
        inference_only=False,
    )
    runner.set_state({"rl_module": {"shared": module.get_state(inference_only=True)}})

    def act(
        observations: torch.Tensor, generator: Any, *, explore: bool, masks: None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        actions = scripted(observations)
        inputs = module.forward_inference({"obs": observations.flatten(0, 1)})[Columns.ACTION_DIST_INPUTS]
        log_probs = module.head.distribution(inputs.t()).log_prob(actions.flatten()).detach()
        return actions, log_probs.reshape(actions.shape)

    runner.policy.act = act
    fragment = runner.sample()

    columns = policy_columns([fragment], None, module, gamma=GAMMA, gae_lambda=LAMBDA)
    return {**columns, Columns.REWARDS: fragment.rewards[fragment.active]}


def in_order(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sort rows by observation, then by target: the two samplers order them differently."""
    keys = np.column_stack([np.asarray(batch[Columns.OBS]), np.asarray(batch[Columns.VALUE_TARGETS])])
    order = np.lexsort(np.round(keys, 4).T[::-1])
    return {name: np.asarray(column)[order] for name, column in batch.items()}


@pytest.mark.filterwarnings("ignore:.*Overriding environment")  # RLlib registers one name for all of its own
@pytest.mark.parametrize(
    ("copies", "steps", "options"),
    [
        pytest.param(3, 20, {}, id="episodes of different lengths, cut by the fragment"),
        pytest.param(1, 17, {"absent": True}, id="agents that leave and come back"),
        pytest.param(3, 12, {"terminate": True}, id="an agent that is done for good"),
    ],
)
def test_batches_are_equal(copies: int, steps: int, options: dict[str, Any]) -> None:
    options = {**options, "noise": False}
    stock, ours = (in_order(make(copies, steps, options)) for make in (stock_batch, our_batch))
    assert len(ours[Columns.OBS]) == len(stock[Columns.OBS])
    for name in stock:
        np.testing.assert_allclose(ours[name], stock[name], rtol=1e-4, atol=1e-4, err_msg=name)
