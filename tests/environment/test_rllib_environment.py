from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.utils.pre_checks.env import check_multiagent_environments

from camac_dra.environment import RLlibEnvironment, VectorEnvironment
from camac_dra.utils.errors import ActionError, ConfigurationError

SMALL = {
    "num_agents": 4,
    "num_resources": 2,
    "resource_limits": {"cpu": 8.0, "memory": 4.0},
    "max_episode_length": 12,
}
# RLlib registers its vector environment under one name every time it makes a runner.
pytestmark = pytest.mark.filterwarnings("ignore:.*Overriding environment rllib-multi-agent-env")

CHURN = {"dynamics": {"synthetic": {"leave_probability": 0.2, "join_probability": 0.3}}}
CONFIGS: list[dict[str, Any]] = [
    SMALL,
    {**SMALL, **CHURN},
    {**SMALL, "action_type": "multi_discrete", "observation_type": "full"},
    {**SMALL, "action_type": "continuous", "observation_type": "graph", **CHURN},
]


def runner(config: dict[str, Any], num_envs: int = 2, seed: int | None = 0) -> MultiAgentEnvRunner:
    """Return stock RLlib's runner of the new API stack, without a network: it acts at random."""
    return MultiAgentEnvRunner(
        config=PPOConfig()
        .environment(RLlibEnvironment, env_config=config)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=num_envs)
        .multi_agent(policies={"shared"}, policy_mapping_fn=lambda *_args, **_kwargs: "shared")
        .debugging(seed=seed)
    )


@pytest.mark.parametrize("config", CONFIGS)
def test_it_passes_rllibs_environment_checks(config: dict[str, Any]) -> None:
    env = RLlibEnvironment(config)
    check_multiagent_environments(env)
    assert env.agents == env.possible_agents == [f"agent_{i}" for i in range(4)]
    assert set(env.observation_spaces or ()) == set(env.action_spaces or ()) == set(env.agents)
    obs, _ = env.reset(seed=0)
    for agent, row in obs.items():
        assert env.get_observation_space(agent).contains(row)


@pytest.mark.parametrize("config", [{**config, "observation_type": "partial"} for config in CONFIGS])
def test_stock_rllib_samples_whole_episodes(config: dict[str, Any]) -> None:
    sampler = runner(config)
    try:
        episodes = sampler.sample(num_episodes=4, random_actions=True)
    finally:
        sampler.stop()
    assert len(episodes) == 4
    for episode in episodes:
        assert episode.env_steps() == 12
        assert episode.is_truncated
        assert not episode.is_terminated
        for single in episode.agent_episodes.values():
            assert single.is_truncated  # so that RLlib bootstraps from the last observation
            assert not single.is_terminated


def test_it_does_what_the_core_does() -> None:
    config = {**SMALL, **CHURN, "max_episode_length": 40}
    env, core = RLlibEnvironment(config), VectorEnvironment(config, num_envs=1, autoreset=False)
    rng = np.random.default_rng(0)
    for seed in (5, None):
        obs, _ = env.reset(seed=seed)
        rows, present, truncated = core.reset(seed)[0], core.present[0], False
        while not truncated:
            acting = [agent for agent, here in zip(env.agents, present, strict=True) if here]
            assert list(obs) == acting
            assert [obs[agent].tolist() for agent in acting] == rows[present].tolist()
            actions = rng.integers(0, 10, 4)
            result = core.step(actions[None])
            given = {
                agent: action for agent, action in zip(env.agents, actions, strict=True) if agent in acting
            }
            obs, rewards, terminateds, truncateds, infos = env.step(given)
            assert list(rewards) == acting
            assert list(rewards.values()) == result.rewards[0][result.active[0]].tolist()
            assert terminateds == {"__all__": False}
            truncated = bool(result.truncated[0])
            assert truncateds == {"__all__": truncated}
            assert infos == {}
            rows, present = result.observations[0], result.present[0]
        assert list(obs) == env.agents  # everybody gets a last observation
        assert np.array_equal(np.array(list(obs.values())), rows)
        assert env.episode_measures == result.episodes[0]


def test_the_same_seed_gives_the_same_episodes_in_rllib_too() -> None:
    def first_observations(seed: int) -> list[Any]:
        sampler = runner(SMALL, seed=seed)
        try:
            episodes = sampler.sample(num_episodes=4, random_actions=True)
        finally:
            sampler.stop()
        return [episode.agent_episodes["agent_0"].get_observations(0).tolist() for episode in episodes]

    assert first_observations(1) == first_observations(1)
    assert first_observations(1) != first_observations(2)


def test_copies_differ_in_rllib_without_a_seed() -> None:
    sampler = runner(SMALL, num_envs=3, seed=None)
    try:
        episodes = sampler.sample(num_episodes=6, random_actions=True)
    finally:
        sampler.stop()
    starts = {tuple(episode.agent_episodes["agent_0"].get_observations(0)) for episode in episodes}
    assert len(starts) == 6


def test_workers_differ_without_a_seed_and_plain_dicts_take_the_configured_one() -> None:
    def start(config: Any) -> list[float]:
        env = RLlibEnvironment(config)
        check_multiagent_environments(env)
        return env.reset()[0]["agent_0"].tolist()

    starts = [start(EnvContext(SMALL, worker_index=index)) for index in (1, 2)]
    assert starts[0] != starts[1]
    plain = RLlibEnvironment({**SMALL, "seed": 3}).reset()[0]
    assert np.array_equal(plain["agent_0"], RLlibEnvironment(SMALL).reset(seed=3)[0]["agent_0"])


def test_an_agent_that_comes_back_gets_its_reward_in_rllibs_episode() -> None:
    sampler = runner({**SMALL, **CHURN, "max_episode_length": 60}, num_envs=1)
    try:
        (episode,) = sampler.sample(num_episodes=1, random_actions=True)
    finally:
        sampler.stop()
    lengths = [len(single) for single in episode.agent_episodes.values()]
    assert min(lengths) < 60
    measured = sampler.env.unwrapped.envs[0].unwrapped.episode_measures["reward"]
    collected = sum(sum(single.get_rewards()) for single in episode.agent_episodes.values())
    assert collected == pytest.approx(measured)


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="num_agnets"):
        RLlibEnvironment({"num_agnets": 3})
    env = RLlibEnvironment(SMALL)
    with pytest.raises(ActionError, match="needs a running episode"):
        env.step({})
    env.reset(seed=0)
    with pytest.raises(ActionError, match="got none for 'agent_3'"):
        env.step(dict.fromkeys(env.agents[:3], 0))
    with pytest.raises(ActionError, match="'agent_0' must be a level from 0 to 9, got 99"):
        env.step({**dict.fromkeys(env.agents, 0), "agent_0": 99})
    env.step(dict.fromkeys(env.agents, 0))
    assert env.render().shape[2] == 3
    env.close()
    with pytest.raises(ActionError, match="needs a running episode"):
        env.step(dict.fromkeys(env.agents, 0))
