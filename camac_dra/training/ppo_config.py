"""From settings to RLlib's configuration object."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from camac_dra.models.rl_module import ActorCriticConfig, ActorCriticModule, model_config
from camac_dra.training.array_env_runner import ArrayEnvRunner, EnvironmentFactory
from camac_dra.training.rllib_bridge import ArrayPPOConfig
from camac_dra.training.settings import PPOSettings

SAMPLE_TIMEOUT = 600.0  # seconds until an env runner's fragment is given up


def configure(config: ArrayPPOConfig, factory: EnvironmentFactory, settings: PPOSettings) -> None:
    """Fill ``config`` in; makes one environment to learn agents and spaces."""
    probe = factory(1, settings.seed)
    spaces = (probe.single_observation_space, probe.single_action_space)
    _assign_policies(config, settings, list(probe.agent_ids))
    probe.close()
    config.array_settings = settings
    config.environment(
        env=None, env_config={"factory": factory}, observation_space=spaces[0], action_space=spaces[1]
    )
    config.rl_module(rl_module_spec=_module_specs(settings, config.module_ids, spaces))
    config.env_runners(
        env_runner_cls=ArrayEnvRunner,
        num_env_runners=settings.num_workers,
        num_envs_per_env_runner=settings.num_envs,
        rollout_fragment_length=settings.fragment_length,
        sample_timeout_s=SAMPLE_TIMEOUT,
    )
    config.fault_tolerance(restart_failed_env_runners=True)
    _configure_training(config, settings)
    # Weights are sent by training_step; RLlib would look for states of connectors besides.
    config._dont_auto_sync_env_runner_states = True


def _assign_policies(config: ArrayPPOConfig, settings: PPOSettings, agent_ids: list[str]) -> None:
    """Say which policy decides for whom, in our words and in RLlib's."""
    if settings.policies == "shared":
        config.module_ids, config.agent_modules = ["shared"], [0] * len(agent_ids)
    else:
        config.module_ids, config.agent_modules = agent_ids, list(range(len(agent_ids)))
    policy_of = {a: config.module_ids[m] for a, m in zip(agent_ids, config.agent_modules, strict=True)}
    config.multi_agent(
        policies=list(config.module_ids),
        policy_mapping_fn=lambda agent_id, *args, **kwargs: policy_of[agent_id],
    )


def _configure_training(config: ArrayPPOConfig, settings: PPOSettings) -> None:
    env_steps = settings.num_envs * settings.fragment_length * max(1, settings.num_workers)
    config.training(
        gamma=settings.gamma,
        lr=settings.learning_rate_for_rllib(),
        lambda_=settings.gae_lambda,
        clip_param=settings.clip_param,
        vf_clip_param=float("inf") if settings.value_clip is None else settings.value_clip,
        vf_loss_coeff=settings.value_loss_coeff,
        entropy_coeff=settings.entropy_coeff_for_rllib(),
        use_kl_loss=False,  # its coefficient adapts, and is missing from RLlib's states
        grad_clip=settings.grad_clip,
        num_epochs=settings.num_epochs,
        train_batch_size_per_learner=env_steps,
        minibatch_size=None,  # given with every update: RLlib would compare agent-steps with env steps
    )


def _module_specs(settings: PPOSettings, module_ids: list[str], spaces: tuple[Any, Any]) -> MultiRLModuleSpec:
    """Return one spec per policy, each with initial weights of its own."""
    seeds = np.random.SeedSequence([settings.seed, 2**31 + 1]).generate_state(len(module_ids))
    specs = {}
    for module_id, seed in zip(module_ids, seeds, strict=True):
        network = ActorCriticConfig(
            hidden_sizes=tuple(settings.hidden_sizes),
            activation=settings.activation,
            shared_torso=settings.shared_torso,
            normalize_observations=settings.normalize_observations,
            normalize_returns=settings.normalize_returns,
            seed=int(seed),
        )
        specs[module_id] = RLModuleSpec(
            module_class=ActorCriticModule,
            observation_space=spaces[0],
            action_space=spaces[1],
            model_config=model_config(network),
        )
    return MultiRLModuleSpec(rl_module_specs=specs)
