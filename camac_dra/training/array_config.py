"""From settings to RLlib's configuration object: what all algorithms over arrays have in common."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from camac_dra.models.assignment import assign_policies
from camac_dra.training.array_env_runner import ArrayEnvRunner, EnvironmentFactory
from camac_dra.training.rllib_bridge import ArrayConfig
from camac_dra.training.settings import ArraySettings
from camac_dra.training.stock_env_runner import (
    FACTORY,
    StockEnvironment,
    StockEnvRunner,
    refuse_unsupported_by_stock,
)

SAMPLE_TIMEOUT = 600.0  # seconds until an env runner's fragment is given up


def configure_sampling(config: ArrayConfig, factory: EnvironmentFactory, settings: ArraySettings) -> None:
    """Fill in all but the networks and what the algorithm learns by; makes one environment to learn agents
    and spaces.
    """
    probe = factory(1, settings.seed)
    _assign_policies(config, settings, probe)
    config.array_settings = settings
    stock = settings.sampler == "stock"
    if stock:
        refuse_unsupported_by_stock(factory, settings)
    config.environment(
        env=StockEnvironment if stock else None,
        disable_env_checking=True,
        env_config={FACTORY: factory, "seed": settings.seed},
        observation_space=probe.single_observation_space,
        action_space=probe.single_action_space,
    )
    probe.close()
    config.env_runners(
        env_runner_cls=StockEnvRunner if stock else ArrayEnvRunner,
        num_env_runners=settings.num_workers,
        num_envs_per_env_runner=settings.num_envs,
        rollout_fragment_length=settings.fragment_length,
        sample_timeout_s=SAMPLE_TIMEOUT,
    )
    # One training_step per train(): DQN and SAC of RLlib would make several.
    config.reporting(
        min_time_s_per_iteration=None,
        min_sample_timesteps_per_iteration=0,
        min_train_timesteps_per_iteration=0,
    )
    config.learners(
        num_learners=settings.num_learners,
        num_gpus_per_learner=settings.num_gpus,
        num_cpus_per_learner=1,
    )
    config.fault_tolerance(restart_failed_env_runners=True)
    # Weights are sent by training_step; RLlib would look for states of connectors besides.
    config._dont_auto_sync_env_runner_states = True


def _assign_policies(config: ArrayConfig, settings: ArraySettings, env: Any) -> None:
    """Say which policy decides for whom, in our words and in RLlib's."""
    config.module_ids, config.agent_modules = assign_policies(settings.policies, env)
    policy_of = {a: config.module_ids[m] for a, m in zip(env.agent_ids, config.agent_modules, strict=True)}
    config.multi_agent(
        policies=list(config.module_ids),
        policy_mapping_fn=lambda agent_id, *args, **kwargs: policy_of[agent_id],
    )


def policy_specs(
    config: ArrayConfig, settings: ArraySettings, module_class: type, network: Any
) -> MultiRLModuleSpec:
    """Return one spec per policy, each with initial weights of its own.

    ``network`` is the dataclass that a ``module_class`` is built from, whose ``seed`` is filled in here.
    """
    specs = {
        module_id: RLModuleSpec(
            module_class=module_class,
            observation_space=config.observation_space,
            action_space=config.action_space,
            model_config=asdict(replace(network, seed=seed)),
        )
        for module_id, seed in zip(config.module_ids, initial_seeds(settings, config.module_ids), strict=True)
    }
    return MultiRLModuleSpec(rl_module_specs=specs)


def initial_seeds(settings: ArraySettings, module_ids: list[str]) -> list[int]:
    """Return a seed of the initial weights for each policy."""
    return np.random.SeedSequence([settings.seed, 2**31 + 1]).generate_state(len(module_ids)).tolist()


def steps_per_iteration(settings: ArraySettings) -> int:
    """Return the steps of all copies in all sampling processes between two updates."""
    return settings.num_envs * settings.fragment_length * max(1, settings.num_workers)
