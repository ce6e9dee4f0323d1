"""One agent's part of ratio consensus over links that lose messages: masses, and the running sums of them.

Every agent holds masses, starts them with what it knows, gives shares of them to its neighbours round by
round and adds what it is given. Masses only move, so that their sum over agents stays; whatever the links,
the ratio of a mass to a weight that moves alike converges to the ratio of their sums: to the mean, where the
weight starts as 1. What is sent is not the share itself but the sum of all shares so far: whoever misses a
message is given what was in it with the next one. Source: Hadjicostis, Vaidya and Dominguez-Garcia, "Robust
distributed average consensus via exchange of running sums", IEEE Transactions on Automatic Control 61, 2016.

Axes: M masses; the last one is the weight.
"""

from __future__ import annotations

import numpy as np

from camac_dra.environment.groups import FloatArray


class RunningSums:
    """The masses that one agent holds, and what it sent and heard so far in this decision."""

    def __init__(self, masses: FloatArray) -> None:
        """Start with ``masses`` (M,), whose last one is the weight."""
        self._held = np.array(masses, np.float64)  # (M,)
        self._sent: dict[str, FloatArray] = {}  # by topic: all that was given so far, (M,)
        self._heard: dict[str, FloatArray] = {}  # by sender: its running sum as last heard, (M,)

    def give(self, topic: str, share: float, keep: float) -> FloatArray:
        """Give a share of what is held, keep another, and return the topic's new running sum (M,)."""
        total = self._sent.get(topic, 0.0) + share * self._held
        self._sent[topic] = total
        self._held = keep * self._held
        return total

    def take(self, sender: str, total: FloatArray, share: float = 1.0) -> None:
        """Add a ``share`` of what a sender's running sum (M,) has grown by since it was last heard."""
        self._held = self._held + share * (total - self._heard.get(sender, 0.0))
        self._heard[sender] = total

    def put(self, change: FloatArray) -> None:
        """Add to the masses (M - 1,) what this agent's own contribution changed by; the weight stays."""
        self._held[:-1] += change

    @property
    def ratio(self) -> FloatArray:
        """(M - 1,) what this agent takes the means to be."""
        return self._held[:-1] / self._held[-1]
