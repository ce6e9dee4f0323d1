"""Synthetic dynamics: a daily cycle with noise and bursts, time-of-use price, shocks, outages, churn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.dynamics.base import Draw, Dynamics
from camac_dra.utils.schema.environment import SyntheticConfig

# Random numbers are drawn for many steps at once, up to this many per array: small problems then pay no call
# overhead, and large ones no memory.
_CHUNK_CELLS = 1 << 16


class SyntheticDynamics(Dynamics):
    """Arrivals ``load * fair_share * base * day * noise * burst / E[burst]``; see
    `SyntheticConfig` for the terms.

    ``base`` is Dirichlet over the agents (times N), drawn per episode and resource; ``day`` has one
    phase per episode plus one per agent; ``noise`` and ``burst`` are drawn per agent and step and
    hit all its resources.
    """

    def __init__(
        self, config: SyntheticConfig, num_envs: int, constraints: Constraints, episode_length: int
    ) -> None:
        """Prepare the generator; ``constraints`` give the fair shares that the demand is scaled with."""
        super().__init__(num_envs, constraints, episode_length)
        self.config = config
        expected_burst = 1.0 + config.burst_probability * (config.burst_size - 1.0)
        self._scale = config.load * constraints.fair_share / expected_burst  # (N, R)
        if constraints.access is not None:
            self._scale = self._scale * constraints.access
        self._chunk_length = max(1, min(episode_length + 1, _CHUNK_CELLS // (num_envs * self.num_agents)))
        capacity = self.nominal_capacity
        left = 1.0 - config.outage_fraction
        self._reduced = np.multiply(
            capacity, left, out=capacity.copy(), where=np.isfinite(capacity)
        )  # (1, K, R)
        self._omega = 2.0 * math.pi / config.day_length
        hours = self._omega * np.arange(episode_length + 1)  # (T + 1,)
        price = config.price_base + config.price_amplitude * np.sin(hours + config.price_phase)  # (T + 1,)
        self._prices = np.repeat(
            np.maximum(price, 0.0)[:, None, None], self.num_resources, axis=2
        )  # (T + 1, 1, R)
        self._arrays: dict[str, np.ndarray] = {}
        self._chunk_start = 0

    def begin(self, rng: np.random.Generator) -> None:
        """Draw base demands, phases and yields of new episodes."""
        config, shape = self.config, (self.num_envs, self.num_agents)
        cells = (self.num_envs, self.num_agents, self.num_resources)
        base = np.ones(cells)  # (B, N, R)
        if config.base_concentration is not None:
            alpha = np.full(self.num_agents, config.base_concentration)
            drawn = rng.dirichlet(alpha, size=(self.num_envs, self.num_resources))  # (B, R, N)
            base = np.ascontiguousarray(drawn.transpose(0, 2, 1)) * self.num_agents
        day = rng.uniform(0.0, 2.0 * math.pi, (self.num_envs, 1))  # (B, 1)
        phase = day + rng.normal(0.0, 1.0, shape) * config.phase_spread  # (B, N)
        self._arrays = {"base": base * self._scale, "phase": phase}
        if config.yield_low < 1.0:
            self._arrays["yield"] = rng.uniform(config.yield_low, 1.0, cells)  # (B, N, R)
        if config.shock_probability > 0.0:
            self._arrays["shock"] = np.zeros(self.num_envs, np.int64)  # (B,) steps left
        if config.outage_probability > 0.0:
            self._arrays["outage"] = np.zeros(
                (self.num_envs, *self.nominal_capacity.shape[1:]), np.int64
            )  # (B, K, R)
        if config.leave_probability > 0.0:
            self._arrays["present"] = np.ones(shape, bool)  # (B, N)
        self._draw_chunk(rng, 0)

    def draw(self, rng: np.random.Generator, time: int) -> Draw:
        """Return the events of step ``time``."""
        if time >= self._chunk_start + self._chunk_length:
            self._draw_chunk(rng, time)
        step = time - self._chunk_start
        arrivals = self._arrays["base"] * self._arrays["level"][step]  # (B, N, R) * (B, N, 1)
        draw = Draw(
            arrivals, self.nominal_capacity, self._prices[time], service_yield=self._arrays.get("yield")
        )
        if "shock" in self._arrays:
            self._shock(rng, draw)
        if "outage" in self._arrays:
            self._outage(rng, draw)
        if "present" in self._arrays:
            self._churn(rng, draw)
        return draw

    def clock(self, time: int) -> tuple[float, float]:
        """Return sine and cosine of the time of day."""
        return math.sin(self._omega * time), math.cos(self._omega * time)

    def get_state(self) -> dict[str, Any]:
        """Return the running episodes' draws."""
        return {
            "chunk_start": self._chunk_start,
            **{name: array.copy() for name, array in self._arrays.items()},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what ``get_state`` returned."""
        self._chunk_start = int(state["chunk_start"])
        self._arrays = {name: np.array(array) for name, array in state.items() if name != "chunk_start"}

    def _draw_chunk(self, rng: np.random.Generator, start: int) -> None:
        """Draw the demand levels of the steps from ``start`` on."""
        config = self.config
        shape = (self._chunk_length, self.num_envs, self.num_agents)
        hours = self._omega * np.arange(start, start + self._chunk_length)[:, None, None]  # (S, 1, 1)
        level = np.sin(hours + self._arrays["phase"])  # (S, B, N)
        level *= config.day_amplitude
        level += 1.0
        level *= np.exp(rng.standard_normal(shape) * config.noise - 0.5 * config.noise**2)
        level[rng.random(shape) < config.burst_probability] *= config.burst_size
        self._arrays["level"] = level[..., None]
        self._chunk_start = start

    def _shock(self, rng: np.random.Generator, draw: Draw) -> None:
        """Multiply everybody's demand while a shock lasts."""
        left = self._arrays["shock"]
        starts = (rng.random(self.num_envs) < self.config.shock_probability) & (left == 0)
        left[starts] = self.config.shock_duration
        draw.arrivals[left > 0] *= self.config.shock_size
        np.maximum(left - 1, 0, out=left)

    def _outage(self, rng: np.random.Generator, draw: Draw) -> None:
        """Take a share of a group's capacity while an outage lasts."""
        left = self._arrays["outage"]
        starts = (rng.random(left.shape) < self.config.outage_probability) & (left == 0)
        left[starts] = self.config.outage_duration
        draw.capacity = np.where(left > 0, self._reduced, self.nominal_capacity)
        np.maximum(left - 1, 0, out=left)

    def _churn(self, rng: np.random.Generator, draw: Draw) -> None:
        """Let agents leave at the end of this step, and come back at the next."""
        present = self._arrays["present"]
        chance = rng.random(present.shape)  # (B, N)
        draw.present = present
        draw.leaving = present & (chance < self.config.leave_probability)
        draw.arrivals *= present[..., None]
        joins = ~present & (chance < self.config.join_probability)
        self._arrays["present"] = (present & ~draw.leaving) | joins
