"""From a configuration to what its environments do between request and contention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from camac_dra.coordination.agreements.averaging import AveragingAgreement
from camac_dra.coordination.agreements.central import CentralAgreement
from camac_dra.coordination.protocols.plan import plan_protocol
from camac_dra.environment.agreement import Agreement
from camac_dra.environment.constraints import Constraints
from camac_dra.environment.topology import Topology
from camac_dra.utils.schema import Config, CoordinationConfig, EnvironmentConfig
from camac_dra.utils.validation import validated


def make_agreement(config: Config | Mapping[str, Any]) -> Agreement | None:
    """Return the agreement that a whole configuration's ``coordination`` section asks for; None: none.

    It is the vectorised form of the very protocol that deployed agents run, made for the configuration's
    topology and capacity groups. It holds no state: environments, also in several processes, may share it.

    Raises:
        ConfigurationError: a setting is wrong, or the topology does not suit the protocol.
        TopologyError: a graph file is wrong.
    """
    whole = config if isinstance(config, Config) else validated(config)
    return agreement_for(whole.coordination, whole.environment)


def agreement_for(coordination: CoordinationConfig, environment: EnvironmentConfig) -> Agreement | None:
    """Return what `make_agreement` does, from the two sections that matter."""
    if coordination.protocol == "none":
        return None
    topology = Topology.generate(environment.topology, environment.agent_ids, environment.topology_options)
    constraints = Constraints.from_config(environment)
    plan = plan_protocol(coordination, topology)
    if plan.protocol == "centralized":
        return CentralAgreement(plan, constraints.fair_share)
    return AveragingAgreement(plan, constraints.groups, environment.num_resources)
