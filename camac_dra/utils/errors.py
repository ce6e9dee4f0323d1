"""The exceptions of CAMAC-DRA, one per cause.

::

    CamacError
    ├── ConfigurationError (ValueError)   a setting is unknown, of the wrong type, out of range, contradictory
    │   └── CapabilityError               a known setting whose capability this version does not have
    ├── AllocationError (ValueError)      arguments of an allocation mechanism do not fit
    ├── ActionError (ValueError)          actions are missing, unknown, out of range or not finite
    ├── TraceError (ValueError)           a data file has missing columns, gaps, NaN or negative amounts
    ├── TopologyError (ValueError)        a graph is malformed or names an unknown agent
    ├── ResourceError (ValueError)        an unknown resource or an impossible amount
    ├── StateSyncError (ValueError)       a message or setting of the state synchronisation is malformed
    ├── StatisticsError (ValueError)      numbers given to a statistic are empty, not finite or of wrong shape
    ├── PlantError (RuntimeError)         what is measured of a real plant makes no sense
    ├── OracleError (RuntimeError)        the linear programme of the optimum could not be solved
    ├── ModelError (ValueError)           a model cannot take what it was given, or cannot do what is asked
    ├── CheckpointError (RuntimeError)    a checkpoint is truncated, foreign or of another version
    ├── OutputError (OSError)             results cannot be written
    └── TrainingDivergedError (ArithmeticError)   a loss or a weight is not finite

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


class StateSyncError(CamacError, ValueError):
    """A message between replicas of agents' states is malformed, or a setting of theirs out of range."""


class StatisticsError(CamacError, ValueError):
    """Numbers given to a statistic are empty, not finite, or of the wrong shape."""


class PlantError(CamacError, RuntimeError):
    """What is measured of a real plant has the wrong shape, is negative or not finite."""


class OracleError(CamacError, RuntimeError):
    """The linear programme of the clairvoyant optimum could not be solved."""


class ModelError(CamacError, ValueError):
    """Inputs of a model have the wrong shape, or it cannot do what is asked of it."""


class CheckpointError(CamacError, RuntimeError):
    """A checkpoint is truncated, of another version, or belongs to another problem."""


class OutputError(CamacError, OSError):
    """Results cannot be written where they were asked for."""


class TrainingDivergedError(CamacError, ArithmeticError):
    """A loss, a gradient or a weight is not finite; training stopped and the last good state was kept."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name nearest to ``name``, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
