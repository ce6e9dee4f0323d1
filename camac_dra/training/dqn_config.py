"""From settings to RLlib's configuration object of DQN."""

from __future__ import annotations

from camac_dra.models.q_module import QConfig, QModule
from camac_dra.training.array_config import configure_sampling, policy_specs, steps_per_iteration
from camac_dra.training.array_env_runner import EnvironmentFactory
from camac_dra.training.dqn_learner import ArrayDQNConfig
from camac_dra.training.replay_settings import DQNSettings

NEVER = 2**62  # env steps between RLlib's own updates of target networks: ours count updates


def configure_dqn(config: ArrayDQNConfig, factory: EnvironmentFactory, settings: DQNSettings) -> None:
    """Fill ``config`` in; makes one environment to learn agents and spaces."""
    configure_sampling(config, factory, settings)
    network = QConfig(
        network=settings.network,
        double=settings.double,
        dueling=settings.dueling,
        normalize_observations=settings.normalize_observations,
        normalize_returns=settings.normalize_returns,
    )
    config.rl_module(rl_module_spec=policy_specs(config, settings, QModule, network))
    config.training(
        gamma=settings.gamma,
        lr=settings.learning_rate_for_rllib(),
        grad_clip=settings.grad_clip,
        double_q=settings.double,
        dueling=settings.dueling,
        n_step=1,  # for RLlib's own buffers: ours sum over settings.n_step steps, over fragments too
        td_error_loss_fn="huber",
        target_network_update_freq=NEVER,
        replay_buffer_config={"type": "EpisodeReplayBuffer", "no_local_replay_buffer": True},
        train_batch_size_per_learner=steps_per_iteration(settings),
        minibatch_size=None,
    )
