"""What a deployment counts and times, and the summary at its end."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from camac_dra.coordination.message_exchange import Talk
from camac_dra.coordination.plant import Outcome
from camac_dra.coordination.runtime.decision import Decided
from camac_dra.environment.measures import jain_index

_WINDOW = 200  # decisions that percentiles on the way are taken over
_KEPT = 100_000  # decisions and episodes that the summary is of: deployments have no end


@dataclass(frozen=True)
class Summary:
    """A deployment as a whole. Times are in seconds."""

    decisions: int
    seconds: float
    latency_p50: float  # from the observation to the allocation, over the last 100,000 decisions
    latency_p99: float
    longest_step: float  # from one decision to the next, the plant's part included
    reward: float  # sum over agents and decisions
    reward_per_decision: float
    jain: float  # index of the agents' service ratios over the whole time
    conflict_rate: float  # share of decisions in which more was asked for than there was
    over_capacity: int  # decisions whose grants exceeded a capacity: must be 0
    fallbacks: dict[str, int]  # agent-decisions that fell back, by reason
    rounds: float  # per decision
    messages: float  # per decision, of the protocol
    message_bytes: float  # per decision
    learned_messages: float  # per decision, one for each agent that listens
    learned_bytes: float  # per decision
    missed_messages: float  # learned ones per decision that were not there in time
    deaths: int
    restarts: int
    recovery_p50: float | None  # from death to return; None: nobody died and came back
    recovery_p99: float | None
    bus: dict[str, Any]  # statistics of the message bus
    episodes: list[dict[str, float]]  # measures of those that ended, where the plant has episodes

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return asdict(self)


@dataclass
class Telemetry:
    """Collects the figures of a deployment, decision by decision."""

    decisions: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))  # of the last decisions
    longest: float = 0.0  # seconds of a decision and the plant's part
    last_duration: float = 0.0
    fallbacks: Counter[str] = field(default_factory=Counter)
    reward: float = 0.0
    conflicts: int = 0
    over_capacity: int = 0
    rounds: int = 0
    messages: int = 0
    message_bytes: int = 0
    talk: Talk = field(default_factory=Talk)
    episodes: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    _served: np.ndarray | None = None  # (N, R) in fair shares, since the start
    _wanted: np.ndarray | None = None  # (N, R) what was served or lost for good counts as wanted

    def add(
        self, decided: Decided, outcome: Outcome, latency: float, duration: float, over_capacity: bool
    ) -> None:
        """Add a decision."""
        self.decisions += 1
        self.latencies.append(latency)
        self.longest = max(self.longest, duration)
        self.last_duration = duration
        self.fallbacks += decided.fallbacks
        self.reward += float(outcome.rewards.sum())
        self.conflicts += outcome.conflict
        self.over_capacity += over_capacity
        self.rounds += decided.rounds
        self.messages += decided.messages
        self.message_bytes += decided.message_bytes
        self.talk += decided.talk
        self.episodes += outcome.episodes
        self._add_service(outcome)

    def figures(self, decided: Decided, outcome: Outcome) -> dict[str, float]:
        """Return figures of the decision that was added last, and of those before it, by TensorBoard tag."""
        recent = list(itertools.islice(reversed(self.latencies), _WINDOW))
        return {
            "decision/latency_p50": float(np.percentile(recent, 50)),
            "decision/latency_p99": float(np.percentile(recent, 99)),
            "decision/step_seconds": self.last_duration,
            "decision/rounds": decided.rounds,
            "decision/messages": decided.messages,
            "decision/residual": decided.residual,
            "decision/learned_messages": decided.talk.messages,
            "decision/missed_messages": decided.talk.missed,
            "allocation/reward": float(outcome.rewards.sum()),
            "allocation/conflict": float(outcome.conflict),
            "allocation/jain": self.jain(),
            **{f"fallback/{reason}": count for reason, count in decided.fallbacks.items()},
        }

    def jain(self) -> float:
        """Return Jain's index of the agents' service ratios so far."""
        if self._served is None or self._wanted is None:
            return 1.0
        wanted = self._wanted.sum(axis=1)  # (N,)
        had = wanted > 0.0
        ratios = np.divide(self._served.sum(axis=1), wanted, out=np.ones_like(wanted), where=had)
        return float(jain_index(ratios[None], had[None])[0])

    def summary(
        self, seconds: float, deaths: int, restarts: int, recoveries: list[float], bus: dict[str, Any]
    ) -> Summary:
        """Return the figures of everything so far."""
        decisions = self.decisions
        each = max(decisions, 1)
        return Summary(
            decisions=decisions,
            seconds=seconds,
            latency_p50=_percentile(self.latencies, 50) or 0.0,
            latency_p99=_percentile(self.latencies, 99) or 0.0,
            longest_step=self.longest,
            reward=self.reward,
            reward_per_decision=self.reward / each,
            jain=self.jain(),
            conflict_rate=self.conflicts / each,
            over_capacity=self.over_capacity,
            fallbacks=dict(self.fallbacks),
            rounds=self.rounds / each,
            messages=self.messages / each,
            message_bytes=self.message_bytes / each,
            learned_messages=self.talk.messages / each,
            learned_bytes=self.talk.message_bytes / each,
            missed_messages=self.talk.missed / each,
            deaths=deaths,
            restarts=restarts,
            recovery_p50=_percentile(recoveries, 50),
            recovery_p99=_percentile(recoveries, 99),
            bus=bus,
            episodes=list(self.episodes),
        )

    def _add_service(self, outcome: Outcome) -> None:
        """Count what was served of what was pending, as shares of each step's demand."""
        share = np.divide(
            outcome.served, outcome.demand, out=np.zeros_like(outcome.served), where=outcome.demand > 0.0
        )  # (N, R)
        asked = (outcome.demand > 0.0).astype(float)
        if self._served is None or self._wanted is None:
            self._served, self._wanted = np.zeros_like(share), np.zeros_like(share)
        self._served += share
        self._wanted += asked


def format_summary(summary: Summary) -> str:
    """Return the summary as lines to read."""
    fallbacks = (
        ", ".join(f"{count} {reason}" for reason, count in sorted(summary.fallbacks.items())) or "none"
    )
    recovery = (
        ""
        if summary.recovery_p50 is None
        else f", back after {summary.recovery_p50:.1f} s (p50) and {summary.recovery_p99:.1f} s (p99)"
    )
    lines = [
        ("Decisions", f"{summary.decisions} in {summary.seconds:.1f} s"),
        (
            "Latency",
            f"{summary.latency_p50 * 1e3:.1f} ms (p50), {summary.latency_p99 * 1e3:.1f} ms (p99); "
            f"longest step {summary.longest_step:.2f} s",
        ),
        ("Reward", f"{summary.reward:.1f}, {summary.reward_per_decision:.3f} per decision"),
        ("Fairness", f"Jain's index {summary.jain:.3f}"),
        (
            "Conflicts",
            f"in {summary.conflict_rate:.1%} of the decisions; over capacity {summary.over_capacity} times",
        ),
        (
            "Agreement",
            f"{summary.rounds:.1f} rounds, {summary.messages:.1f} messages, "
            f"{summary.message_bytes / 1024:.1f} KiB per decision",
        ),
        ("Fallbacks", fallbacks),
        ("Processes", f"{summary.deaths} deaths, {summary.restarts} restarts{recovery}"),
    ]
    if summary.learned_messages:
        text = (
            f"{summary.learned_messages:.1f} messages, {summary.learned_bytes / 1024:.1f} KiB per decision; "
            f"{summary.missed_messages:.2f} not in time"
        )
        lines.append(("Learned", text))
    if summary.episodes:
        efficiency = np.mean([episode["efficiency"] for episode in summary.episodes])
        lines.append(("Episodes", f"{len(summary.episodes)}, mean efficiency {efficiency:.1f}"))
    return "\n".join(f"{name + ':':12} {text}" for name, text in lines)


def _percentile(values: Collection[float], percent: float) -> float | None:
    return float(np.percentile(list(values), percent)) if values else None
