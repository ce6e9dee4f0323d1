"""Measures reach RLlib's results, and the curriculum reaches every env runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.rllib.callbacks.callbacks import RLlibCallback

from camac_dra.training.callbacks import apply_curriculum, mean_measures
from camac_dra.training.curriculum import Curriculum
from camac_dra.training.experiment import Experiment, Options
from camac_dra.training.held_out import held_out_measures
from camac_dra.training.policy import TrainedPolicy
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import CapabilityError
from camac_dra.utils.schema import Config

PLAN = {
    "environment.credit": "team",
    "training.num_episodes": 16,  # 4 iterations in one process, 2 in two
    "training.curriculum": {
        "mechanism": [{"progress": 0.5, "mechanism": "max_min"}],
        "contention": [{"progress": 0.0, "contention": 0.0}, {"progress": 1.0, "contention": 2.0}],
    },
}


@pytest.fixture
def config(root: Path, tmp_path: Path) -> Any:
    def make(**overrides: Any) -> Config:
        values = {**PLAN, "training.output_dir": str(tmp_path / "runs")}
        return build_config(root / "rllib_configs" / "test.yaml", {**values, **overrides})

    return make


def in_force(experiment: Experiment) -> list[tuple[str, float]]:
    """Return mechanism and contention of every env runner that has an environment."""
    group: Any = experiment.algorithm.env_runner_group
    found = group.foreach_env_runner(
        lambda runner: None if runner.env is None else (runner.env.mechanism, runner.env.contention)
    )
    return [pair for pair in found if pair is not None]


def test_the_curriculum_acts_in_this_process(config: Any) -> None:
    with Experiment.start(config()) as experiment:
        seen = [in_force(experiment)]
        for _ in range(4):
            experiment.algorithm.train()
            seen.append(in_force(experiment))
    assert seen == [
        [("proportional", 0.0)],
        [("proportional", 0.5)],
        [("max_min", 1.0)],
        [("max_min", 1.5)],
        [("max_min", 2.0)],
    ]


def test_the_curriculum_acts_in_remote_env_runners_and_in_restarted_ones(
    config: Any, ray_cluster: Any
) -> None:
    with Experiment.start(config(**{"training.num_workers": 2})) as experiment:
        assert in_force(experiment) == [("proportional", 0.0)] * 2
        experiment.algorithm.train()
        assert in_force(experiment) == [("max_min", 1.0)] * 2
        group: Any = experiment.algorithm.env_runner_group
        group.foreach_env_runner(
            lambda runner: runner.make_env(), local_env_runner=False
        )  # as a restart does
        assert in_force(experiment) == [("proportional", 1.0)] * 2
        apply_curriculum(experiment.algorithm, [1])
        assert in_force(experiment) == [("max_min", 1.0), ("proportional", 1.0)]


def test_resuming_takes_the_curriculum_up_where_it_was(config: Any) -> None:
    with Experiment.start(
        config(**{"training.num_episodes": 12, "training.checkpoint_interval": 1})
    ) as first:
        first.train()
        run = first.run.path
    with Experiment.resume(run / "checkpoints" / "iteration_000002") as second:
        assert in_force(second) == [("max_min", pytest.approx(4 / 3))]
    longer = {"training.num_episodes": 24}
    with Experiment.resume(run / "checkpoints" / "iteration_000002", longer) as third:
        assert in_force(third) == [("proportional", pytest.approx(2 / 3))]


def test_evaluation_plays_the_full_problem(config: Any) -> None:
    with Experiment.start(config()) as experiment:
        experiment.algorithm.train()
        policy = TrainedPolicy.from_algorithm(experiment.algorithm)
        plain = config(**{"training.curriculum": {}})
        assert held_out_measures(experiment.config, policy) == held_out_measures(plain, policy)


def test_measures_and_resolutions_are_in_the_results(config: Any) -> None:
    with Experiment.start(config()) as experiment:
        results = [experiment.algorithm.train() for _ in range(4)]
        episodes = experiment.algorithm.episodes
    last = results[-1]["env_runners"]["allocation"]
    for name, value in mean_measures(episodes).items():
        assert last[name] == pytest.approx(value), name
    assert {"conflict_rate", "jain", "utilisation", "lost_share", "success_rate"} <= last.keys()
    conflicts = sum(episode["conflict_rate"] * 2 * 20 for episode in episodes)  # 2 resources, 20 steps
    assert last["resolutions"]["max_min"] == pytest.approx(conflicts)
    assert "max_min" not in results[0]["env_runners"]["allocation"]["resolutions"]


def test_measures_come_from_remote_env_runners_too(config: Any, ray_cluster: Any) -> None:
    with Experiment.start(config(**{"training.num_workers": 2})) as experiment:
        result = experiment.algorithm.train()
        episodes = experiment.algorithm.episodes
    assert len(episodes) == 8
    found = result["env_runners"]["allocation"]
    for name, value in mean_measures(episodes).items():
        assert found[name] == pytest.approx(value), name
    conflicts = sum(episode["conflict_rate"] * 2 * 20 for episode in episodes)
    assert found["resolutions"]["proportional"] == pytest.approx(conflicts)


class WaitsForEpisodes(RLlibCallback):
    def on_episode_end(self, **kwargs: Any) -> None:
        pass


class CountsSamples(RLlibCallback):
    seen = 0

    def on_sample_end(self, *, samples: Any, **kwargs: Any) -> None:
        CountsSamples.seen += samples.env_steps


def test_callbacks_that_would_never_fire_are_refused_by_name(config: Any, tmp_path: Path) -> None:
    with pytest.raises(
        CapabilityError, match=r"on_episode_end never fires without RLlib episodes.*on_sample_end"
    ):
        Experiment.start(config(), Options(callbacks=[WaitsForEpisodes]))
    assert list((tmp_path / "runs").iterdir()) == []


def test_callbacks_of_the_user_fire(config: Any) -> None:
    CountsSamples.seen = 0
    with Experiment.start(config(), Options(callbacks=[CountsSamples])) as experiment:
        experiment.train()
    assert CountsSamples.seen == 320


# The schedule itself


def curriculum(**changes: Any) -> Curriculum:
    values: dict[str, Any] = {
        "mechanism": "proportional",
        "contention": 1.0,
        "stages": ((0.25, "equal"), (0.5, "max_min")),
        "points": (),
        "total_env_steps": 1000,
    }
    return Curriculum(**{**values, **changes})


@pytest.mark.parametrize(
    ("env_steps", "mechanism"),
    [(0, "proportional"), (249, "proportional"), (250, "equal"), (500, "max_min"), (2000, "max_min")],
)
def test_stages_begin_at_their_share_of_the_training(env_steps: int, mechanism: str) -> None:
    assert curriculum().at(env_steps) == (mechanism, 1.0)


@given(st.integers(0, 2000))
def test_contention_is_linear_between_points_and_constant_outside(env_steps: int) -> None:
    _, contention = curriculum(points=((0.2, 0.0), (0.6, 4.0))).at(env_steps)
    assert contention == pytest.approx(min(4.0, max(0.0, (env_steps / 1000 - 0.2) * 10)))


def test_without_a_plan_there_is_no_curriculum() -> None:
    assert Curriculum.from_config(Config(), 100) is None
