"""One decision: what every process is told, what it answers, and what is made of the answers.

Axes: N agents, n of them in one process, R resources, K capacity groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from camac_dra.coordination.plant import PlantState
from camac_dra.environment.allocation import get_mechanism
from camac_dra.environment.groups import Groups

Missing = Literal["dead", "late"]
"""Why a process has not answered."""

NOT_FINITE, NO_QUORUM = "not_finite", "no_quorum"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the agents of one process are told."""

    step: int
    observations: np.ndarray  # (n, *shape) float32
    present: np.ndarray  # (n,) bool
    askable: np.ndarray  # (n, R)
    fair_share: np.ndarray  # (n, R)
    weights: np.ndarray  # (n,)
    capacity: np.ndarray  # (K, R)
    seconds: float  # left for this decision
    gone: frozenset[str] = frozenset()  # agents that are known to be dead
    cut: frozenset[str] = frozenset()  # agents that nothing passes between and the others, on purpose
    menu: np.ndarray | None = None  # (n, L, R) what each level asks for, where levels choose among plans

    @classmethod
    def of(
        cls,
        state: PlantState,
        agents: np.ndarray,
        seconds: float,
        gone: frozenset[str] = frozenset(),
        cut: frozenset[str] = frozenset(),
    ) -> Inputs:
        """Return what the agents with these numbers (n,) are told of the plant's state."""
        return cls(
            step=state.step,
            observations=state.observations[agents],
            present=state.present[agents],
            askable=state.askable[agents],
            fair_share=state.fair_share[agents],
            weights=state.weights[agents],
            capacity=state.capacity,
            seconds=seconds,
            gone=gone,
            cut=cut,
            menu=None if state.menu is None else state.menu[agents],
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What the agents of one process ask for, after they agreed."""

    step: int
    requests: np.ndarray  # (n, R)
    rounds: int = 0  # exchanges that this decision took
    messages: int = 0  # sent by these agents
    message_bytes: int = 0
    residual: float = 0.0  # of the agreement, as its protocol defines it; the largest of these agents
    snapshot: object = None  # what these agents need to go on elsewhere, every now and then


@dataclass(slots=True)
class Decided:
    """What all agents ask for, and how it came about."""

    requests: np.ndarray  # (N, R), finite, from 0 to what each may ask for
    fallbacks: Counter[str] = field(default_factory=Counter)  # agents without an answer of use, by reason
    rounds: int = 0
    messages: int = 0
    message_bytes: int = 0
    residual: float = 0.0


def assemble(
    state: PlantState,
    members: Sequence[np.ndarray],
    answers: Mapping[int, Answer | Missing],
    groups: Groups,
    quorum: float,
) -> Decided:
    """Return what all agents ask for, whatever became of their answers.

    Agents of a process that is dead ask for nothing. Those whose answer is late, of the wrong shape or not
    finite ask for their fair share. Where fewer than the share ``quorum`` of the present agents have
    answered, everybody asks for the fair share. Where anybody fell back, all requests are cut to what fits,
    since nobody could agree with whoever did not answer.

    Args:
        state: of the plant.
        members: numbers (n,) of the agents of each process.
        answers: of each process, or why there is none.
        groups: of the plant.
        quorum: from 0 to 1.
    """
    safe = np.minimum(state.askable, state.fair_share)  # (N, R)
    decided = Decided(np.zeros_like(state.askable))
    valid = np.zeros(len(safe), bool)  # (N,)
    for process, agents in enumerate(members):
        answer = answers.get(process, "late")
        here = int(state.present[agents].sum())
        if isinstance(answer, Answer) and answer.requests.shape == (len(agents), safe.shape[1]):
            sound = np.isfinite(answer.requests).all(axis=1) & (answer.requests >= 0.0).all(axis=1)  # (n,)
            bad = int((~sound & state.present[agents]).sum())
            if bad:
                decided.fallbacks[NOT_FINITE] += bad
            decided.requests[agents] = np.where(sound[:, None], answer.requests, safe[agents])
            valid[agents] = sound
            decided.rounds = max(decided.rounds, answer.rounds)
            decided.messages += answer.messages
            decided.message_bytes += answer.message_bytes
            decided.residual = max(decided.residual, answer.residual)
        elif answer == "dead":
            decided.fallbacks["dead"] += here
        else:
            decided.fallbacks["late" if answer == "late" else NOT_FINITE] += here
            decided.requests[agents] = safe[agents]
    asked = int(state.present.sum())
    if asked and (valid & state.present).sum() < quorum * asked:
        decided.fallbacks[NO_QUORUM] += asked
        decided.requests = safe.copy()
    decided.requests = np.minimum(decided.requests, state.askable)
    decided.requests[~state.present] = 0.0
    decided.fallbacks = +decided.fallbacks
    if decided.fallbacks:
        fit = get_mechanism("proportional")
        decided.requests = fit(decided.requests[None], state.capacity[None], groups)[0]
    return decided
