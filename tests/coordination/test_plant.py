"""Plants: the simulated one against the environment, and adapters of measured ones."""

from __future__ import annotations

import numpy as np
import pytest

from camac_dra.coordination.plant import MeasuredPlant, Measurement, SimulatedPlant
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import ActionError, PlantError

SMALL = {"environment.num_agents": 4, "environment.max_episode_length": 6}
TWO = {
    "environment.num_agents": 2,
    "environment.num_resources": 1,
    "environment.resource_limits": {"cpu": 4.0},
    "environment.max_episode_length": 50,
    "environment.weights": [1.0, 1.0],
    "environment.backlog_limit": None,
}


def small(**more):
    return build_config(None, {**SMALL, **more}).environment


@pytest.mark.parametrize("mechanism", ["proportional", "weighted_random", "max_min"])
def test_the_simulated_plant_is_the_environment(mechanism: str) -> None:
    section = small(**{"environment.mechanism": mechanism, "environment.credit": "individual"})
    plant, env = SimulatedPlant(section, 5), VectorEnvironment(section, 1, autoreset=True)
    env.reset(5)
    rng = np.random.default_rng(0)
    for step in range(9):  # over the end of an episode
        state = plant.observe()
        assert state.step == step
        np.testing.assert_array_equal(state.observations, env.observations[0])
        np.testing.assert_array_equal(state.askable, env.askable()[0])
        requests = state.askable * rng.random(state.askable.shape)
        grants = plant.allocate(requests)
        outcome, expected = plant.apply(grants), env.step_requests(requests[None])
        np.testing.assert_array_equal(grants, expected.info["grants"][0])
        np.testing.assert_array_equal(outcome.grants, expected.info["grants"][0])
        np.testing.assert_array_equal(outcome.rewards, expected.info["values"][0])
        np.testing.assert_array_equal(outcome.load, expected.info["load"][0])
        assert outcome.episodes == expected.episodes
        assert bool(outcome.episodes) == (step == 5)


def test_what_is_allocated_never_exceeds_capacity_and_changes_nothing() -> None:
    plant = SimulatedPlant(small(), 1)
    state = plant.observe()
    first = plant.allocate(state.askable * 100.0)
    assert (first.sum(axis=0) <= state.capacity[0] * (1 + 1e-9)).all()
    np.testing.assert_array_equal(plant.allocate(state.askable * 100.0), first)
    with pytest.raises(ActionError, match="got nan at"):
        plant.allocate(np.full_like(state.askable, np.nan))


def test_grants_that_nobody_asked_for_are_given_without_contention() -> None:
    plant = SimulatedPlant(small(), 1)
    state = plant.observe()
    plant.allocate(state.askable * 100.0)
    fair = np.minimum(state.askable, state.fair_share)
    outcome = plant.apply(fair)
    np.testing.assert_allclose(outcome.grants, fair)
    assert not outcome.conflict


class Bench(MeasuredPlant):
    """A machine whose queues are known exactly; one unit of grant works one unit off."""

    def __init__(self, demands: list[list[float]], **measured: object) -> None:
        self.waiting, self.demands, self.measured = np.zeros((2, 1)), list(demands), measured
        self.time, self.slept, self.set = 100.0, [], []
        section = build_config(None, TWO).environment
        super().__init__(section, 2.0, clock=lambda: self.time, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    def measure(self) -> Measurement:
        self.waiting = self.waiting + np.array(self.demands.pop(0))[:, None]
        return Measurement(self.waiting, **self.measured)

    def actuate(self, grants: np.ndarray) -> None:
        self.set.append(grants.copy())
        self.waiting = np.maximum(self.waiting - grants, 0.0)
        self.time += 0.5


def test_measured_demand_is_what_agents_see_and_may_ask_for() -> None:
    plant = Bench([[3.0, 5.0], [0.0, 1.0], [-1.0, 0.0]])
    state = plant.observe()
    assert state.askable.tolist() == [[3.0], [5.0]]
    grants = plant.allocate(state.askable)
    assert grants.tolist() == [[1.5], [2.5]]  # no contention: asking is only talking
    outcome = plant.apply(grants)
    assert outcome.served.tolist() == [[1.5], [2.5]]
    assert outcome.load[0, 0] == 2.0
    assert outcome.conflict
    assert plant.observe().askable.tolist() == [[1.5], [3.5]]  # 2.5 waited, and one more came
    plant.apply(np.zeros((2, 1)))
    assert plant.observe().askable.tolist() == [[0.5], [3.5]]  # one was withdrawn


def test_steps_are_as_long_as_the_interval() -> None:
    plant = Bench([[1.0, 1.0]] * 5)
    for _ in range(2):
        plant.apply(np.ones((2, 1)))
    assert plant.slept == [1.5, 1.5]
    plant.time += 10.0
    plant.apply(np.ones((2, 1)))
    plant.apply(np.ones((2, 1)))
    assert plant.slept[2:] == [0.0, 1.5]


def test_measured_capacity_and_presence_act() -> None:
    plant = Bench([[3.0, 5.0]], capacity=[[1.0]], price=[2.0], present=[True, False])
    state = plant.observe()
    assert state.present.tolist() == [True, False]
    assert state.capacity.tolist() == [[1.0]]
    assert plant.allocate(np.array([[3.0], [5.0]])).tolist() == [[1.0], [0.0]]


@pytest.mark.parametrize(
    ("demand", "measured", "message"),
    [
        ([np.nan, 1.0], {}, r"measured demand must be zero or more, and no NaN, got nan at \[0, 0\]"),
        ([1.0, -1.0], {}, r"got -1.0 at \[1, 0\]"),
        ([1.0, 1.0], {"capacity": [1.0]}, r"measured capacity must have the shape \(1, 1\), got \(1,\)"),
        ([1.0, 1.0], {"price": [np.inf]}, r"measured price must be finite, got inf at \[0\]"),
    ],
)
def test_measurements_without_sense_are_named(demand: list[float], measured: dict, message: str) -> None:
    with pytest.raises(PlantError, match=message):
        Bench([demand], **measured)
