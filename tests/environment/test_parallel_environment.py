import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test
from pettingzoo.utils.conversions import parallel_to_aec

from camac_dra.environment import VectorEnvironment, parallel_env
from camac_dra.environment.parallel_environment import ParallelEnvironment
from camac_dra.utils.errors import ActionError, ConfigurationError

SMALL = {
    "num_agents": 4,
    "num_resources": 2,
    "resource_limits": {"cpu": 8.0, "memory": 4.0},
    "max_episode_length": 12,
}
CHURN = {"dynamics": {"synthetic": {"leave_probability": 0.2, "join_probability": 0.3}}}
CONFIGS: list[dict[str, Any]] = [
    SMALL,
    {**SMALL, **CHURN},
    {**SMALL, "action_type": "multi_discrete", "observation_type": "full"},
    {**SMALL, "action_type": "continuous", "observation_type": "graph", **CHURN},
    {**SMALL, "num_agents": 1, "mechanism": "weighted_random", "credit": "team"},
]


def whole_episodes(config: dict[str, Any], seed: int, episodes: int = 3) -> Iterator[Any]:
    """Play whole episodes with actions of the spaces' own generators; yield all that comes back."""
    env = parallel_env(config)
    for episode in range(episodes):
        yield env.reset(seed=seed if episode == 0 else None)
        if episode == 0:
            for number, agent in enumerate(env.agents):
                env.action_space(agent).seed(seed + number)
        while env.agents:
            yield env.step({agent: env.action_space(agent).sample() for agent in env.agents})


@pytest.mark.parametrize("config", CONFIGS)
def test_it_passes_pettingzoos_parallel_api_test(config: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(parallel_env(config), num_cycles=60)


def test_it_passes_pettingzoos_seed_and_aec_tests() -> None:
    parallel_seed_test(lambda: parallel_env(SMALL), num_cycles=30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite warns of spaces that are not bounded
        api_test(parallel_to_aec(parallel_env(SMALL)), num_cycles=30)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_same_seed_gives_the_same_whole_episodes(config: dict[str, Any]) -> None:
    first, second = list(whole_episodes(config, 3)), list(whole_episodes(config, 3))
    assert len(first) == len(second) == 3 * 13
    for one, other in zip(first, second, strict=True):
        assert data_equivalence(one, other)
    other_seed = list(whole_episodes(config, 4))
    assert not data_equivalence(first[0], other_seed[0])
    assert not data_equivalence(first[0], first[13])


def test_it_does_what_the_core_does() -> None:
    config = {**SMALL, **CHURN}
    env, core = parallel_env(config), VectorEnvironment(config, num_envs=1, autoreset=False)
    rng = np.random.default_rng(0)
    obs, infos = env.reset(seed=5)
    rows = core.reset(5)[0]
    absences = 0
    while env.agents:
        assert np.array_equal(np.array(list(obs.values())), rows)
        assert [infos[agent]["present"] for agent in env.agents] == core.present[0].tolist()
        actions = rng.integers(0, 10, 4)
        result = core.step(actions[None])
        obs, rewards, terminations, truncations, infos = env.step(
            dict(zip(env.possible_agents, actions, strict=True))
        )
        rows = result.observations[0]
        absences += int((~result.present).sum())
        assert list(rewards.values()) == result.rewards[0].tolist()
        assert not any(terminations.values())
        assert set(truncations.values()) == {bool(result.truncated[0])}
    assert absences > 5


def test_absent_agents_stay_masked_and_what_they_do_is_ignored() -> None:
    config = {**SMALL, **CHURN, "max_episode_length": 60}
    returns = []
    for action_of_absent in (0, 9, None):
        env = parallel_env(config)
        _, infos = env.reset(seed=0)
        total, absences = 0.0, 0
        while env.agents:
            actions = {}
            for agent in env.agents:
                if infos[agent]["present"]:
                    actions[agent] = 4
                    assert infos[agent]["action_mask"].tolist() == [1] * 10
                else:
                    absences += 1
                    assert infos[agent]["action_mask"].tolist() == [1] + [0] * 9
                    if action_of_absent is not None:
                        actions[agent] = action_of_absent
            assert len(env.agents) == 4
            was_present = {agent: info["present"] for agent, info in infos.items()}
            _, rewards, _, _, infos = env.step(actions)
            assert all(rewards[agent] == 0.0 for agent, here in was_present.items() if not here)
            total += sum(rewards.values())
        returns.append(total)
        assert absences > 20
    assert returns[0] == returns[1] == returns[2]


def test_masks_are_what_the_spaces_sample_with() -> None:
    for action_type in ("discrete", "multi_discrete"):
        env = parallel_env({**SMALL, **CHURN, "action_type": action_type})
        _, infos = env.reset(seed=0)
        while all(info["present"] for info in infos.values()):
            *_, infos = env.step({agent: env.action_space(agent).sample() for agent in env.agents})
        for agent, info in infos.items():
            sample = env.action_space(agent).sample(mask=info["action_mask"])
            assert info["present"] or not np.any(sample)
    assert "action_mask" not in parallel_env({**SMALL, "action_type": "continuous"}).reset()[1]["agent_0"]


def test_wrong_use_is_refused() -> None:
    env = parallel_env(SMALL)
    with pytest.raises(ActionError, match="needs a running episode"):
        env.step({})
    env.reset(seed=0)
    with pytest.raises(ActionError, match="got none for 'agent_3'"):
        env.step(dict.fromkeys(env.agents[:3], 0))
    with pytest.raises(ActionError, match="got one for 'agent_9'"):
        env.step({**dict.fromkeys(env.agents, 0), "agent_9": 0})
    with pytest.raises(ActionError, match="'agent_0' must be a level from 0 to 9, got 99"):
        env.step({**dict.fromkeys(env.agents, 0), "agent_0": 99})
    with pytest.raises(ConfigurationError, match="human, rgb_array or None, got 'ansi'"):
        parallel_env(SMALL, render_mode="ansi")


def test_spaces_are_the_same_objects_and_hold_what_comes_back() -> None:
    env = parallel_env(CONFIGS[3])
    obs, _ = env.reset(seed=0)
    for agent in env.agents:
        assert env.observation_space(agent) is env.observation_space(agent)
        assert env.observation_space(agent).contains(obs[agent])
        assert isinstance(env.action_space(agent), spaces.Box)


def test_rendering_follows_the_render_mode(capsys: pytest.CaptureFixture[str]) -> None:
    for mode in (None, "human", "rgb_array"):
        env = parallel_env(SMALL, render_mode=mode)
        env.reset(seed=0)
        env.step(dict.fromkeys(env.agents, 3))
        printed = capsys.readouterr().out
        assert ("step 1 of 12" in printed) == (mode == "human")
        picture = env.render()
        capsys.readouterr()
        assert (picture is not None) == (mode == "rgb_array")
        env.close()
        assert env.agents == []


class Forgetful(ParallelEnvironment):
    """Draws what it should not: the whole-episode seed test must see it, though only in the seventh step."""

    def step(self, actions: dict[str, Any]) -> Any:
        answer = super().step(actions)
        if self._copy.core.state.time == 7:
            answer[0]["agent_0"][0] = np.random.default_rng().random()
        return answer


def test_the_whole_episode_seed_test_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "parallel_env", Forgetful)
    first, second = list(whole_episodes(SMALL, 3)), list(whole_episodes(SMALL, 3))
    assert not all(data_equivalence(one, other) for one, other in zip(first, second, strict=True))
