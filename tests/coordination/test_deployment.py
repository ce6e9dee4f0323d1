"""Agents as Ray actors around a plant: parity with evaluation, faults, and what is left in the end."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest
import ray
from ray.exceptions import RayError

from camac_dra.coordination.agreements import make_agreement
from camac_dra.coordination.plant import SimulatedPlant
from camac_dra.coordination.runtime.chaos import ChaosSpec
from camac_dra.coordination.runtime.decision import Answer
from camac_dra.coordination.runtime.deployment import Deployment, Options, _warn_of_long_agreements
from camac_dra.coordination.runtime.telemetry import format_summary
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models import AttentionNetwork
from camac_dra.models.model_source import ModelSource
from camac_dra.utils.errors import ConfigurationError, FleetError
from tests.coordination.small_deployments import (
    Fixed,
    config_of,
    policy_for,
    talking_config,
    talking_policy,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")  # which also sees to it that no actor is left


def deploy(protocol: str = "none", *, policy=None, options: Options | None = None, seed: int = 3, **settings):
    config = config_of(protocol, **settings)
    source = policy_for(config) if policy is None else policy
    return Deployment(SimulatedPlant(config.environment, seed), source, config.coordination, options)


@pytest.mark.parametrize(
    ("protocol", "per_actor", "objective"),
    [
        ("centralized", 3, None),
        ("centralized", 1, "max_weight"),
        ("none", 2, None),
        ("distributed_consensus", 2, None),
        ("distributed_consensus", 3, "max_weight"),
    ],
)
def test_it_decides_as_evaluation_does_and_leaves_nothing(
    protocol: str, per_actor: int, objective: str | None
) -> None:
    settings = {} if objective is None else {"objective": objective}
    config = config_of(protocol, **settings)
    policy = policy_for(config).build()
    agreement = make_agreement(config)
    env = VectorEnvironment(config.environment, 1, agreement=agreement, autoreset=True)
    env.reset(3)
    with deploy(protocol, options=Options(agents_per_actor=per_actor), **settings) as deployment:
        for _ in range(30):  # over the end of an episode
            expected = env.step(policy.act(env.observations))
            outcome = deployment.step()
            if protocol == "distributed_consensus":  # sums in another order
                np.testing.assert_allclose(outcome.grants, expected.info["grants"][0], rtol=1e-9)
            else:
                np.testing.assert_array_equal(outcome.grants, expected.info["grants"][0])
        summary = deployment.summary()
    assert summary.decisions == 30
    assert summary.over_capacity == 0
    assert not summary.fallbacks
    if agreement is not None:
        assert (summary.rounds, summary.messages) == (agreement.rounds, agreement.messages)
    assert "Decisions:   30" in format_summary(summary)


@pytest.mark.parametrize("per_actor", [1, 3])
def test_agents_that_hear_of_others_by_messages_only_decide_as_in_evaluation(per_actor: int) -> None:
    config = talking_config(message_delay=1.0) if per_actor == 1 else talking_config()
    spec = talking_policy(config)
    policy = spec.build()
    env = VectorEnvironment(config.environment, 1, autoreset=True)
    env.reset(3)
    options = Options(agents_per_actor=per_actor)
    with Deployment(SimulatedPlant(config.environment, 3), spec, config.coordination, options) as deployment:
        for _ in range(15):
            expected = env.step(policy.act(env.observations))
            outcome = deployment.step()
            np.testing.assert_array_equal(outcome.grants, expected.info["grants"][0])
        summary = deployment.summary()
    assert not summary.fallbacks
    assert (summary.learned_messages, summary.learned_bytes) == (8, 8 * 5 * 4)  # to two neighbours each
    assert summary.missed_messages == 0


def test_a_process_that_died_is_not_waited_for_and_speaks_again() -> None:
    config = talking_config(topology="fully_connected")
    coordination = config.coordination.model_copy(update={"message_timeout": 3.0})
    plant, options = SimulatedPlant(config.environment, 3), Options(agents_per_actor=2)
    with Deployment(plant, talking_policy(config), coordination, options) as deployment:
        deployment.run(3)
        deployment.fleet.kill(1)
        while not deployment.supervisor.deaths:
            deployment.step()
        assert deployment.last_decided is not None
        deadline = time.monotonic() + 60.0
        while not deployment.supervisor.restarts and time.monotonic() < deadline:
            deployment.step()
        while time.monotonic() < deadline:
            deployment.step()
            if not deployment.last_decided.fallbacks and not deployment.last_decided.talk.missed:
                break
        summary = deployment.summary()
    assert deployment.last_decided.talk.messages == 12
    assert not deployment.last_decided.talk.missed
    assert (summary.deaths, summary.restarts, summary.over_capacity) == (1, 1, 0)
    assert summary.missed_messages > 0


def test_killed_agents_and_bus_actors_come_back_and_nothing_stalls() -> None:
    options = Options(agents_per_actor=2)
    with deploy("centralized", options=options, message_timeout=2.0, sync_interval=2) as deployment:
        deployment.run(20)
        deployment.fleet.kill(0)
        while not deployment.supervisor.deaths:
            deployment.step()
        dead = deployment.last_decided
        assert dead is not None
        assert dead.fallbacks["dead"] == 2
        assert (dead.requests[:2] == 0.0).all()
        assert (dead.requests[2:] > 0.0).any()
        deployment.bus.kill_shard(0)
        deadline = time.monotonic() + 60.0
        while not deployment.supervisor.restarts and time.monotonic() < deadline:
            deployment.step()
        while deployment.telemetry.decisions and time.monotonic() < deadline:
            deployment.step()
            assert deployment.last_decided is not None
            if not deployment.last_decided.fallbacks:
                break
        summary = deployment.summary()
    assert (summary.deaths, summary.restarts) == (1, 1)
    assert not deployment.last_decided.fallbacks
    assert summary.over_capacity == 0
    assert summary.longest_step < 2.0 + 3.0  # the message timeout, and a machine that is busy


def test_a_process_that_died_and_started_again_unseen_is_prepared_again() -> None:
    with deploy("centralized", options=Options(agents_per_actor=2), message_timeout=2.0) as deployment:
        deployment.run(2)
        actor = deployment.fleet._actors[0]
        before = ray.get(actor.pulse.remote(), timeout=30.0).pid
        deployment.fleet.kill(0)
        deadline = time.monotonic() + 60.0
        pid = before
        while pid == before and time.monotonic() < deadline:
            time.sleep(0.1)
            with contextlib.suppress(RayError):
                pid = ray.get(actor.pulse.remote(), timeout=30.0).pid
        assert pid != before
        while not deployment.supervisor.restarts and time.monotonic() < deadline:
            deployment.step()
        deployment.step()
        assert deployment.last_decided is not None
        assert not deployment.last_decided.fallbacks
        assert (deployment.supervisor.deaths, deployment.supervisor.restarts) == (1, 1)
        assert not deployment.problems


def test_a_process_that_raises_falls_back_and_lives() -> None:
    with deploy(policy=Fixed(nan_from=3), options=Options(agents_per_actor=2)) as deployment:
        deployment.run(5)
        assert deployment.supervisor.deaths == 0
        assert deployment.problems == {"weights are gone": 4}
        assert deployment.telemetry.fallbacks == {"late": 8, "no_quorum": 8}


def test_a_process_that_hangs_is_killed_and_started_again() -> None:
    options = Options(agents_per_actor=2, patience=1.0)
    with deploy(options=options, message_timeout=1.0) as deployment:
        deployment.run(2)
        sleeper = deployment.fleet._actors[1]
        sleeper.decide.remote(_Slow())
        deadline = time.monotonic() + 60.0
        while not deployment.supervisor.restarts and time.monotonic() < deadline:
            deployment.step()
        assert (deployment.supervisor.deaths, deployment.supervisor.restarts) == (1, 1)
        assert deployment.telemetry.fallbacks["late"] > 0
        deployment.step()
        assert isinstance(deployment.last_decided.requests, np.ndarray)


class _Slow:
    """Inputs that take long to read."""

    seconds = 0.0

    @property
    def observations(self) -> np.ndarray:
        time.sleep(60.0)
        raise AssertionError


def test_any_model_can_be_the_policy() -> None:
    model = AttentionNetwork(input_dim=64, num_heads=8, seed=1)
    source = ModelSource(model, 10)
    with deploy("centralized", policy=source, options=Options(agents_per_actor=4)) as deployment:
        plant = SimulatedPlant(config_of().environment, 3)
        state = plant.observe()
        deployment.step()
        levels = source.build().act(state.observations[None])  # (1, N)
        intended = plant.env.requests_from_actions(levels)[0]
        asked = deployment.last_decided.requests
        assert (asked <= intended * (1 + 1e-9)).all()
        assert asked.any()
        assert deployment.run(5, stop=lambda: True).decisions == 1  # that one; none more


def test_the_pace_is_kept_until_there_is_reason_to_stop() -> None:
    begun = time.monotonic()
    Deployment._pause(begun + 0.3, lambda: False)
    assert time.monotonic() >= begun + 0.3
    Deployment._pause(time.monotonic() + 1e6, lambda: True)  # else it would never end


def test_in_the_shadow_fair_shares_are_applied() -> None:
    config = config_of()
    with deploy(policy=Fixed(9), options=Options(agents_per_actor=4, shadow=True)) as deployment:
        plant = SimulatedPlant(config.environment, 3)
        for _ in range(5):
            state = plant.observe()
            expected = plant.apply(plant.allocate(np.minimum(state.askable, state.fair_share)))
            np.testing.assert_array_equal(deployment.step().grants, expected.grants)
            asked = deployment.last_decided.requests
            np.testing.assert_allclose(asked, np.minimum(state.askable, 3 * state.fair_share))


def test_agents_know_their_neighbours_states_and_keep_them_over_a_death() -> None:
    options = Options(agents_per_actor=2)
    with deploy("none", options=options, sync_interval=1) as deployment:
        for _ in range(6):
            deployment.step()
            time.sleep(0.05)
        known = ray.get(deployment.fleet._actors[0].known_states.remote())
        assert known["agent_0"]["agent_3"]["step"] >= 1
        assert "agent_1" in known["agent_0"]
        deployment.fleet.kill(0)
        while not deployment.supervisor.deaths:
            deployment.step()
        deadline = time.monotonic() + 60.0
        while not deployment.supervisor.restarts and time.monotonic() < deadline:
            deployment.step()
            time.sleep(0.05)
        again = ray.get(deployment.fleet._actors[0].known_states.remote())
        assert again["agent_0"]["agent_3"]["step"] >= known["agent_0"]["agent_3"]["step"]


def test_chaos_goes_wrong_at_its_rates_and_the_plant_is_never_overloaded() -> None:
    chaos = ChaosSpec.parse("kill_agents=10,kill_bus=20,drop=0.1,delay=0.001,partitions=20,seed=5")
    options = Options(agents_per_actor=2, chaos=chaos)
    with deploy("distributed_consensus", options=options, message_timeout=1.0, rounds=10) as deployment:
        end = time.monotonic() + 12.0
        while time.monotonic() < end:
            deployment.step()
        summary = deployment.summary()
    assert summary.deaths >= 1
    assert summary.over_capacity == 0
    assert summary.decisions > 20


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"agents_per_actor": 0}, "agents_per_actor must be at least 1, got 0"),
        ({"quorum": 1.5}, "quorum must be from 0 to 1, got 1.5"),
        ({"patience": 0.5}, "patience must be at least 1, got 0.5"),
        ({"interval": -1.0}, "interval must be zero seconds or more, got -1.0"),
    ],
)
def test_wrong_options_are_named(option: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Options(**option)


def test_answers_travel_whole() -> None:
    answer = Answer(3, np.zeros((2, 5)))
    assert ray.get(ray.put(answer)).step == 3


def test_an_agreement_that_takes_longer_than_a_decision_may_is_told_beforehand(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for protocol, told in (("gossip", True), ("centralized", False), ("none", False)):
        config = config_of(protocol, message_timeout=1e-4)
        caplog.clear()
        _warn_of_long_agreements(SimulatedPlant(config.environment, 0), config.coordination, 3)
        assert ("for the 3 agents of a process that is about" in caplog.text) is told
    config = config_of("gossip")
    caplog.clear()
    _warn_of_long_agreements(SimulatedPlant(config.environment, 0), config.coordination, 3)
    assert not caplog.text


def test_processes_that_do_not_start_in_time_are_counted_and_none_is_left() -> None:
    with pytest.raises(
        FleetError,
        match=r"2 processes of agents must start, the next within 0.001 s of the one before, got 0 that did",
    ):
        deploy(options=Options(agents_per_actor=2, start_timeout=0.001))
