"""How good policies are: the same held-out episodes for all, beside the optimum and the fair share.

Axes, always in this order: M runs of one method, E episodes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from camac_dra.coordination.agreements import make_agreement
from camac_dra.environment.agreement import Agreement
from camac_dra.environment.oracle import record_episodes, solve_oracle
from camac_dra.environment.settings import environment_section
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.heuristics import HEURISTICS, RequestPolicy
from camac_dra.utils.errors import ConfigurationError, OracleError
from camac_dra.utils.schema import Config, EnvironmentConfig
from camac_dra.utils.statistics import Interval, stratified_bootstrap_interval

_BOOTSTRAP_SEED = 0

_OVERLOAD = 1.01  # share of the capacity
_NUMBER = 8  # bytes

Decides = Literal["alone", "together", "centrally"]


@dataclass(frozen=True)
class EvaluationResult:
    """What became of one policy in E episodes."""

    name: str
    decides: Decides  # each agent alone, all together by an agreement, or one planner for all
    episodes: dict[str, np.ndarray]  # (E,) each: the measures of `episode_measures`
    rounds: int  # exchanges per decision
    messages: int  # per decision and episode
    seconds: float  # that deciding took, all episodes together
    bytes: int = 0  # of the numbers in the messages, per decision and episode

    @property
    def efficiency(self) -> np.ndarray:
        """(E,) the undiscounted team objective."""
        return self.episodes["efficiency"]


@dataclass(frozen=True)
class Reference:
    """What results are measured against, on the same E episodes."""

    fair_share: np.ndarray  # (E,) efficiency where nobody asks for more than its part
    optimum: np.ndarray | None  # (E,) clairvoyant efficiency; None: not known
    gap: float = 0.0  # share by which the optimum that can be attained may lie below ``optimum``
    unknown_because: str | None = None


@dataclass(frozen=True)
class Row:
    """One method of a comparison; all measures are means over its runs and episodes."""

    name: str
    decides: Decides
    runs: int
    measures: dict[str, float]
    share_of_oracle: float | None  # sum of the efficiencies over the sum of the optima
    mean_episode_share: float | None  # mean over episodes of efficiency over optimum
    normalised_share: float | None  # (x - fair share) / (optimum - fair share), of the sums
    interval: Interval | None  # interquartile mean of the episodes' shares and its bootstrap interval
    rounds: int
    messages: int
    seconds: float
    bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain values."""
        plain = {name: value for name, value in vars(self).items() if name not in ("measures", "interval")}
        interval = None if self.interval is None else vars(self.interval)
        return {**plain, "measures": dict(self.measures), "interval": interval}


@dataclass(frozen=True)
class Comparison:
    """Methods side by side on the same episodes."""

    rows: dict[str, Row]  # by name, in the order in which they were given
    reference: Reference
    num_episodes: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values, for JSON."""
        optimum = self.reference.optimum
        return {
            "num_episodes": self.num_episodes,
            "seed": self.seed,
            "optimum": None if optimum is None else float(optimum.mean()),
            "optimum_gap": self.reference.gap,
            "optimum_unknown_because": self.reference.unknown_because,
            "rows": [row.to_dict() for row in self.rows.values()],
        }


def evaluate(
    policy: RequestPolicy,
    config: EnvironmentConfig | Config | Mapping[str, Any],
    num_episodes: int,
    seed: int,
    agreement: Agreement | None = None,
    preference: Mapping[str, float] | Sequence[float] | None = None,
) -> EvaluationResult:
    """Play ``num_episodes`` at once, the first episodes after ``reset(seed)``, and return their measures.

    The reward is that before credit is assigned: the sum over agents of what each earned. Besides the
    measures of `episode_measures` there is ``overload``, the share of group-steps that bind in which more
    than 1.01 of the capacity was asked for, after whatever agreement and before any conflict was resolved.

    Args:
        policy: what decides. It keeps an agreement of its own.
        config: the ``environment`` section, or a whole configuration, whose ``coordination`` then acts.
        num_episodes: E.
        seed: of the episodes.
        agreement: how a policy without one agrees, unless it is one planner for all; None: as ``config``
        says.
        preference: weights of the objectives in all episodes, where agents are shown them (see
            `VectorEnvironment.set_preference`); None: as the problem draws them. The episodes are the same.

    Raises:
        ConfigurationError: a setting is wrong, ``num_episodes`` is below 1, or agents see no preference.
    """
    section = environment_section(config)
    if section.credit == "marginal":  # it only redistributes, at up to N times the cost of a step
        section = section.model_copy(update={"credit": "individual"})
    agreement = _agreement(policy, config, agreement)
    env = VectorEnvironment(section, num_episodes, agreement=agreement, autoreset=False)
    if preference is not None:
        env.set_preference(preference)
    env.reset(seed)
    started = time.perf_counter()
    policy.begin(env)
    seconds = time.perf_counter() - started
    episodes: list[dict[str, float]] = []
    overloaded = np.zeros(num_episodes)
    while not episodes:
        started = time.perf_counter()
        requests = policy.requests(env)
        seconds += time.perf_counter() - started
        result = env.step_requests(requests)
        overloaded += (result.info["load"] > _OVERLOAD).sum(axis=(1, 2))
        episodes = result.episodes
    measures = {name: np.array([episode[name] for episode in episodes]) for name in episodes[0]}
    binding = max(int(np.isfinite(env.constraints.capacity).sum()), 1) * env.episode_length
    measures["overload"] = overloaded / binding
    return EvaluationResult(policy.name, episodes=measures, seconds=seconds, **_exchanges(policy, env))


def reference_points(
    config: EnvironmentConfig | Config | Mapping[str, Any], num_episodes: int, seed: int
) -> Reference:
    """Return the clairvoyant optimum and the fair share's efficiency of the episodes that `evaluate` plays.

    Nobody agrees on anything: shares fit by themselves.

    Where the optimum cannot be computed, the reference says why instead. This takes a quarter of a second per
    default episode, so that it pays to keep the result.
    """
    section = environment_section(config)
    fair_share = evaluate(HEURISTICS["fair_share"](), section, num_episodes, seed).efficiency
    try:
        solution = solve_oracle(section, record_episodes(section, num_episodes, seed))
    except OracleError as error:
        return Reference(fair_share, None, unknown_because=str(error))
    return Reference(fair_share, solution.efficiency, solution.gap)


def compare(
    policies: Sequence[RequestPolicy],
    config: EnvironmentConfig | Config | Mapping[str, Any],
    num_episodes: int,
    seed: int,
    reference: Reference | None = None,
    agreement: Agreement | None = None,
) -> Comparison:
    """Evaluate all policies on the same episodes.

    Policies of the same name are runs of one method (trained with several seeds) and share a row.

    Args:
        policies: at least one.
        config: the problem, without curriculum; of a whole configuration, its ``coordination`` acts too.
        num_episodes: episodes per policy.
        seed: of the episodes.
        reference: from `reference_points` with the same three arguments; None: computed here.
        agreement: see `evaluate`.

    Raises:
        ConfigurationError: there are no policies, a setting is wrong, or ``num_episodes`` is below 1.
    """
    if not policies:
        raise ConfigurationError("policies must be at least one, got none")
    known = reference_points(config, num_episodes, seed) if reference is None else reference
    by_name: dict[str, list[EvaluationResult]] = {}
    for policy in policies:
        by_name.setdefault(policy.name, []).append(evaluate(policy, config, num_episodes, seed, agreement))
    rows = {name: summarise(runs, known) for name, runs in by_name.items()}
    return Comparison(rows, known, num_episodes, seed)


def summarise(runs: Sequence[EvaluationResult], reference: Reference) -> Row:
    """Return the row of one method from the results of its runs on the reference's episodes.

    The interval is over runs, stratified by episode; where there is one run only, it is over episodes.
    """
    first = runs[0]
    measures = {name: float(np.mean([run.episodes[name].mean() for run in runs])) for name in first.episodes}
    efficiency = np.stack([run.efficiency for run in runs])  # (M, E)
    optimum, fair = reference.optimum, reference.fair_share
    share = episode_share = normalised = interval = None
    if optimum is not None:
        mean = efficiency.mean(axis=0)  # (E,)
        share = _ratio(mean.sum(), optimum.sum())
        normalised = _ratio(mean.sum() - fair.sum(), optimum.sum() - fair.sum())
        counted = optimum > 0.0  # a share of nothing, or of a loss, says nothing
        if counted.any():
            shares = efficiency[:, counted] / optimum[counted]  # (M, E)
            episode_share = float(shares.mean())
            rng = np.random.default_rng(_BOOTSTRAP_SEED)
            interval = stratified_bootstrap_interval(shares if len(runs) > 1 else shares[0], rng)
    return Row(
        name=first.name,
        decides=first.decides,
        runs=len(runs),
        measures=measures,
        share_of_oracle=share,
        mean_episode_share=episode_share,
        normalised_share=normalised,
        interval=interval,
        rounds=first.rounds,
        messages=first.messages,
        bytes=first.bytes,
        seconds=float(np.mean([run.seconds for run in runs])),
    )


def _ratio(part: float, whole: float) -> float | None:
    """Return ``part / whole`` where the whole is positive."""
    return float(part / whole) if whole > 0.0 else None


def _agreement(
    policy: RequestPolicy, config: EnvironmentConfig | Config | Mapping[str, Any], agreement: Agreement | None
) -> Agreement | None:
    """Return by what a policy's agents agree."""
    if policy.agreement is not None:
        return policy.agreement
    if getattr(policy, "central", False):
        return None
    if agreement is not None or isinstance(config, EnvironmentConfig):
        return agreement
    return make_agreement(config) if isinstance(config, Config) or "environment" in config else None


def _exchanges(policy: RequestPolicy, env: VectorEnvironment) -> dict[str, Any]:
    """Return who decides, and the rounds, messages and bytes per decision that it takes."""
    agreement = env.agreement
    count = getattr(policy, "learned_messages", None)
    # What agents tell each other, where they learned to, takes one exchange before any agreement.
    learned, learned_size = (0, 0) if count is None else count(env)
    if agreement is not None or learned:
        return {
            "decides": "together",
            "rounds": getattr(agreement, "rounds", 0) + (learned > 0),
            "messages": getattr(agreement, "messages", 0) + learned,
            "bytes": getattr(agreement, "bytes", 0) + learned_size,
        }
    if getattr(policy, "central", False):  # everybody's demand there, everybody's grant back
        messages = 2 * env.num_agents
        size = messages * env.num_resources * _NUMBER
        return {"decides": "centrally", "rounds": 2, "messages": messages, "bytes": size}
    return {"decides": "alone", "rounds": 0, "messages": 0, "bytes": 0}
