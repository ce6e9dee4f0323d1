"""Which algorithm learns: from settings to RLlib's configuration object of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from camac_dra.training.array_algorithm import ArrayAlgorithm
from camac_dra.training.array_env_runner import EnvironmentFactory
from camac_dra.training.dqn import ArrayDQN
from camac_dra.training.dqn_config import configure_dqn
from camac_dra.training.ppo import ArrayPPO
from camac_dra.training.ppo_config import configure_ppo
from camac_dra.training.replay_settings import DQNSettings, SACSettings
from camac_dra.training.rllib_bridge import ArrayConfig, refuse_unsupported
from camac_dra.training.sac import ArraySAC
from camac_dra.training.sac_config import configure_sac
from camac_dra.training.settings import ArraySettings, PPOSettings

# By the class of their settings: the algorithm, and what fills its configuration.
ALGORITHMS: dict[type[ArraySettings], tuple[type[ArrayAlgorithm], Callable[..., None]]] = {
    PPOSettings: (ArrayPPO, configure_ppo),
    DQNSettings: (ArrayDQN, configure_dqn),
    SACSettings: (ArraySAC, configure_sac),
}


def build_algorithm_config(
    factory: EnvironmentFactory, settings: ArraySettings, *, callbacks: type | list[type] | None = None
) -> Any:
    """Return the configuration of the algorithm that ``settings`` are of; ``build_algo()`` on it makes it.

    ``factory(num_envs, seed)`` makes a vector environment; it is called once here to learn agents and spaces,
    and must be picklable for remote env runners. ``callbacks`` are RLlib callback classes; those for episodes
    are refused with ``CapabilityError``.
    """
    algorithm, configure = ALGORITHMS[type(settings)]
    config: ArrayConfig = algorithm.get_default_config()  # type: ignore[assignment]
    configure(config, factory, settings)
    if callbacks is not None:
        config.callbacks(callbacks)
        refuse_unsupported(config)
    return config
