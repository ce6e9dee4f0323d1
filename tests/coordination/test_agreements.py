"""Protocols on arrays: the same as the state machines, under the same losses."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camac_dra.coordination import make_agreement
from camac_dra.coordination.agreements import AveragingAgreement, CentralAgreement, Lots, agreement_for
from camac_dra.coordination.agreements.mixing import Links
from camac_dra.coordination.protocols import COORDINATOR, MachineFactory, plan_protocol
from camac_dra.coordination.protocols.objectives import OBJECTIVES
from camac_dra.coordination.protocols.resolution import mechanism_of
from camac_dra.environment.agreement import AgreementContext, Negotiation, PerfectAgreement
from camac_dra.environment.constraints import Constraints
from camac_dra.environment.environment import Environment
from camac_dra.environment.topology import Topology
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema import CoordinationConfig, EnvironmentConfig

from .fake_network import FakeNetwork

OVERLAPPING = {
    "groups": [
        {"name": "a", "agents": [0, 1, 2], "limits": {"cpu": 6.0}},
        {"name": "b", "agents": [2, 3, 4], "limits": {"cpu": 5.0, "memory": 2.0}},
    ]
}
PROTOCOLS = ("centralized", "distributed_consensus", "gossip")


def problem(agents: int = 6, **more: Any) -> EnvironmentConfig:
    limits = {"cpu": 40.0, "memory": 8.0}
    section = {"num_agents": agents, "num_resources": 2, "resource_limits": limits, "max_episode_length": 8}
    return EnvironmentConfig.model_validate(section | more)


def context_of(config: EnvironmentConfig, copies: int, rng: np.random.Generator) -> AgreementContext:
    constraints = Constraints.from_config(config)
    cells = (copies, config.num_agents)
    weights = rng.choice([1.0, 2.0, 4.0], cells)
    capacity = constraints.capacity[None] * rng.uniform(0.7, 1.0, (copies, 1, 1))
    queues = rng.choice([0.0, 0.5, 1.0, 3.0, 8.0], (*cells, config.num_resources))
    return AgreementContext(capacity, constraints.groups, weights, queues, np.ones(cells, bool), 0, rng)


def intentions(config: EnvironmentConfig, copies: int, rng: np.random.Generator) -> np.ndarray:
    return rng.random((copies, config.num_agents, 2)) * 2.5 * Constraints.from_config(config).fair_share


def exactly(objective: str, requests: np.ndarray, context: AgreementContext) -> np.ndarray:
    """Return what agents with an objective would agree on (B, N, R) if they knew everything."""
    worth = OBJECTIVES[objective].worth(context.weights, context.queues)
    return mechanism_of(objective)(requests, context.capacity, context.groups, worth)


def by_machines(
    config: EnvironmentConfig, coordination: CoordinationConfig, lots: Any, requests: np.ndarray, context: Any
) -> np.ndarray:
    """Return what the state machines agree on, copy by copy, under the lots of the arrays."""
    topology = Topology.generate(config.topology, config.agent_ids, config.topology_options)
    plan = plan_protocol(coordination, topology)
    agreed = []
    for b in range(len(requests)):
        factory = MachineFactory(plan, topology, Constraints.from_config(config), lots=_Drawn(lots, b))
        network = FakeNetwork(factory, arrivals(lots, b, Links.of(plan), config.agent_ids))
        worth = plan.objective.worth(context.weights[b], context.queues[b])  # (N, 1 or R)
        agreed.append(network.decide(requests[b], context.weights[b], context.capacity[b], worth=worth))
    return np.array(agreed)


class _Drawn:
    """Lots that have been drawn already."""

    def __init__(self, lots: Any, copy: int) -> None:
        self._lots, self._copy = lots, copy

    def place(self, agent: int, decision: int, round_number: int, count: int) -> int:
        return int(self._lots.chosen[self._copy, round_number - 1, agent])


def arrivals(lots: Any, copy: int, links: Links, names: list[str]) -> Callable[[str, str, int], bool]:
    if isinstance(lots, np.ndarray):  # centralized: (B, T, 2, N)

        def on_trip(sender: str, recipient: str, trip: int) -> bool:
            answer = sender == COORDINATOR
            return bool(lots[copy, trip - 1, int(answer), names.index(recipient if answer else sender)])

        return on_trip
    if lots is None or lots.delivered is None:
        return lambda sender, recipient, number: True
    pairs = zip(links.senders, links.recipients, strict=True)
    number_of = {(names[i], names[j]): k for k, (i, j) in enumerate(pairs)}
    return lambda sender, recipient, number: bool(
        lots.delivered[copy, number - 1, number_of[sender, recipient]]
    )


@settings(max_examples=40)
@given(
    protocol=st.sampled_from(PROTOCOLS),
    objective=st.sampled_from(["proportional", "weighted", "max_weight"]),
    topology=st.sampled_from(["fully_connected", "ring", "star", "tree"]),
    constraints=st.sampled_from([{}, {"num_groups": 2}, OVERLAPPING]),
    loss=st.sampled_from([0.0, 0.05, 0.3]),
    delay=st.sampled_from([0, 0, 1, 2]),
    agents=st.integers(5, 7),
    seed=st.integers(0, 2**16),
)
def test_arrays_agree_as_the_machines_do(
    protocol: Any,
    objective: Any,
    topology: Any,
    constraints: Any,
    loss: float,
    delay: int,
    agents: int,
    seed: int,
) -> None:
    config = problem(agents, topology=topology, constraints=constraints)
    rounds = None if protocol == "centralized" else 14
    coordination = CoordinationConfig(
        protocol=protocol, objective=objective, message_loss=loss, message_delay=delay, rounds=rounds
    )
    rng = np.random.default_rng(seed)
    context, requests = context_of(config, 2, rng), intentions(config, 2, rng)
    agreement: Any = agreement_for(coordination, config)
    lots = agreement.draw_lots(rng, 2)
    decision = agreement.under(lots, context)
    agreed = decision(requests, 1)
    if protocol != "centralized":
        in_rounds = decision.after_every_round(requests)[-1]
        np.testing.assert_allclose(agreed, in_rounds, rtol=1e-9, atol=1e-9)
    expected = by_machines(config, coordination, lots, requests, context)
    np.testing.assert_allclose(agreed, expected, rtol=1e-9, atol=1e-9)
    assert (agreed <= requests).all()


def lossy(agreement: AveragingAgreement, context: AgreementContext, requests: np.ndarray) -> np.ndarray:
    return agreement.prepare(context)(requests, 1)


@pytest.mark.parametrize("protocol", ["distributed_consensus", "gossip"])
@pytest.mark.parametrize("loss", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("objective", ["proportional", "weighted", "max_weight"])
@pytest.mark.parametrize("topology", ["fully_connected", "ring"])
def test_enough_rounds_come_within_a_hundredth_of_the_central_allocation(
    protocol: Any, loss: float, objective: Any, topology: str
) -> None:
    config = problem(10, topology=topology)
    rng = np.random.default_rng(0)
    context, requests = context_of(config, 3, rng), intentions(config, 3, rng)
    settings = {"protocol": protocol, "objective": objective, "message_loss": loss}
    agreement: Any = agreement_for(CoordinationConfig(**settings, rounds=600), config)
    agreed = agreement(requests, context)
    exact = exactly(objective, requests, context)
    assert np.abs(agreed - exact).sum() <= 0.01 * exact.sum()
    assert (context.groups.load(agreed) <= 1.0015 * context.capacity).all()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("loss", [0.0, 0.05, 0.2])
def test_planned_rounds_suffice_for_the_sum_of_what_is_granted(protocol: Any, loss: float) -> None:
    config = problem(10)
    rng = np.random.default_rng(1)
    context, requests = context_of(config, 20, rng), intentions(config, 20, rng)
    agreement: Any = agreement_for(CoordinationConfig(protocol=protocol, message_loss=loss), config)
    agreed = agreement(requests, context)
    exact = PerfectAgreement()(requests, context)
    assert agreed.sum() == pytest.approx(exact.sum(), rel=0.02)


@given(
    protocol=st.sampled_from(PROTOCOLS),
    objective=st.sampled_from(["proportional", "weighted", "max_weight"]),
    loss=st.sampled_from([0.0, 0.3]),
    constraints=st.sampled_from([{}, {"num_groups": 2}, OVERLAPPING]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=25)
def test_other_requests_meet_the_same_lots(
    protocol: Any, objective: Any, loss: float, constraints: Any, seed: int
) -> None:
    config = problem(constraints=constraints)
    rounds = None if protocol == "centralized" else 8
    coordination = CoordinationConfig(
        protocol=protocol, objective=objective, message_loss=loss, rounds=rounds
    )
    rng = np.random.default_rng(seed)
    context, requests = context_of(config, 2, rng), intentions(config, 2, rng)
    agreement = agreement_for(coordination, config)
    assert agreement is not None
    negotiation = Negotiation(agreement, context)
    before = rng.bit_generator.state
    agreed = negotiation.agree(requests)
    others = [requests * np.array([1.0, 0.0, 1.0, 0.5, 1.0, 1.0])[:, None], requests]
    again = negotiation.agree_again(np.concatenate(others), 2)
    np.testing.assert_allclose(again[2:], agreed, rtol=1e-12)
    np.testing.assert_allclose(again[:2], negotiation.agree(others[0]), rtol=1e-12)
    assert rng.bit_generator.state == before


def test_exact_objectives_fit_and_waste_nothing() -> None:
    for constraints in ({}, {"num_groups": 3}, OVERLAPPING):
        config = problem(constraints=constraints)
        rng = np.random.default_rng(3)
        context, requests = context_of(config, 50, rng), intentions(config, 50, rng)
        for objective in OBJECTIVES:
            agreed = exactly(objective, requests, context)
            load = context.groups.load(agreed) / context.capacity
            assert (load <= 1.0 + 1e-9).all()
            assert (agreed <= requests).all()
            if context.groups.disjoint:
                wanted = context.groups.load(requests) / context.capacity
                np.testing.assert_allclose(load, np.minimum(wanted, 1.0), rtol=1e-6)


def test_weighted_agents_keep_their_weight_over_one_price() -> None:
    config = problem(3)
    context = context_of(config, 1, np.random.default_rng(0))
    context.capacity, context.weights = np.array([[[6.0, 6.0]]]), np.array([[1.0, 2.0, 4.0]])
    requests = np.array([[[4.0, 1.0], [4.0, 1.0], [2.0, 1.0]]])
    agreed = exactly("weighted", requests, context)
    # The dearest is kept whole; the others share what is left, 4, as 1 to 2: the price is 3.
    np.testing.assert_allclose(agreed, [[[4 / 3, 1.0], [8 / 3, 1.0], [2.0, 1.0]]], rtol=1e-6)


def test_of_two_alike_the_one_whose_queue_is_longer_keeps_more() -> None:
    config = problem(3)
    context = context_of(config, 1, np.random.default_rng(0))
    context.capacity, context.weights = np.array([[[6.0, 6.0]]]), np.array([[1.0, 1.0, 4.0]])
    context.queues = np.array([[[2.0, 1.0], [4.0, 1.0], [1.0, 1.0]]])
    requests = np.array([[[4.0, 4.0], [4.0, 4.0], [4.0, 1.0]]])
    # Worth 2, 4 and 4 of the first resource: its price is 20 / 3. Of the second, the third agent keeps all.
    expected = [[[1.2, 2.5], [2.4, 2.5], [2.4, 1.0]]]
    np.testing.assert_allclose(exactly("max_weight", requests, context), expected, rtol=1e-6)
    for protocol in ("centralized", "distributed_consensus"):
        agreement: Any = agreement_for(CoordinationConfig(protocol=protocol, objective="max_weight"), config)
        np.testing.assert_allclose(agreement(requests, context), expected, rtol=2e-3)


def test_a_trace_tells_how_overload_falls_from_round_to_round() -> None:
    config = problem(10, topology="ring")
    rng = np.random.default_rng(0)
    context, requests = context_of(config, 20, rng), 2.0 * intentions(config, 20, rng)
    agreement: Any = agreement_for(CoordinationConfig(protocol="distributed_consensus", rounds=40), config)
    trace = agreement.trace(requests, context)
    assert len(trace.agreed) == len(trace.overload) == len(trace.residual) == 40
    np.testing.assert_allclose(trace.agreed[-1], agreement(requests, context), rtol=1e-12)
    assert trace.overload[0] > 0.2 > 0.0 == trace.overload[-1]
    assert trace.residual[-1] < 1e-2 < trace.residual[0]


def test_costs_are_counted_per_recipient() -> None:
    config = problem(6, topology="ring")

    def cost(**settings: Any) -> tuple[int, int, int]:
        agreement: Any = agreement_for(CoordinationConfig(**settings), config)
        return agreement.rounds, agreement.messages, agreement.bytes

    # Two resources of one group and the weight of ratio consensus are three numbers.
    assert cost(protocol="distributed_consensus", rounds=5) == (5, 60, 60 * 24)
    assert cost(protocol="gossip", rounds=5) == (5, 30, 30 * 24)
    assert cost(protocol="centralized") == (2, 12, 12 * 16)
    assert cost(protocol="centralized", objective="max_weight") == (2, 12, 6 * 16 + 6 * 32)
    rounds, messages, _ = cost(protocol="centralized", message_loss=0.5)
    assert rounds == 10
    assert 12 < messages < 60


def test_no_protocol_is_no_agreement_and_one_travels() -> None:
    assert make_agreement(build_config(None, {})) is None
    config = build_config(None, {"coordination.protocol": "distributed_consensus"})
    agreement: Any = make_agreement(config)
    assert isinstance(agreement, AveragingAgreement)
    rng = np.random.default_rng(0)
    constraints = Constraints.from_config(config.environment)
    cells = (2, config.environment.num_agents)
    context = context_of(config.environment, 2, rng)
    requests = rng.random((*cells, config.environment.num_resources)) * 3.0 * constraints.fair_share
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(agreement))(requests, context), agreement(requests, context)
    )
    central = make_agreement({"coordination": {"protocol": "centralized"}})
    assert isinstance(central, CentralAgreement)


def test_one_agent_has_nobody_to_agree_with() -> None:
    config = problem(1)
    rng = np.random.default_rng(0)
    context = context_of(config, 2, rng)
    requests = np.full((2, 1, 2), 100.0)
    for protocol in PROTOCOLS:
        for loss in (0.0, 0.3):
            agreement: Any = agreement_for(CoordinationConfig(protocol=protocol, message_loss=loss), config)
            agreed = agreement(requests, context)
            assert (agreed <= np.maximum(context.capacity, Constraints.from_config(config).fair_share)).all()
            assert (agreed > 0.0).all()


def test_topologies_that_do_not_suit_are_refused() -> None:
    wide = problem(2001)
    with pytest.raises(ConfigurationError, match=r"gossip over a fully connected .* 2000 .* got 2001"):
        agreement_for(CoordinationConfig(protocol="gossip"), wide)
    assert agreement_for(CoordinationConfig(protocol="centralized"), wide) is not None
    apart = Topology(["a", "b", "c"], [("a", "b")])
    with pytest.raises(ConfigurationError, match="needs a connected topology, got separate parts"):
        plan_protocol(CoordinationConfig(protocol="distributed_consensus"), apart)


def test_an_environment_wants_the_agreement_that_its_configuration_names() -> None:
    whole = {"environment": problem().model_dump(), "coordination": {"protocol": "gossip"}}
    for make in (VectorEnvironment, Environment):
        with pytest.raises(
            ConfigurationError,
            match=r"'gossip' needs an agreement, got none: pass agreement=camac_dra\.coordination\.make_",
        ):
            make(whole)
    env = Environment(whole, agreement=make_agreement(whole))
    env.reset(seed=0)
    Environment(whole["environment"])


@pytest.mark.parametrize("credit", ["individual", "marginal"])
@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_environments_go_on_exactly_under_a_protocol(credit: str, loss: float) -> None:
    config = problem(credit=credit)
    coordination = CoordinationConfig(protocol="gossip", message_loss=loss, rounds=6)
    first = VectorEnvironment(config, 3, 1, agreement_for(coordination, config))
    second = VectorEnvironment(config, 3, 99, agreement_for(coordination, config))
    first.reset()
    for _ in range(3):
        first.step_requests(first.askable())
    second.set_state(first.get_state())
    for _ in range(3):
        one, other = (env.step_requests(env.askable()) for env in (first, second))
        np.testing.assert_array_equal(one.rewards, other.rewards)
        np.testing.assert_array_equal(one.info["requests"], other.info["requests"])


def test_what_is_lost_in_a_round_arrives_with_the_next() -> None:
    """Two agents: the first round's messages are lost, and nothing is lost for good."""
    config = problem(2)
    coordination = CoordinationConfig(protocol="distributed_consensus", message_loss=0.5, rounds=12)
    agreement: Any = agreement_for(coordination, config)
    rng = np.random.default_rng(0)
    context = context_of(config, 1, rng)
    requests = np.array([[[90.0, 30.0], [10.0, 10.0]]])
    delivered = np.ones((1, 12, 2), bool)
    delivered[0, :5] = False
    agreed = agreement.under(Lots(delivered, None), context)(requests, 1)
    exact = PerfectAgreement()(requests, context)
    np.testing.assert_allclose(agreed, exact, rtol=1e-9)


@pytest.mark.parametrize("constraints", [{"num_groups": 3}, OVERLAPPING])
def test_prices_come_to_rest_where_news_travels_slowly(constraints: dict[str, Any]) -> None:
    """Agents that answered sums which still move would chase each other's changes for ever."""
    config = problem(10, topology="ring", constraints=constraints)
    rng = np.random.default_rng(0)
    context, requests = context_of(config, 8, rng), intentions(config, 8, rng)
    settings = {"protocol": "distributed_consensus", "objective": "weighted"}
    agreement: Any = agreement_for(CoordinationConfig.model_validate(settings), config)
    assert agreement.rounds > 100
    agreed = agreement(requests, context)
    exact = exactly("weighted", requests, context)
    assert np.abs(agreed - exact).sum() <= 0.01 * exact.sum()
    assert (context.groups.load(agreed) <= 1.002 * context.capacity).all()
