"""Sampling the next fragments while the learner works on these ones."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import ray

from camac_dra.training.plain_state import plain
from camac_dra.training.rllib_bridge import attempt, give_weights, good_answers

if TYPE_CHECKING:
    from ray.rllib.env.env_runner_group import EnvRunnerGroup

    from camac_dra.training.array_env_runner import ArrayEnvRunner
    from camac_dra.training.fragments import Fragment
    from camac_dra.training.rllib_bridge import Answer

MOST_LAG = 1  # updates between the weights that sampled a fragment and those that learn from it first
TAG = "fragment"  # of these requests, in RLlib's books

logger = logging.getLogger(__name__)


class FragmentsAhead:
    """One fragment of every remote env runner, asked for one iteration before it is learned from.

    The weights travel with the request: a fragment is sampled with exactly those, by an env runner that Ray
    restarted too. An env runner that dies on the way is missing from what `take` returns, and is asked again
    once RLlib has brought it back; what comes too late, or from older weights than ``MOST_LAG`` allows, is
    thrown away.
    """

    def __init__(self, group: EnvRunnerGroup, timeout: float | None) -> None:
        """Ask the remote env runners of ``group``; wait at most ``timeout`` seconds for fragments."""
        self._group, self._timeout = group, timeout
        self._weights: ray.ObjectRef | None = None  # of the fragments on the way; None: there are none

    def ask(self, weights: ray.ObjectRef) -> None:
        """Let every healthy env runner sample a fragment with these weights, an env runner's state in Ray's
        store.
        """
        begin = partial(_begin, weights=weights)
        self._group.foreach_env_runner_async(begin, tag=TAG)
        self._weights = weights

    @property
    def on_the_way(self) -> bool:
        """Whether fragments were asked for and not taken yet."""
        return self._weights is not None

    def take(self, updates: int) -> tuple[list[Fragment], list[dict[str, Any]]]:
        """Wait for the fragments that were asked for; return them by worker index, and their metrics.

        ``updates`` is the number of the weights that are to learn from them. Raises what an environment or a
        callback raised.
        """
        self._weights = None
        found = self._group.fetch_ready_async_reqs(tags=TAG, timeout_seconds=self._timeout)
        answers = good_answers([answer for _, answer in found])
        kept: list[Answer] = []
        for fragment, metrics in answers:
            lag = updates - fragment.weights_number
            if lag <= MOST_LAG:
                kept.append((fragment, metrics))
            else:
                logger.warning(
                    "Threw away a fragment of env runner %d: its weights are %d updates old, %d are allowed",
                    *(fragment.worker_index, lag, MOST_LAG),
                )
        return [fragment for fragment, _ in kept], [metrics for _, metrics in kept]

    def drop(self) -> None:
        """Wait for the fragments on the way, and forget them."""
        if self.on_the_way:
            self._weights = None
            self._group.fetch_ready_async_reqs(tags=TAG, timeout_seconds=self._timeout)

    def get_weights(self) -> dict[str, Any] | None:
        """Return what the fragments on the way were asked for with, weights and their number, as tensors and
        plain values; None where there are none.
        """
        return None if self._weights is None else plain(ray.get(self._weights))

    def get_sampling_states(self) -> dict[int, dict[str, Any]]:
        """Return the sampling states by worker index from which the fragments on the way began."""
        pairs = self._group.foreach_env_runner(
            lambda runner: (runner.worker_index, runner.start_of_fragment), local_env_runner=False
        )
        return {index: state for index, state in sorted(pairs) if state is not None}


def _begin(runner: ArrayEnvRunner, weights: ray.ObjectRef) -> Answer | Exception:
    """Sample a fragment with these weights, and remember where it began."""
    give_weights(runner, ray.get(weights))
    runner.start_of_fragment = runner.get_sampling_state()
    return attempt(runner)
