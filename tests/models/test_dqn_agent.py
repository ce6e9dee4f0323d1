"""Deep Q-learning: targets by hand, n-step sums against their definition, and a small problem solved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from camac_dra.models import DQNAgent, QNetwork
from camac_dra.models.transitions import Transitions
from camac_dra.utils.errors import ActionError, ConfigurationError, ModelError, TrainingDivergedError


def linear_agent(**options: Any) -> DQNAgent:
    """Return an agent whose Q-values are rows of a matrix: of its online and of its target network."""
    agent = DQNAgent(2, 3, hidden_sizes=(), dueling=False, gamma=0.5, **options)
    with torch.no_grad():
        agent.online.advantage.weight.copy_(torch.tensor([[1.0, 5.0], [2.0, 4.0], [3.0, 0.0]]))
        agent.target.advantage.weight.copy_(torch.tensor([[10.0, 7.0], [20.0, 8.0], [30.0, 9.0]]))
    return agent


def transitions(**changes: Any) -> Transitions:
    return Transitions(
        **{
            "states": np.array([[1, 0], [0, 1]], np.float32),
            "actions": np.array([0, 1]),
            "rewards": np.array([0.25, -1.0], np.float32),
            "next_states": np.array([[0, 1], [1, 0]], np.float32),
            "discounts": np.array([0.5, 0.0], np.float32),
            **changes,
        }
    )


def test_targets_by_hand() -> None:
    # In state (0, 1) the target network prefers action 2 (9), the online one action 0, whose target is 7.
    assert linear_agent(double=False).targets(transitions()).tolist() == [0.25 + 0.5 * 9, -1.0]
    assert linear_agent(double=True).targets(transitions()).tolist() == [0.25 + 0.5 * 7, -1.0]
    masked = transitions(next_masks=np.array([[False, True, False], [True, True, True]]))
    for double in (False, True):
        assert linear_agent(double=double).targets(masked).tolist() == [0.25 + 0.5 * 8, -1.0]


def test_loss_and_errors_by_hand() -> None:
    agent = linear_agent()
    loss, errors = agent.learn(transitions())
    # Q is 1 and 4, the targets 3.75 and -1: Huber losses 2.25 and 4.5.
    np.testing.assert_allclose(errors, [2.75, -5.0])
    assert loss == pytest.approx((2.25 + 4.5) / 2)
    weighted, _ = linear_agent().learn(transitions(), weights=np.array([2.0, 0.0]))
    assert weighted == pytest.approx(2.25)


def test_learning_moves_towards_the_target_only_what_was_chosen() -> None:
    agent = linear_agent(learning_rate=0.1)
    before = agent.get_q_values(np.eye(2))
    agent.learn(transitions())
    moved = agent.get_q_values(np.eye(2)) - before
    assert moved[0, 0] > 0 > moved[1, 1]
    assert moved[0, 2] == moved[1, 2] == 0


def test_dueling_is_value_plus_centred_advantage() -> None:
    network = QNetwork(4, 3, hidden_sizes=(8,), seed=0)
    x = torch.randn(5, 4)
    features = network.torso(x)
    advantage = network.advantage(features)
    torch.testing.assert_close(
        network(x), network.value(features) + advantage - advantage.mean(1, keepdim=True)
    )
    torch.testing.assert_close(network(x).mean(1), network.value(features)[:, 0])


def test_target_network_is_copied_when_it_is_due() -> None:
    agent = linear_agent(target_update_freq=2)

    def apart() -> bool:
        return not torch.equal(agent.target.advantage.weight, agent.online.advantage.weight)

    agent.learn(transitions())
    assert apart()
    agent.learn(transitions())
    assert not apart()
    agent.learn(transitions())
    assert apart()


# A problem worked by hand: from the left of two rooms, right leads on and left ends with 0.2; from the right
# one, right ends with 1 and left leads back. With gamma 0.9 the best values are those below.

GAMMA = 0.9
BEST = np.array([[0.2, 0.9], [0.81, 1.0]])
ROOMS = np.eye(2, dtype=np.float32)


def walk(agent: DQNAgent, steps: int) -> list[float]:
    room, losses, rng = 0, [], np.random.default_rng(0)
    for _ in range(steps):
        action = int(rng.integers(2))
        following, reward, done = {
            (0, 0): (0, 0.2, True),
            (0, 1): (1, 0.0, False),
            (1, 0): (0, 0.0, False),
            (1, 1): (1, 1.0, True),
        }[room, action]
        losses.append(agent.update(ROOMS[room], action, reward, ROOMS[following], done))
        room = 0 if done else following
    return losses


def learner(**options: Any) -> DQNAgent:
    return DQNAgent(2, 2, 0.02, hidden_sizes=(16,), gamma=GAMMA, target_update_freq=20, seed=0, **options)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dueling", [False, True])
def test_it_learns_the_best_values(double: bool, dueling: bool) -> None:
    agent = learner(double=double, dueling=dueling)
    losses = walk(agent, 600)
    np.testing.assert_allclose(agent.get_q_values(ROOMS), BEST, atol=0.05)
    assert np.mean(losses[-50:]) < 0.1 * np.mean(losses[:50])
    assert [agent.select_action(room) for room in ROOMS] == [1, 1]


def test_it_learns_over_several_steps() -> None:
    # What n steps sum up belongs to the policy that walked, here at random: less than the best, but right.
    agent = learner(n_step=3)
    walk(agent, 600)
    q = agent.get_q_values(ROOMS)
    assert (q[:, 1] > q[:, 0]).all()
    assert q[1, 1] == pytest.approx(1.0, abs=0.05)
    assert q[0, 0] == pytest.approx(0.2, abs=0.05)


def test_truncation_is_no_end() -> None:
    """Staying for ever earns 1 a step: 10 with gamma 0.9, however often the episode is cut off."""
    agent = DQNAgent(1, 1, 0.1, hidden_sizes=(), gamma=GAMMA, target_update_freq=5, seed=0, grad_clip=None)
    state = np.ones(1)
    for step in range(700):
        agent.update(state, 0, 1.0, state, False, truncated=step % 3 == 0)
    assert agent.get_q_values(state)[0] == pytest.approx(10.0, abs=0.5)


def test_one_seed_gives_one_history() -> None:
    one, two = learner(), learner()
    assert walk(one, 60) == walk(two, 60)
    assert [one.select_action(ROOMS[0], 0.5) for _ in range(30)] == [
        two.select_action(ROOMS[0], 0.5) for _ in range(30)
    ]


def test_the_global_generators_are_left_alone() -> None:
    agent = learner()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    walk(agent, 20)
    agent.select_action(ROOMS[0], 1.0)
    assert torch.equal(before, torch.get_rng_state())


# Acting


def test_exploration_is_uniform_over_what_is_possible() -> None:
    agent = linear_agent(seed=0)
    mask = np.array([True, False, True])
    drawn = [agent.select_action(np.array([1.0, 0.0]), 1.0, mask) for _ in range(400)]
    assert sorted(set(drawn)) == [0, 2]
    assert 140 < drawn.count(0) < 260
    assert agent.select_action(np.array([0.0, 1.0])) == 0
    assert agent.select_action(np.array([0.0, 1.0]), action_mask=np.array([False, True, True])) == 1


def test_epsilon_follows_its_schedule() -> None:
    agent = DQNAgent(2, 2, hidden_sizes=(2,), epsilon_start=0.8, epsilon_decay=0.5, epsilon_end=0.15)
    seen = []
    for step in range(8):
        agent.update(ROOMS[0], 0, 0.0, ROOMS[1], step % 2 == 1, truncated=step == 6)
        seen.append(agent.epsilon)
    assert seen == [0.8, 0.4, 0.4, 0.2, 0.2, 0.15, 0.15, 0.15]


def test_shapes_of_q_values() -> None:
    agent = linear_agent()
    for lead in ((), (1,), (4,), (2, 3)):
        assert agent.get_q_values(np.zeros((*lead, 2))).shape == (*lead, 3)


# Bad input


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda a: a.update(ROOMS[0], 3, 0, ROOMS[0], False), ActionError, "integer from 0 to 2, got 3"),
        (lambda a: a.update(ROOMS[0], -1, 0, ROOMS[0], False), ActionError, "integer from 0 to 2, got -1"),
        (lambda a: a.update(ROOMS[0], 0.5, 0, ROOMS[0], False), ActionError, "from 0 to 2, got 0.5"),
        (lambda a: a.update(np.ones(3), 0, 0, ROOMS[0], False), ModelError, r"state must have shape \(2,\)"),
        (lambda a: a.update(ROOMS[0], 0, 0, np.ones(3), False), ModelError, r"next_state must have shape"),
        (lambda a: a.update(ROOMS[0], 0, np.nan, ROOMS[0], False), ModelError, "reward must be finite"),
        (lambda a: a.update([np.nan, 0], 0, 0, ROOMS[0], False), ModelError, "state must be finite"),
        (
            lambda a: a.select_action(ROOMS[0], 1.5),
            ConfigurationError,
            "epsilon must be .* at most 1, got 1.5",
        ),
        (lambda a: a.select_action(ROOMS[0], 0, np.zeros(3)), ActionError, "at least one action"),
        (lambda a: a.select_action(ROOMS[0], 0, np.ones(2)), ActionError, r"must have shape \(3,\)"),
        (lambda a: a.get_q_values(np.ones(5)), ModelError, "state must have 2 features"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(call: Any, error: type[Exception], match: str) -> None:
    agent = linear_agent()
    before = {key: value.clone() for key, value in agent.state_dict().items()}
    with pytest.raises(error, match=match):
        call(agent)
    assert agent.updates == 0
    assert all(torch.equal(before[key], value) for key, value in agent.state_dict().items())


def test_losses_that_are_not_finite_stop_it() -> None:
    agent = linear_agent()
    before = agent.online.advantage.weight.clone()
    with pytest.raises(TrainingDivergedError, match="loss of the Q-values must be finite, got"):
        agent.learn(transitions(rewards=np.array([np.inf, 0], np.float32)))
    assert torch.equal(agent.online.advantage.weight, before)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0, got 0.0"),
        ({"gamma": 1.1}, "gamma must be .* at most 1, got 1.1"),
        ({"n_step": 0}, "n_step must be a whole number of at least 1, got 0"),
        ({"grad_clip": float("nan")}, "grad_clip must be a finite number above 0, got nan"),
        ({"epsilon_end": -0.1}, "epsilon_end must be .* at least 0 and at most 1, got -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        DQNAgent(2, 2, **options)
