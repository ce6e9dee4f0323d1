"""In which order agents take their turns, and who has to wait for the next step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from camac_dra.utils.arguments import check_list, check_mapping, check_number, check_text, check_whole
from camac_dra.utils.errors import ConfigurationError, did_you_mean

Order = Literal["simultaneous", "round_robin", "priority", "earliest_deadline", "random"]
ORDERS: tuple[Order, ...] = get_args(Order)

Turns = list[tuple[str, ...]]


class Scheduler:
    """Puts agents in order, step by step; agents of one turn act at the same time.

    Orders, and what each promises over time (``slots`` turns per step; ``n`` agents, all ready in each step):

    - `simultaneous`: all at once, one turn; ``slots`` has no place there.
    - `round_robin`: in a circle. Fair: after any number of steps nobody had more than one turn more than
      anybody else, and everybody has a turn in every ceil(n / slots) steps. Where all have a turn in every
      step, who was first goes last next time.
    - `random`: a deck that is shuffled anew when it is used up. Fair like `round_robin`; over many steps
      every order is as likely as any other.
    - `priority`: highest first. Without ``aging`` it is not fair: who is always low may never have a turn.
      With ``aging`` above 0 an agent that waits gains that much per step, so everybody has a turn at last.
    - `earliest_deadline`: what is due first, first (Liu and Layland 1973); those without a deadline last. Not
      fair.

    Equal ranks go in the order in which the agents are given. Not safe for use by several threads at once.
    """

    def __init__(
        self,
        order: Order = "simultaneous",
        *,
        slots: int | None = None,
        aging: float = 0.0,
        seed: int | None = None,
    ) -> None:
        """Schedule by ``order``.

        Args:
            order: one of `ORDERS`.
            slots: how many agents have a turn in one step; None: all of them.
            aging: priority gained per step of waiting; for `priority`.
            seed: of the shuffles of `random`; None shuffles differently in every run.

        Raises:
            ConfigurationError: an unknown order, or a setting that is out of range or has no effect with it.
        """
        if order not in ORDERS:
            raise ConfigurationError(
                f"order must be one of {', '.join(ORDERS)}, got {order!r}.{did_you_mean(str(order), ORDERS)}"
            )
        check_whole("slots", slots, 1, ConfigurationError, optional="for all")
        check_whole("seed", seed, 0, ConfigurationError, optional="for another order in every run")
        check_number("aging", aging, ConfigurationError, least=0.0)
        if slots is not None and order == "simultaneous":
            raise ConfigurationError(
                f"slots has no effect with order 'simultaneous', got {slots}: leave it out"
            )
        if math.isinf(aging):
            raise ConfigurationError(f"aging must be a finite number, got {aging}")
        if aging and order != "priority":
            raise ConfigurationError(f"aging acts with order 'priority' only, got {aging} with {order!r}")
        self.order: Order = order
        self._slots, self._aging = slots, aging
        self._rng = np.random.default_rng(seed)
        self._deck: list[str] = []  # who has not had a turn in this round of round_robin or random, in order
        self._waited: dict[str, int] = {}  # steps since the last turn
        self._first: str | None = None  # who was first in the last step in which all had a turn

    def schedule(
        self,
        agents: Sequence[str],
        *,
        priorities: Mapping[str, float] | None = None,
        deadlines: Mapping[str, float] | None = None,
    ) -> Turns:
        """Return the turns of one step, first to last.

        Args:
            agents: those that are ready; others keep their place in the circle or deck.
            priorities: by agent, for `priority`; 0 where left out.
            deadlines: by agent, any unit of time, for `earliest_deadline`; infinite where left out.

        Raises:
            ConfigurationError: an agent twice, a rank that is NaN, of an unknown agent, or that this order
                does not read.
        """
        named = check_list("agents", agents, "agents' ids", ConfigurationError)
        ready = list(dict.fromkeys(check_text("an agent's id", name, ConfigurationError) for name in named))
        if len(ready) != len(named):
            raise ConfigurationError(f"agents must be named once each, got {named}")
        self._refuse_ranks("priorities", priorities, ready, "priority")
        self._refuse_ranks("deadlines", deadlines, ready, "earliest_deadline")
        if self.order == "simultaneous":
            return [tuple(ready)] if ready else []
        slots = len(ready) if self._slots is None else min(self._slots, len(ready))
        if self.order == "priority":
            chosen = self._by_priority(ready, priorities or {})[:slots]
        elif self.order == "round_robin" and slots == len(ready):
            chosen = self._rotated(ready)
        elif self.order == "earliest_deadline":
            due = deadlines or {}
            chosen = sorted(ready, key=lambda agent: due.get(agent, math.inf))[:slots]
        else:
            chosen = self._from_deck(ready, slots)
        for agent in ready:
            self._waited[agent] = self._waited.get(agent, 0) + 1
        for agent in chosen:
            self._waited[agent] = 0
        return [(agent,) for agent in chosen]

    def waiting(self) -> dict[str, int]:
        """Return for each agent seen so far how many steps it was ready since its last turn."""
        return dict(self._waited)

    def _by_priority(self, ready: list[str], priorities: Mapping[str, float]) -> list[str]:
        def rank(agent: str) -> float:
            return -(priorities.get(agent, 0.0) + self._aging * self._waited.get(agent, 0))

        return sorted(ready, key=rank)

    def _rotated(self, ready: list[str]) -> list[str]:
        """Return all of them, beginning after whoever began last time."""
        start = (ready.index(self._first) + 1) % len(ready) if self._first in ready else 0
        self._first = ready[start] if ready else None
        return ready[start:] + ready[:start]

    def _from_deck(self, ready: list[str], slots: int) -> list[str]:
        """Take ``slots`` ready agents from the deck; a new round begins when no ready one is left in it.

        The next round goes on after the last one of this: somebody who stood last in a round of its own is
        never passed twice.
        """
        chosen: list[str] = []
        known = set(self._deck) | set(self._waited)
        newcomers = [agent for agent in ready if agent not in known]
        self._deck += self._shuffled(newcomers)
        while len(chosen) < slots:
            here = set(ready) - set(chosen)
            turn = [agent for agent in self._deck if agent in here][: slots - len(chosen)]
            chosen += turn
            self._deck = [agent for agent in self._deck if agent not in set(turn)]
            if len(chosen) < slots:
                # Who is not ready keeps the place that it has; all the others start the next round.
                left = set(self._deck)
                self._deck += self._shuffled([agent for agent in ready if agent not in left])
        return chosen

    def _shuffled(self, agents: list[str]) -> list[str]:
        if self.order == "round_robin":
            return agents
        return [agents[place] for place in self._rng.permutation(len(agents))]

    def _refuse_ranks(
        self, name: str, ranks: Mapping[str, float] | None, ready: list[str], order: str
    ) -> None:
        """Raise where ``ranks`` are not read by this order or do not fit the agents."""
        if ranks is None:
            return
        if self.order != order:
            raise ConfigurationError(f"{name} act with order {order!r} only, got them with {self.order!r}")
        for agent, rank in check_mapping(name, ranks, ConfigurationError).items():
            if agent not in ready:
                raise ConfigurationError(f"{name} must be of agents that are ready, got {agent!r}")
            check_number(f"{name} of {agent!r}", rank, ConfigurationError)
