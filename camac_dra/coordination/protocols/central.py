"""The state machines of `centralized`: members report what they intend, one coordinator cuts it to fit.

A member repeats its request once per trip until it is answered; the coordinator waits for everybody that is
alive for half of the trips, then decides with what it has, and answers whoever asks again. For those that it
did not hear it keeps their fair share back, and who hears no answer asks for no more than that.

Axes: N agents, K capacity groups, R resources.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camac_dra.coordination.protocols.events import (
    Content,
    Done,
    Event,
    Gather,
    Instruction,
    Received,
    Report,
    Send,
    SetTimer,
    Start,
    Tick,
)
from camac_dra.coordination.protocols.resolution import resolve
from camac_dra.environment.allocation import Mechanism
from camac_dra.environment.groups import FloatArray, Groups
from camac_dra.utils.errors import ActionError

COORDINATOR = "coordinator"
"""The name under which the coordinator is addressed."""


def deadline_trip(trips: int) -> int:
    """Return the trip, from 1, after which the coordinator waits no longer."""
    return (trips + 1) // 2


def _makes_sense(amounts: FloatArray) -> bool:
    return bool((np.isfinite(amounts) & (amounts >= 0.0)).all())


class MemberMachine:
    """One agent's part: ask, ask again, and do with its fair share where no answer comes."""

    def __init__(
        self, fair_share: FloatArray, trips: int, trip_timeout: float, *, says_worth: bool = False
    ) -> None:
        """Ask ``trips`` times at most, every ``trip_timeout`` seconds; ``fair_share`` (R,) is nominal.

        With ``says_worth`` it also reports what its request is worth, which the coordinator cannot know.
        """
        self._says_worth = says_worth
        self._fair_share, self._trips, self._timeout = fair_share, trips, trip_timeout
        self._trip = 0  # of the decision under way, from 1; 0: none is

    def handle(self, event: Event) -> list[Instruction]:
        """Take an event and return what is to be done now; see `Machine`.

        Raises:
            ActionError: the request that a decision starts with is negative or not finite.
        """
        if isinstance(event, Start):
            request = np.array(event.request, np.float64)  # (R,)
            if not _makes_sense(request):
                raise ActionError(f"request must be finite numbers from 0 up, got {request}")
            self._decision, self._request, self._worth = event.decision, request, event.worth
            self._trip = 0
            return self._ask(event.now)
        if not self._trip:
            return []
        if isinstance(event, Received) and event.content["decision"] == self._decision:
            return self._finish(event.content["agreed"], 0)
        if isinstance(event, Tick) and event.now >= self._deadline:
            return self._ask(event.now) if self._trip < self._trips else self._finish(self._fair_share, 1)
        return []

    def _ask(self, now: float) -> list[Instruction]:
        self._trip += 1
        self._deadline = now + self._timeout
        content: Content = {"decision": self._decision, "request": self._request}
        if self._says_worth:
            content["worth"] = self._worth
        return [Send(COORDINATOR, content), SetTimer(self._deadline)]

    def _finish(self, most: FloatArray, missing: int) -> list[Instruction]:
        agreed = np.minimum(self._request, most)
        change = float(np.abs(self._request - agreed).max(initial=0.0))
        residual = change / max(float(self._request.max(initial=0.0)), 1e-150) if missing else 0.0
        said = self._request.nbytes + (self._worth.nbytes if self._says_worth else 0)
        report = Report(2 * self._trip, self._trip, self._trip * said, missing, residual)
        self._trip = 0
        return [Done(self._decision, agreed, report)]


class CoordinatorMachine:
    """The coordinator's part: gather, decide, answer, and answer again."""

    def __init__(
        self, agents: Sequence[str], groups: Groups, mechanism: Mechanism, trips: int, trip_timeout: float
    ) -> None:
        """Decide with ``mechanism`` for ``agents`` (in their order) in ``groups``; see `MemberMachine`."""
        self._index = {agent: i for i, agent in enumerate(agents)}
        self._agents, self._groups, self._mechanism = tuple(agents), groups, mechanism
        self._wait = deadline_trip(trips) * trip_timeout
        self._gather: Gather | None = None
        self._early: dict[str, Received] = {}  # by sender: of decisions that have not begun here

    def handle(self, event: Event) -> list[Instruction]:
        """Take an event and return what is to be done now; see `Machine`.

        There is no `Done`: it answers until the next decision begins.
        """
        if isinstance(event, Gather):
            return self._begin(event)
        if isinstance(event, Received):
            return self._receive(event)
        if isinstance(event, Tick) and self._gather is not None and self._agreed is None:
            return self._decide() if event.now >= self._deadline else []
        return []

    def _begin(self, event: Gather) -> list[Instruction]:
        self._gather, self._agreed = event, None
        self._requests = np.zeros((len(self._agents), event.capacity.shape[1]))  # (N, R)
        self._worth = event.weights[:, None] + np.zeros_like(self._requests)  # (N, R)
        self._heard = np.zeros(len(self._agents), bool)  # (N,)
        self._deadline = event.now + self._wait
        instructions: list[Instruction] = [SetTimer(self._deadline)]
        early, self._early = self._early, {}
        for message in early.values():
            instructions += self._receive(message)
        return instructions

    def _receive(self, event: Received) -> list[Instruction]:
        """Take a request; answer at once where the decision is made."""
        sender, decision = event.sender, event.content["decision"]
        if sender not in self._index:
            return []
        if self._gather is None or decision > self._gather.decision:
            self._early[sender] = event
            return []
        if decision < self._gather.decision:
            return []
        agent = self._index[sender]
        if self._agreed is None:
            request = np.asarray(event.content["request"], np.float64)
            worth = np.asarray(event.content.get("worth", self._worth[agent]), np.float64)
            if _makes_sense(request) and _makes_sense(worth):
                self._requests[agent], self._worth[agent], self._heard[agent] = request, worth, True
            return self._decide() if self._heard[self._gather.expected].all() else []
        return [self._answer(agent)]

    def _decide(self) -> list[Instruction]:
        gather = self._gather
        assert gather is not None
        self._agreed = resolve(
            self._requests[None],
            (self._heard | ~gather.expected)[None],
            gather.capacity[None],
            self._worth[None],
            self._groups,
            self._mechanism,
        )[0]  # (N, R)
        return [self._answer(i) for i in np.flatnonzero(gather.expected).tolist()]

    def _answer(self, agent: int) -> Send:
        assert self._gather is not None
        assert self._agreed is not None
        content: Content = {"decision": self._gather.decision, "agreed": self._agreed[agent]}
        return Send(self._agents[agent], content)
