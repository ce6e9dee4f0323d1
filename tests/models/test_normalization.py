"""Running moments against NumPy, and the two scalings against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from camac_dra.models.normalization import ObservationScaler, ReturnScaler, RunningMoments
from camac_dra.utils.errors import CheckpointError


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    shift=st.floats(-1e3, 1e3),
    seed=st.integers(0, 99),
)
def test_merging_parts_gives_the_moments_of_the_whole(sizes: list[int], shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [(rng.normal(size=(n, 3)) + shift).astype(np.float32) for n in sizes]
    merged = RunningMoments.empty(3)
    for part in parts:
        merged = merged.merge(RunningMoments.of(torch.from_numpy(part)))
    whole = np.concatenate(parts).astype(np.float64)
    assert merged.count == len(whole)
    if len(whole):
        np.testing.assert_allclose(merged.mean, whole.mean(0), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(merged.squares, whole.var(0) * len(whole), rtol=1e-2, atol=1e-2)


def test_merging_does_not_depend_on_the_order() -> None:
    a, b = (RunningMoments.of(torch.randn(n, 2) * n) for n in (10, 30))
    one, two = a.merge(b), b.merge(a)
    np.testing.assert_allclose(one.mean, two.mean)
    np.testing.assert_allclose(one.squares, two.squares)


def test_old_rows_are_forgotten_beyond_the_limit() -> None:
    moments = RunningMoments.of(torch.zeros(10_000, 1))
    for _ in range(30):
        moments = moments.merge(RunningMoments.of(torch.full((100, 1), 5.0)), max_count=200)
    assert moments.count == 300
    assert moments.mean[0] == pytest.approx(5.0, abs=0.01)


def test_features_that_never_vary_are_centred_only() -> None:
    moments = RunningMoments.of(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
    assert moments.std.tolist() == [1.0, 1.0]
    assert RunningMoments.empty(2).std.tolist() == [1.0, 1.0]


def test_observation_scaler_centres_scales_and_clips() -> None:
    rows = torch.randn(5000, 4) * torch.tensor([1.0, 10.0, 0.1, 1.0]) + torch.tensor([0.0, 5.0, -3.0, 0.0])
    scaler = ObservationScaler(4, clip=3.0)
    torch.testing.assert_close(scaler(torch.ones(2, 4)), torch.ones(2, 4))
    scaler.set_moments(RunningMoments.of(rows))
    scaled = scaler(rows)
    assert scaled.abs().max() <= 3.0
    torch.testing.assert_close(scaled.mean(0), torch.zeros(4), rtol=0.0, atol=0.02)
    torch.testing.assert_close(scaled.std(0), torch.ones(4), rtol=0.0, atol=0.05)


def test_new_return_units_keep_the_predictions_in_real_units() -> None:
    scaler, output, features = ReturnScaler(), nn.Linear(8, 1), torch.randn(20, 8)
    for scale in (3.0, 50.0, 0.2):
        before = scaler.to_returns(output(features))
        scaler.set_moments(RunningMoments.of(torch.randn(500, 1) * scale + 2 * scale), output)
        torch.testing.assert_close(scaler.to_returns(output(features)), before, rtol=1e-4, atol=1e-4)
    returns = torch.randn(5)
    torch.testing.assert_close(scaler.to_returns(scaler.from_returns(returns)), returns)


def test_state_is_restored_and_malformed_state_is_refused() -> None:
    moments = RunningMoments.of(torch.randn(50, 3))
    again = RunningMoments.from_state(moments.get_state())
    assert again.count == moments.count
    np.testing.assert_array_equal(again.mean, moments.mean)
    np.testing.assert_array_equal(again.squares, moments.squares)
    bad = {**moments.get_state(), "mean": torch.zeros(4, dtype=torch.float64)}
    with pytest.raises(CheckpointError, match="must be vectors of one length"):
        RunningMoments.from_state(bad)
