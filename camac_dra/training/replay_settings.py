"""The settings of the algorithms that learn from replayed experience, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from camac_dra.training.learning_scheduler import LearningScheduler
from camac_dra.training.settings import ArraySettings, _is_int

SOFT_STEP = 0.01  # of a target network that moves at every update


@dataclass(frozen=True)
class ReplaySettings(ArraySettings):
    """Settings that DQN and SAC share.

    ``num_epochs`` is how often a row is learned from on average, ``batch_size`` the rows of an update and
    policy.

    Raises ``ConfigurationError`` with the setting's name, its rule and the value.
    """

    normalize_returns: bool = False  # Q-values in units of their targets' mean and deviation (PopArt)
    n_step: int = 1  # steps over which rewards are summed before the target network is asked
    replay_buffer_size: int = 200_000  # transitions kept per policy
    learning_starts: int = 0  # rows per policy that are remembered before the first update
    prioritized: bool = False  # draw by the size of the last error (Schaul et al. 2016)
    priority_alpha: float = 0.6
    priority_beta: float = 0.4
    target_update_freq: int = 1  # updates between those of the target network
    # How far it moves to the online network then; None: 0.01 at every update, else all the way.
    target_update_rate: float | None = None
    checkpoint_replay: bool = False  # keep what is remembered in checkpoints, so that resume is exact

    def _check_numbers(self) -> None:
        super()._check_numbers()
        for name in ("n_step", "replay_buffer_size", "target_update_freq"):
            self._require(name, lambda v: _is_int(v) and v >= 1, "an integer of at least 1")
        self._require(
            "learning_starts",
            lambda v: _is_int(v) and 0 <= v <= self.replay_buffer_size,
            f"an integer from 0 to replay_buffer_size ({self.replay_buffer_size})",
        )
        self._require_share("priority_beta")
        self._require_positive("target_update_rate", or_none=True)
        if self.target_update_rate is not None:
            self._require_share("target_update_rate")
        self._require_not_negative("priority_alpha")

    @property
    def target_step(self) -> float:
        """The share by which the target network moves to the online one."""
        if self.target_update_rate is not None:
            return self.target_update_rate
        return SOFT_STEP if self.target_update_freq == 1 else 1.0


@dataclass(frozen=True)
class DQNSettings(ReplaySettings):
    """Settings of ``ArrayDQN``.

    Raises ``ConfigurationError`` with the setting's name, its rule and the value.
    """

    double: bool = True
    dueling: bool = True
    epsilon_start: float = 1.0
    epsilon_end: float = 0.02
    epsilon_decay: float | None = None  # factor per finished episode; None: linear over ``epsilon_steps``
    epsilon_steps: int = 20_000  # env steps

    def _check_numbers(self) -> None:
        super()._check_numbers()
        for name in ("epsilon_start", "epsilon_end"):
            self._require_share(name)
        self._require("epsilon_steps", lambda v: _is_int(v) and v >= 1, "an integer of at least 1")
        if self.epsilon_decay is not None:
            self._require_share("epsilon_decay")

    def epsilon(self, env_steps: int, episodes: int) -> float:
        """Return the exploration rate after so many env steps and finished episodes."""
        start, end = self.epsilon_start, self.epsilon_end
        if self.epsilon_decay is not None:
            return LearningScheduler("exponential", start, end, decay=self.epsilon_decay).value(episodes)
        return LearningScheduler("linear", start, end, duration=self.epsilon_steps).value(env_steps)


@dataclass(frozen=True)
class SACSettings(ReplaySettings):
    """Settings of ``ArraySAC``.

    Raises ``ConfigurationError`` with the setting's name, its rule and the value.
    """

    initial_temperature: float = 0.1  # weight of the entropy at the start
    target_entropy: float | None = None  # nats that the temperature keeps; None: minus the action components

    def _check_numbers(self) -> None:
        super()._check_numbers()
        self._require_positive("initial_temperature")
