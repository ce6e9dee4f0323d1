"""Configuration, files, records and statistics; imports nothing else of the package."""

from camac_dra.utils.config_loader import ConfigLoader
from camac_dra.utils.environment_validator import EnvironmentValidator
from camac_dra.utils.errors import (
    ActionError,
    AllocationError,
    CamacError,
    CapabilityError,
    CheckpointError,
    ConfigurationError,
    ExperienceError,
    OracleError,
    OutputError,
    ResourceError,
    StatisticsError,
    TopologyError,
    TraceError,
    TrainingDivergedError,
)
from camac_dra.utils.logger import Logger

__all__ = [
    "ActionError",
    "AllocationError",
    "CamacError",
    "CapabilityError",
    "CheckpointError",
    "ConfigLoader",
    "ConfigurationError",
    "EnvironmentValidator",
    "ExperienceError",
    "Logger",
    "OracleError",
    "OutputError",
    "ResourceError",
    "StatisticsError",
    "TopologyError",
    "TraceError",
    "TrainingDivergedError",
]
