"""From settings to RLlib's configuration object of SAC."""

from __future__ import annotations

from camac_dra.models.replay_heads import squashed_head
from camac_dra.models.sac_module import SACConfig, SACModule
from camac_dra.training.array_config import configure_sampling, policy_specs, steps_per_iteration
from camac_dra.training.array_env_runner import EnvironmentFactory
from camac_dra.training.dqn_config import NEVER
from camac_dra.training.replay_settings import SACSettings
from camac_dra.training.sac_learner import ArraySACConfig


def configure_sac(config: ArraySACConfig, factory: EnvironmentFactory, settings: SACSettings) -> None:
    """Fill ``config`` in; makes one environment to learn agents and spaces.

    Raises:
        CapabilityError: actions are not continuous and bounded.
    """
    configure_sampling(config, factory, settings)
    squashed_head(config.action_space)
    network = SACConfig(
        network=settings.network,
        normalize_observations=settings.normalize_observations,
        normalize_returns=settings.normalize_returns,
        initial_temperature=settings.initial_temperature,
    )
    config.rl_module(rl_module_spec=policy_specs(config, settings, SACModule, network))
    rate = settings.learning_rate_for_rllib()
    config.training(
        gamma=settings.gamma,
        lr=None,  # RLlib's SAC wants one for each part; here all parts have the same
        actor_lr=rate,
        critic_lr=rate,
        alpha_lr=rate,
        grad_clip=settings.grad_clip,
        twin_q=True,
        tau=settings.target_step,
        initial_alpha=settings.initial_temperature,
        n_step=1,  # for RLlib's own buffers: ours sum over settings.n_step steps, over fragments too
        target_network_update_freq=NEVER,
        replay_buffer_config={"type": "EpisodeReplayBuffer", "no_local_replay_buffer": True},
        train_batch_size_per_learner=steps_per_iteration(settings),
        minibatch_size=None,
    )
