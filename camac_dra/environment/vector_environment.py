"""The decision problem: B copies of N agents that share R resources under K capacities, stepped at once.

One step: agents see their pending demand and ask; what they ask may be cut by an agreement; where requests
exceed a capacity, contention makes part of it unusable; a mechanism grants; what is served leaves the queues;
the rest waits or is lost; everybody is rewarded.

Axes, always in this order: B parallel copies, N agents, R resources, K capacity groups.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from camac_dra.environment.agreement import Agreement, AgreementContext, Negotiation, in_fair_shares
from camac_dra.environment.constraints import Constraints
from camac_dra.environment.dynamics import Dynamics, make_dynamics
from camac_dra.environment.dynamics.sessions import SessionsDynamics
from camac_dra.environment.measures import episode_measures
from camac_dra.environment.objective import Objective, drawn_weights
from camac_dra.environment.observation import make_observer
from camac_dra.environment.physics import Flows
from camac_dra.environment.plant import Plant
from camac_dra.environment.preferences import Preferences
from camac_dra.environment.request_reader import RequestReader
from camac_dra.environment.reward import Decision, refuse_joint_rewards, settled
from camac_dra.environment.rewarders import make_rewarder
from camac_dra.environment.seeds import checked_seed, generators
from camac_dra.environment.service_order import service_order_of
from camac_dra.environment.settings import environment_section, refuse_missing_agreement
from camac_dra.environment.snapshot import restore, snapshot
from camac_dra.environment.state import EnvironmentState, fair_share_now
from camac_dra.environment.step_info import step_info
from camac_dra.environment.topology import Topology
from camac_dra.environment.totals import Totals
from camac_dra.environment.vector_api import Flags, StepResult
from camac_dra.utils.errors import ActionError, ConfigurationError
from camac_dra.utils.schema.environment import EnvironmentConfig


class VectorEnvironment:
    """B copies of the allocation problem in lockstep: arrays in, arrays out.

    All copies are at the same step of their episodes. Draws come from generators of this environment's own,
    spawned from one seed (exogenous events, mechanism, communication, preferences): the same seed gives the
    same demand, prices and outages whatever the agents do, so policies can be compared on the same episodes.

    Attributes:
        config: the ``environment`` section.
        state: what may be looked at before deciding (see `EnvironmentState`).
        observations: (B, N, *observation_shape) float32, as last returned by ``reset`` or ``step``.
        constraints: capacity groups, limits, access.
        topology: who hears whom.
        agreement: what happens between request and contention, or None.
    """

    def __init__(
        self,
        config: EnvironmentConfig | Mapping[str, Any],
        num_envs: int = 1,
        seed: int | None = None,
        agreement: Agreement | None = None,
        autoreset: bool = True,
        dynamics: Callable[[Constraints], Dynamics] | None = None,
    ) -> None:
        """Build ``num_envs`` copies; they are ready to step after ``reset``.

        Args:
            config: the ``environment`` section, or a whole configuration.
            num_envs: B.
            seed: seed of the first ``reset``; None takes ``config.seed``.
            agreement: what happens between request and contention; None: nothing.
            autoreset: start a new episode as soon as one ends (see `StepResult`); without it,
                stepping past the end raises ``ActionError``.
            dynamics: makes where demand, capacity, price and presence come from, for the problem's
                constraints; None: what ``config`` describes.

        Raises:
            ConfigurationError: a setting, ``num_envs`` or ``seed`` is wrong.
            TraceError, TopologyError: a trace or graph file is wrong.
        """
        self.config = environment_section(config)
        refuse_missing_agreement(config, agreement)
        seed = self.config.seed if seed is None else checked_seed(seed)
        if num_envs < 1:
            raise ConfigurationError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs = num_envs
        self.num_agents, self.num_resources = self.config.num_agents, self.config.num_resources
        self.agent_ids, self.resource_ids = self.config.agent_ids, self.config.resource_ids
        self.episode_length = self.config.max_episode_length
        self.agreement = agreement
        self.autoreset = autoreset
        self.constraints = Constraints.from_config(self.config)
        self.num_groups = self.constraints.num_groups
        self.topology = Topology.generate(self.config.topology, self.agent_ids, self.config.topology_options)
        self.dynamics = (
            make_dynamics(self.config, self.constraints, num_envs)
            if dynamics is None
            else dynamics(self.constraints)
        )
        self._preferences = Preferences(self.config, num_envs)
        extra = self._preferences.num_features
        self._observer = make_observer(
            self.config, self.constraints, self.topology, self.dynamics, num_envs, extra
        )
        menu = self.dynamics.menu if isinstance(self.dynamics, SessionsDynamics) else None
        self._reader = RequestReader(self.config, self.constraints, num_envs, menu)
        order = service_order_of(self.dynamics)
        self._plant = Plant(self.config, self.constraints, self.dynamics.nominal_capacity, order)
        self._rewarder = make_rewarder(self.config, self.constraints, self._plant, self._preferences)
        self._scale = 1.0 / (self.constraints.fair_share[None] * self.num_resources)  # (1, N, R)
        self._ones = np.ones(self.num_agents)  # whose product with an array is its sum over agents
        self._flags = Flags.of(num_envs, self.num_agents)
        self._seed_generators(seed)
        self.state: EnvironmentState
        self._totals: Totals
        self._objective: Objective
        self._deferral_price: float | None = None
        self._deferring: Objective | None  # what agents are rewarded by, where that is not the objective
        self._by_resource = False
        self._over = True

    # Spaces and actions -----------------------------------------------------------------------------

    @property
    def single_observation_space(self) -> spaces.Box:
        """Observations of one agent, float32."""
        return spaces.Box(-np.inf, np.inf, self._observer.shape, np.float32)

    @property
    def single_action_space(self) -> spaces.Space[Any]:
        """Actions of one agent: a level for the bundle, a level or a number in [0, 1] per resource."""
        return self._reader.space

    @property
    def mechanism(self) -> str:
        """Name of the mechanism in force."""
        return self._plant.mechanism

    @property
    def contention(self) -> float:
        """Strength of the contention in force."""
        return self._plant.contention

    @property
    def present(self) -> np.ndarray:
        """(B, N) bool: which agents take part in the next decision."""
        present = self.state.draw.present
        return self._flags.everybody if present is None else present

    def askable(self) -> np.ndarray:
        """Return the most that each agent may ask for (B, N, R): what is pending, within its limit."""
        return self._reader.askable(self.state)

    def menu(self) -> np.ndarray | None:
        """Return what each level asks for now (B, N, L, R), where levels choose among plans; else None."""
        return self._reader.menu(self.state)

    def requests_from_actions(self, actions: np.ndarray) -> np.ndarray:
        """Return the requests (B, N, R) that ``actions`` mean now; those of absent agents are ignored.

        Args:
            actions: (B, N) levels, (B, N, R) levels, or (B, N, R) shares of the largest request in [0, 1].

        Raises:
            ActionError: an action is out of range, of the wrong type or not finite, or the shape is wrong.
        """
        return self._reader.from_actions(actions, self.state)

    def grants_of(self, requests: np.ndarray) -> np.ndarray:
        """Return what requests (B, N, R) in the resources' units would be granted now; nothing changes.

        Raises:
            ActionError: a request is negative or NaN, or the shape does not fit.
        """
        asked = self._reader.from_amounts(requests, self.state)
        return self._plant.flows(asked, self.state, copy.deepcopy(self._rngs["mechanism"])).grants

    # Episodes ---------------------------------------------------------------------------------------

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Start new episodes in all copies and return observations (B, N, *observation_shape) float32.

        With a ``seed`` the generators start anew; without one they go on, so that every reset brings other
        episodes.

        Raises:
            ConfigurationError: the seed is negative or no whole number; then nothing has changed.
        """
        if seed is not None:
            self._seed_generators(checked_seed(seed))
        self._begin_episodes()
        return self._observe()

    def step(self, actions: np.ndarray) -> StepResult:
        """Advance all copies by one step with ``actions`` as in `requests_from_actions`.

        The result's ``info`` is what `step_info` says.

        Raises:
            ActionError: actions do not fit, or the episode is over and ``autoreset`` is off.
        """
        self._refuse_if_over()
        return self._advance(self.requests_from_actions(actions))

    def step_requests(self, requests: np.ndarray) -> StepResult:
        """Advance all copies by one step with requests (B, N, R) in the resources' units, cut to `askable`.

        Raises:
            ActionError: a request is negative or NaN, the shape does not fit, or the episode is over.
        """
        self._refuse_if_over()
        return self._advance(self._reader.from_amounts(requests, self.state))

    def measures(self) -> list[dict[str, float]]:
        """Return the measures of each copy's episode so far (see `episode_measures`)."""
        return episode_measures(self._totals, self.constraints, self.state.time, self.config.slo_target)

    def set_contention(self, contention: float) -> None:
        """Change the strength of the contention from the next step on.

        Raises:
            ConfigurationError: it is negative or not finite.
        """
        self._plant.set_contention(contention)

    def set_mechanism(self, mechanism: str) -> None:
        """Change how conflicts are resolved from the next step on.

        Raises:
            AllocationError: no mechanism has that name.
            ConfigurationError: it draws lots, under which the marginal credit is not defined.
        """
        self._plant.set_mechanism(mechanism)

    def set_deferral_price(self, price: float | None) -> None:
        """Reward agents from the next reset on by `Objective.deferring`, at 0 or more; None: as before.

        That is for learning: all measures but ``reward`` stay as they are.
        """
        self._deferral_price = price

    def set_rewards_by_resource(self, wanted: bool) -> None:
        """Return rewards by resource too, from the next step on, or no longer; see `StepResult`.

        Raises:
            ConfigurationError: see `refuse_joint_rewards`.
        """
        if wanted:
            refuse_joint_rewards(self.config)
        self._by_resource = wanted

    @property
    def preferences(self) -> np.ndarray | None:
        """(B, O) weights of the objectives now; None unless reward_function is `weighted`."""
        return self._preferences.now

    def set_preference(self, weights: Mapping[str, float] | Sequence[float] | None) -> None:
        """Weigh the objectives like this, and show it, from the next reset on; None: draw weights again.

        Weights are divided by their sum, as drawn ones add up to 1; those left out of a mapping are 0.

        Raises:
            ConfigurationError: objective_weights is not `sampled`, or `checked_weights` refuses them; then
                nothing has changed.
        """
        self._preferences.fix(weights)

    def get_state(self) -> dict[str, Any]:
        """Return everything the future depends on, as a nested dict of arrays, numbers and strings."""
        return snapshot(self)

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue exactly from what ``get_state`` returned, with the same configuration and size.

        Raises:
            CheckpointError: the state is of an environment of another size; then nothing has changed.
        """
        restore(self, state)

    def close(self) -> None:
        """Nothing to release; stepping afterwards needs a reset."""
        self._over = True

    # The step ---------------------------------------------------------------------------------------

    def _advance(self, requests: np.ndarray) -> StepResult:
        """Run one step with requests (B, N, R) that are known to be within `askable`."""
        state, draw = self.state, self.state.draw
        active = self.present
        intended, negotiation = requests, None
        if self.agreement is not None:
            negotiation = Negotiation(self.agreement, self._agreement_context())
            requests = negotiation.agree(intended)
        flows = self._plant.flows(requests, state, self._rngs["mechanism"])
        objective, agree = self._objective, None if negotiation is None else negotiation.agree_again
        price = objective.price(draw.price)  # (B or 1, N, R)
        values = earned = objective.values(price, state.pending, *flows.fates)
        self._totals.add(draw, flows, values)
        if self._deferring is not None:
            objective = self._deferring
        if self._by_resource:
            earned = objective.by_resource(price, state.pending, *flows.fates)
        elif objective is not self._objective:
            earned = objective.values(price, state.pending, *flows.fates)
        decision = Decision(intended, flows, state, agree, objective, price, earned)
        credited, by_objective = self._rewarder.rewards(decision, self._totals)
        rewards, by_resource = settled(credited, draw.present)
        self._totals.reward += rewards @ self._ones
        info = step_info(state, flows, requests, values, by_objective)
        truncated = state.time + 1 >= self.episode_length
        self._enter(state.time + 1, flows, requests)
        result = self._result(rewards, active, truncated, info)
        result.rewards_by_resource = by_resource
        return result

    def _agreement_context(self) -> AgreementContext:
        """Return what an agreement may use in this step."""
        s, groups, rng = self.state, self.constraints.groups, self._rngs["communication"]
        queues = in_fair_shares(self.askable(), self.constraints.fair_share)  # (B, N, R)
        return AgreementContext(s.draw.capacity, groups, s.weights, queues, self.present, s.time, rng)

    def _enter(self, time: int, flows: Flows, requests: np.ndarray) -> None:
        """Move to step ``time``: draw its events, put the new demand on top of what waits."""
        state = self.state
        state.last_request, state.last_grant = requests, flows.grants
        state.last_load, state.last_overload = flows.relative_load, flows.overload
        state.time, state.backlog = time, flows.backlog
        state.draw = self.dynamics.draw(self._rngs["exogenous"], time)
        state.pending = state.backlog + state.draw.arrivals
        state.fair_share = fair_share_now(state.draw, self.constraints, self.dynamics.nominal_capacity)

    def _result(
        self, rewards: np.ndarray, active: np.ndarray, truncated: bool, info: dict[str, np.ndarray]
    ) -> StepResult:
        """Return the step's result, and start new episodes where the old ones are over."""
        observations = self._observe()
        result = StepResult(
            observations=observations,
            rewards=rewards,
            terminated=self._flags.nobody,
            truncated=self._flags.all_copies if truncated else self._flags.no_copies,
            active=active,
            present=self.present,
            done=self._flags.all_copies if truncated else self._flags.no_copies,
            info=info,
        )
        if truncated:
            result.final_observations = observations
            result.episodes = self.measures()
            self._over = True
            if self.autoreset:
                self._begin_episodes()
                result.observations, result.present = self._observe(), self.present
        return result

    # Internals --------------------------------------------------------------------------------------

    def _seed_generators(self, seed: int) -> None:
        """Make the generators of this environment from one seed."""
        self._rngs = generators(seed)
        self.dynamics.restart()

    def _begin_episodes(self) -> None:
        """Start new episodes in all copies."""
        rng, config = self._rngs["exogenous"], self.config
        cells = (self.num_envs, self.num_agents, self.num_resources)
        weights = drawn_weights(config, rng, self.num_envs)  # (B, N)
        self.dynamics.begin(rng)
        draw = self.dynamics.draw(rng, 0)
        share = fair_share_now(draw, self.constraints, self.dynamics.nominal_capacity)
        self.state = EnvironmentState.at_start(draw, weights, share, self.num_groups)
        self._totals = Totals.zeros(cells, self.num_groups)
        self._preferences.begin(self._rngs["preference"])
        self._rewarder.begin(self.num_envs)
        self._value(weights)
        self._over = False

    def _value(self, weights: np.ndarray) -> None:
        """Take these as the weights (B, N) of the running episodes."""
        costs = (self.config.holding_cost, self.config.loss_cost)
        self._objective = Objective.of(weights, self._scale, *costs)
        price = self._deferral_price
        self._deferring = None if price is None else self._objective.deferring(weights, price)
        self._observer.begin(weights, self._preferences.now if self._preferences.shown else None)

    def _observe(self) -> np.ndarray:
        """Return observations of the current state; called once per step."""
        self.observations = self._observer.observe(self.state, self._rngs["communication"])
        return self.observations

    def _refuse_if_over(self) -> None:
        """Raise where there is no running episode."""
        if self._over:
            raise ActionError("step: no episode is running; call reset() first")
