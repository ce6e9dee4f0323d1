"""The oracle: what a planner who knows the whole episode in advance could earn, as sparse linear programmes.

It meets the same demand, capacities and prices as the policies it is compared with, but plans physical
grants: it is bound by neither the levels of the action space nor contention, and never asks
for more than fits.

Axes, always in this order: T steps, B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from camac_dra.environment.constraints import Constraints
from camac_dra.environment.physics import queue, serve
from camac_dra.environment.planning import Outlook, Plan, Planner, independent_parts
from camac_dra.environment.settings import environment_section
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.errors import OracleError
from camac_dra.utils.schema.environment import EnvironmentConfig

_PROPORTION_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Exogenous:
    """All that happens to the agents of B copies in one episode, in the units of the resources."""

    arrivals: np.ndarray  # (T, B, N, R)
    capacity: np.ndarray  # (T, B, K, R), infinite where a group does not bind
    price: np.ndarray  # (T, B, R) per fair share granted
    weights: np.ndarray  # (B, N)
    present: np.ndarray | None = None  # (T, B, N) bool; None: everybody, always
    leaving: np.ndarray | None = None  # (T, B, N) bool; None: nobody, ever
    service_yield: np.ndarray | None = None  # (T, B, N, R); None: 1


@dataclass(frozen=True, slots=True)
class OracleSolution:
    """The clairvoyant optimum of B episodes.

    Attributes:
        efficiency: (B,) certified upper bound of what any policy can earn. It is the optimum itself but for
            one freedom that no policy has: the planner may turn demand away before a queue is full, and so
            saves the cost of holding what is lost later. Where nothing is lost, nothing differs.
        attained: (B,) what the planner's grants really earn when played; at most ``efficiency``.
        grants: (T, B, N, R), feasible; requests that are granted in full.
    """

    efficiency: np.ndarray
    attained: np.ndarray
    grants: np.ndarray

    @property
    def gap(self) -> float:
        """Share of ``efficiency`` that the optimum may be below it, over all copies."""
        total = float(np.abs(self.efficiency).sum())
        return max(0.0, float((self.efficiency - self.attained).sum())) / total if total > 0.0 else 0.0


def record_episodes(config: EnvironmentConfig | Mapping[str, Any], num_envs: int, seed: int) -> Exogenous:
    """Return what happens in the first episodes of
    ``VectorEnvironment(config, num_envs)`` after ``reset(seed)``.

    Draws never depend on what agents do, so every policy that starts from this seed meets just this.

    Raises:
        ConfigurationError: a setting is wrong.
    """
    section = environment_section(config)
    # Nothing but the draws is wanted: the costly part of rewards is switched off.
    env = VectorEnvironment(section.model_copy(update={"credit": "individual", "reward_fn": None}), num_envs)
    env.reset(seed)
    weights, nothing = env.state.weights, np.zeros_like(env.state.pending)
    copies, draws = (num_envs,), []
    for _ in range(env.episode_length):
        draws.append(env.state.draw)
        env.step_requests(nothing)
    optional = {
        name: np.stack([getattr(draw, name) for draw in draws])
        for name in ("present", "leaving", "service_yield")
        if getattr(draws[0], name) is not None
    }
    return Exogenous(
        arrivals=np.stack([draw.arrivals for draw in draws]),
        capacity=np.stack(
            [np.broadcast_to(draw.capacity, copies + draw.capacity.shape[1:]) for draw in draws]
        ),
        price=np.stack([np.broadcast_to(draw.price, copies + draw.price.shape[1:]) for draw in draws]),
        weights=weights,
        **optional,
    )


def solve_oracle(
    config: EnvironmentConfig | Mapping[str, Any], exogenous: Exogenous, copies: Sequence[int] | None = None
) -> OracleSolution:
    """Return the optimum of the efficiency objective in the recorded episodes.

    Args:
        config: the problem they were recorded from.
        exogenous: from `record_episodes`.
        copies: the copies to solve, in this order; None: all B.

    Raises:
        OracleError: the optimum could not be certified, or bundles (coupling ``leontief``) of changing
            proportions are demanded, whose optimum is no linear programme.
    """
    section = environment_section(config)
    constraints = Constraints.from_config(section)
    chosen = np.arange(len(exogenous.weights)) if copies is None else np.asarray(copies, np.intp)  # (C,)
    grants = np.zeros((len(exogenous.arrivals), len(chosen), *exogenous.arrivals.shape[2:]))  # (T, B, N, R)
    efficiency = np.zeros(len(chosen))
    if section.coupling == "leontief":
        _refuse_unequal_shares(section, exogenous.arrivals)
    binds = np.isfinite(exogenous.capacity).any(axis=(0, 1))  # (K, R)
    parts = list(independent_parts(section, constraints, binds, len(exogenous.arrivals)))
    for b, copy in enumerate(chosen):
        for agents, resources in parts:
            plan = _solve_part(section, constraints, exogenous, copy, agents, resources)
            grants[:, b, agents[:, None], resources] = plan.grants
            efficiency[b] += plan.bound
    attained = _play(section, constraints, exogenous, chosen, grants)
    return OracleSolution(efficiency, attained, grants)


def _solve_part(
    config: EnvironmentConfig,
    constraints: Constraints,
    exogenous: Exogenous,
    copy: int,
    agents: np.ndarray,
    resources: np.ndarray,
) -> Plan:
    """Return the optimal plan of some agents (N,) and resources (R,) of one copy."""
    steps = len(exogenous.arrivals)
    planner = Planner(config, constraints, agents, resources, steps)

    def cells(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return array[:, copy][:, rows][:, :, resources]

    outlook = Outlook(
        lengths=np.ones(steps),
        arrivals=cells(exogenous.arrivals, agents),
        capacity=cells(exogenous.capacity, planner.groups),
        price=np.repeat(exogenous.price[:, copy][:, None, resources], len(agents), axis=1),
        weights=exogenous.weights[copy, agents],
        leaving=None if exogenous.leaving is None else exogenous.leaving[:, copy][:, agents],
        service_yield=None if exogenous.service_yield is None else cells(exogenous.service_yield, agents),
    )
    return planner.solve(outlook)


def _play(
    config: EnvironmentConfig,
    constraints: Constraints,
    exogenous: Exogenous,
    copies: np.ndarray,
    grants: np.ndarray,
) -> np.ndarray:
    """Return the efficiency (C,) of feasible ``grants`` (T, C, N, R) in
    the plant, which loses nothing early.
    """
    limit = None if config.backlog_limit is None else config.backlog_limit * constraints.fair_share  # (N, R)
    weights = exogenous.weights[copies][..., None]  # (C, N, 1)
    backlog, total = np.zeros(grants.shape[1:]), np.zeros(len(copies))  # (C, N, R), (C,)
    for t, planned in enumerate(grants):
        pending = backlog + exogenous.arrivals[t, copies]  # (C, N, R)
        used = np.minimum(planned, pending)
        gain = None if exogenous.service_yield is None else exogenous.service_yield[t, copies]
        served = serve(pending, used, gain, config.coupling == "leontief")
        leaving = None if exogenous.leaving is None else exogenous.leaving[t, copies]
        backlog, lost = queue(pending, served, limit, leaving)
        values = weights * (served - config.holding_cost * backlog - config.loss_cost * lost)
        values -= exogenous.price[t, copies][:, None] * used
        total += (values / constraints.fair_share).sum(axis=(1, 2)) / config.num_resources
    return total


def _refuse_unequal_shares(config: EnvironmentConfig, arrivals: np.ndarray) -> None:
    """Raise where what is pending does not stay in fixed proportions: the served share
    then multiplies a variable.
    """
    if config.backlog_limit is not None:
        raise OracleError(
            "environment.backlog_limit: must be null where the optimum of coupling 'leontief' is asked for, "
            f"which is no linear programme with a limit, got {config.backlog_limit:g}"
        )
    size = arrivals.sum(axis=3, keepdims=True)  # (T, B, N, 1)
    total = arrivals.sum(axis=0)  # (B, N, R)
    expected = size * total / np.maximum(total.sum(axis=2, keepdims=True), 1e-300)
    wrong = np.argwhere(np.abs(arrivals - expected) > _PROPORTION_TOLERANCE * size)
    if len(wrong):
        step, copy, agent, _ = (int(index) for index in wrong[0])
        raise OracleError(
            "environment.coupling: the optimum of 'leontief' is a linear programme only where every agent "
            f"demands its resources in fixed proportions, got {arrivals[step, copy, agent].tolist()} at step "
            f"{step} from agent {agent}, whose demand in the whole episode is {total[copy, agent].tolist()}"
        )
