"""A trained policy in somebody else's environment, beside random actions and the user's baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from camac_dra.environment.foreign import group_of
from camac_dra.environment.foreign_factory import ForeignFactory
from camac_dra.training.foreign_evaluation import (
    Baseline,
    Played,
    RandomActions,
    play_baseline,
    play_policy,
)
from camac_dra.training.policy import TrainedPolicy
from camac_dra.training.tables import as_text, show
from camac_dra.utils.dotted import import_callable
from camac_dra.utils.schema import EnvironmentConfig
from camac_dra.utils.statistics import Interval, stratified_bootstrap_interval

RANDOM = "random"
FEWEST = 2  # columns of a table: the policy, and its return
_BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class ForeignVerdict:
    """How a trained policy fares beside others on the same episodes; the trained one comes first."""

    rows: list[Played]
    seed: int

    def evaluation(self) -> dict[str, Any]:
        """Return the ``evaluation`` part of ``metrics.json``."""
        trained = self.rows[0]
        return {
            "avg_reward": float(trained.reward.mean()),
            "std_reward": float(trained.reward.std()),
            "success_rate": None,
            "return_per_agent": float(trained.per_agent.mean()),
            "episodes": len(trained.steps),
            "seed": self.seed,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values, for JSON."""
        return {
            "num_episodes": len(self.rows[0].steps),
            "seed": self.seed,
            "rows": [
                {
                    "name": row.name,
                    "return_per_agent": vars(mean_interval(row)),
                    "by_agent": dict(zip(row.agent_ids, _mean(row.returns), strict=True)),
                    "reward": float(row.reward.mean()),
                    "steps": float(row.steps.mean()),
                }
                for row in self.rows
            ],
        }

    def text(self) -> str:
        """Return the table as plain text."""
        return as_text(self._table())

    def print(self) -> None:
        """Write the table to standard output, in full or, on a terminal, the first columns that fit."""
        show(self._table(), FEWEST)

    def _table(self) -> Table:
        title = f"{len(self.rows[0].steps)} held-out episodes, seed {self.seed}"
        caption = "Returns are undiscounted and of the agents that took part; team is their sum."
        table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
        kinds = _kinds(self.rows[0].agent_ids)
        table.add_column("policy", no_wrap=True)
        headings = ["return per agent [95 %]", *(kinds if len(kinds) > 1 else ()), "team", "steps"]
        for heading in headings:
            table.add_column(heading, justify="right", no_wrap=True)
        for place, row in enumerate(self.rows):
            of_kinds = [_mean(row.returns[:, members].reshape(-1, 1))[0] for members in kinds.values()]
            cells = [
                _shown(mean_interval(row)),
                *(_number(value) for value in of_kinds if len(kinds) > 1),
                f"{row.reward.mean():.2f}",
                f"{row.steps.mean():.1f}",
            ]
            table.add_row(Text(row.name), *cells, style="" if place else "bold")
        return table


def judge_foreign(
    policy: TrainedPolicy, problem: EnvironmentConfig, episodes: int, seed: int
) -> ForeignVerdict:
    """Play the same episodes with the policy, with random actions and with the baselines of ``problem``.

    Raises:
        ConfigurationError: a baseline cannot be imported.
    """
    factory = ForeignFactory.of(problem)
    baselines: dict[str, Baseline] = {RANDOM: RandomActions(seed)}
    baselines |= {
        path.rpartition(".")[2]: import_callable(path, "environment.baselines") for path in problem.baselines
    }
    rows = [play_policy(policy, factory, episodes, seed)]
    for name, baseline in baselines.items():
        rows.append(play_baseline(name, baseline, factory, episodes, seed))
    return ForeignVerdict(rows, seed)


def mean_interval(*runs: Played) -> Interval:
    """Return the mean return per agent and its bootstrap interval: over runs, stratified by episode, or over
    the episodes of one run.
    """
    scores = np.stack([run.per_agent for run in runs])  # (M, E)
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    return stratified_bootstrap_interval(
        scores if len(runs) > 1 else scores[0], rng, statistic=lambda x: x.mean(axis=(-2, -1))
    )


def _mean(returns: np.ndarray) -> list[float | None]:
    """Return the mean of each column (rows, N) over the rows that have it; None where none has."""
    return [None if np.isnan(column).all() else float(np.nanmean(column)) for column in returns.T]


def _kinds(agent_ids: list[str]) -> dict[str, list[int]]:
    """Return the agents by their names without numbers: adversary, agent."""
    kinds: dict[str, list[int]] = {}
    for number, agent_id in enumerate(agent_ids):
        kinds.setdefault(group_of(agent_id), []).append(number)
    return kinds


def _shown(interval: Interval) -> str:
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
