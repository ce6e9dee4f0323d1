"""Q-learning of many agents at once: one `DQNAgent` decides for all and learns from what all live through."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.dqn_agent import DQNAgent
from camac_dra.training.curriculum import Curriculum
from camac_dra.training.episode_manager import EpisodeManager
from camac_dra.training.experience_buffer import ExperienceBuffer
from camac_dra.training.learning_scheduler import LearningScheduler
from camac_dra.training.optimizer import Optimizer
from camac_dra.training.stretches import Progress, Stretch
from camac_dra.utils.errors import ConfigurationError, TrainingDivergedError
from camac_dra.utils.schema import Config


class QLearning:
    """Learns with replay from all agents of all copies, in one process (Mnih et al. 2015).

    One forward pass per step decides for all B * N rows, epsilon-greedily. Every row is learned from
    ``training.num_epochs`` times on average, in batches of ``training.batch_size`` (fewer while there are
    fewer). Where the configuration leaves them open, the agent has the say: ``target_update_freq``,
    ``replay_buffer_size``, ``epsilon_start``, ``epsilon_end`` and ``epsilon_decay`` (per finished episode).
    """

    def __init__(
        self,
        config: Config,
        agent: DQNAgent,
        factory: Callable[[int, int], VectorEnvironment],
        buffer: ExperienceBuffer | None,
    ) -> None:
        """``buffer`` holds what is replayed; None: a uniform one in memory.

        Raises:
            ConfigurationError: the buffer sums over other steps than the agent or discounts otherwise, or
                a setting does not go with Q-learning.
        """
        training = config.training
        if training.num_workers:
            raise ConfigurationError(
                f"training.num_workers must be 0 with a DQNAgent, got {training.num_workers}"
            )
        self._config, self._agent, self._factory = config, agent, factory
        self.buffer = self._buffer(training.replay_buffer_size) if buffer is None else buffer
        for name, has, needs in (
            ("n_step", self.buffer.n_step, agent.n_step),
            ("gamma", self.buffer.gamma, config.model.gamma),
        ):
            if has != needs:
                raise ConfigurationError(f"{name} of the buffer must be {needs}, as in training, got {has}")
        self._optimizer = Optimizer(
            agent.online, training.optimizer, config.model.learning_rate, training.grad_clip
        )
        self._epsilon = LearningScheduler(
            "exponential",
            _first(training.epsilon_start, agent.epsilon_start),
            _first(training.epsilon_end, agent.epsilon_end),
            decay=_first(training.epsilon_decay, agent.epsilon_decay),
        )
        self._own_target_update_freq = agent.target_update_freq

    def _buffer(self, size: int | None) -> ExperienceBuffer:
        config, agent = self._config, self._agent
        return ExperienceBuffer(
            agent.replay_buffer_size if size is None else size,
            n_step=agent.n_step,
            gamma=config.model.gamma,
            seed=config.training.seed,
        )

    def begin(self, stretch: Stretch) -> None:
        """Begin fresh episodes; what is remembered stays."""
        torch.set_num_threads(self._config.training.torch_threads)
        env_seed, own_seed = np.random.SeedSequence(stretch.seed).generate_state(2)
        self._env = self._factory(stretch.copies, int(env_seed))
        self._curriculum = Curriculum.from_config(self._config, stretch.total_env_steps)
        self._manager = EpisodeManager(self._env, stretch.max_steps)
        self._rng = np.random.default_rng(own_seed)
        self._learning_rate = stretch.learning_rate(self._config)
        self._env_steps, self._episodes = stretch.env_steps, stretch.episodes
        self._owed = 0.0  # updates
        self._optimizer.attach()
        self._agent.target_update_freq = _first(
            self._config.model.target_update_freq, self._own_target_update_freq
        )
        self.buffer.begin(self._by_row(self._manager.begin()))

    def advance(self) -> Progress:
        """Play a fragment, learning after every step.

        Raises:
            TrainingDivergedError: a loss or a weight is not finite; the network is as before the fragment.
        """
        good = self._optimizer.vector.detach().clone()
        try:
            progress = self._play()
            if torch.isfinite(self._optimizer.vector).all():
                return progress
            raise TrainingDivergedError(
                "weights of the Q-network must be finite: try a lower model.learning_rate"
            )
        except TrainingDivergedError:
            self._optimizer.vector.data.copy_(good)
            raise

    def _play(self) -> Progress:
        training = self._config.training
        self._follow_schedules()
        before, episodes, losses = self._env_steps, list[dict[str, float]](), list[float]()
        for _ in range(training.fragment_length):
            ended, active = self._step()
            episodes += ended
            self._owed += active * (training.num_epochs or 4) / training.batch_size
            while self._owed >= 1.0 and len(self.buffer):
                losses.append(self._learn())
            if ended:
                break  # so that a stretch ends with its last episode
        if not losses and len(self.buffer):
            losses.append(self._learn())
        self._episodes += len(episodes)
        figures = {"epsilon": self._agent.epsilon, "learning_rate": self._optimizer.learning_rate}
        loss = float(np.mean(losses)) if losses else math.nan
        return Progress(episodes, self._env_steps - before, loss, figures)

    def _follow_schedules(self) -> None:
        self._agent.epsilon = self._epsilon.value(self._episodes)
        self._optimizer.learning_rate = self._learning_rate.value(self._env_steps)
        if self._curriculum is not None:
            mechanism, contention = self._curriculum.at(self._env_steps)
            self._env.set_mechanism(mechanism)
            self._env.set_contention(contention)

    def _step(self) -> tuple[list[dict[str, float]], int]:
        """Step all copies and remember; return the episodes that ended, and how many rows were active."""
        manager, shape = self._manager, (self._env.num_envs, self._env.num_agents)
        actions = self._actions(manager.observations)  # (B * N,)
        result = manager.step(actions.reshape(shape))
        finals = result.final_observations
        self.buffer.add_steps(
            actions,
            result.rewards.reshape(-1),
            self._by_row(result.observations),
            terminated=result.terminated.reshape(-1),
            ended=result.done.repeat(shape[1]),
            final_observations=None if finals is None else self._by_row(finals),
            active=result.active.reshape(-1),
            present=result.present.reshape(-1),
        )
        self._env_steps += shape[0]
        return result.episodes, int(np.count_nonzero(result.active))

    @torch.no_grad()
    def _actions(self, observations: np.ndarray) -> np.ndarray:
        """Return the epsilon-greedy actions (B * N,) for observations (B, N, *shape)."""
        rows = self._by_row(observations)
        explored = self._rng.random(len(rows)) < self._agent.epsilon
        drawn = self._rng.integers(self._agent.output_size, size=len(rows))
        best = self._agent.online(torch.from_numpy(np.ascontiguousarray(rows))).argmax(1).numpy()
        return np.where(explored, drawn, best)

    @staticmethod
    def _by_row(observations: np.ndarray) -> np.ndarray:
        """Return observations (rows, N, *shape) as (rows * N, F)."""
        return observations.reshape(len(observations) * observations.shape[1], -1)

    def _learn(self) -> float:
        """Make one update; return its loss."""
        self._owed -= 1.0
        batch = self.buffer.sample_batch(min(self._config.training.batch_size, len(self.buffer)))
        loss, errors = self._agent.learn(batch.transitions, batch.weights, self._optimizer.step)
        if self.buffer.prioritized:
            self.buffer.update_priorities(batch.places, errors)
        return loss

    def finish(self) -> None:
        """Leave the agent as it is after the last update."""
        self._agent.target_update_freq = self._own_target_update_freq
        self._env.close()

    def get_optimizers(self) -> dict[str, Any]:
        """Return the optimiser's state."""
        return {"shared": self._optimizer.state_dict()}

    def get_state(self) -> dict[str, Any]:
        """Return the number of updates; what is remembered is not part of it."""
        return {"updates": self._agent.updates}

    def set_state(self, optimizers: dict[str, Any], state: dict[str, Any]) -> None:
        """Go on from there with nothing remembered."""
        self._optimizer.load_state_dict(optimizers["shared"])
        self._agent.updates = int(state["updates"])
        self.buffer.clear()


def _first(given: float | None, otherwise: float) -> Any:
    return otherwise if given is None else given
