"""``Trainer``: trains a model in an environment, evaluates it, saves and loads."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from camac_dra.environment.environment import Environment
from camac_dra.models.base import BaseModel, class_path
from camac_dra.models.dqn_agent import DQNAgent
from camac_dra.models.model_file import check_weights
from camac_dra.models.policy_network import PolicyNetwork
from camac_dra.training.checkpoints import (
    Checkpoint,
    check_environment,
    environment_fingerprint,
    read_checkpoint,
    read_manifest,
    write_checkpoint,
)
from camac_dra.training.environments import EnvironmentFactory
from camac_dra.training.evaluation import evaluate
from camac_dra.training.experience_buffer import ExperienceBuffer
from camac_dra.training.held_out import objective, selection_seed
from camac_dra.training.metrics_tracker import RECENT_EPISODES, MetricsTracker
from camac_dra.training.model_policy import ModelPolicy
from camac_dra.training.stretches import Learner, Progress, Stretch
from camac_dra.training.trainer_config import trainer_config
from camac_dra.utils.config_loader import as_yaml
from camac_dra.utils.errors import CheckpointError, ConfigurationError, ModelError
from camac_dra.utils.file_handler import StrPath
from camac_dra.utils.schema import Config

POLICY = "shared"  # the name under which checkpoints keep the model
REWARDS, LOSSES = "training/episode_rewards", "training/episode_losses"
SUCCESS = "training/success_rate"
CURVES = "curves/"  # section of all other series, a number per episode


class Trainer:
    """Trains one model that decides for all agents of an environment.

    A `DQNAgent` learns by Q-learning with replay (double, dueling and n-step as the agent has it), a
    `PolicyNetwork` by PPO with its own value network as the critic, any other `BaseModel` that scores actions
    by PPO with a critic of the same class, upon observations as they are. Training plays many copies of the
    environment at once, made from its configuration; ``env`` itself is left alone. The model is trained in
    place: afterwards it holds the trained weights.

    The configuration says how is learned: learning rate, discount, batch size, optimiser, schedules, number
    of copies and sampling processes; constructor arguments of a `DQNAgent` for these act only where it leaves
    them open. The model says what is learned: sizes, activation, normalisation, double, dueling, n steps.
    Settings of the other way of learning are refused. With ``early_stopping``, the model is evaluated every
    ``evaluation_interval`` iterations, and training stops when it has not become better for
    ``early_stopping_patience`` episodes; ``time_limit`` holds for each call of `train`.

    Attributes:
        env: as given.
        model: as given.
        config: the whole configuration, checked.
        metrics_tracker: rewards, losses and measures of all episodes played so far, and of the last
            evaluation.
        episodes, env_steps: how many were played in training so far.
    """

    def __init__(
        self,
        env: Environment,
        model: BaseModel,
        config: Mapping[str, Any] | Config,
        *,
        buffer: ExperienceBuffer | None = None,
    ) -> None:
        """Prepare a training; nothing is played yet.

        Args:
            env: what is to be learned.
            model: a `DQNAgent`, a `PolicyNetwork` or another model of the environment's sizes.
            config: a whole configuration; its ``environment`` section, where there is one, must be that of
                ``env``.
            buffer: where a `DQNAgent` keeps its experience, for priorities or for memory on a disk; None: a
                uniform one of ``training.replay_buffer_size`` in memory.

        Raises:
            ConfigurationError: a setting is wrong, or contradicts the model or the environment.
            ModelError: the model's sizes are not the environment's, or it is of another kind.
        """
        self.config = trainer_config(env, model, config)
        self.env, self.model = env, model
        self.metrics_tracker = MetricsTracker()
        self.episodes = self.env_steps = 0
        self._stretches = 0
        self._policy = ModelPolicy(model, env.core.single_action_space)
        features = self._features(model)
        if model.input_size != features:
            raise ModelError(
                f"model must take {features} features, as the environment has, got a "
                f"{type(model).__name__} for {model.input_size}"
            )
        factory = EnvironmentFactory.for_training(self.config)
        self._learner: Learner = self._make_learner(factory, buffer)

    def _make_learner(self, factory: EnvironmentFactory, buffer: ExperienceBuffer | None) -> Learner:
        if isinstance(self.model, DQNAgent):
            from camac_dra.training.deep_q import DeepQ  # RLlib takes seconds to load

            return DeepQ(self.config, self.model, factory, buffer)
        if buffer is not None:
            raise ConfigurationError(f"buffer must be None without a DQNAgent, got {buffer!r}")
        from camac_dra.training.actor_critic import ActorCritic

        return ActorCritic(self.config, self.model, factory)

    def _features(self, model: BaseModel) -> int:
        """Return the numbers in what ``model`` has to take in at a time: a row, of those that see rows."""
        shape = self.env.core.single_observation_space.shape
        by_row = len(shape) == 2 and not isinstance(model, DQNAgent | PolicyNetwork)
        return shape[-1] - 1 if by_row else int(np.prod(shape))

    # Training

    def train(self, num_episodes: int, num_steps: int | None = None) -> dict[str, list[float]]:
        """Train on ``num_episodes`` episodes; return a number per episode of this call, by name.

        Episodes are played side by side, at most ``training.num_envs`` (per sampling process), evenly: where
        they do not divide into equal rounds, the last round adds a few. Schedules run from the beginning to
        the end of the call. It begins with fresh episodes; what a `DQNAgent` remembers, and the optimiser, go
        on from the last call.

        Args:
            num_episodes: how many.
            num_steps: episodes are cut off after so many steps; None: as long as the environment has them,
                which is never exceeded.

        Returns:
            ``episode_rewards`` (sums over agents and steps of what was credited), ``episode_losses`` (mean
            of the iteration in which each ended), the episodes' measures (``success_rate``, ``jain``, ...)
            and what the algorithm adds (``learning_rate``, ``epsilon``, ``entropy``, ...).

        Raises:
            ConfigurationError: a number is below 1.
            TrainingDivergedError: a loss or weight is not finite; the model has the last finite ones.
        """
        length = self._length(num_steps)
        self._require("num_episodes", num_episodes)
        most = self.config.training.num_envs * max(1, self.config.training.num_workers)
        copies = -(-num_episodes // -(-num_episodes // most))
        return self._train(num_episodes, num_steps, copies, 0, num_episodes * length)

    def train_episode(self) -> dict[str, float]:
        """Train on one episode; return its reward, loss and measures by name.

        Schedules run over ``training.num_episodes`` episodes, of which those played so far lie behind.
        """
        total = self.config.training.num_episodes * self._length(None)
        played = self._train(1, None, 1, min(self.env_steps, total), total)
        return {name: values[-1] for name, values in played.items()}

    def _length(self, num_steps: int | None) -> int:
        if num_steps is not None:
            self._require("num_steps", num_steps)
        own = self.config.environment.max_episode_length
        return own if num_steps is None else min(num_steps, own)

    @staticmethod
    def _require(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigurationError(f"{name} must be a whole number of at least 1, got {value!r}")

    def _train(
        self, num_episodes: int, num_steps: int | None, copies: int, env_steps: int, total: int
    ) -> dict[str, list[float]]:
        """Train for one stretch; ``env_steps`` of ``total`` lie behind."""
        seed = np.random.SeedSequence([self.config.training.seed, self._stretches]).generate_state(1)
        cut = num_steps if num_steps is not None and num_steps < self._length(None) else None
        stretch = Stretch(copies, cut, int(seed[0]), env_steps, total, self.episodes)
        played: dict[str, list[float]] = {}
        self._stretches += 1
        self._learner.begin(stretch)
        try:
            stopping = _Stopping(self)
            while len(played.get("episode_rewards", ())) < num_episodes and not stopping.due():
                self._record(self._learner.advance(), played)
        finally:
            self._learner.finish()
        return played

    def _record(self, progress: Progress, played: dict[str, list[float]]) -> None:
        self.episodes += len(progress.episodes)
        self.env_steps += progress.env_steps
        for episode in progress.episodes:
            numbers = {
                "episode_rewards": episode["reward"],
                "episode_losses": progress.loss,
                **{name: value for name, value in episode.items() if name != "reward"},
                **progress.figures,
            }
            for name, value in numbers.items():
                played.setdefault(name, []).append(value)
                section = "training/" if name.startswith("episode_") else CURVES
                self.metrics_tracker.record(section + name, value)
        recent = self.metrics_tracker.series(CURVES + "success_rate")[-RECENT_EPISODES:]
        if recent:
            self.metrics_tracker.set_value(SUCCESS, float(np.mean(recent)))

    # Evaluation

    def evaluate(self, num_episodes: int) -> dict[str, float]:
        """Play held-out episodes without exploring; return the means of their measures.

        They are the first ``num_episodes`` of ``training.evaluation_seed``, the same every time and for every
        model, and of the days or traces that are kept apart for evaluation.

        Returns:
            ``avg_reward`` and ``std_reward`` of the episodes' rewards before credit is assigned, summed over
            agents and steps; ``success_rate``, ``efficiency``, ``jain``, ``utilisation``, ``conflict_rate``,
            ``lost_share`` and the other measures.

        Raises:
            ConfigurationError: the number is below 1.
        """
        self._require("num_episodes", num_episodes)
        held_out = self.config.environment.held_out()
        found = self._measure(
            self.config.model_copy(update={"environment": held_out}),
            num_episodes,
            self.config.training.evaluation_seed,
        )
        for name, value in found.items():
            self.metrics_tracker.set_value(f"evaluation/{name}", value)
        return found

    def _measure(self, config: Config, num_episodes: int, seed: int) -> dict[str, float]:
        result = evaluate(self._policy, config, num_episodes, seed)
        reward = result.episodes["reward"]  # (E,)
        means = {name: float(values.mean()) for name, values in result.episodes.items() if name != "reward"}
        return {"avg_reward": float(reward.mean()), "std_reward": float(reward.std()), **means}

    def score(self) -> float:
        """Return what training is to raise, on the episodes on which `early_stopping` looks at it."""
        training = self.config.training
        name = {"reward": "avg_reward"}.get(objective(self.config), objective(self.config))
        return self._measure(self.config, training.evaluation_episodes, selection_seed(self.config))[name]

    # Checkpoints

    def save_checkpoint(self, path: StrPath) -> None:
        """Write the training as the folder ``path``: weights, optimiser, configuration, metrics.

        A checkpoint that is there is replaced; afterwards it is there whole, or all is as it was. It holds
        plain tensors and values. What a `DQNAgent` remembers is not part of it, but all the rest is: a
        `PolicyNetwork` goes on from it to the last bit.

        Raises:
            OutputError: it cannot be written there, or the disk is full.
        """
        model = {"class": class_path(type(self.model)), "config": self.model.get_config()}
        counts = {"episodes": self.episodes, "env_steps": self.env_steps, "stretches": self._stretches}
        checkpoint = Checkpoint(
            weights={POLICY: dict(self.model.state_dict())},
            optimizers=self._learner.get_optimizers(),
            state={"trainer": counts, "model": model, "learner": self._learner.get_state()},
            config=as_yaml(self.config),
            metrics=self.metrics_tracker.to_dict(),
            environment=environment_fingerprint(self.env.core),
            iteration=self._stretches,
            env_steps=self.env_steps,
        )
        write_checkpoint(path, checkpoint, replace=True)

    def load_checkpoint(self, path: StrPath) -> None:
        """Go on from a checkpoint that `save_checkpoint` of an equal trainer wrote.

        The configuration stays this trainer's own. Nothing in the checkpoint is run.

        Raises:
            CheckpointError: there is none, it is damaged, or of another model or environment; then nothing
                has changed.
        """
        checkpoint = read_checkpoint(path)
        check_environment(read_manifest(path), environment_fingerprint(self.env.core))
        state = checkpoint.state
        if set(state) != {"trainer", "model", "learner"} or set(checkpoint.weights) != {POLICY}:
            raise CheckpointError(f"{path}: must be a checkpoint that a Trainer wrote, got another one")
        own = {"class": class_path(type(self.model)), "config": self.model.get_config()}
        if state["model"] != own:
            raise CheckpointError(f"{path}: belongs to another model: {state['model']}, this one is {own}")
        check_weights(str(path), self.model.state_dict(), checkpoint.weights[POLICY])
        self.metrics_tracker.load_dict(checkpoint.metrics)
        self.model.load_state_dict(checkpoint.weights[POLICY])
        self._learner.set_state(checkpoint.optimizers, state["learner"])
        counts = state["trainer"]
        self.episodes, self.env_steps = counts["episodes"], counts["env_steps"]
        self._stretches = counts["stretches"]


class _Stopping:
    """Says when a stretch ends before all its episodes are played."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._started = time.monotonic()
        self._iterations = -1
        self._best, self._best_at = -np.inf, trainer.episodes

    def due(self) -> bool:
        """Return whether the time is up or the model no longer becomes better; called every iteration."""
        training = self._trainer.config.training
        self._iterations += 1
        if training.time_limit is not None and time.monotonic() - self._started >= training.time_limit:
            return True
        interval = training.evaluation_interval
        if not training.early_stopping or interval is None or not self._iterations:
            return False
        return self._iterations % interval == 0 and self._no_longer_rises()

    def _no_longer_rises(self) -> bool:
        trainer = self._trainer
        training = trainer.config.training
        score = trainer.score()
        if score > self._best:
            self._best, self._best_at = score, trainer.episodes
        return trainer.episodes - self._best_at >= training.early_stopping_patience
