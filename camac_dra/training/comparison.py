"""A trained policy beside all heuristics and the optimum, on the same held-out episodes; as data and as
text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from camac_dra.coordination.agreements import agreement_for
from camac_dra.models.charging_heuristics import CHARGING_HEURISTICS, heuristics_of
from camac_dra.models.heuristics import HEURISTICS
from camac_dra.training.evaluation import (
    Comparison,
    EvaluationResult,
    evaluate,
    reference_points,
    summarise,
)
from camac_dra.training.evaluation_table import render_table
from camac_dra.training.policy import TrainedPolicy
from camac_dra.training.tables import as_text, show
from camac_dra.utils.errors import ConfigurationError, did_you_mean
from camac_dra.utils.schema import CoordinationConfig, EnvironmentConfig

FEWEST = 3  # columns of a table: the policy, who decides, and its share of the optimum


@dataclass(frozen=True)
class Verdict:
    """How far a trained policy is from heuristics and from the optimum."""

    comparison: Comparison
    trained: EvaluationResult

    def evaluation(self) -> dict[str, Any]:
        """Return the ``evaluation`` part of ``metrics.json``, as specified and with the shares of the
        optimum.
        """
        reward, row = self.trained.episodes["reward"], self.comparison.rows[self.trained.name]
        return {
            "avg_reward": float(reward.mean()),
            "std_reward": float(reward.std()),
            "success_rate": row.measures["success_rate"],
            "share_of_oracle": row.share_of_oracle,
            "normalised_share": row.normalised_share,
            "episodes": self.comparison.num_episodes,
            "seed": self.comparison.seed,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values, for JSON."""
        return self.comparison.to_dict()

    def text(self) -> str:
        """Return the table as plain text, as wide as it needs to be."""
        return as_text(render_table(self.comparison, highlight=self.trained.name))

    def print(self) -> None:
        """Write the table to standard output, in full or, on a terminal, the first columns that fit."""
        show(render_table(self.comparison, highlight=self.trained.name), FEWEST)


def judge(
    policy: TrainedPolicy,
    problem: EnvironmentConfig,
    heuristics: Sequence[str],
    episodes: int,
    seed: int,
    coordination: CoordinationConfig | None = None,
) -> Verdict:
    """Play the same episodes with the policy and with the heuristics, and find their optimum.

    All who decide for themselves agree by the protocol of ``coordination`` before they ask; None: nobody
    does.
    """
    reference = reference_points(problem, episodes, seed)
    agreement = None if coordination is None else agreement_for(coordination, problem)
    trained = evaluate(policy, problem, episodes, seed, agreement)
    rows = {policy.name: summarise([trained], reference)}
    known = heuristics_of(problem)
    for name in heuristics:
        rows[name] = summarise([evaluate(known[name](), problem, episodes, seed, agreement)], reference)
    return Verdict(Comparison(rows, reference, episodes, seed), trained)


def named_heuristics(text: str | None) -> list[str] | None:
    """Return the names in a list separated by commas, ``none`` means none; None, as ``all``: all that fit.

    Raises:
        ConfigurationError: no heuristic has that name.
    """
    if text is None or text == "all":
        return None
    names = [] if text == "none" else [name.strip() for name in text.split(",")]
    there = [*HEURISTICS, *CHARGING_HEURISTICS]
    for name in names:
        if name not in there:
            raise ConfigurationError(
                f"--heuristics: must be all, none, or some of {', '.join(HEURISTICS)}, and for sessions "
                f"{', '.join(CHARGING_HEURISTICS)}, got {name!r}.{did_you_mean(name, there)}"
            )
    return list(dict.fromkeys(names))


def chosen_heuristics(names: Sequence[str] | None, problem: EnvironmentConfig) -> list[str]:
    """Return ``names``, or for None all heuristics that can decide on ``problem`` (see `heuristics_of`).

    Raises:
        ConfigurationError: one of them cannot.
    """
    known = heuristics_of(problem)
    if names is None:
        return list(known)
    for name in names:
        if name not in known:
            raise ConfigurationError(f"--heuristics: {name!r} {_needs(problem)}")
    return list(names)


def _needs(problem: EnvironmentConfig) -> str:
    """Return what heuristics of sessions need that ``problem`` does not have."""
    kind = problem.dynamics.kind
    if kind != "sessions":
        return (
            "is for sessions with deadlines: environment.dynamics.kind must be 'sessions' (as in "
            f"rllib_configs/smart_grid.yaml), got {kind!r}"
        )
    return f"plans one resource: environment.num_resources must be 1, got {problem.num_resources}"
