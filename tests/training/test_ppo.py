"""ArrayPPO in one process: it learns, repeats itself exactly, resumes exactly, and survives divergence."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.losses import LossTerm
from camac_dra.training.ppo import ArrayPPO
from camac_dra.training.ray_session import build_algorithm
from camac_dra.training.settings import PPOSettings
from camac_dra.utils.errors import CapabilityError, CheckpointError, TrainingDivergedError
from tests.training.toy_environment import ToyVectorEnvironment

SMALL = {"num_envs": 4, "fragment_length": 10, "batch_size": 32, "num_epochs": 2, "hidden_sizes": (16,)}
EVERYTHING = {
    "normalize_observations": True,
    "normalize_returns": True,
    "learning_rate_schedule": "linear",
    "entropy_coeff_end": 0.0,
    "total_env_steps": 400,
}


@pytest.fixture
def make(tmp_path: Path):
    """Make algorithms without Ray; they are stopped at the end."""
    made: list[ArrayPPO] = []

    def build(environment: dict[str, Any] | None = None, **settings: Any) -> ArrayPPO:
        factory = partial(ToyVectorEnvironment, **(environment or {}))
        config = build_algorithm_config(factory, PPOSettings(**{**SMALL, **settings}))
        made.append(build_algorithm(config, tmp_path))
        return made[-1]

    yield build
    for algorithm in made:
        algorithm.stop()


def weights(algorithm: ArrayPPO) -> dict[str, torch.Tensor]:
    learned = algorithm.learner.get_learning_state()["weights"]
    return {f"{mid}.{name}": tensor for mid, state in learned.items() for name, tensor in state.items()}


def assert_same_weights(one: ArrayPPO, two: ArrayPPO) -> None:
    mine, theirs = weights(one), weights(two)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def curve(algorithm: ArrayPPO, iterations: int) -> list[tuple[Any, ...]]:
    """Everything that a plot would show, to the last bit."""
    points = []
    for _ in range(iterations):
        result = algorithm.train()
        learner = {mid: r for mid, r in result["learners"].items() if mid != "__all_modules__"}
        losses = [
            (mid, k, float(v)) for mid, r in learner.items() for k, v in sorted(r.items()) if "param" not in k
        ]
        points.append((result["env_runners"].get("episode_return_mean"), algorithm.episodes, losses))
    return points


@pytest.mark.parametrize(
    ("space", "settings"),
    [
        (spaces.Discrete(3), {}),
        (spaces.MultiDiscrete([3, 5]), {"activation": "tanh", "shared_torso": True}),
        (spaces.Box(-1, 1, (1,), np.float32), {"activation": "elu", "normalize_returns": True}),
    ],
)
def test_it_learns(make, space: spaces.Space, settings: dict[str, Any]) -> None:
    algorithm = make(
        {"action_space": space, "absent": True},
        num_envs=16,
        fragment_length=20,
        learning_rate=3e-3,
        batch_size=128,
        num_epochs=4,
        gamma=0.8,
        normalize_observations=True,
        **settings,
    )
    distances = [np.mean([e["distance"] for e in trained(algorithm).episodes]) for _ in range(25)]
    assert np.mean(distances[-3:]) < 0.65 * distances[0]


def trained(algorithm: ArrayPPO) -> ArrayPPO:
    algorithm.train()
    return algorithm


@pytest.mark.parametrize("policies", ["shared", "per_agent"])
def test_the_same_seed_gives_the_same_curve(make, policies: str) -> None:
    environment = {"absent": True, "terminate": True}
    one, two = (make(environment, policies=policies, seed=7, **EVERYTHING) for _ in range(2))
    assert curve(one, 4) == curve(two, 4)
    assert_same_weights(one, two)
    other = make(environment, policies=policies, seed=8, **EVERYTHING)
    assert curve(other, 1) != curve(two, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"policies": "shared", **EVERYTHING},
        {"policies": "per_agent", **EVERYTHING, "optimizer": "rmsprop"},
        {"optimizer": "sgd", "shared_torso": True},
    ],
)
def test_resuming_is_as_if_it_had_not_stopped(make, settings: dict[str, Any]) -> None:
    environment = {"absent": True}
    whole = make(environment, **settings)
    curve(whole, 3)
    file = io.BytesIO()
    torch.save(whole.get_training_state(), file)
    rest = curve(whole, 4)
    file.seek(0)
    resumed = make(environment, **settings)
    curve(resumed, 1)  # has a past of its own, which must not matter
    resumed.set_training_state(torch.load(file, weights_only=True))
    assert resumed.counters.iterations == 3
    assert curve(resumed, 4) == rest
    assert_same_weights(whole, resumed)
    assert resumed.counters == whole.counters
    assert resumed.iteration == whole.iteration == 7


def test_learners_elsewhere_are_refused_where_an_algorithm_has_none(monkeypatch) -> None:
    monkeypatch.setattr(ArrayPPO, "learns_elsewhere", False)
    config = build_algorithm_config(ToyVectorEnvironment, PPOSettings(num_learners=1))
    with pytest.raises(CapabilityError, match="num_learners and num_gpus must be 0 for ArrayPPO"):
        config.build_algo()


def test_a_state_taken_is_not_changed_by_what_follows(make) -> None:
    algorithm = make()
    algorithm.train()
    state = algorithm.get_training_state()
    before = {k: v.clone() for k, v in state["learner"]["weights"]["shared"].items()}
    moments = state["learner"]["optimizers"]["shared_default_optimizer"]["state"][0]["exp_avg"].clone()
    algorithm.train()
    assert all(torch.equal(v, state["learner"]["weights"]["shared"][k]) for k, v in before.items())
    assert torch.equal(
        moments, state["learner"]["optimizers"]["shared_default_optimizer"]["state"][0]["exp_avg"]
    )


def test_states_that_do_not_fit_are_refused_and_change_nothing(make) -> None:
    algorithm, wider = make(), make(hidden_sizes=(24,))
    expected = weights(algorithm)
    with pytest.raises(CheckpointError, match="does not fit this algorithm"):
        algorithm.set_training_state(wider.get_training_state())
    with pytest.raises(CheckpointError, match="must be of version 1, got 99"):
        algorithm.set_training_state({**algorithm.get_training_state(), "version": 99})
    algorithm.train()
    expected, counters = weights(algorithm), algorithm.counters
    runner = algorithm.get_training_state()["env_runners"][0]
    for spoil in (
        lambda s: s["learner"]["weights"].pop("shared"),
        lambda s: s["learner"].pop("shuffle_generator"),
        lambda s: s["env_runners"][0].pop("generator"),
    ):
        state = make(seed=3).get_training_state()
        spoil(state)
        with pytest.raises(CheckpointError, match="does not fit"):
            algorithm.set_training_state(state)
        assert algorithm.counters == counters
        now = algorithm.get_training_state()["env_runners"][0]
        assert torch.equal(now["observations"], runner["observations"])
        assert now["environment"]["rng"] == runner["environment"]["rng"]
    assert all(torch.equal(v, expected[k]) for k, v in weights(algorithm).items())


def test_global_generators_are_left_alone(make) -> None:
    algorithm = make({"absent": True})
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    algorithm.train()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.parametrize("policies", ["shared", "per_agent"])
def test_rewards_that_are_not_finite_stop_the_training_at_the_last_good_state(make, policies: str) -> None:
    algorithm = make({"poison": 25}, policies=policies, **EVERYTHING)
    for _ in range(2):
        algorithm.train()
    good = algorithm.get_training_state()
    with pytest.raises(
        TrainingDivergedError, match="advantages must be finite, got NaN or infinity from rewards"
    ):
        algorithm.train()
    assert_recovered(algorithm, good)


def assert_recovered(algorithm: ArrayPPO, good: dict[str, Any]) -> None:
    now = algorithm.get_training_state()
    assert now["counters"] == good["counters"]
    for module_id, state in good["learner"]["weights"].items():
        assert all(torch.equal(v, now["learner"]["weights"][module_id][k]) for k, v in state.items())
    for name, optimizer in good["learner"]["optimizers"].items():
        for index, slot in optimizer["state"].items():
            found = now["learner"]["optimizers"][name]["state"][index]
            assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(found[k])) for k, v in slot.items())
    assert torch.equal(good["observation_moments"]["mean"], now["observation_moments"]["mean"])
    for module_id, moments in good["return_moments"].items():
        assert torch.equal(moments["mean"], now["return_moments"][module_id]["mean"])


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_an_update_that_diverges_is_rolled_back(make, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    algorithm = make(**EVERYTHING)
    algorithm.train()
    good = algorithm.get_training_state()
    original, calls = algorithm.learner._learn_policy, []

    def poisoned(module_id: str, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        loss = original(module_id, *arguments)
        if len(calls) >= 4:  # some minibatches have changed the weights by then
            spoilt = loss if what == "loss" else algorithm.learner._steppers[module_id].vector.grad
            spoilt.view(-1)[0] = torch.inf
        return loss

    monkeypatch.setattr(algorithm.learner, "_learn_policy", poisoned)
    with pytest.raises(TrainingDivergedError, match=f"{what} of policy 'shared' must be finite"):
        algorithm.train()
    monkeypatch.undo()
    assert_recovered(algorithm, good)
    algorithm.train()
    assert algorithm.counters.iterations == 2


def test_schedules_reach_their_ends(make) -> None:
    algorithm = make(learning_rate=0.1, entropy_coeff=0.2, **{**EVERYTHING, "total_env_steps": 120})
    seen = []
    for _ in range(4):
        result = algorithm.train()["learners"]["shared"]
        seen.append((result["default_optimizer_learning_rate"], result["curr_entropy_coeff"]))
    expected = [(0.1 * f, 0.2 * f) for f in (2 / 3, 1 / 3, 0.0, 0.0)]  # after 40, 80, 120 and 160 steps
    np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_per_agent_policies_learn_from_their_own_rows_only(make) -> None:
    algorithm = make({"absent": True, "length": 100}, policies="per_agent")
    assert algorithm.config.module_ids == ["agent_0", "agent_1", "agent_2"]
    before = weights(algorithm)
    seen: dict[str, int] = {}
    learner = algorithm.learner
    original = learner._learn_policy

    def counting(module_id: str, batch: dict[str, torch.Tensor], *rest: Any) -> torch.Tensor:
        seen[module_id] = seen.get(module_id, 0) + len(batch["obs"])
        assert (batch["obs"][:, 6] == int(module_id[-1])).all()  # the agent's number is the last feature
        assert (batch["obs"][:, 5] == 1).all()  # present
        return original(module_id, batch, *rest)

    learner._learn_policy = counting
    algorithm.train()
    # 2 epochs over 10 steps of 4 copies; agent 1 is away in two steps of them.
    assert seen == {"agent_0": 80, "agent_1": 64, "agent_2": 80}
    assert all(
        not torch.equal(before[name], now) for name, now in weights(algorithm).items() if "weight" in name
    )


def test_a_policy_whose_agents_are_all_away_is_left_alone(make) -> None:
    algorithm = make({"absent": True, "length": 3, "num_agents": 3}, policies="per_agent", fragment_length=1)
    algorithm.train()
    algorithm.train()
    before = weights(algorithm)
    algorithm.train()  # agent 1 is away in step 2 of every copy, and agent 2 from step length - 2 on
    changed = {
        name.split(".")[0] for name, now in weights(algorithm).items() if not torch.equal(before[name], now)
    }
    assert "agent_0" in changed
    assert "agent_1" not in changed


def test_the_critic_learns_normalised_returns(make) -> None:
    algorithm = make({"noise": False}, normalize_returns=True, batch_size=200)
    learner, targets = algorithm.learner, []
    original = learner._learn_values

    def watching(module_id: str, batch: dict[str, torch.Tensor]) -> LossTerm:
        targets.append(batch["value_targets"])
        return original(module_id, batch)

    learner._learn_values = watching
    algorithm.train()
    assert targets[0].mean().item() == pytest.approx(0.0, abs=1e-4)
    assert targets[0].std(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    moments = algorithm.get_training_state()["return_moments"]["shared"]
    assert moments["count"] == 120


def test_counters_and_results(make) -> None:
    algorithm = make({"absent": True})
    result = algorithm.train()
    assert algorithm.counters.iterations == result["training_iteration"] == 1
    assert algorithm.counters.env_steps == result["env_runners"]["num_env_steps_sampled"] == 40
    assert algorithm.counters.agent_steps == result["env_runners"]["num_module_steps_sampled"]["all"] < 120
    assert algorithm.counters.episodes == len(algorithm.episodes) == result["env_runners"]["num_episodes"]
    assert {"policy_loss", "vf_loss", "entropy", "gradient_norm"} <= result["learners"]["shared"].keys()
