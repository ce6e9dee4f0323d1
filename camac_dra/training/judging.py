"""The comparison at the end of a run, whatever its environment is."""

from __future__ import annotations

from collections.abc import Sequence

from camac_dra.training.comparison import Verdict, chosen_heuristics, judge
from camac_dra.training.foreign_comparison import ForeignVerdict, judge_foreign
from camac_dra.training.policy import TrainedPolicy
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema import Config


def judge_problem(
    policy: TrainedPolicy, config: Config, heuristics: Sequence[str]
) -> Verdict | ForeignVerdict:
    """Play the held-out episodes of a configuration with the policy and with what it is compared with.

    In the allocation problem these are the ``heuristics`` and the optimum, in somebody else's environment
    random actions and ``environment.baselines``.
    """
    training, problem = config.training, config.environment.held_out()
    episodes, seed = training.evaluation_episodes, training.evaluation_seed
    if problem.factory is not None:
        return judge_foreign(policy, problem, episodes, seed)
    return judge(policy, problem, heuristics, episodes, seed, config.coordination)


def heuristics_for(config: Config, names: Sequence[str] | None) -> list[str]:
    """Return the heuristics of these names, for None all that can decide on the held-out problem.

    Raises:
        ConfigurationError: one of them cannot, or there are none in somebody else's environment.
    """
    factory = config.environment.factory
    if factory is None:
        return chosen_heuristics(names, config.environment.held_out())
    if names:
        raise ConfigurationError(
            f"--heuristics: are about the allocation problem, got {', '.join(names)} with "
            f"environment.factory {factory!r}: leave it out; environment.baselines are compared with"
        )
    return []


def rivals_of(config: Config, heuristics: Sequence[str]) -> str:
    """Say what a policy is compared with."""
    if config.environment.factory is None:
        return f"{len(heuristics)} heuristics and the optimum"
    return " and ".join(["random actions", *config.environment.baselines])
