"""How configurations become environments and settings of the algorithm."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from ray.rllib.env.env_context import EnvContext

from camac_dra.coordination.agreements import agreement_for
from camac_dra.environment.constraints import pool_of
from camac_dra.environment.foreign_factory import ForeignFactory
from camac_dra.environment.reward import load_reward_fn, user_rewards
from camac_dra.environment.rllib_environment import RLlibEnvironment
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.assignment import assign_policies
from camac_dra.models.distributions import make_action_head
from camac_dra.models.network_spec import network_of
from camac_dra.models.replay_heads import greedy_head, squashed_head
from camac_dra.training.checkpoints import environment_fingerprint
from camac_dra.training.replay_memory import check_replay_fits, transition_bytes
from camac_dra.training.replay_settings import DQNSettings, ReplaySettings, SACSettings
from camac_dra.training.settings import ArraySettings, PPOSettings
from camac_dra.utils.environment_validator import check_model_sizes
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema import Config, CoordinationConfig, EnvironmentConfig

logger = logging.getLogger(__name__)

_ALONE = CoordinationConfig()


@dataclass(frozen=True)
class EnvironmentFactory:
    """Makes vector environments of one problem with its coordination; travels to remote env runners, a
    callable ``reward_fn`` with it.
    """

    config: EnvironmentConfig
    coordination: CoordinationConfig = _ALONE
    deferral_price: float | None = None  # see `VectorEnvironment.set_deferral_price`
    rewards_by_resource: bool = False  # see `VectorEnvironment.set_rewards_by_resource`

    @classmethod
    def for_training(cls, config: Config) -> EnvironmentFactory:
        """Return what makes environments that reward as the training of ``config`` wants it."""
        training = config.training
        by_resource = bool(training.factored_credit)
        return cls(config.environment, config.coordination, training.deferral_price, by_resource)

    def __call__(self, num_envs: int, seed: int) -> VectorEnvironment:
        """Return ``num_envs`` copies whose draws come from ``seed``."""
        agreement = agreement_for(self.coordination, self.config)
        env = VectorEnvironment(self.config, num_envs=num_envs, seed=seed, agreement=agreement)
        env.set_deferral_price(self.deferral_price)
        env.set_rewards_by_resource(self.rewards_by_resource)
        return env

    def single(self, context: EnvContext) -> RLlibEnvironment:
        """Return one copy for RLlib's own env runner; ``context["seed"]`` fixes its draws."""
        problem = {**self.config.model_dump(), "seed": context["seed"]}
        own = EnvContext(problem, worker_index=context.worker_index or 0)
        env = RLlibEnvironment(own, agreement_for(self.coordination, self.config))
        env.core.set_deferral_price(self.deferral_price)
        return env


def vector_factory(
    environment: EnvironmentConfig, coordination: CoordinationConfig = _ALONE
) -> EnvironmentFactory | ForeignFactory:
    """Return what makes the vector environments of a problem: ours, or somebody else's where it names one."""
    if environment.factory is not None:
        return ForeignFactory.of(environment)
    return EnvironmentFactory(environment, coordination)


def training_factory(config: Config) -> EnvironmentFactory | ForeignFactory:
    """Return what makes the environments that are trained in, which reward as the training wants it."""
    if config.environment.factory is not None:
        return ForeignFactory.of(config.environment)
    return EnvironmentFactory.for_training(config)


def total_env_steps(config: Config) -> int:
    """Return the steps of training, counted over all copies: ``num_episodes`` whole episodes."""
    return config.training.num_episodes * config.environment.max_episode_length


EPSILON_SHARE = 0.2  # of a training, over which exploration falls where nothing else is said
_COMMON = (
    *("seed", "policies", "normalize_observations", "normalize_returns", "num_workers", "num_envs"),
    *("fragment_length", "torch_threads", "batch_size", "optimizer"),
    *("learning_rate_schedule", "grad_clip", "num_learners", "num_gpus", "sampler", "learner_threads"),
)
_PPO = (
    *("gae_lambda", "clip_param", "value_clip", "value_loss_coeff", "entropy_coeff", "entropy_coeff_end"),
    "critic",
)
_REPLAY = (
    *("model.target_update_freq", "model.target_update_rate", "training.n_step"),
    *("training.replay_buffer_size", "training.learning_starts", "training.prioritized_replay"),
    "training.checkpoint_replay",
)
_Q_LEARNING = (
    *("model.double", "model.dueling", "training.epsilon_start", "training.epsilon_end"),
    "training.epsilon_decay",
)
_RENAMED = {"prioritized_replay": "prioritized"}


def algorithm_settings(config: Config) -> ArraySettings:
    """Return the settings of the algorithm that a configuration means."""
    training, model = config.training, config.model
    total, network = total_env_steps(config), network_of(model)
    common: dict[str, Any] = {
        "hidden_sizes": network.hidden_sizes,
        "activation": model.activation,
        "learning_rate": model.learning_rate,
        "gamma": model.gamma,
        "total_env_steps": total,
        "overlap": training.overlaps,
        **{name: getattr(training, name) for name in _COMMON},
    }
    if model.type == "dqn":
        return DQNSettings(
            num_epochs=training.num_epochs or 1,
            epsilon_steps=max(1, round(EPSILON_SHARE * total)),
            **common,
            **_given(config, (*_REPLAY, *_Q_LEARNING)),
        )
    if model.type == "sac":
        return SACSettings(num_epochs=training.num_epochs or 1, **common, **_given(config, _REPLAY))
    plain = model.type == "policy_gradient"
    return PPOSettings(
        loss="plain" if plain else "clipped",
        factored_credit=bool(training.factored_credit),
        num_epochs=training.num_epochs or (1 if plain else 4),
        network_kind=network.kind,
        network_options=network.options,
        recurrent_size=network.recurrent_size,
        **common,
        **{name: getattr(training, name) for name in _PPO},
    )


def _given(config: Config, paths: Sequence[str]) -> dict[str, Any]:
    """Return the settings at these paths that are not null, by the names that algorithms have for them."""
    given = {}
    for path in paths:
        section, name = path.split(".")
        value = getattr(getattr(config, section), name)
        if value is not None:
            given[_RENAMED.get(name, name)] = value
    return given


def prove(config: Config) -> dict[str, Any]:
    """Build the environments of training and evaluation, and compare sizes, before anything is written.

    Returns what `environment_fingerprint` says of them.

    Raises:
        ConfigurationError: a setting is wrong, what is to be replayed does not fit into memory, a size of the
            ``model`` section is not the environment's, somebody else's environment is not one that can be
            trained on, or the user's reward function cannot reward fair shares.
        TraceError, TopologyError: a file that the problem is made of is wrong.
    """
    settings = algorithm_settings(config)
    held_out = config.environment.held_out()
    problems = [config.environment] if held_out == config.environment else [config.environment, held_out]
    fingerprints = []
    if config.environment.reward_fn is not None:
        _try_reward(config.environment)
    for problem in problems:
        env = vector_factory(problem, config.coordination)(1, config.training.seed)
        _check_sizes(config, env)
        _check_actions(config, env)
        policies, _ = assign_policies(settings.policies, env)
        if isinstance(settings, ReplaySettings):
            _check_replay(settings, env, len(policies))
        settings.network.try_once(
            env.single_observation_space.shape, make_action_head(env.single_action_space)
        )
        if problem.factory is not None:
            env.reset(config.training.seed)  # ours is known to begin
        fingerprints.append(environment_fingerprint(env))
        env.close()
    if fingerprints[0] != fingerprints[-1]:
        raise ConfigurationError(
            "environment.dynamics: what evaluation plays must have the agents, resources, observations and "
            f"actions of the training, got {_difference(*fingerprints)}"
        )
    return fingerprints[0]


def _try_reward(problem: EnvironmentConfig) -> None:
    """Ask the user's function for the rewards of fair shares, so that a broken one shows.

    One that fails where nothing is granted, as those that divide by it do, may never be asked for that: it is
    only warned of.
    """
    reward_fn = load_reward_fn(problem.reward_fn)
    assert reward_fn is not None
    pool, agents = pool_of(problem), problem.agent_ids  # (R,)
    shares = np.tile(pool / len(agents), (1, len(agents), 1))  # (1, N, R)
    user_rewards(reward_fn, agents, shares, pool)
    try:
        with np.errstate(all="ignore"):
            user_rewards(reward_fn, agents, np.zeros_like(shares), pool)
    except ConfigurationError as error:
        logger.warning("%s; training ends where an agent is granted nothing", error)


def _check_replay(settings: ReplaySettings, env: Any, policies: int) -> None:
    """Refuse a memory of transitions that the machine has no room for."""
    masks: np.ndarray | None = getattr(env, "action_masks", None)  # (1, N, O)
    row = transition_bytes(
        math.prod(env.single_observation_space.shape),
        math.prod(env.single_action_space.shape),
        0 if masks is None else masks.shape[-1],
        prioritized=settings.prioritized,
    )
    steps = math.inf if settings.total_env_steps is None else settings.total_env_steps
    check_replay_fits(settings.replay_buffer_size, row, policies=policies, brought=steps * len(env.agent_ids))


def _difference(training: dict[str, Any], evaluation: dict[str, Any]) -> str:
    return "; ".join(
        f"{name} {training[name]} and {evaluation[name]}"
        for name in training
        if training[name] != evaluation[name]
    )


def _check_actions(config: Config, env: Any) -> None:
    """Refuse actions that the algorithm does not have."""
    if config.model.type == "dqn":
        greedy_head(env.single_action_space, torch.ones(()))
    elif config.model.type == "sac":
        squashed_head(env.single_action_space)


def _check_sizes(config: Config, env: Any) -> None:
    """Refuse sizes of the ``model`` section that are not the environment's."""
    space: Any = env.single_action_space
    if isinstance(space, spaces.Discrete):
        actions = int(space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        actions = int(space.nvec.max())
    else:
        actions = int(space.shape[0])
    check_model_sizes(config.model, env.single_observation_space.shape[-1], actions)
