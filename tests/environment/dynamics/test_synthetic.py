"""Synthetic dynamics: moments of the demand, and what may happen to it, to capacity, price and presence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.dynamics import Draw, synthetic
from camac_dra.environment.dynamics.synthetic import SyntheticDynamics
from tests.environment.problems import CONSTANT, problem


def dynamics(num_envs: int = 1, length: int = 50, **settings: Any) -> SyntheticDynamics:
    """Return dynamics of 4 agents with fair shares of 10 and 2 and the given synthetic settings."""
    section = settings.pop("section", {})
    config = problem(settings, max_episode_length=length, **section)
    return SyntheticDynamics(
        config.dynamics.synthetic, num_envs, Constraints.from_config(config), config.max_episode_length
    )


def episode(events: SyntheticDynamics, seed: int = 0) -> list[Draw]:
    """Return the draws of an episode, the one after its end included."""
    rng = np.random.default_rng(seed)
    events.begin(rng)
    return [events.draw(rng, time) for time in range(events.episode_length + 1)]


def arrivals(events: SyntheticDynamics, seed: int = 0) -> np.ndarray:
    """Return the demand (T + 1, B, N, R) of an episode in fair shares."""
    return np.stack([draw.arrivals for draw in episode(events, seed)]) / np.array([10.0, 2.0])


def lengths_of_runs(happens: np.ndarray) -> list[int]:
    """Return how many steps each run of true values (T,) lasts, those cut off at the end left out."""
    lengths, current = [], 0
    for now in happens.tolist():
        if now:
            current += 1
        elif current:
            lengths.append(current)
            current = 0
    return lengths


def test_the_mean_demand_is_the_load() -> None:
    demand = arrivals(dynamics(300, 50, load=0.85, burst_probability=0.1))[:50]  # whole days
    assert demand.mean() == pytest.approx(0.85, rel=0.01)
    np.testing.assert_allclose(demand.mean(axis=(0, 1)), 0.85, rtol=0.1)


def test_the_noise_is_lognormal_with_mean_one() -> None:
    demand = arrivals(dynamics(500, 50, **CONSTANT | {"load": 1.0, "noise": 0.4}))
    assert demand.mean() == pytest.approx(1.0, rel=0.01)
    assert np.log(demand).std() == pytest.approx(0.4, rel=0.01)
    np.testing.assert_allclose(demand[..., 0], demand[..., 1])  # the same for all resources of an agent


def test_bursts_come_as_often_and_as_large_as_configured() -> None:
    demand = arrivals(
        dynamics(500, 50, **CONSTANT | {"load": 1.0, "burst_probability": 0.03, "burst_size": 4.0})
    )
    calm = 1.0 / 1.09
    burst = np.isclose(demand, 4.0 * calm)
    assert (burst | np.isclose(demand, calm)).all()
    assert burst.mean() == pytest.approx(0.03, rel=0.1)


def test_the_day_swings_around_the_mean_with_phases_of_copy_and_agent() -> None:
    day = CONSTANT | {"load": 1.0, "day_amplitude": 0.6, "day_length": 50.0}
    demand = arrivals(dynamics(20, 100, **day | {"phase_spread": 0.0}))[..., 0]  # (T + 1, B, N)
    np.testing.assert_allclose(demand[:50], demand[50:100])
    np.testing.assert_allclose(demand[:50].mean(axis=0), 1.0)
    np.testing.assert_allclose(demand, np.broadcast_to(demand[..., :1], demand.shape))
    assert demand.max() == pytest.approx(1.6, abs=0.01)
    assert demand.min() == pytest.approx(0.4, abs=0.01)
    peaks = demand[:50, :, 0].argmax(axis=0)  # (B,)
    assert len(set(peaks.tolist())) > 10

    spread = arrivals(dynamics(2000, 50, **day | {"phase_spread": 0.3}))[:50, :, :, 0]
    # The phase of a sine from its products with sine and cosine over a whole day.
    hours = 2.0 * math.pi * np.arange(50) / 50
    sine = np.einsum("t,tbn->bn", np.sin(hours), spread)
    cosine = np.einsum("t,tbn->bn", np.cos(hours), spread)
    phase = np.arctan2(cosine, sine)  # (B, N)
    apart = np.angle(np.exp(1j * (phase[:, 0] - phase[:, 1])))
    assert apart.std() == pytest.approx(0.3 * math.sqrt(2.0), rel=0.05)


def test_base_demands_add_up_and_differ_by_resource() -> None:
    settings = CONSTANT | {"load": 0.5, "base_concentration": 3.0}
    demand = arrivals(dynamics(1000, 1, **settings))[0]  # (B, N, R)
    np.testing.assert_allclose(demand.mean(axis=1), 0.5)
    assert not np.allclose(demand[..., 0], demand[..., 1])
    share = demand[..., 0] / 0.5 / 4.0  # Dirichlet(3, 3, 3, 3): Beta(3, 9) each
    assert share.var() == pytest.approx(3 * 9 / (12**2 * 13), rel=0.1)


def test_bases_are_drawn_anew_for_every_episode() -> None:
    events, rng = dynamics(**CONSTANT | {"base_concentration": 3.0}), np.random.default_rng(0)
    first = []
    for _ in range(2):
        events.begin(rng)
        first.append(events.draw(rng, 0).arrivals)
    assert not np.allclose(*first)


def test_demand_is_zero_without_access() -> None:
    demand = arrivals(dynamics(3, section={"constraints": {"access": {"cpu": [1]}}}))
    assert not demand[:, :, [0, 2, 3], 0].any()
    assert demand[:, :, 1, 0].all()
    assert demand[..., 1].all()


@pytest.mark.parametrize("cells", [1, 3 * 4 * 7, 10**9])
def test_borders_of_chunks_do_not_show(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    smooth = CONSTANT | {"day_amplitude": 0.6, "base_concentration": 3.0}
    expected = arrivals(dynamics(3, 50, **smooth))
    monkeypatch.setattr(synthetic, "_CHUNK_CELLS", cells)
    np.testing.assert_array_equal(arrivals(dynamics(3, 50, **smooth)), expected)
    noisy = arrivals(dynamics(3, 50))
    assert len(np.unique(noisy[..., 0])) == noisy[..., 0].size  # nothing is drawn once and used twice
    np.testing.assert_array_equal(noisy, arrivals(dynamics(3, 50)))


def test_the_price_follows_the_hour() -> None:
    events = dynamics(3, 60, price_base=1.0, price_amplitude=0.9, price_phase=1.0, day_length=50.0)
    for time, draw in enumerate(episode(events)):
        expected = 1.0 + 0.9 * math.sin(2.0 * math.pi * time / 50.0 + 1.0)
        np.testing.assert_allclose(draw.price, np.full((1, 2), expected))
        hour = math.pi * time / 25.0
        np.testing.assert_allclose(events.clock(time), [math.sin(hour), math.cos(hour)], atol=1e-12)


def test_prices_are_never_negative() -> None:
    prices = [draw.price.min() for draw in episode(dynamics(price_base=0.5, price_amplitude=2.0))]
    assert min(prices) == 0.0
    assert max(prices) > 2.0


def test_a_shock_hits_everybody_of_a_copy_at_once_and_lasts() -> None:
    calm = arrivals(dynamics(5, 2000, **CONSTANT))
    settings = {"shock_probability": 0.02, "shock_size": 3.0, "shock_duration": 4}
    factor = arrivals(dynamics(5, 2000, **CONSTANT | settings)) / calm  # (T + 1, B, N, R)
    shocked = np.isclose(factor, 3.0)
    assert (shocked | np.isclose(factor, 1.0)).all()
    np.testing.assert_array_equal(shocked, np.broadcast_to(shocked[:, :, :1, :1], shocked.shape))
    runs = [length for copy in range(5) for length in lengths_of_runs(shocked[:, copy, 0, 0])]
    assert all(length % 4 == 0 for length in runs)
    # One in 50 calm steps starts a shock of 4.
    assert shocked[:, :, 0, 0].mean() == pytest.approx(4 / (50 + 3), rel=0.2)
    assert not np.array_equal(shocked[:, 0], shocked[:, 1])


def test_an_outage_takes_a_share_of_one_capacity_and_lasts() -> None:
    groups = {"constraints": {"groups": [{"name": "cell", "agents": [0], "limits": {"cpu": 5.0}}]}}
    settings = {"outage_probability": 0.02, "outage_fraction": 0.4, "outage_duration": 3}
    events = dynamics(2, 2000, **settings, section=groups)
    capacity = np.stack([draw.capacity for draw in episode(events)])  # (T + 1, B, K, R)
    assert np.isposinf(capacity[:, :, 1, 1]).all()
    share = capacity[:, :, [0, 0, 1], [0, 1, 0]] / [40.0, 8.0, 5.0]
    out = np.isclose(share, 0.6)
    assert (out | np.isclose(share, 1.0)).all()
    for copy in range(2):
        for group in range(3):
            assert all(length % 3 == 0 for length in lengths_of_runs(out[:, copy, group]))
    assert out.mean() == pytest.approx(3 / (50 + 2), rel=0.2)
    assert not np.array_equal(out[..., 0], out[..., 1])


def test_a_total_outage_leaves_what_does_not_bind() -> None:
    groups = {"constraints": {"groups": [{"name": "cell", "agents": [0], "limits": {"cpu": 5.0}}]}}
    events = dynamics(outage_probability=1.0, outage_fraction=1.0, section=groups)
    for draw in episode(events):
        np.testing.assert_array_equal(draw.capacity, [[[0.0, 0.0], [0.0, np.inf]]])


def test_agents_leave_and_come_back() -> None:
    events = dynamics(50, 200, leave_probability=0.1, join_probability=0.3)
    draws = episode(events)
    present = np.stack([draw.present for draw in draws])  # (T + 1, B, N)
    leaving = np.stack([draw.leaving for draw in draws])
    assert present[0].all()
    assert not (leaving & ~present).any()
    assert not (present[1:] & leaving[:-1]).any()  # who leaves is gone at the next step
    assert (present[1:] | leaving[:-1] | ~present[:-1]).all()  # and nobody else
    assert leaving[present].mean() == pytest.approx(0.1, rel=0.05)
    assert present[1:][~present[:-1]].mean() == pytest.approx(0.3, rel=0.05)
    for draw in draws:
        assert not draw.arrivals[~draw.present].any()
        assert draw.arrivals[draw.present].all()


def test_nothing_happens_unless_asked_for() -> None:
    events = dynamics()
    for draw in episode(events):
        assert draw.capacity is events.nominal_capacity
        assert draw.present is draw.leaving is draw.service_yield is draw.features is draw.deadline is None


def test_yields_are_drawn_per_episode() -> None:
    draws = episode(dynamics(200, 3, yield_low=0.6))
    gain = draws[0].service_yield  # (B, N, R)
    assert 0.6 <= gain.min() < 0.61
    assert 0.99 < gain.max() <= 1.0
    assert gain.mean() == pytest.approx(0.8, abs=0.01)
    for draw in draws:
        np.testing.assert_array_equal(draw.service_yield, gain)
