"""From settings to RLlib's configuration object of PPO."""

from __future__ import annotations

from camac_dra.models.rl_module import ActorCriticConfig, ActorCriticModule
from camac_dra.training.array_config import configure_sampling, policy_specs, steps_per_iteration
from camac_dra.training.array_env_runner import EnvironmentFactory
from camac_dra.training.ppo_learner import ArrayPPOConfig
from camac_dra.training.settings import PPOSettings


def configure_ppo(config: ArrayPPOConfig, factory: EnvironmentFactory, settings: PPOSettings) -> None:
    """Fill ``config`` in; makes one environment to learn agents and spaces."""
    configure_sampling(config, factory, settings)
    network = ActorCriticConfig(
        network=settings.network,
        shared_torso=settings.shared_torso,
        critic_agents=len(config.agent_modules) if settings.critic == "centralized" else 0,
        normalize_observations=settings.normalize_observations,
        normalize_returns=settings.normalize_returns,
        factored=settings.factored_credit,
    )
    config.rl_module(rl_module_spec=policy_specs(config, settings, ActorCriticModule, network))
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
