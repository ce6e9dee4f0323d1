"""From settings to RLlib's configuration object of PPO."""

from __future__ import annotations

from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from camac_dra.models.rl_module import ActorCriticConfig, ActorCriticModule, model_config
from camac_dra.training.array_config import configure_sampling, initial_seeds, steps_per_iteration
from camac_dra.training.array_env_runner import EnvironmentFactory
from camac_dra.training.ppo_learner import ArrayPPOConfig
from camac_dra.training.settings import PPOSettings


def configure_ppo(config: ArrayPPOConfig, factory: EnvironmentFactory, settings: PPOSettings) -> None:
    """Fill ``config`` in; makes one environment to learn agents and spaces."""
    configure_sampling(config, factory, settings)
    config.rl_module(rl_module_spec=_module_specs(config, settings))
    _configure_training(config, settings)


def _configure_training(config: ArrayPPOConfig, settings: PPOSettings) -> None:
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
        train_batch_size_per_learner=steps_per_iteration(settings),
        minibatch_size=None,  # given with every update: RLlib would compare agent-steps with env steps
    )


def _module_specs(config: ArrayPPOConfig, settings: PPOSettings) -> MultiRLModuleSpec:
    """Return one spec per policy, each with initial weights of its own."""
    specs = {}
    for module_id, seed in zip(config.module_ids, initial_seeds(settings, config.module_ids), strict=True):
        network = ActorCriticConfig(
            network=settings.network,
            shared_torso=settings.shared_torso,
            critic_agents=len(config.agent_modules) if settings.critic == "centralized" else 0,
            normalize_observations=settings.normalize_observations,
            normalize_returns=settings.normalize_returns,
            seed=seed,
        )
        specs[module_id] = RLModuleSpec(
            module_class=ActorCriticModule,
            observation_space=config.observation_space,
            action_space=config.action_space,
            model_config=model_config(network),
        )
    return MultiRLModuleSpec(rl_module_specs=specs)
