"""The ``training`` section: sampling, optimisation, evaluation, checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from camac_dra.utils.schema.base import Count, CountOrZero, NonNegative, Positive, Probability, Section, Seed
from camac_dra.utils.schema.environment import Mechanism

EPSILON_END = 0.02  # of DQN's exploration, where nothing else is said

Progress = Annotated[float, Field(ge=0, le=1)]


class MechanismStage(Section):
    """From this share of the training on, conflicts are resolved by this mechanism."""

    progress: Progress = Field(description="share of the training done, 0 to 1")
    mechanism: Mechanism = Field(description="mechanism from there on")


class ContentionStage(Section):
    """A point of the piecewise linear schedule of the contention."""

    progress: Progress = Field(description="share of the training done, 0 to 1")
    contention: NonNegative = Field(description="contention at that point; linear in between")


class CurriculumConfig(Section):
    """What changes in the training environment while training goes on; evaluation uses the full problem."""

    mechanism: list[MechanismStage] = Field(default_factory=list, description="stages, by rising progress")
    contention: list[ContentionStage] = Field(default_factory=list, description="points, by rising progress")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Stages are given in the order in which they come."""
        for name in ("mechanism", "contention"):
            points = [stage.progress for stage in getattr(self, name)]
            if points != sorted(points):
                yield name, f"must be ordered by rising progress, got {points}"


class TrainingConfig(Section):
    """Sampling, optimisation, evaluation, checkpoints."""

    num_episodes: Count = Field(
        1600, description="episodes to train on, counted over all copies of the environment"
    )
    time_limit: Positive | None = Field(
        None, description="stop after this many seconds of training; null: no limit"
    )
    seed: Seed = Field(0, description="seed of weights, sampling and environments")
    name: str | None = Field(
        None, description="folder of the run under output_dir; null: date, time and seed"
    )
    output_dir: str = Field("runs", description="where runs are written")

    num_workers: CountOrZero = Field(0, description="sampling processes; 0: sample in the main process")
    num_envs: Count = Field(32, description="copies of the environment per sampling process")
    fragment_length: Count = Field(50, description="steps sampled per copy and iteration")
    sampler: Literal["array", "stock"] = Field(
        "array", description="what samples: arrays of all copies at once, or RLlib's own slow env runner"
    )
    overlap: bool | None = Field(
        None,
        description="sample the next fragments while learning from these, with weights one update older; "
        "null: where num_workers is above 0",
    )
    num_learners: CountOrZero = Field(
        0, description="learning processes, which share every minibatch; 0: learn in the main process"
    )
    num_gpus: Probability = Field(
        0.0, description="GPU per learner, or a share of one; 0: learn on the processor"
    )
    torch_threads: Count = Field(1, description="threads of torch per process")
    learner_threads: Count | None = Field(
        None,
        description="threads of torch in processes that learn, half of which are a critic's where it has "
        "layers of its own; null: torch_threads",
    )

    batch_size: Count = Field(2048, description="rows (agent-steps) per minibatch")
    num_epochs: Count | None = Field(
        None,
        description="passes over each train batch; dqn, sac: times that a row is learned from on average; "
        "null: 1 for policy_gradient, which has no more, and for dqn and sac, else 4",
    )
    optimizer: Literal["adam", "sgd", "rmsprop", "adamw"] = Field("adam", description="optimiser")
    learning_rate_schedule: Literal["constant", "linear", "exponential", "cosine"] = Field(
        "linear", description="how the learning rate falls to 0 at the end, exponential to a hundredth"
    )
    gae_lambda: Probability = Field(
        0.9, description="not dqn, sac: lambda of generalised advantage estimation"
    )
    clip_param: Positive = Field(0.2, description="PPO: clip range of the probability ratio")
    value_clip: Positive | None = Field(
        None, description="not dqn, sac: clip range of the squared value error; null: none"
    )
    value_loss_coeff: NonNegative = Field(0.5, description="not dqn, sac: weight of the value loss")
    entropy_coeff: NonNegative = Field(
        0.01, description="not dqn, sac: weight of the entropy bonus at the start"
    )
    entropy_coeff_end: NonNegative = Field(
        0.0, description="not dqn, sac: weight of the entropy bonus at the end (linear)"
    )
    grad_clip: Positive | None = Field(0.5, description="largest global norm of the gradient; null: none")
    normalize_observations: bool = Field(
        True, description="scale observations by their running mean and deviation"
    )
    normalize_returns: bool = Field(
        True,
        description="PopArt on value targets: the critic learns them with mean 0 and deviation 1, and "
        "predicts the same when these move; rewards are not scaled",
    )
    policies: Literal["shared", "by_group", "per_agent"] = Field(
        "shared", description="which agents share weights: all, those of a capacity group, or none"
    )
    critic: Literal["local", "centralized"] = Field(
        "local",
        description="what the value function sees: what its agent sees, or everybody's own row besides "
        "(in training only)",
    )
    deferral_price: NonNegative | None = Field(
        None,
        description="reward agents as if what waits were served later at this price per fair share, a "
        "potential that leaves the best policy as it is; null: what waits earns nothing yet",
    )
    factored_credit: bool | None = Field(
        None,
        description="action_type multi_discrete: credit the level asked of a resource with what that one "
        "brings, not with what all of them do; null: false",
    )
    curriculum: CurriculumConfig = Field(
        default_factory=CurriculumConfig, description="changes during training"
    )

    evaluation_interval: Count | None = Field(
        20, description="iterations between evaluations; null: only at the end"
    )
    evaluation_episodes: Count = Field(20, description="held-out episodes of each evaluation")
    evaluation_seed: Seed = Field(1_000_000, description="seed of the held-out episodes")
    early_stopping: bool = Field(False, description="stop when the evaluation return no longer rises")
    early_stopping_patience: Count = Field(2000, description="episodes without a rise before stopping")
    checkpoint_interval: Count = Field(20, description="iterations between checkpoints")
    keep_checkpoints: Count = Field(3, description="latest checkpoints kept, besides the best one")

    n_step: Count | None = Field(
        None, description="dqn, sac: steps whose rewards are summed before the target network; null: 1"
    )
    replay_buffer_size: Count | None = Field(
        None, description="dqn, sac: transitions kept, for each policy; null: 200000"
    )
    learning_starts: CountOrZero | None = Field(
        None, description="dqn, sac: transitions of a policy before the first update; null: 0"
    )
    prioritized_replay: bool | None = Field(
        None, description="dqn, sac: draw by the size of the last error; null: false, all alike"
    )
    checkpoint_replay: bool | None = Field(
        None,
        description="dqn, sac: keep what is replayed in checkpoints, which grow by it, so that resume is "
        "exact; null: false, a resumed run begins with nothing remembered",
    )
    epsilon_start: Probability | None = Field(None, description="dqn: exploration at the start; null: 1")
    epsilon_end: Probability | None = Field(None, description="dqn: exploration at the end; null: 0.02")
    epsilon_decay: Probability | None = Field(
        None,
        description="dqn: factor on epsilon per finished episode; null: it falls evenly over the first fifth "
        "of num_episodes",
    )

    @property
    def overlaps(self) -> bool:
        """Whether the next fragments are sampled while these are learned from."""
        return self.num_workers > 0 if self.overlap is None else self.overlap

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Early stopping looks at evaluations, so there must be some; others sample meanwhile; exploration
        falls.
        """
        if self.overlap and not self.num_workers:
            yield "overlap", "must be false or null where num_workers is 0, got true"
        if self.sampler == "stock" and (self.curriculum.mechanism or self.curriculum.contention):
            yield (
                "curriculum",
                "must be empty where sampler is stock, whose environments are RLlib's own copies",
            )
        if self.early_stopping and self.evaluation_interval is None:
            yield "evaluation_interval", "must be a number where early_stopping is true, got null"
        start = 1.0 if self.epsilon_start is None else self.epsilon_start
        end = EPSILON_END if self.epsilon_end is None else self.epsilon_end
        if start < end:
            yield "epsilon_start", f"must be at least epsilon_end ({end:g}), got {start:g}"
