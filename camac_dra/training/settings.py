"""The settings of the algorithms, as plain values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from camac_dra.models.layers import ACTIVATIONS
from camac_dra.models.network_spec import NetworkSpec
from camac_dra.training.learning_scheduler import SCHEDULES, LearningScheduler, learning_rate_schedule
from camac_dra.training.optimizer import OPTIMIZERS
from camac_dra.utils.errors import ConfigurationError, did_you_mean

SAMPLERS = ("array", "stock")
POLICIES = ("shared", "by_group", "per_agent")


@dataclass(frozen=True)
class ArraySettings:
    """Settings that all algorithms over arrays have. "Env step" is one step of one copy, "agent step" one row
    of one agent.

    Raises ``ConfigurationError`` with the setting's name, its rule and the value.
    """

    seed: int = 0
    policies: Literal["shared", "by_group", "per_agent"] = "shared"
    network_kind: str = "mlp"  # or attention, gnn, communication, a BaseModel's dotted path
    hidden_sizes: tuple[int, ...] = (128, 128)
    activation: Literal["relu", "elu", "tanh"] = "relu"
    network_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the constructor
    normalize_observations: bool = False

    num_workers: int = 0  # sampling processes; 0 samples in the main process
    num_envs: int = 32  # copies per sampling process
    fragment_length: int = 50  # steps per copy and iteration
    sampler: Literal["array", "stock"] = "array"  # stock: RLlib's own env runner, for comparisons
    num_learners: int = 0  # learning processes; 0 learns in the main process
    num_gpus: float = 0.0  # per learner
    overlap: bool = False  # sampling processes sample the next fragment while this one is learned from
    torch_threads: int = 1  # per process
    learner_threads: int | None = None  # of each process that learns; None: torch_threads
    max_episode_steps: int | None = None  # episodes are cut off there; None: the environment's own length

    batch_size: int = 2048  # rows per minibatch and policy
    num_epochs: int = 4
    optimizer: Literal["adam", "sgd", "rmsprop", "adamw"] = "adam"
    learning_rate: float = 5e-4
    # Falls to 0 at total_env_steps, exponentially to a hundredth.
    learning_rate_schedule: Literal["constant", "linear", "exponential", "cosine"] = "constant"
    gamma: float = 0.95
    grad_clip: float | None = 0.5  # largest global norm of a policy's gradient; None: none
    total_env_steps: int | None = None  # length of the training, which schedules refer to

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()
        if self.total_env_steps is None and (changing := self._changing()):
            raise ConfigurationError(f"total_env_steps must be set where {changing}, got None")

    @property
    def network(self) -> NetworkSpec:
        """The network of every policy."""
        return NetworkSpec(self.network_kind, self.hidden_sizes, self.activation, None, self.network_options)

    @property
    def threads_to_learn(self) -> int:
        """Threads of torch in each process that learns."""
        return self.learner_threads or self.torch_threads

    def _changing(self) -> str | None:
        """Return what refers to the length of the training, None where nothing does."""
        return (
            "learning_rate_schedule is not 'constant'" if self.learning_rate_schedule != "constant" else None
        )

    def _check_choices(self) -> None:
        choices: dict[str, tuple[str, ...]] = {
            "policies": POLICIES,
            "activation": tuple(ACTIVATIONS),
            "optimizer": OPTIMIZERS,
            "sampler": SAMPLERS,
            "learning_rate_schedule": SCHEDULES,
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise ConfigurationError(
                    f"{name} must be one of {', '.join(known)}, got {value!r}."
                    f"{did_you_mean(str(value), known)}"
                )

    def _check_numbers(self) -> None:
        for name, low in {"num_workers": 0, "num_learners": 0, "seed": 0}.items():
            self._require(name, lambda v, low=low: _is_int(v) and v >= low, f"an integer of at least {low}")
        self._require("overlap", lambda v: not v or self.num_workers > 0, "false where num_workers is 0")
        for name in ("num_envs", "fragment_length", "torch_threads", "batch_size", "num_epochs"):
            self._require(name, lambda v: _is_int(v) and v >= 1, "an integer of at least 1")
        self._require(
            "hidden_sizes", lambda v: len(v) > 0 and all(_is_int(n) and n >= 1 for n in v), "positive sizes"
        )
        self._require_share("num_gpus")
        self._require("learner_threads", lambda v: v is None or (_is_int(v) and v >= 1), "None or at least 1")
        self._require_share("gamma")
        self._require_positive("learning_rate")
        self._require(
            "max_episode_steps", lambda v: v is None or (_is_int(v) and v >= 1), "None or at least 1"
        )
        for name in ("grad_clip", "total_env_steps"):
            self._require_positive(name, or_none=True)

    def _require(self, name: str, holds: Any, rule: str) -> None:
        value = getattr(self, name)
        if not holds(value):
            raise ConfigurationError(f"{name} must be {rule}, got {value!r}")

    def _require_share(self, name: str) -> None:
        self._require(name, lambda v: _is_number(v) and 0.0 <= v <= 1.0, "between 0 and 1")

    def _require_positive(self, name: str, *, or_none: bool = False) -> None:
        rule = f"{'None or ' if or_none else ''}a finite number above 0"
        self._require(name, lambda v: (or_none and v is None) or (_is_number(v) and v > 0.0), rule)

    def _require_not_negative(self, name: str, *, or_none: bool = False) -> None:
        rule = f"{'None or ' if or_none else ''}a finite number of at least 0"
        self._require(name, lambda v: (or_none and v is None) or (_is_number(v) and v >= 0.0), rule)

    def learning_rate_for_rllib(self) -> float | list[list[float]]:
        """Return the learning rate as RLlib takes it: a number, or points of a schedule over env steps."""
        kind, duration = self.learning_rate_schedule, self.total_env_steps
        return learning_rate_schedule(kind, self.learning_rate, duration).points()

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class PPOSettings(ArraySettings):
    """Settings of ``ArrayPPO``.

    Raises ``ConfigurationError`` with the setting's name, its rule and the value.
    """

    loss: Literal["clipped", "plain"] = "clipped"  # PPO's surrogate, or the plain policy gradient
    recurrent_size: int | None = None  # units that remember between steps; None: no memory
    critic: Literal["local", "centralized"] = "local"  # sees what its agent sees, or everybody besides
    factored_credit: bool = False  # credit each action component with what its own resource brings
    shared_torso: bool = False  # one torso for policy and value: half the arithmetic, gradients interfere
    normalize_returns: bool = False
    gae_lambda: float = 0.9
    clip_param: float = 0.2
    value_clip: float | None = None  # bound of the squared value error in the loss; None: none
    value_loss_coeff: float = 0.5
    entropy_coeff: float = 0.01
    entropy_coeff_end: float | None = None  # reached linearly at total_env_steps; None: constant

    @property
    def network(self) -> NetworkSpec:
        """The network of every policy."""
        return NetworkSpec(
            self.network_kind, self.hidden_sizes, self.activation, self.recurrent_size, self.network_options
        )

    @property
    def minibatch_size(self) -> int:
        """What of a train batch is taken at a time: rows, or sequences where the network has memory."""
        if self.recurrent_size is None:
            return self.batch_size
        return max(1, self.batch_size // self.fragment_length)

    def _check_choices(self) -> None:
        super()._check_choices()
        for name, known in {"loss": ("clipped", "plain"), "critic": ("local", "centralized")}.items():
            self._require(name, lambda v, known=known: v in known, f"one of {', '.join(known)}")
        if self.critic == "centralized" and self.shared_torso:
            raise ConfigurationError("shared_torso must be False with a centralized critic, got True")
        if self.factored_credit and self.sampler != "array":
            raise ConfigurationError(f"sampler must be 'array' with factored_credit, got {self.sampler!r}")

    def _changing(self) -> str | None:
        if self._entropy_changes:
            return "entropy_coeff_end differs from entropy_coeff"
        return super()._changing()

    @property
    def _entropy_changes(self) -> bool:
        return self.entropy_coeff_end not in (None, self.entropy_coeff)

    def _check_numbers(self) -> None:
        super()._check_numbers()
        self._require("recurrent_size", lambda v: v is None or (_is_int(v) and v >= 1), "None or at least 1")
        self._require_share("gae_lambda")
        self._require_positive("clip_param")
        self._require_positive("value_clip", or_none=True)
        for name in ("value_loss_coeff", "entropy_coeff"):
            self._require_not_negative(name)
        self._require_not_negative("entropy_coeff_end", or_none=True)

    def entropy_coeff_for_rllib(self) -> float | list[list[float]]:
        """Return the entropy coefficient as RLlib takes it: a number, or points over env steps."""
        start, end = self.entropy_coeff, self.entropy_coeff_end
        if end is None or not self._entropy_changes:
            return start
        return LearningScheduler("linear", start, end, duration=self.total_env_steps).points()


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
