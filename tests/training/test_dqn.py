"""Q-learning over arrays: targets by hand, transitions against a slow reference, exact resume."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.dqn.dqn_learner import QF_NEXT_PREDS, QF_PREDS, QF_TARGET_NEXT_PREDS
from ray.rllib.algorithms.dqn.torch.dqn_torch_learner import DQNTorchLearner
from ray.rllib.core.columns import Columns

from camac_dra.models.normalization import RunningMoments
from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.dqn_learner import ArrayDQNLearner
from camac_dra.training.experience_buffer import ExperienceBuffer
from camac_dra.training.fragments import Fragment
from camac_dra.training.minibatches import LossRecorder
from camac_dra.training.ray_session import build_algorithm
from camac_dra.training.replay import DISCOUNTS, NEXT_MASKS, WEIGHTS, remember
from camac_dra.training.replay_algorithm import ReplayAlgorithm
from camac_dra.training.replay_settings import DQNSettings, ReplaySettings, SACSettings
from camac_dra.utils.errors import CapabilityError, CheckpointError, ConfigurationError, TrainingDivergedError
from tests.training.cart_pole import CartPoles
from tests.training.toy_environment import ToyVectorEnvironment

SMALL: dict[str, Any] = {
    "num_envs": 4,
    "fragment_length": 10,
    "batch_size": 32,
    "num_epochs": 2,
    "hidden_sizes": (16,),
}
EVERYTHING = {
    "normalize_observations": True,
    "normalize_returns": True,
    "learning_rate_schedule": "linear",
    "total_env_steps": 400,
    "prioritized": True,
    "checkpoint_replay": True,
}
BOX = {"action_space": spaces.Box(-1, 1, (2,), np.float32)}
KINDS: dict[type[ReplaySettings], dict[str, Any]] = {DQNSettings: {}, SACSettings: BOX}  # with what is acted

Make = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path):
    """Make algorithms without Ray; they are stopped at the end."""
    made: list[Any] = []

    def build(
        environment: dict[str, Any] | None = None,
        kind: type[ReplaySettings] = DQNSettings,
        factory: Any = ToyVectorEnvironment,
        **settings: Any,
    ) -> Any:
        options = {**KINDS[kind], **(environment or {})}
        config = build_algorithm_config(partial(factory, **options), kind(**{**SMALL, **settings}))
        made.append(build_algorithm(config, tmp_path))
        return made[-1]

    yield build
    for algorithm in made:
        algorithm.stop()


def make_learner(space: spaces.Space, **settings: Any) -> ArrayDQNLearner:
    factory = partial(ToyVectorEnvironment, action_space=space)
    config = build_algorithm_config(factory, DQNSettings(hidden_sizes=(8,), seed=5, **settings))
    seen = factory(1, 0).single_observation_space
    learner = config.build_learner(spaces={"shared": (seen, space)})
    learner.metrics = LossRecorder()
    return learner


# Targets and losses

NEXT = {
    QF_NEXT_PREDS: torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, -2.0]]),
    QF_TARGET_NEXT_PREDS: torch.tensor([[10.0, 20.0, 30.0], [4.0, 5.0, 6.0]]),
}
BATCH = {
    Columns.ACTIONS: torch.tensor([2, 0]),
    Columns.REWARDS: torch.tensor([1.0, -1.0]),
    DISCOUNTS: torch.tensor([0.5, 0.0]),
}


@pytest.mark.parametrize(("double", "first"), [(True, 1.0 + 0.5 * 20.0), (False, 1.0 + 0.5 * 30.0)])
def test_targets_are_those_computed_by_hand(double: bool, first: float) -> None:
    """The second transition terminated, so that its reward is all there is."""
    learner = make_learner(spaces.Discrete(3), double=double)
    module = learner.module["shared"].unwrapped()
    following = NEXT if double else {QF_TARGET_NEXT_PREDS: NEXT[QF_TARGET_NEXT_PREDS]}
    assert learner._targets(module, BATCH, following).tolist() == [first, -1.0]
    q = torch.tensor([[0.0, 0.0, first - 3.0], [-0.5, 0.0, 0.0]], requires_grad=True)
    loss = learner.compute_loss_for_module(
        module_id="shared", config=None, batch=BATCH, fwd_out={QF_PREDS: q, **following}
    )
    loss.backward()
    assert loss.item() == pytest.approx(((3.0 - 0.5) + 0.5 * 0.5**2) / 2)  # Huber's
    assert learner.errors["shared"].tolist() == [3.0, -0.5]
    assert q.grad is not None
    assert q.grad.tolist() == [[0.0, 0.0, -0.5], [0.25, 0.0, 0.0]]


def test_components_of_an_action_are_averaged_and_missing_choices_never_best() -> None:
    """Components of 2 and 3 choices; the first one's third does not exist."""
    learner = make_learner(spaces.MultiDiscrete([2, 3]), double=False)
    module = learner.module["shared"].unwrapped()
    target = {QF_TARGET_NEXT_PREDS: torch.tensor([[1.0, 2.0, 99.0, 4.0, 3.0, 8.0]])}
    batch = {
        Columns.ACTIONS: torch.tensor([[1, 2]]),
        Columns.REWARDS: torch.tensor([1.0]),
        DISCOUNTS: torch.tensor([0.5]),
    }
    assert learner._targets(module, batch, target).tolist() == [1.0 + 0.5 * (2.0 + 8.0) / 2]
    q = torch.tensor([[0.0, 2.0, 0.0, 0.0, 0.0, 4.0]])
    learner.compute_loss_for_module(
        module_id="shared", config=None, batch=batch, fwd_out={QF_PREDS: q, **target}
    )
    assert learner.errors["shared"].tolist() == [3.5 - 3.0]


def test_errors_are_weighted() -> None:
    learner = make_learner(spaces.Discrete(3))
    q = torch.zeros(2, 3)
    batch = {**BATCH, WEIGHTS: torch.tensor([0.0, 1.0])}
    loss = learner.compute_loss_for_module(
        module_id="shared", config=None, batch=batch, fwd_out={QF_PREDS: q, **NEXT}
    )
    assert loss.item() == pytest.approx(0.5 / 2)  # of the second row, whose error is 1


def random_batch(rows: int, actions: int = 3) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        Columns.OBS: torch.randn(rows, 7, generator=g),
        Columns.NEXT_OBS: torch.randn(rows, 7, generator=g),
        Columns.ACTIONS: torch.randint(actions, (rows,), generator=g),
        Columns.REWARDS: torch.randn(rows, generator=g),
        WEIGHTS: torch.rand(rows, generator=g),
        "n_step": torch.randint(1, 4, (rows,), generator=g),
        Columns.TERMINATEDS: torch.rand(rows, generator=g) < 0.3,
    }


@pytest.mark.parametrize("double", [True, False])
def test_the_loss_is_the_one_of_rllib(double: bool) -> None:
    """On the same transitions, with discounts that follow from RLlib's columns."""
    learner = make_learner(spaces.Discrete(3), double=double, gamma=0.9)
    batch = random_batch(64)
    batch[DISCOUNTS] = 0.9 ** batch["n_step"] * ~batch[Columns.TERMINATEDS]
    out = learner.module["shared"].unwrapped().forward_train(batch)
    config = DQNConfig().training(double_q=double, gamma=0.9, td_error_loss_fn="huber")
    theirs = DQNTorchLearner.compute_loss_for_module(
        learner, module_id="shared", config=config, batch=batch, fwd_out=out
    )
    ours = learner.compute_loss_for_module(module_id="shared", config=None, batch=batch, fwd_out=out)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_units_of_q_values_change_and_predictions_stay() -> None:
    for dueling in (True, False):
        learner = make_learner(spaces.Discrete(3), dueling=dueling, normalize_returns=True)
        module, x = learner.module["shared"].unwrapped(), torch.randn(5, 7)
        networks = (module.online, module.target)
        before = [module.return_scaler.to_returns(network(x)) for network in networks]
        moments = RunningMoments(4.0, np.array([7.0]), np.array([36.0]))  # mean 7, deviation 3
        learner.set_return_moments("shared", moments)
        assert (module.return_scaler.mean.item(), module.return_scaler.std.item()) == (7.0, 3.0)
        for network, old in zip(networks, before, strict=True):
            torch.testing.assert_close(module.return_scaler.to_returns(network(x)), old)


# The target network


def test_the_target_network_is_copied_every_so_many_updates(make: Make) -> None:
    algorithm = make(target_update_freq=4, batch_size=40, num_epochs=1, learning_rate=0.01)
    module = algorithm.learner.module["shared"].unwrapped()
    for updates in (3, 6, 9, 12):  # 120 rows in an iteration: three updates
        algorithm.train()
        assert algorithm.learner.updates == updates
        assert same(module.online, module.target) == (updates % 4 == 0)


def test_how_far_the_target_network_moves_follows_from_how_often() -> None:
    assert DQNSettings().target_step == 0.01
    assert DQNSettings(target_update_freq=500).target_step == 1.0
    assert DQNSettings(target_update_freq=500, target_update_rate=0.5).target_step == 0.5


def test_the_target_network_moves_by_a_share(make: Make) -> None:
    algorithm = make()
    module = algorithm.learner.module["shared"].unwrapped()
    with torch.no_grad():
        for online, target in zip(module.online.parameters(), module.target.parameters(), strict=True):
            online.fill_(1.0)
            target.fill_(0.0)
    algorithm.learner.update_targets(0.25)
    algorithm.learner.update_targets(0.25)
    assert all((p == 1 - 0.75**2).all() for p in module.target.parameters())


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


# Remembering


def transitions_by_hand(fragments: list[Fragment], n: int, gamma: float) -> dict[bytes, Any]:
    """Return (sum of rewards, discount, number of the next row) of every complete transition, by its first
    observation.
    """
    observations = np.concatenate([f.observations[:-1] for f in fragments])  # (T, B, N, F)
    finals = iter(np.concatenate([f.final_observations for f in fragments]))
    active, done, terminated, rewards = (
        np.concatenate([getattr(f, name) for f in fragments])
        for name in ("active", "done", "terminated", "rewards")
    )
    final_of = {(t, b): next(finals) for t, b in zip(*np.nonzero(done), strict=True)}
    found = {}
    for b, i in np.ndindex(active.shape[1:]):
        waiting: list[tuple[int, float]] = []  # step, reward
        for t in range(len(active)):
            if active[t, b, i]:
                if len(waiting) == n:  # n steps are over, and here it decides again
                    add(found, waiting, observations, b, i, observations[t, b, i], gamma**n, gamma)
                    waiting.pop(0)
                waiting.append((t, rewards[t, b, i]))
            if terminated[t, b, i] or done[t, b]:
                after = np.zeros(7) if terminated[t, b, i] else final_of[t, b][i]
                while waiting:
                    discount = 0.0 if terminated[t, b, i] else gamma ** len(waiting)
                    add(found, waiting, observations, b, i, after, discount, gamma)
                    waiting.pop(0)
    return found


def add(
    found: dict[bytes, Any],
    waiting: list[tuple[int, float]],
    observations: np.ndarray,
    b: int,
    i: int,
    after: np.ndarray,
    discount: float,
    gamma: float,
) -> None:
    """Add what the first of the steps that wait has become."""
    total = sum(gamma**k * reward for k, (_, reward) in enumerate(waiting))
    following = after.astype(np.float32).tobytes() if discount else b""
    found[observations[waiting[0][0], b, i].tobytes()] = (total, discount, following)


@pytest.mark.parametrize("n", [1, 3])
def test_what_is_remembered_of_fragments_is_what_happened(make: Make, n: int) -> None:
    """Agents leave, come back and terminate; episodes end within fragments and span several."""
    algorithm = make({"absent": True, "terminate": True}, fragment_length=7)
    buffer = ExperienceBuffer(10_000, n_step=n, gamma=0.9, seed=0)
    fragments, rows = [], 0
    for _ in range(4):
        fragment = algorithm.env_runner.sample()
        rows += remember(buffer, fragment, None)
        names = ("observations", "actions", "rewards", "terminated", "active", "done", "final_observations")
        for name in names:  # the next fragment overwrites them
            setattr(fragment, name, getattr(fragment, name).copy())
        fragments.append(fragment)
    expected = transitions_by_hand(fragments, n, 0.9)
    assert rows == sum(f.agent_steps for f in fragments)
    assert rows - 3 * 4 * n <= len(expected) <= rows
    assert buffer._memory is not None
    t = buffer._memory.take(np.arange(len(buffer)))
    found = {
        state.tobytes(): (reward, discount, following.tobytes() if discount else b"")
        for state, reward, discount, following in zip(
            t.states, t.rewards, t.discounts, t.next_states, strict=True
        )
    }
    # The last step's transition is complete already where its agent decides next.
    assert len(buffer) - len(expected) <= 3 * 4
    for state, (total, discount, following) in expected.items():
        assert found[state][0] == pytest.approx(total, abs=1e-5)
        assert found[state][1] == pytest.approx(discount, abs=1e-6)
        assert found[state][2] == following


def test_env_runners_take_turns_and_a_gap_ends_what_waits(make: Make) -> None:
    algorithm = make({"length": 100}, fragment_length=2, num_envs=2)
    buffer = ExperienceBuffer(100, n_step=3, gamma=0.9, seed=0)
    first = algorithm.env_runner.sample()
    remember(buffer, first, None)
    first.worker_index = 1
    remember(buffer, first, None)
    assert len(buffer) == 0  # all of them wait for a third step
    second = algorithm.env_runner.sample()
    remember(buffer, second, None)
    assert len(buffer) == 2 * 2 * 3
    algorithm.env_runner.sample()
    gap = algorithm.env_runner.sample()
    gap.worker_index = 1
    remember(buffer, gap, None)
    assert len(buffer) == 2 * 2 * 3


class Masked(ToyVectorEnvironment):
    """Action 2 is possible in even steps only."""

    @property
    def action_masks(self) -> np.ndarray:
        masks = np.ones((*self.present.shape, 3), bool)
        masks[..., 2] = (self.clock % 2 == 0)[:, None]
        return masks


def test_impossible_actions_are_neither_taken_nor_valued(make: Make) -> None:
    algorithm = make({"length": 9}, factory=Masked, num_envs=3, fragment_length=5, epsilon_end=1.0)
    for _ in range(4):
        fragment = algorithm.env_runner.sample()
        remember(algorithm.buffers["shared"], fragment, None)
        assert ((fragment.actions == 2) <= fragment.masks[..., 2]).all()
    t = algorithm.buffers["shared"].sample_batch(180).transitions
    assert t.next_masks is not None
    lengths = 9 + t.next_states[:, 3]  # of the copy
    step = np.round(t.next_states[:, 2] * lengths).astype(int)
    assert np.array_equal(t.next_masks[:, 2], (step % 2 == 0) | (step == lengths))
    learner = make_learner(spaces.Discrete(3), double=False)
    batch = {**BATCH, NEXT_MASKS: torch.tensor([[True, True, False], [True, True, True]])}
    module = learner.module["shared"].unwrapped()
    following = {QF_TARGET_NEXT_PREDS: NEXT[QF_TARGET_NEXT_PREDS]}
    assert learner._targets(module, batch, following).tolist() == [1.0 + 0.5 * 20.0, -1.0]


def test_every_policy_learns_from_its_own_rows_only(make: Make) -> None:
    algorithm = make({"absent": True, "length": 100}, policies="per_agent")
    algorithm.train()
    for number, (policy, buffer) in enumerate(algorithm.buffers.items()):
        assert policy == f"agent_{number}"
        states = buffer.sample_batch(20).transitions.states
        assert (states[:, 6] == number).all()
        assert (states[:, 5] == 1).all()  # present


def test_rows_are_learned_from_as_often_as_said(make: Make) -> None:
    algorithm = make(batch_size=50, num_epochs=3)
    for _ in range(5):
        algorithm.train()
    assert algorithm.learner.updates == 5 * 120 * 3 // 50


def test_learning_waits_until_enough_is_remembered(make: Make) -> None:
    algorithm = make(learning_starts=300)
    updates = []
    for _ in range(4):
        algorithm.train()
        updates.append(algorithm.learner.updates)
    assert updates[:2] == [0, 0]
    assert updates[3] > 0


# Exploration


def test_epsilon_falls_with_steps_or_with_episodes() -> None:
    by_steps = DQNSettings(epsilon_start=1.0, epsilon_end=0.1, epsilon_steps=100)
    assert [by_steps.epsilon(t, 5) for t in (0, 50, 100, 900)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    by_episodes = DQNSettings(epsilon_start=0.8, epsilon_end=0.1, epsilon_decay=0.5)
    assert [by_episodes.epsilon(9, e) for e in (0, 1, 2, 9)] == pytest.approx([0.8, 0.4, 0.2, 0.1])


def test_env_runners_explore_as_the_schedule_says(make: Make) -> None:
    algorithm = make(num_envs=64, fragment_length=4, epsilon_start=1.0, epsilon_end=0.0, epsilon_steps=256)
    shares = []
    for _ in range(2):
        assert algorithm.env_runner.policy.head.epsilon.item() == algorithm.epsilon
        fragment = algorithm.env_runner.sample()
        rows = torch.from_numpy(fragment.observations[:-1].reshape(-1, 7).copy())
        best = algorithm.env_runner.module["shared"].policy(rows).argmax(0).numpy()
        shares.append((fragment.actions.reshape(-1) == best).mean())
        algorithm.train()
    assert shares[0] == pytest.approx(1 / 3, abs=0.06)  # of 768 uniform actions
    assert shares[1] == 1.0


# Learning


@pytest.mark.parametrize(
    ("kind", "environment", "settings"),
    [
        (DQNSettings, {"absent": True, "terminate": True}, {"normalize_returns": True}),
        (DQNSettings, {"action_space": spaces.MultiDiscrete([3, 5])}, {"policies": "per_agent"}),
        (SACSettings, {"absent": True}, {"normalize_returns": True}),
    ],
)
def test_it_learns(
    make: Make, kind: type[ReplaySettings], environment: dict[str, Any], settings: dict[str, Any]
) -> None:
    algorithm = make(
        environment,
        kind,
        num_envs=16,
        fragment_length=20,
        learning_rate=3e-3,
        batch_size=128,
        num_epochs=4,
        gamma=0.8,
        normalize_observations=True,
        **({"epsilon_steps": 2000} if kind is DQNSettings else {}),
        **settings,
    )
    distances = [np.mean([e["distance"] for e in trained(algorithm).episodes]) for _ in range(20)]
    assert np.mean(distances[-3:]) < 0.5 * distances[0]


def trained(algorithm: ReplayAlgorithm) -> ReplayAlgorithm:
    algorithm.train()
    return algorithm


def test_it_solves_cart_pole(make: Make) -> None:
    """500 steps are the most there are; 475 is what counts as solved."""
    algorithm = make(
        factory=CartPoles,
        num_envs=8,
        fragment_length=16,
        hidden_sizes=(64, 64),
        activation="tanh",
        batch_size=128,
        num_epochs=8,
        gamma=0.99,
        n_step=3,
        learning_rate=2e-3,
        target_update_freq=1,
        target_update_rate=0.02,
        epsilon_end=0.02,
        epsilon_steps=8_000,
        replay_buffer_size=20_000,
        grad_clip=10.0,
    )
    best = 0.0
    for iteration in range(400):
        algorithm.train()
        if iteration >= 100 and iteration % 10 == 0:
            best = max(best, mean_length(algorithm))
            if best >= 475:
                break
    assert best >= 475


def mean_length(algorithm: Any, copies: int = 20) -> float:
    """Return the mean length of episodes of the greedy policy."""
    env = CartPoles(copies, 12345)
    observations, lengths, over = env.reset(), np.zeros(copies), np.zeros(copies, bool)
    policy = algorithm.learner.module["shared"].unwrapped().policy
    for _ in range(500):
        actions = policy(torch.from_numpy(observations[:, 0])).argmax(0).numpy()
        result = env.step(actions[:, None])
        lengths += ~over
        over |= result.done
        observations = result.observations
    return float(lengths.mean())


# Sameness, state, divergence


def weights(algorithm: Any) -> dict[str, torch.Tensor]:
    learned = algorithm.learner.get_learning_state()["weights"]
    return {f"{mid}.{name}": tensor for mid, state in learned.items() for name, tensor in state.items()}


def assert_same_weights(one: Any, two: Any) -> None:
    mine, theirs = weights(one), weights(two)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def curve(algorithm: Any, iterations: int) -> list[tuple[Any, ...]]:
    points = []
    for _ in range(iterations):
        result = algorithm.train()
        losses = {mid: r["total_loss"] for mid, r in result["learners"].items() if mid != "__all_modules__"}
        points.append((result["env_runners"].get("episode_return_mean"), algorithm.episodes, losses))
    return points


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policies", ["shared", "per_agent"])
def test_the_same_seed_gives_the_same_curve(make: Make, kind: type[ReplaySettings], policies: str) -> None:
    environment = {"absent": True, "terminate": True}
    one, two = (make(environment, kind, policies=policies, seed=7, **EVERYTHING) for _ in range(2))
    assert curve(one, 4) == curve(two, 4)
    assert_same_weights(one, two)
    other = make(environment, kind, policies=policies, seed=8, **EVERYTHING)
    assert curve(other, 1) != curve(two, 1)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (DQNSettings, {"policies": "per_agent", **EVERYTHING}),
        (DQNSettings, {"checkpoint_replay": True, "n_step": 1, "replay_buffer_size": 150}),
        (SACSettings, EVERYTHING),
    ],
)
def test_resuming_is_as_if_it_had_not_stopped(
    make: Make, kind: type[ReplaySettings], settings: dict[str, Any]
) -> None:
    environment = {"absent": True}
    whole = make(environment, kind, **settings)
    curve(whole, 3)
    file = io.BytesIO()
    torch.save(whole.get_training_state(), file)
    rest = curve(whole, 4)
    file.seek(0)
    resumed = make(environment, kind, **settings)
    curve(resumed, 1)  # has a past of its own, which must not matter
    resumed.set_training_state(torch.load(file, weights_only=True))
    assert resumed.lost_on_resume() is None
    assert curve(resumed, 4) == rest
    assert_same_weights(whole, resumed)


def test_without_what_is_remembered_a_resumed_training_says_so_and_goes_on(make: Make) -> None:
    algorithm, resumed = make(), make()
    algorithm.train()
    resumed.train()
    resumed.set_training_state(algorithm.get_training_state())
    assert "checkpoint_replay: true" in resumed.lost_on_resume()
    assert_same_weights(algorithm, resumed)
    curve(resumed, 2)
    assert resumed.lost_on_resume() is None


def test_states_that_do_not_fit_are_refused_and_change_nothing(make: Make) -> None:
    algorithm = make(checkpoint_replay=True)
    algorithm.train()
    before, remembered = weights(algorithm), len(algorithm.buffers["shared"])
    for other in (
        make(hidden_sizes=(24,), checkpoint_replay=True),
        make(prioritized=True, checkpoint_replay=True),
    ):
        other.train()
        with pytest.raises(CheckpointError, match="does not fit this algorithm"):
            algorithm.set_training_state(other.get_training_state())
    assert all(torch.equal(value, before[name]) for name, value in weights(algorithm).items())
    assert len(algorithm.buffers["shared"]) == remembered


@pytest.mark.parametrize("kind", KINDS)
def test_rewards_that_are_not_finite_stop_the_training_at_the_last_good_state(
    make: Make, kind: type[ReplaySettings]
) -> None:
    algorithm = make({"poison": 25}, kind, **EVERYTHING)
    for _ in range(2):
        algorithm.train()
    before, counters = weights(algorithm), algorithm.counters
    with pytest.raises(TrainingDivergedError, match="rewards must be finite to be learned from"):
        algorithm.train()
    assert all(torch.equal(value, before[name]) for name, value in weights(algorithm).items())
    assert algorithm.counters is counters


def test_an_update_that_diverges_is_rolled_back(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = make(**{**EVERYTHING, "prioritized": False}, target_update_freq=2)
    algorithm.train()
    before, updates = weights(algorithm), algorithm.learner.updates
    original, calls = algorithm.learner.compute_loss_for_module, []

    def poisoned(**kwargs: Any) -> torch.Tensor:
        calls.append(1)
        return original(**kwargs) * (1.0 if len(calls) < 4 else torch.inf)

    monkeypatch.setattr(algorithm.learner, "compute_loss_for_module", poisoned)
    with pytest.raises(TrainingDivergedError, match="loss of policy 'shared' must be finite"):
        algorithm.train()
    monkeypatch.undo()
    assert all(torch.equal(value, before[name]) for name, value in weights(algorithm).items())
    assert algorithm.learner.updates == updates
    algorithm.train()
    assert algorithm.counters.iterations == 2


# What is refused


@pytest.mark.parametrize(
    ("kind", "environment", "match"),
    [
        (DQNSettings, BOX, "model.type: 'dqn' needs discrete or multi_discrete actions"),
        (SACSettings, {"action_space": spaces.Discrete(3)}, "model.type: 'sac' needs continuous actions"),
    ],
)
def test_other_actions_are_refused_by_name(
    make: Make, kind: type[ReplaySettings], environment: dict[str, Any], match: str
) -> None:
    with pytest.raises(CapabilityError, match=match):
        make(environment, kind)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"n_step": 0}, "n_step must be an integer of at least 1, got 0"),
        ({"target_update_rate": 0.0}, "target_update_rate must be None or a finite number above 0, got 0.0"),
        ({"target_update_rate": 1.5}, "target_update_rate must be between 0 and 1, got 1.5"),
        ({"epsilon_decay": 2.0}, "epsilon_decay must be between 0 and 1, got 2.0"),
        ({"replay_buffer_size": 0}, "replay_buffer_size must be an integer of at least 1, got 0"),
        ({"epsilon_steps": 0}, "epsilon_steps must be an integer of at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        DQNSettings(**settings)
