"""From settings to RLlib's configuration object of DQN."""

from __future__ import annotations

from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from camac_dra.models.q_module import QConfig, QModule, q_model_config
from camac_dra.training.array_config import configure_sampling, initial_seeds, steps_per_iteration
from camac_dra.training.array_env_runner import EnvironmentFactory
from camac_dra.training.dqn_learner import ArrayDQNConfig
from camac_dra.training.replay_settings import DQNSettings

NEVER = 2**62  # env steps between RLlib's own updates of target networks: ours count updates


def configure_dqn(config: ArrayDQNConfig, factory: EnvironmentFactory, settings: DQNSettings) -> None:
    """Fill ``config`` in; makes one environment to learn agents and spaces."""
    configure_sampling(config, factory, settings)
    config.rl_module(rl_module_spec=_module_specs(config, settings))
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


def _module_specs(config: ArrayDQNConfig, settings: DQNSettings) -> MultiRLModuleSpec:
    """Return one spec per policy, each with initial weights of its own."""
    specs = {}
    for module_id, seed in zip(config.module_ids, initial_seeds(settings, config.module_ids), strict=True):
        network = QConfig(
            network=settings.network,
            double=settings.double,
            dueling=settings.dueling,
            normalize_observations=settings.normalize_observations,
            normalize_returns=settings.normalize_returns,
            seed=seed,
        )
        specs[module_id] = RLModuleSpec(
            module_class=QModule,
            observation_space=config.observation_space,
            action_space=config.action_space,
            model_config=q_model_config(network),
        )
    return MultiRLModuleSpec(rl_module_specs=specs)
