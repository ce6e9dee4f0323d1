"""Configuration, files, records and statistics; imports nothing else of the package."""

from camac_dra.utils.config_loader import ConfigLoader
from camac_dra.utils.environment_validator import EnvironmentValidator
from camac_dra.utils.errors import CamacError, CapabilityError, ConfigurationError

__all__ = ["CamacError", "CapabilityError", "ConfigLoader", "ConfigurationError", "EnvironmentValidator"]
