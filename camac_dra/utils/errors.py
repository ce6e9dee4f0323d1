"""The exceptions of CAMAC-DRA, one per cause.

::

    CamacError ├── ConfigurationError (ValueError)   a setting is unknown, of the wrong type, out of range,
    contradictory │   └── CapabilityError               a known setting whose capability this version does
    not have ├── AllocationError (ValueError)      arguments of an allocation mechanism do not fit ├──
    ActionError (ValueError)          actions are missing, unknown, out of range or not finite ├──
    TraceError (ValueError)           a data file has missing columns, gaps, NaN or negative amounts ├──
    TopologyError (ValueError)        a graph is malformed or names an unknown agent ├── ResourceError
    (ValueError)        an unknown resource or an impossible amount ├── ProtocolError (ValueError)
    agents cannot be coordinated together, or the strategy is unknown ├── AgentError (ValueError)
    an agent is unknown or there twice, or its state makes no sense ├── StateSyncError (ValueError)       a
    message or setting of the state synchronisation is malformed ├── StatisticsError (ValueError)
    numbers given to a statistic are empty, not finite or of wrong shape ├── FleetError (RuntimeError)
    processes of agents do not start ├── PlantError (RuntimeError)         what is measured of a real plant
    makes no sense ├── OracleError (RuntimeError)        the linear programme of the optimum could not be
    solved ├── ModelError (ValueError)           a model cannot take what it was given, or cannot do what is
    asked ├── ExperienceError (ValueError)      an experience does not fit a replay buffer, or it has too
    few ├── CheckpointError (RuntimeError)    a checkpoint is truncated, foreign or of another version │   └──
    EpisodesLostError                         running episodes of a foreign environment cannot be restored ├──
    OutputError (OSError)             results cannot be written ├── BusError                          the
    message bus │   ├── BusArgumentError (ValueError)           an argument of the bus is out of range or of
    the wrong type │   ├── MessageError (ValueError)               a message is no dict, cannot be encoded,
    or is too large │   ├── UnknownAgentError (LookupError)         an agent is not registered here │   ├──
    DuplicateAgentError (ValueError)        an agent of that name is registered already │   ├──
    BusClosedError (RuntimeError)           the bus was closed, or its actors are gone for good │   ├──
    BusNameError (ValueError)               another bus of that name exists, or none does │   ├──
    BusPlacementError (RuntimeError)        the cluster has no room for the bus's actors │   ├──
    JournalError (OSError)                  the journal cannot be written or read │   └──
    MessageDeliveryTimeout (TimeoutError)   what was admitted is not acknowledged in time └──
    TrainingDivergedError (ArithmeticError)   a loss or a weight is not finite

Every message names the thing, the rule, the value it got and what would be right. All of them pickle, because
they cross process borders on Ray: they are built from their message alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CamacError(Exception):
    """Root of all errors that CAMAC-DRA raises on purpose."""


class ConfigurationError(CamacError, ValueError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another one."""


class CapabilityError(ConfigurationError):
    """A setting that is known but whose capability this version does not have."""


class AllocationError(CamacError, ValueError):
    """Arguments of an allocation mechanism do not fit together or are out of range."""


class ActionError(CamacError, ValueError):
    """Actions are missing for present agents, given for unknown ones, out of range or not finite."""


class TraceError(CamacError, ValueError):
    """A data file has missing columns, gaps, NaN or negative amounts; the message names file and line."""


class TopologyError(CamacError, ValueError):
    """A graph is malformed, or an edge names an agent that does not exist."""


class ResourceError(CamacError, ValueError):
    """A resource is unknown, or an amount is negative or not finite."""


class ProtocolError(CamacError, ValueError):
    """Agents cannot be coordinated together, or a strategy of coordination is unknown."""


class AgentError(CamacError, ValueError):
    """An agent is unknown or there twice, or what it is given as its state makes no sense."""


class StateSyncError(CamacError, ValueError):
    """A message between replicas of agents' states is malformed, or a setting of theirs out of range."""


class StatisticsError(CamacError, ValueError):
    """Numbers given to a statistic are empty, not finite, or of the wrong shape."""


class FleetError(CamacError, RuntimeError):
    """Processes of agents do not start on the cluster."""


class UnpreparedError(FleetError):
    """A process of agents was asked to decide, and has started anew since it was prepared."""


class PlantError(CamacError, RuntimeError):
    """What is measured of a real plant has the wrong shape, is negative or not finite."""


class OracleError(CamacError, RuntimeError):
    """The linear programme of the clairvoyant optimum could not be solved."""


class ModelError(CamacError, ValueError):
    """Inputs of a model have the wrong shape, or it cannot do what is asked of it."""


class ExperienceError(CamacError, ValueError):
    """An experience does not fit a replay buffer, or more are asked of it than it has."""


class CheckpointError(CamacError, RuntimeError):
    """A checkpoint is truncated, of another version, or belongs to another problem."""


class EpisodesLostError(CheckpointError):
    """Running episodes of somebody else's environment cannot be restored; new ones have to begin."""


class OutputError(CamacError, OSError):
    """Results cannot be written where they were asked for."""


class BusError(CamacError):
    """Root of the errors of the message bus."""


class BusArgumentError(BusError, ValueError):
    """An argument of the message bus is out of range or of the wrong type."""


class MessageError(BusError, ValueError):
    """A message is not a dict, cannot be encoded, or exceeds ``max_message_bytes``."""


class UnknownAgentError(BusError, LookupError):
    """An agent sends or receives where it is not registered."""


class DuplicateAgentError(BusError, ValueError):
    """An agent of that name is registered and alive."""


class BusClosedError(BusError, RuntimeError):
    """The bus was closed, or its actors are gone for good."""


class BusNameError(BusError, ValueError):
    """Another bus of that name exists, or it has other settings."""


class BusPlacementError(BusError, RuntimeError):
    """The cluster has no room for an actor of the bus; the message says which resources are missing."""


class JournalError(BusError, OSError):
    """The journal of a bus cannot be written, or belongs to another one."""


class MessageDeliveryTimeout(BusError, TimeoutError):  # noqa: N818  the name that users know
    """What was admitted was not acknowledged in time."""


class TrainingDivergedError(CamacError, ArithmeticError):
    """A loss, a gradient or a weight is not finite; training stopped and the last good state was kept."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name nearest to ``name``, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
