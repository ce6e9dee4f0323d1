from typing import Any

import numpy as np
import pytest

from camac_dra.environment import Environment, VectorEnvironment
from camac_dra.utils.errors import ActionError, ConfigurationError

SMALL = {
    "num_agents": 4,
    "num_resources": 2,
    "resource_limits": {"cpu": 8.0, "memory": 4.0},
    "max_episode_length": 6,
}
COMING_AND_GOING = {
    **SMALL,
    "num_agents": 6,
    "max_episode_length": 40,
    "dynamics": {"synthetic": {"leave_probability": 0.2, "join_probability": 0.3}},
}
KINDS: dict[str, Any] = {"discrete": 3, "multi_discrete": [2, 5], "continuous": [0.25, 0.75]}


def test_it_does_what_the_core_does() -> None:
    for config in (SMALL, COMING_AND_GOING):
        env, core = Environment(config), VectorEnvironment(config, num_envs=1, autoreset=False)
        rng = np.random.default_rng(0)
        for episode in range(3):
            seed = 11 if episode == 0 else None
            obs, rows = env.reset(seed), core.reset(seed)[0]
            done = False
            while not done:
                here = core.present[0]
                assert list(obs) == [
                    agent for agent, present in zip(env.agent_ids, here, strict=True) if present
                ]
                assert np.array_equal(np.array(list(obs.values())), rows[here])
                actions = rng.integers(0, 10, env.core.num_agents)
                result = core.step(actions[None])
                given = {agent: actions[i] for i, agent in enumerate(env.agent_ids) if here[i]}
                obs, rewards, dones, info = env.step(given)
                rows, done = result.observations[0], dones["__all__"]
                assert list(rewards) == env.agent_ids
                assert list(rewards.values()) == result.rewards[0].tolist()
                assert set(dones) == {*env.agent_ids, "__all__"}
                assert set(dones.values()) == {bool(result.done[0])}
                for i, agent in enumerate(env.agent_ids):
                    entry = info[agent]
                    assert np.array_equal(entry["granted"], result.info["grants"][0, i])
                    assert np.array_equal(entry["lost"], result.info["lost"][0, i])
                    assert entry["active"] == here[i]
                    assert entry["present"] == result.present[0, i]
                    assert entry["truncated"] == done
            assert env.episode_measures == result.episodes[0]


def test_what_was_demanded_was_served_waits_or_is_lost() -> None:
    env = Environment(COMING_AND_GOING)
    obs = env.reset(seed=3)
    done = False
    while not done:
        obs, _, dones, info = env.step(dict.fromkeys(obs, 9))
        done = dones["__all__"]
        for entry in info.values():
            assert entry["demand"] == pytest.approx(entry["served"] + entry["backlog"] + entry["lost"])
            assert (entry["granted"] <= entry["requested"] * (1 + 1e-9)).all()


def test_the_pool_holds_what_was_granted() -> None:
    env = Environment({**SMALL, "contention": 0.0})
    env.reset(seed=0)
    assert env.resources.allocated == {"cpu": 0.0, "memory": 0.0}
    assert env.resources.capacities == {"cpu": 8.0, "memory": 4.0}
    for _ in range(3):
        _, _, _, info = env.step(dict.fromkeys(env.agent_ids, 9))
        granted = sum(entry["granted"] for entry in info.values())
        assert env.resources.as_array("allocated") == pytest.approx(granted)
    env.reset()
    assert env.resources.allocated == {"cpu": 0.0, "memory": 0.0}


@pytest.mark.parametrize("action_type", list(KINDS))
def test_actions_may_be_numbers_lists_or_arrays(action_type: str) -> None:
    config = {**SMALL, "action_type": action_type}
    action = KINDS[action_type]
    forms = [action, np.asarray(action), np.asarray(action, np.float64), np.atleast_1d(np.asarray(action))]
    rewards = []
    for form in forms:
        env = Environment(config)
        env.reset(seed=1)
        rewards.append(env.step(dict.fromkeys(env.agent_ids, form))[1])
        env.reset(seed=1)
        mixed = {agent: forms[i % len(forms)] for i, agent in enumerate(reversed(env.agent_ids))}
        rewards.append(env.step(mixed)[1])
    assert all(reward == rewards[0] for reward in rewards)


@pytest.mark.parametrize(
    ("action_type", "wrong", "message"),
    [
        ("discrete", 10, "the action of 'agent_2' must be a level from 0 to 9, got 10"),
        ("discrete", -1, "got -1"),
        ("discrete", 2.5, "got 2.5"),
        ("discrete", float("nan"), "got nan"),
        ("discrete", "many", "got 'many'"),
        ("discrete", None, "got None"),
        ("discrete", [1, 2], r"got \[1, 2\]"),
        ("multi_discrete", [1, 10], r"'agent_2' must be 2 levels from 0 to 9, got \[1, 10\]"),
        ("multi_discrete", 3, "2 levels from 0 to 9, got 3"),
        ("continuous", [0.5, 1.1], r"'agent_2' must be 2 numbers from 0 to 1, got \[0.5, 1.1\]"),
        ("continuous", [0.5, -0.1], "2 numbers from 0 to 1"),
        ("continuous", [0.5, float("nan")], "2 numbers from 0 to 1"),
        ("continuous", [0.5], "2 numbers from 0 to 1"),
    ],
)
def test_a_wrong_action_names_the_agent_and_changes_nothing(
    action_type: str, wrong: Any, message: str
) -> None:
    env = Environment({**SMALL, "action_type": action_type})
    before = env.reset(seed=0)
    good = dict.fromkeys(env.agent_ids, KINDS[action_type])
    with pytest.raises(ActionError, match=message):
        env.step({**good, "agent_2": wrong})
    for agent, row in env.step(None).items():
        assert np.array_equal(row, before[agent])
    assert env.core.state.time == 0
    env.step(good)


def test_actions_of_nobody_or_of_strangers_are_refused() -> None:
    env = Environment(SMALL)
    env.reset(seed=0)
    good = dict.fromkeys(env.agent_ids, 0)
    with pytest.raises(ActionError, match=r"every present agent \(4\), got none for 'agent_1', 'agent_3'"):
        env.step({"agent_0": 0, "agent_2": 0})
    with pytest.raises(ActionError, match=r"got one for 'agnet_1'\. Did you mean 'agent_1'"):
        env.step({**good, "agnet_1": 0})
    with pytest.raises(ActionError, match="got one for 7"):
        env.step({**good, 7: 0})
    with pytest.raises(ActionError, match="must be a dict from agent to action, got list"):
        env.step([0, 0, 0, 0])  # type: ignore[arg-type]


def test_absent_agents_are_not_asked_and_may_not_act() -> None:
    env = Environment(COMING_AND_GOING)
    obs = env.reset(seed=0)
    while len(obs) == 6:
        obs, *_ = env.step(dict.fromkeys(obs, 1))
    absent = sorted(set(env.agent_ids) - set(obs))
    with pytest.raises(ActionError, match=f"present agents only, got one for '{absent[0]}'"):
        env.step(dict.fromkeys(env.agent_ids, 1))
    with pytest.raises(ActionError, match="got none for"):
        env.step({})
    _, rewards, _, info = env.step(dict.fromkeys(obs, 1))
    for agent in absent:
        assert rewards[agent] == 0.0
        assert not info[agent]["active"]
        assert not info[agent]["granted"].any()


def test_after_the_end_only_reset_goes_on() -> None:
    env = Environment(SMALL)
    actions = dict.fromkeys(env.agent_ids, 1)
    with pytest.raises(ActionError, match="needs a running episode"):
        env.step(actions)
    env.reset(seed=0)
    for _ in range(6):
        last, _, dones, _ = env.step(actions)
    assert all(dones.values())
    with pytest.raises(ActionError, match=r"call reset\(\) first"):
        env.step(actions)
    assert np.array_equal(env.step(None)["agent_0"], last["agent_0"])
    env.reset()
    env.step(actions)
    env.close()
    with pytest.raises(ActionError, match="needs a running episode"):
        env.step(actions)


def test_seeds_fix_the_episode_and_those_after_it() -> None:
    def play(env: Environment, seed: int | None) -> list:
        seen = []
        for given in (seed, None):
            obs = env.reset(given)
            for _ in range(6):
                obs, rewards, _, _ = env.step(dict.fromkeys(obs, 5))
                seen.append((obs["agent_1"].tolist(), rewards))
        return seen

    env = Environment({**SMALL, "seed": 5})
    first = play(env, 5)
    assert play(env, 5) == first
    assert play(Environment({**SMALL, "seed": 5}), None) == first
    assert play(env, 6) != first
    assert first[:6] != first[6:]


def test_what_is_handed_out_is_a_copy() -> None:
    env = Environment(SMALL)
    obs = env.reset(seed=0)
    expected = obs["agent_0"].copy()
    obs["agent_0"][:] = 7.0
    assert np.array_equal(env.step(None)["agent_0"], expected)


def test_agents_enter_themselves_and_leave_with_close() -> None:
    with Environment(SMALL) as env:
        env.agents["agent_0"] = object()
        env.reset()
        assert list(env.agents) == ["agent_0"]
    assert env.agents == {}


def test_the_configuration_is_shown_with_its_defaults_and_checked() -> None:
    env = Environment({"environment": SMALL})
    assert env.config["num_agents"] == 4
    assert env.config["max_multiple"] == 3.0
    assert env.topology.agents == env.agent_ids
    with pytest.raises(ConfigurationError, match="num_agnets"):
        Environment({"num_agnets": 3})


def test_the_table_shows_the_last_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    env = Environment(SMALL)
    env.render()
    assert "pool cpu" in capsys.readouterr().out
    env.reset(seed=0)
    env.render()
    before = capsys.readouterr().out
    assert "step 0 of 6" in before
    _, _, _, info = env.step({"agent_0": 9, "agent_1": 0, "agent_2": 9, "agent_3": 2})
    assert env.render("human") is None
    out = capsys.readouterr().out
    assert "step 1 of 6" in out
    row = next(line for line in out.splitlines() if line.startswith("agent_0")).split()
    names = ("demand", "requested", "granted", "backlog")
    shown = [float(cell) for cell in row[1:]]
    expected = [info["agent_0"][name][r] for r in range(2) for name in names]
    assert shown == pytest.approx(expected, rel=0.01, abs=0.001)
    total = next(line for line in out.splitlines() if line.startswith("all agents")).split()
    assert float(total[4]) == pytest.approx(sum(entry["granted"][0] for entry in info.values()), rel=0.01)
    assert "100% granted" not in before
    assert max(map(len, out.splitlines())) <= 100


def test_the_table_of_many_agents_and_groups_stays_short(capsys: pytest.CaptureFixture[str]) -> None:
    env = Environment({"num_agents": 500, "constraints": {"num_groups": 50}})
    obs = env.reset(seed=0)
    env.step(dict.fromkeys(obs, 9))
    env.render()
    out = capsys.readouterr().out
    assert "... and 480 more agents" in out
    assert "... and 40 more groups" in out
    assert len(out.splitlines()) < 250


def test_absent_agents_are_in_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    env = Environment(COMING_AND_GOING)
    obs = env.reset(seed=0)
    while len(obs) == 6:
        obs, *_ = env.step(dict.fromkeys(obs, 1))
    absent = next(agent for agent in env.agent_ids if agent not in obs)
    env.step(dict.fromkeys(obs, 1))
    env.render()
    assert f"({absent})" in capsys.readouterr().out


def test_the_picture_changes_with_the_state_and_needs_no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    env = Environment(SMALL)
    pictures = [env.render("rgb_array")]
    env.reset(seed=0)
    pictures.append(env.render("rgb_array"))
    env.step(dict.fromkeys(env.agent_ids, 9))
    pictures.append(env.render("rgb_array"))
    for picture in pictures:
        assert picture is not None
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
        assert picture.std() > 0
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[1], pictures[2])
    with pytest.raises(ConfigurationError, match="human, rgb_array, got 'ansi'"):
        env.render("ansi")


def test_requests_can_be_made_instead_of_actions() -> None:
    env, core = Environment(SMALL), VectorEnvironment(SMALL, num_envs=1, autoreset=False)
    env.reset(5)
    core.reset(5)
    asked = np.zeros((1, 4, 2))
    asked[0, 1], asked[0, 3] = [0.5, 0.25], [9.0, 0.0]
    observations, rewards, dones, info = env.step_requests({"agent_1": asked[0, 1], "agent_3": [9.0, 0.0]})
    expected = core.step_requests(asked)
    assert np.array_equal(np.array(list(observations.values())), expected.observations[0])
    assert list(rewards.values()) == expected.rewards[0].tolist()
    assert np.array_equal(info["agent_3"]["granted"], expected.info["grants"][0, 3])
    assert env.running
    assert not dones["__all__"]


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ({"agent_9": [0.0, 0.0]}, r"got 'agent_9'\. Did you mean"),
        ({"agent_1": [0.0]}, r"request of 'agent_1' must have the shape \(2,\), got \(1,\)"),
        ({"agent_1": [np.nan, 0.0]}, "got nan"),
    ],
)
def test_wrong_requests_change_nothing(requests: dict[str, Any], message: str) -> None:
    env = Environment(SMALL)
    env.reset(5)
    with pytest.raises(ActionError, match=message):
        env.step_requests(requests)
    assert env.core.state.time == 0
