"""What the agents allocate: a simulated environment, or something real behind an adapter.

Axes: N agents, R resources, K capacity groups.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.dynamics import Draw, Dynamics
from camac_dra.environment.settings import environment_section
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.errors import PlantError
from camac_dra.utils.schema.environment import EnvironmentConfig

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class PlantState:
    """What can be known before a decision."""

    step: int  # decisions so far
    observations: np.ndarray  # (N, *shape) float32, what each agent sees
    present: np.ndarray  # (N,) bool
    askable: np.ndarray  # (N, R) the most that each agent may ask for now
    fair_share: np.ndarray  # (N, R) the unit of requests
    capacity: np.ndarray  # (K, R) of each group, infinite where it does not bind
    weights: np.ndarray  # (N,) value of a served unit
    menu: np.ndarray | None = None  # (N, L, R) what each level asks for, where levels choose among plans


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a decision."""

    rewards: np.ndarray  # (N,) of each agent, before any credit assignment
    grants: np.ndarray  # (N, R) what each got
    served: np.ndarray  # (N, R)
    demand: np.ndarray  # (N, R) what was pending
    load: np.ndarray  # (K, R) what was asked for, as a share of the capacity
    episodes: list[dict[str, float]] = field(default_factory=list)  # measures, where an episode ended

    @property
    def conflict(self) -> bool:
        """Whether more was asked for than there was, in any group."""
        return bool((self.load > 1.0 + _ROUNDING).any())


class Plant(ABC):
    """Something with capacity that N agents share, one decision at a time.

    The runtime calls `observe`, `allocate` and `apply` in turn, from one thread.

    Attributes:
        env: the model of it, one copy: names, groups, topology, queues, observations.
    """

    def __init__(
        self,
        config: EnvironmentConfig | Mapping[str, Any],
        dynamics: Callable[[Constraints], Dynamics] | None = None,
    ) -> None:
        """Model the problem ``config``, the `environment` section or a whole configuration."""
        section = environment_section(config)
        if section.credit != "individual":  # credit matters to training only, and costs time
            section = section.model_copy(update={"credit": "individual"})
        self.env = VectorEnvironment(section, num_envs=1, dynamics=dynamics)
        self._step = 0
        self._asked: np.ndarray | None = None  # (N, R) what `allocate` was last asked for
        self._granted: np.ndarray | None = None  # (N, R) what it answered

    def observe(self) -> PlantState:
        """Return what can be known now."""
        env = self.env
        state, shape = env.state, (env.num_agents, env.num_resources)
        return PlantState(
            step=self._step,
            observations=env.observations[0].copy(),
            present=env.present[0].copy(),
            askable=env.askable()[0].copy(),
            fair_share=np.broadcast_to(state.fair_share[0], shape).copy(),
            capacity=state.draw.capacity[0].copy(),
            weights=state.weights[0].copy(),
            menu=None if (menu := env.menu()) is None else menu[0],
        )

    def allocate(self, requests: np.ndarray) -> np.ndarray:
        """Return what each agent may have (N, R) of what it asks for, by the mechanism in force.

        Never above a request, never above a capacity, whatever is asked for. Nothing changes by it.

        Raises:
            ActionError: a request is negative or NaN, or the shape is wrong.
        """
        self._asked = requests.copy()
        self._granted = self.env.grants_of(requests[None])[0]
        return self._granted.copy()

    @abstractmethod
    def apply(self, grants: np.ndarray) -> Outcome:
        """Give every agent what it is granted (N, R), wait for the end of the step, and return what came of
        it.
        """

    def close(self) -> None:
        """Release what the plant holds."""
        self.env.close()

    def _advance(self, grants: np.ndarray) -> Outcome:
        """Step the model.

        Where the grants are those of the last `allocate`, what was asked for then is asked for again, so that
        conflicts are seen; other grants are asked for as they are.
        """
        as_allocated = self._granted is not None and np.array_equal(grants, self._granted)
        requests = self._asked if as_allocated and self._asked is not None else grants
        self._asked = self._granted = None
        result = self.env.step_requests(requests[None])
        self._step += 1
        info = result.info
        return Outcome(
            rewards=info["values"][0].copy(),
            grants=info["grants"][0].copy(),
            served=info["served"][0].copy(),
            demand=info["pending"][0].copy(),
            load=info["load"][0].copy(),
            episodes=result.episodes,
        )


class SimulatedPlant(Plant):
    """The simulated environment: episode after episode, the first those of `evaluate` with one episode."""

    def __init__(self, config: EnvironmentConfig | Mapping[str, Any], seed: int) -> None:
        """Play the episodes that follow ``reset(seed)``."""
        super().__init__(config)
        self.env.reset(seed)

    def apply(self, grants: np.ndarray) -> Outcome:
        """Step the environment; asking for too much costs what it costs there (contention)."""
        return self._advance(grants)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured of a real plant at the start of a step; None: as nominal, or everybody."""

    demand: np.ndarray  # (N, R) what is pending, in the resources' units
    capacity: np.ndarray | None = None  # (K, R)
    price: np.ndarray | None = None  # (R,) per nominal fair share
    present: np.ndarray | None = None  # (N,) bool


class MeasuredPlant(Plant):
    """Base of adapters to real plants: say how to measure and how to set, the rest is done here.

    Each step sets the grants, waits for the rest of ``interval``, and measures. Queues, observations and
    limits are those that policies were trained with. Times of measurement are regular: a step that took
    longer than the interval is followed by the next one at once.

    Raises `PlantError` where a measurement is not finite, negative, or of the wrong shape.
    """

    def __init__(
        self,
        config: EnvironmentConfig | Mapping[str, Any],
        interval: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Model the plant by ``config`` and take its first measurement.

        Args:
            config: names, nominal capacities, groups, topology; `dynamics` does not act.
            interval: seconds per step, 0 or more.
            clock, sleep: the time, in seconds.
        """
        section = environment_section(config)
        super().__init__(section, partial(_MeasuredDynamics, self, section.max_episode_length))
        if not interval >= 0.0:
            raise PlantError(f"interval must be zero seconds or more, got {interval}")
        self.interval = interval
        self._clock, self._sleep = clock, sleep
        self.env.set_contention(0.0)  # what is asked for is a message; only what is granted is used
        self.env.reset(0)
        self._next = clock() + interval

    @abstractmethod
    def measure(self) -> Measurement:
        """Return what is pending now; called once per step."""

    @abstractmethod
    def actuate(self, grants: np.ndarray) -> None:
        """Let every agent use what it is granted (N, R) until the next call."""

    def apply(self, grants: np.ndarray) -> Outcome:
        """Set the grants, wait for the end of the step, measure."""
        self.actuate(grants)
        self._sleep(max(0.0, self._next - self._clock()))
        self._next = max(self._next, self._clock()) + self.interval
        return self._advance(grants)


class _MeasuredDynamics(Dynamics):
    """Hands measurements to the model: new demand is what is pending beyond what waited."""

    def __init__(self, plant: MeasuredPlant, episode_length: int, constraints: Constraints) -> None:
        super().__init__(1, constraints, episode_length)
        self._plant = plant
        self._nothing = np.zeros((self.num_agents, self.num_resources))

    def begin(self, rng: np.random.Generator) -> None:
        """Measurements go on over the ends of episodes."""

    def draw(self, rng: np.random.Generator, time: int) -> Draw:
        """Measure. ``arrivals`` are negative where demand was withdrawn."""
        plant = self._plant
        measured = plant.measure()
        waited = self._nothing if time == 0 else plant.env.state.backlog[0]  # (N, R)
        demand = _checked("demand", measured.demand, waited.shape)
        groups = self.nominal_capacity.shape[1:]
        capacity, price = self.nominal_capacity, np.zeros((1, self.num_resources))
        if measured.capacity is not None:
            capacity = _checked("capacity", measured.capacity, groups, infinite=True)[None]
        if measured.price is not None:
            price = _checked("price", measured.price, groups[1:], negative=True)[None]
        present = None
        if measured.present is not None:
            present = np.asarray(measured.present, bool)[None]  # (1, N)
            demand = demand * present[0][:, None]
        return Draw((demand - waited)[None], capacity, price, present)

    def clock(self, time: int) -> tuple[float, float]:
        """Return the phase of the day by the wall's clock."""
        angle = 2.0 * np.pi * (_now() % 86_400.0) / 86_400.0
        return float(np.sin(angle)), float(np.cos(angle))

    def get_state(self) -> dict[str, Any]:
        """Nothing here decides the future."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing to set."""


def _now() -> float:
    return time.time()


def _checked(
    name: str, given: Any, shape: tuple[int, ...], *, infinite: bool = False, negative: bool = False
) -> np.ndarray:
    """Return a measured array of that shape, or say what is wrong with it."""
    values = np.asarray(given, np.float64)
    if values.shape != shape:
        raise PlantError(f"measured {name} must have the shape {shape}, got {values.shape}")
    fits = ~np.isnan(values) if infinite else np.isfinite(values)
    if not negative:
        fits &= values >= 0.0
    if not fits.all():
        place = tuple(int(index) for index in np.argwhere(~fits)[0])
        rule = "finite" if negative else "zero or more, and no NaN"
        raise PlantError(f"measured {name} must be {rule}, got {values[place]} at {list(place)}")
    return values
