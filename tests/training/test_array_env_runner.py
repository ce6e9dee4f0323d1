"""Fragments against the environment stepped by hand; reproducible sampling; state."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from ray.rllib.callbacks.callbacks import RLlibCallback

from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.array_env_runner import ArrayEnvRunner
from camac_dra.training.fragments import Fragment
from camac_dra.training.plain_state import arrays_of, plain
from camac_dra.training.settings import PPOSettings
from camac_dra.utils.errors import CapabilityError, CheckpointError
from tests.training.toy_environment import FEATURES, ToyVectorEnvironment


def make_runner(
    callbacks: Any = None, seed: int = 1, worker_index: int = 0, **options: Any
) -> ArrayEnvRunner:
    settings = {k: options.pop(k) for k in list(options) if k in PPOSettings.__dataclass_fields__}
    defaults = {"num_envs": 4, "fragment_length": 12, "hidden_sizes": (8,), "seed": seed}
    config = build_algorithm_config(
        partial(ToyVectorEnvironment, **options), PPOSettings(**{**defaults, **settings}), callbacks=callbacks
    )
    return ArrayEnvRunner(config=config, worker_index=worker_index)


def copied(fragment: Fragment) -> Fragment:
    """A fragment that the next ``sample`` does not overwrite."""
    arrays = {n: np.copy(v) for n in fragment.__slots__ if isinstance(v := getattr(fragment, n), np.ndarray)}
    others = {n: getattr(fragment, n) for n in fragment.__slots__ if n not in arrays}
    return Fragment(**arrays, **others)


def assert_equal(one: Fragment, two: Fragment) -> None:
    for name in one.__slots__:
        if isinstance(getattr(one, name), np.ndarray):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
    assert one.episodes == two.episodes


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3), spaces.MultiDiscrete([3, 5]), spaces.Box(-1, 1, (2,), np.float32)]
)
def test_a_fragment_is_what_happened(space: spaces.Space) -> None:
    options = {"absent": True, "terminate": True, "action_space": space}
    runner = make_runner(**options)
    fragment = runner.sample()
    env = ToyVectorEnvironment(4, runner._env_seed, **options)
    observations, finals, episodes = env.reset(seed=runner._env_seed), [], []
    for t in range(12):
        np.testing.assert_array_equal(fragment.observations[t], observations)
        actions = runner.policy.head.to_environment(torch.from_numpy(fragment.actions[t]))
        result = env.step(actions)
        np.testing.assert_array_equal(fragment.rewards[t], result.rewards.astype(np.float32))
        for name in ("terminated", "active", "done"):
            np.testing.assert_array_equal(getattr(fragment, name)[t], getattr(result, name))
        finals += [] if result.final_observations is None else [result.final_observations]
        episodes += result.episodes
        observations = result.observations
    np.testing.assert_array_equal(fragment.observations[12], observations)
    np.testing.assert_array_equal(fragment.final_observations, np.concatenate(finals))
    assert fragment.episodes == episodes
    assert fragment.env_steps == 48
    assert fragment.agent_steps == fragment.active.sum() < 48 * 3


def test_log_probabilities_are_those_of_the_policy() -> None:
    runner = make_runner()
    fragment = runner.sample()
    module = runner.module["shared"]
    rows = torch.from_numpy(fragment.observations[:-1]).flatten(0, 2)
    inputs = module.forward_inference({"obs": rows})["action_dist_inputs"]
    assert not hasattr(module, "value")  # acting needs no critic
    expected = module.head.distribution(inputs.t()).log_prob(torch.from_numpy(fragment.actions).flatten())
    np.testing.assert_allclose(fragment.log_probs.reshape(-1), expected.detach(), rtol=1e-4, atol=1e-5)


def test_agents_with_policies_of_their_own_act_with_them() -> None:
    runner = make_runner(policies="per_agent", num_agents=12)  # RLlib may keep policies in any order
    fragment = runner.sample()
    for i, agent_id in enumerate(runner.env.agent_ids):
        module = runner.module[agent_id]
        rows = torch.from_numpy(fragment.observations[:-1, :, i]).flatten(0, 1)
        inputs = module.forward_inference({"obs": rows})["action_dist_inputs"]
        expected = module.head.distribution(inputs.t()).log_prob(
            torch.from_numpy(fragment.actions[:, :, i]).flatten()
        )
        np.testing.assert_allclose(
            fragment.log_probs[:, :, i].reshape(-1), expected.detach(), rtol=1e-4, atol=1e-5
        )


def test_without_exploration_the_likeliest_actions_are_taken() -> None:
    runner = make_runner()
    fragment = runner.sample(explore=False)
    actions, _ = runner.policy.act(
        torch.from_numpy(fragment.observations[:-1]).flatten(0, 1), None, explore=False
    )
    np.testing.assert_array_equal(fragment.actions.reshape(-1, 3), actions)


def test_the_same_seed_samples_the_same_and_others_do_not() -> None:
    one, two, other, worker = make_runner(), make_runner(), make_runner(seed=2), make_runner(worker_index=1)
    first = one.sample()
    assert_equal(first, two.sample())
    assert not np.array_equal(first.observations, other.sample().observations)
    assert not np.array_equal(first.observations, worker.sample().observations)


def test_sampling_goes_on_exactly_from_its_state() -> None:
    runner, other = make_runner(absent=True), make_runner(absent=True)
    runner.sample()
    state = runner.get_sampling_state()
    expected = [copied(runner.sample()) for _ in range(2)]
    other.set_state(runner.get_state())
    other.set_sampling_state(state)
    for fragment in expected:
        assert_equal(fragment, other.sample())
    assert other._episodes.rewards.tolist() == runner._episodes.rewards.tolist()
    assert other.num_env_steps_sampled_lifetime == runner.num_env_steps_sampled_lifetime


def test_global_generators_are_left_alone() -> None:
    runner = make_runner()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    runner.sample()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002


def test_metrics_cover_what_was_sampled_since_the_last_report() -> None:
    runner = make_runner()
    returns = []
    for _ in range(2):
        fragment = runner.sample()
        for b in range(4):
            ends = np.flatnonzero(fragment.done[:, b])
            returns += [fragment.rewards[: ends[0] + 1, b].sum()] if not returns or len(returns) < 4 else []
    metrics = {k: v.peek() if hasattr(v, "peek") else v for k, v in runner.get_metrics().items()}
    assert metrics["num_env_steps_sampled"] == 96
    assert metrics["num_episodes"] == 10  # 24 steps: 3, 2, 2 and 3 episodes of 8, 9, 10 and 8
    assert metrics["episode_len_mean"] == pytest.approx((6 * 8 + 2 * 9 + 2 * 10) / 10)
    again = runner.get_metrics()
    assert again["num_env_steps_sampled"].peek() == 0


def test_moments_leave_absent_agents_out() -> None:
    runner = make_runner(absent=True, normalize_observations=True)
    fragment = runner.sample()
    rows = fragment.observations[:-1][fragment.active]
    assert fragment.moments.count == len(rows)
    np.testing.assert_allclose(fragment.moments.mean, rows.mean(0), rtol=1e-4, atol=1e-5)
    assert fragment.moments.mean[FEATURES - 2] == 1.0  # presence
    assert make_runner().sample().moments is None


def test_older_weights_are_refused_and_unnumbered_ones_taken() -> None:
    runner = make_runner()
    weights = runner.module.get_state()
    zeros = {"shared": {name: np.zeros_like(value) for name, value in weights["shared"].items()}}

    def taken() -> bool:
        return not runner.module["shared"].policy.output.weight.any()

    runner.set_state({"rl_module": weights, "weights_seq_no": 5})
    runner.set_state({"rl_module": zeros, "weights_seq_no": 4})
    assert not taken()
    runner.set_state({"rl_module": zeros})
    assert taken()
    assert runner.get_state()["weights_seq_no"] == 5


class Listener(RLlibCallback):
    heard: list[tuple[str, Any]] = []  # noqa: RUF012 (shared on purpose)

    def on_environment_created(self, *, env: Any, **kwargs: Any) -> None:
        self.heard.append(("environment", env))

    def on_sample_end(self, *, samples: Any, env_runner: Any, **kwargs: Any) -> None:
        self.heard.append(("sample", samples))


class EpisodeListener(RLlibCallback):
    def on_episode_end(self, **kwargs: Any) -> None:
        raise AssertionError


def test_callbacks_hear_of_environments_and_fragments() -> None:
    Listener.heard.clear()
    runner = make_runner(callbacks=Listener)
    fragment = runner.sample()
    assert Listener.heard == [("environment", runner.env), ("sample", fragment)]


def test_episode_callbacks_are_refused() -> None:
    with pytest.raises(CapabilityError, match="on_episode_end never fires without RLlib episodes"):
        build_algorithm_config(ToyVectorEnvironment, PPOSettings(), callbacks=EpisodeListener)


def test_plain_state_keeps_values_and_names_what_is_not_plain() -> None:
    state = {"a": np.arange(3), "b": [1, None, ("x", np.float64(2.5))], "big": 2**100, "rng": b"xy"}
    there = plain(state)
    assert isinstance(there["a"], torch.Tensor)
    back = arrays_of(there)
    np.testing.assert_array_equal(back["a"], state["a"])
    assert {k: v for k, v in back.items() if k != "a"} == {k: v for k, v in state.items() if k != "a"}
    with pytest.raises(CheckpointError, match=r"state\.a\[1\] must consist of .*, got object"):
        plain({"a": [1, object()]})
