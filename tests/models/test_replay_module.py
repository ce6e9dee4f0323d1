"""What the modules of DQN and SAC share: targets that lag behind, and units of values."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from camac_dra.models.network_spec import NetworkSpec
from camac_dra.models.normalization import RunningMoments
from camac_dra.models.q_module import QConfig, QModule
from camac_dra.models.replay_module import ReplayModule
from camac_dra.models.sac_module import SACConfig, SACModule

SEEN = spaces.Box(-np.inf, np.inf, (5,), np.float32)
NETWORK = NetworkSpec(hidden_sizes=(6,))


def _q_module(*, dueling: bool, inference_only: bool = False) -> QModule:
    config = QConfig(NETWORK, dueling=dueling, normalize_returns=True, seed=1)
    return QModule(
        observation_space=SEEN,
        action_space=spaces.Discrete(3),
        model_config=asdict(config),
        inference_only=inference_only,
    )


def _sac_module(*, inference_only: bool = False) -> SACModule:
    config = SACConfig(NETWORK, normalize_returns=True, seed=1)
    return SACModule(
        observation_space=SEEN,
        action_space=spaces.Box(0.0, 1.0, (2,), np.float32),
        model_config=asdict(config),
        inference_only=inference_only,
    )


MODULES = {
    "dueling": lambda: _q_module(dueling=True),
    "plain": lambda: _q_module(dueling=False),
    "sac": _sac_module,
}


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> ReplayModule:
    return MODULES[request.param]()


def _values(module: ReplayModule, network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return what a network predicts in real units, (rows, values)."""
    if isinstance(module, SACModule):
        predicted = torch.stack(network(x, torch.full((len(x), 2), 0.3)), 1)
    else:
        predicted = network(x)
    assert module.return_scaler is not None
    return module.return_scaler.to_returns(predicted)


def test_a_target_begins_as_a_copy_and_becomes_one_again(module: ReplayModule) -> None:
    x = torch.randn(7, 5)
    [(online, target)] = module.get_target_network_pairs()
    assert target is module.target
    torch.testing.assert_close(_values(module, target, x), _values(module, online, x), rtol=0, atol=0)
    with torch.no_grad():
        next(online.parameters()).add_(1.0)
    assert not torch.equal(_values(module, target, x), _values(module, online, x))
    module.make_target_networks()
    torch.testing.assert_close(_values(module, target, x), _values(module, online, x), rtol=0, atol=0)


def test_other_units_leave_the_predictions_of_both_networks(module: ReplayModule) -> None:
    x = torch.randn(7, 5)
    [pair] = module.get_target_network_pairs()
    with torch.no_grad():
        next(pair[0].parameters()).add_(1.0)  # else both are the same
    before = [_values(module, network, x) for network in pair]
    for returns in ([3.0, 9.0], [-2.0, 0.5, 1.0]):
        moments = RunningMoments.of(torch.tensor(returns)[:, None])
        module.set_return_moments(moments)
        assert module.return_scaler is not None
        assert float(module.return_scaler.mean) == pytest.approx(np.mean(returns))
        for network, values in zip(pair, before, strict=True):
            torch.testing.assert_close(_values(module, network, x), values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "module", [_q_module(dueling=True, inference_only=True), _sac_module(inference_only=True)]
)
def test_what_only_acts_has_no_target(module: ReplayModule) -> None:
    names = module.state_dict()
    assert names
    assert not [name for name in names if name.startswith(("target", "return_scaler", "critics"))]


def test_what_is_shared_is_written_once() -> None:
    for name in ("make_target_networks", "get_target_network_pairs", "set_return_moments", "forward_train"):
        assert getattr(QModule, name) is getattr(SACModule, name) is getattr(ReplayModule, name)
