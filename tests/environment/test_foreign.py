from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv
from pettingzoo.test import parallel_api_test
from pettingzoo.utils.conversions import parallel_to_aec

from camac_dra.environment import ForeignVectorEnvironment, VectorEnvironment, parallel_env
from camac_dra.utils.errors import ActionError, CheckpointError, ConfigurationError, EpisodesLostError

LENGTH = 7


class Walk(ParallelEnv):
    """Three agents walk on a line; what each sees is (place, step, own number). Rewards are places.

    ``red`` dies when its place exceeds `deadly`; ``green`` is cut off alone in step `cut`; all are cut off
    in step 7.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "walk_v0"}
    render_mode = None

    def __init__(
        self,
        action_space: spaces.Space | None = None,
        deadly: float = np.inf,
        cut: int = 99,
        noise: float = 1.0,
    ) -> None:
        self.possible_agents = ["red", "green", "blue"]
        self.agents: list[str] = []
        self._action = spaces.Discrete(3, start=-1) if action_space is None else action_space
        self._view = spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self._deadly, self._cut, self._noise = deadly, cut, noise
        self.received: list[dict[str, Any]] = []
        self.closed = False

    def observation_space(self, agent: str) -> spaces.Space:
        return self._view

    def action_space(self, agent: str) -> spaces.Space:
        return self._action

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self._rng = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self.time = 0
        self.place = {agent: float(self._rng.normal()) for agent in self.agents}
        return self._see(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        assert set(actions) == set(self.agents)
        assert all(self._action.contains(action) for action in actions.values())
        self.received.append(actions)
        self.time += 1
        for agent, action in actions.items():
            self.place[agent] += float(np.sum(action)) + self._noise * float(self._rng.normal())
        rewards = {agent: self.place[agent] for agent in self.agents}
        ends = {agent: agent == "red" and self.place[agent] > self._deadly for agent in self.agents}
        cuts = {
            agent: (agent == "green" and self.time == self._cut) or self.time == LENGTH
            for agent in self.agents
        }
        answer = self._see(), rewards, ends, cuts, {agent: {} for agent in self.agents}
        self.agents = [agent for agent in self.agents if not ends[agent] and not cuts[agent]]
        return answer

    def close(self) -> None:
        self.closed = True

    def _see(self) -> dict[str, np.ndarray]:
        return {
            agent: np.array([self.place[agent], self.time, self.possible_agents.index(agent)])
            for agent in self.agents
        }


def sampled(env: ForeignVectorEnvironment, rng: np.random.Generator) -> np.ndarray:
    """Return random actions of the right shape."""
    space = env.single_action_space
    cells = (env.num_envs, len(env.agent_ids))
    if isinstance(space, spaces.Discrete):
        return rng.integers(0, space.n, cells)
    if isinstance(space, spaces.MultiDiscrete):
        return rng.integers(0, space.nvec, (*cells, len(space.nvec)))
    return rng.uniform(space.low, space.high, (*cells, *space.shape)).astype(np.float32)


def played(env: ForeignVectorEnvironment, steps: int, rng: np.random.Generator) -> list[Any]:
    """Return all results of some steps."""
    return [env.step(sampled(env, rng)) for _ in range(steps)]


def same(one: Any, other: Any) -> bool:
    """Return whether two results are equal in everything."""
    names = ("observations", "rewards", "terminated", "truncated", "active", "present", "done")
    equal = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
    finals = one.final_observations is None if other.final_observations is None else True
    if finals and other.final_observations is not None:
        finals = np.array_equal(one.final_observations, other.final_observations)
    return equal and finals and one.episodes == other.episodes


SPACES: list[Callable[[], spaces.Space]] = [
    lambda: spaces.Discrete(3, start=-1),
    lambda: spaces.MultiDiscrete([2, 3]),
    lambda: spaces.Box(-2.0, 3.0, (2,), np.float32),
]


def test_the_environments_of_these_tests_are_proper_ones() -> None:
    parallel_api_test(Walk(deadly=1.0), num_cycles=30)
    parallel_api_test(Walk(cut=3), num_cycles=30)


@pytest.mark.parametrize("space", SPACES)
def test_it_does_what_the_environments_do(space: Callable[[], spaces.Space]) -> None:
    made: list[Walk] = []

    def factory() -> Walk:
        made.append(Walk(space(), deadly=4.0, cut=5))
        return made[-1]

    env = ForeignVectorEnvironment(factory, num_envs=3, seed=2)
    rng, reference = np.random.default_rng(0), [Walk(space(), deadly=4.0, cut=5) for _ in range(3)]
    seeds = np.random.default_rng(2)
    rows = env.reset()
    names = made[0].possible_agents
    assert rows.dtype == np.float32
    for copy, walk in enumerate(reference):
        obs, _ = walk.reset(seed=int(seeds.integers(2**31)))
        assert rows[copy].tolist() == [obs[name].astype(np.float32).tolist() for name in names]
    offset = -1 if isinstance(space(), spaces.Discrete) else 0
    for _ in range(40):
        living = [list(walk.agents) for walk in reference]
        actions = sampled(env, rng)
        result = env.step(actions)
        done = []
        for copy, walk in enumerate(reference):
            given = {name: actions[copy, names.index(name)] + offset for name in walk.agents}
            obs, rewards, ends, cuts, _ = walk.step(given)
            expected = [rewards.get(name, 0.0) for name in names]
            assert result.rewards[copy] == pytest.approx(expected)
            assert result.active[copy].tolist() == [name in living[copy] for name in names]
            assert result.terminated[copy].tolist() == [ends.get(name, False) for name in names]
            if not walk.agents:
                done.append(copy)
                final = result.final_observations[len(done) - 1]
                for name in obs:
                    assert final[names.index(name)] == pytest.approx(obs[name], rel=1e-6)
                assert result.truncated[copy] == any(cuts[name] and not ends[name] for name in cuts)
                obs, _ = walk.reset(seed=int(seeds.integers(2**31)))
            assert result.present[copy].tolist() == [name in walk.agents for name in names]
            for name in obs:
                assert result.observations[copy, names.index(name)] == pytest.approx(obs[name], rel=1e-6)
        assert result.done.tolist() == [copy in done for copy in range(3)]
        assert len(result.episodes) == len(done)
        assert (result.final_observations is None) == (not done)


def test_an_agent_cut_off_alone_keeps_its_last_observation_to_the_end() -> None:
    env = ForeignVectorEnvironment(lambda: Walk(cut=3), seed=0)
    env.reset()
    results = played(env, LENGTH, np.random.default_rng(0))
    last = results[2].observations[0, 1]
    assert last[1] == 3
    assert not results[2].terminated.any()
    assert not results[2].truncated[0]
    assert results[2].present[0].tolist() == [True, False, True]
    assert [result.active[0, 1] for result in results] == [True] * 3 + [False] * 4
    assert np.array_equal(results[-1].final_observations[0, 1], last)
    assert results[-1].truncated[0]
    assert results[-1].rewards[0, 1] == 0.0


def test_when_all_die_the_episode_is_over_but_not_cut_off() -> None:
    class Doomed(Walk):
        def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
            obs, rewards, ends, cuts, infos = super().step(actions)
            if self.time == 4:
                self.agents, ends = [], dict.fromkeys(ends, True)
            return obs, rewards, ends, cuts, infos

    env = ForeignVectorEnvironment(Doomed, num_envs=2)
    env.reset()
    result = played(env, 4, np.random.default_rng(0))[-1]
    assert result.done.all()
    assert result.terminated.all()
    assert not result.truncated.any()
    assert result.present.all()
    assert [episode["steps"] for episode in result.episodes] == [4.0, 4.0]


def test_agents_that_come_later_are_absent_until_then() -> None:
    class Late(Walk):
        def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
            super().reset(seed)
            self.agents = ["red", "blue"]
            return self._see(), {}

        def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
            answer = super().step(actions)
            if self.time == 2:
                self.agents.insert(1, "green")
                answer[0]["green"] = np.array([0.5, 2.0, 1.0])
            return answer

    env = ForeignVectorEnvironment(Late)
    rows = env.reset()
    assert env.present.tolist() == [[True, False, True]]
    assert not rows[0, 1].any()
    results = played(env, 3, np.random.default_rng(0))
    assert [result.active[0, 1] for result in results] == [False, False, True]
    assert results[1].observations[0, 1].tolist() == [0.5, 2.0, 1.0]
    ended = played(env, LENGTH - 3, np.random.default_rng(0))[-1]
    assert ended.done[0]
    assert ended.final_observations[0, 1].any()
    assert not ended.observations[0, 1].any()  # nothing of the old episode is left in the new one


def test_our_own_environment_comes_back_as_it_is() -> None:
    config = {"num_agents": 3, "max_episode_length": 5}
    foreign = ForeignVectorEnvironment(lambda: parallel_env(config), num_envs=2, seed=1)
    seeds = np.random.default_rng(1)
    cores = [VectorEnvironment(config, autoreset=False) for _ in range(2)]
    rows = foreign.reset()
    assert foreign.single_observation_space == cores[0].single_observation_space
    assert foreign.single_action_space == cores[0].single_action_space
    expected = [core.reset(int(seeds.integers(2**31)))[0] for core in cores]
    assert np.array_equal(rows, expected)
    rng = np.random.default_rng(0)
    for step in range(5):
        actions = rng.integers(0, 10, (2, 3))
        result = foreign.step(actions)
        for copy, core in enumerate(cores):
            ours = core.step(actions[copy : copy + 1])
            assert np.array_equal(result.rewards[copy], ours.rewards[0])
            last = result.observations if step < 4 else result.final_observations
            assert np.array_equal(last[copy], ours.observations[0])
            if step == 4:
                assert result.episodes[copy]["reward"] == pytest.approx(ours.episodes[0]["reward"])
    assert result.truncated.all()


def test_seeds_fix_everything_and_copies_differ() -> None:
    runs = []
    for seed in (3, 3, 4):
        env = ForeignVectorEnvironment(lambda: Walk(deadly=3.0), num_envs=2, seed=seed)
        rows = env.reset()
        assert not np.array_equal(rows[0], rows[1])
        runs.append(played(env, 30, np.random.default_rng(0)))
    assert all(same(one, other) for one, other in zip(runs[0], runs[1], strict=True))
    assert not same(runs[0][0], runs[2][0])
    env.reset(seed=3)
    assert all(
        same(one, other)
        for one, other in zip(runs[0], played(env, 30, np.random.default_rng(0)), strict=True)
    )


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("steps", [0, 3, 11])
def test_it_goes_on_exactly_from_a_saved_state(space: Callable[[], spaces.Space], steps: int) -> None:
    def factory() -> Walk:
        return Walk(space(), deadly=4.0, cut=5)

    env, other = (ForeignVectorEnvironment(factory, num_envs=2, seed=seed) for seed in (0, 9))
    env.reset()
    rng = np.random.default_rng(0)
    played(env, steps, rng)
    state = env.get_state()
    other.set_state(state)
    assert np.array_equal(other.present, env.present)
    ahead = np.random.default_rng(1), np.random.default_rng(1)
    for one, two in zip(played(env, 20, ahead[0]), played(other, 20, ahead[1]), strict=True):
        assert same(one, two)


def test_a_state_from_before_the_first_reset_restores_the_generator() -> None:
    env, other = (ForeignVectorEnvironment(Walk, seed=seed) for seed in (0, 9))
    other.set_state(env.get_state())
    assert np.array_equal(env.reset(), other.reset())


def test_a_state_that_cannot_be_restored_is_refused() -> None:
    class Careless(Walk):
        def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
            self._rng = np.random.default_rng()
            return super().step(actions)

    env = ForeignVectorEnvironment(Careless, num_envs=2)
    env.reset()
    played(env, 2, np.random.default_rng(0))
    with pytest.raises(EpisodesLostError, match="same under the same seed"):
        env.set_state(env.get_state())

    class Shorter(Walk):
        def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
            answer = super().step(actions)
            self.agents = []
            return answer

    kinds = iter([Walk, Shorter])
    first, second = (ForeignVectorEnvironment(next(kinds)) for _ in range(2))
    first.reset()
    played(first, 3, np.random.default_rng(0))
    with pytest.raises(EpisodesLostError, match="same under the same seed"):
        second.set_state(first.get_state())
    assert second.reset().shape == (1, 3, 3)
    with pytest.raises(CheckpointError, match="of 1 copies like this environment, got 2"):
        ForeignVectorEnvironment(Walk).set_state(env.get_state())


@pytest.mark.parametrize(
    ("space", "wrong", "message"),
    [
        (SPACES[0], 3, "'green' in copy 1 must be from 0 to 2, got 3"),
        (SPACES[0], -1, "from 0 to 2, got -1"),
        (SPACES[0], 0.5, "from 0 to 2, got 0.5"),
        (SPACES[1], [1, 3], "must be from 0 to 2, got 3"),
        (SPACES[2], [0.0, 3.1], "must be from -2.0 to 3.0, got 3.1"),
        (SPACES[2], [np.nan, 0.0], "got nan"),
    ],
)
def test_wrong_actions_name_agent_and_copy(
    space: Callable[[], spaces.Space], wrong: Any, message: str
) -> None:
    env = ForeignVectorEnvironment(lambda: Walk(space()), num_envs=2)
    with pytest.raises(ActionError, match=r"call reset\(\) first"):
        env.step(sampled(env, np.random.default_rng(0)))
    env.reset()
    actions = sampled(env, np.random.default_rng(0)).astype(float)
    actions[1, 1] = wrong
    with pytest.raises(ActionError, match=message):
        env.step(actions)
    with pytest.raises(ActionError, match=r"must have the shape \(2, 3"):
        env.step(actions[:1])


def test_actions_of_absent_agents_are_ignored() -> None:
    env = ForeignVectorEnvironment(lambda: Walk(SPACES[2](), cut=1))
    env.reset()
    played(env, 1, np.random.default_rng(0))
    actions = np.zeros((1, 3, 2))
    actions[0, 1] = np.nan
    env.step(actions)


def test_environments_that_do_not_fit_are_refused_with_the_reason() -> None:
    class Masked(Walk):
        def observation_space(self, agent: str) -> spaces.Space:
            return spaces.Dict({"observation": self._view, "action_mask": spaces.MultiBinary(4)})

    class Written(Walk):
        def observation_space(self, agent: str) -> spaces.Space:
            return spaces.Tuple([self._view, spaces.Text(3)])

    class Mixed(Walk):
        def action_space(self, agent: str) -> spaces.Space:
            return spaces.Box(0, 1, (2,)) if agent == "green" else spaces.Discrete(3)

    class Unbounded(Walk):
        def action_space(self, agent: str) -> spaces.Space:
            return spaces.Box(-np.inf, 1, (2 if agent == "green" else 1,))

    class Nobody(Walk):
        def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
            super().reset(seed)
            self.agents = []
            return {}, {}

    class Nameless(Walk):
        def __init__(self) -> None:
            super().__init__()
            self.possible_agents = []

    sizes = iter([3, 4])

    def growing() -> Walk:
        return Walk(spaces.Discrete(next(sizes)))

    for factory, message in [
        (Masked, r"entry for each of the actions .* got MultiBinary\(4\) and Discrete.* for 'red'"),
        (Written, r"observation space of 'red' must be made of Box, .* got Tuple"),
        (Mixed, r"one kind, got Discrete\(3\) for 'red' and Box\(.*\) for 'green'"),
        (Unbounded, "finite bounds, got Box.* for 'red'"),
        (lambda: Walk(spaces.Text(3)), "'red' must be Discrete, MultiDiscrete or Box, got Text"),
        (lambda: Walk(spaces.MultiDiscrete([[2, 2], [2, 2]])), "must be a vector"),
        (growing, r"same action space, got Discrete\(3\) for 'red' and, in copy 1, Discrete\(4\)"),
        (object, "ParallelEnv that names its possible_agents.* got object without reset, step"),
        (Nameless, "got Nameless without possible_agents"),
        (
            lambda: parallel_to_aec(Walk()),
            "Wrapper, an AECEnv, .*wrap it with .*aec_to_parallel",
        ),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            ForeignVectorEnvironment(factory, num_envs=2)
    for name in ("num_envs", "max_steps"):
        with pytest.raises(ConfigurationError, match=f"{name} must be at least 1, got 0"):
            ForeignVectorEnvironment(Walk, **{name: 0})
    with pytest.raises(ConfigurationError, match="at least one agent after reset"):
        ForeignVectorEnvironment(Nobody).reset()


def test_masks_are_for_all_agents_or_for_none() -> None:
    class SomeMasked(Walk):
        def observation_space(self, agent: str) -> spaces.Space:
            mask = {"observation": self._view, "action_mask": spaces.MultiBinary(3)}
            return spaces.Dict(mask) if agent == "blue" else self._view

    with pytest.raises(ConfigurationError, match=r"'observation' and 'action_mask', got Box.* for 'red'"):
        ForeignVectorEnvironment(SomeMasked)
    assert ForeignVectorEnvironment(Walk).action_masks is None


def test_episodes_are_cut_off_at_the_most_steps() -> None:
    env = ForeignVectorEnvironment(lambda: Walk(deadly=-np.inf), num_envs=2, max_steps=4)
    env.reset()
    results = played(env, 8, np.random.default_rng(0))
    assert [result.done.all() for result in results] == [False, False, False, True] * 2
    cut = results[3]
    assert cut.truncated.all()
    assert cut.terminated.sum() == 0  # red died in the first step
    assert results[0].terminated[:, 0].all()
    assert (cut.final_observations[:, 1:, 1] == 4).all()
    assert [episode["steps"] for episode in cut.episodes] == [4.0, 4.0]
    assert cut.present.all()
    whole = ForeignVectorEnvironment(Walk, max_steps=LENGTH)  # the environment's own end comes first
    whole.reset()
    assert played(whole, LENGTH, np.random.default_rng(0))[-1].truncated.all()


def test_returns_per_agent_are_over_those_that_took_part() -> None:
    class Alone(Walk):
        def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
            super().reset(seed)
            self.agents = ["red", "blue"]
            return self._see(), {}

    env = ForeignVectorEnvironment(Alone)
    env.reset()
    last = played(env, LENGTH, np.random.default_rng(0))[-1]
    assert last.episodes[0]["return_per_agent"] == pytest.approx(last.episodes[0]["reward"] / 2)


def test_without_autoreset_copies_stay_empty_until_the_next_reset() -> None:
    env = ForeignVectorEnvironment(Walk, num_envs=2, autoreset=False)
    first = env.reset()
    last = played(env, LENGTH, np.random.default_rng(0))[-1]
    assert last.done.all()
    assert not last.present.any()
    assert np.array_equal(last.observations, last.final_observations)
    empty = played(env, 1, np.random.default_rng(0))[0]
    for nothing in (empty.active, empty.done, empty.rewards):
        assert not nothing.any()
    assert not np.array_equal(env.reset(), first)
    assert env.present.all()


def test_close_closes_all_copies() -> None:
    made: list[Walk] = []
    env = ForeignVectorEnvironment(lambda: made.append(Walk()) or made[-1], num_envs=3)
    env.close()
    assert all(walk.closed for walk in made)


def test_what_is_handed_out_does_not_change_later() -> None:
    env = ForeignVectorEnvironment(Walk)
    rows = env.reset()
    before = rows.copy()
    result = played(env, 1, np.random.default_rng(0))[0]
    kept = result.observations.copy()
    played(env, 3, np.random.default_rng(0))
    assert np.array_equal(rows, before)
    assert np.array_equal(result.observations, kept)


def test_an_agent_that_dies_as_the_episode_is_cut_off_is_terminated() -> None:
    early = ForeignVectorEnvironment(lambda: Walk(deadly=-np.inf))  # red dies in its first step

    class Last(Walk):
        def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
            obs, rewards, ends, cuts, infos = super().step(actions)
            self.agents = []
            return obs, rewards, dict.fromkeys(ends, True), dict.fromkeys(cuts, True), infos

    for env, expected in ((early, False), (ForeignVectorEnvironment(Last), True)):
        env.reset()
        result = played(env, 1, np.random.default_rng(0))[0]
        assert result.terminated[0, 0]
        assert bool(result.done[0]) == expected
        assert not result.truncated[0]
