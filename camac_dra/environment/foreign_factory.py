"""From the dotted path in ``environment.factory`` to environments."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from camac_dra.environment.foreign import ForeignVectorEnvironment
from camac_dra.utils.dotted import import_callable
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.schema import EnvironmentConfig

_SETTING = "environment.factory"


@dataclass(frozen=True)
class ForeignFactory:
    """Makes vector environments out of somebody else's environments; travels to remote env runners.

    The path is imported where environments are made: it must come from the user's own configuration, and be
    importable in every sampling process.
    """

    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    max_episode_length: int | None = None
    agent_indicator: bool = False

    @classmethod
    def of(cls, config: EnvironmentConfig) -> ForeignFactory:
        """Return the factory that an ``environment`` section names.

        Raises:
            ConfigurationError: it names none.
        """
        if config.factory is None:
            raise ConfigurationError(f"{_SETTING}: must be a dotted path, got null")
        options = dict(config.factory_options)
        return cls(config.factory, options, config.max_episode_length, config.agent_indicator)

    def __call__(self, num_envs: int, seed: int, *, autoreset: bool = True) -> ForeignVectorEnvironment:
        """Return ``num_envs`` copies whose episodes' seeds come from ``seed``.

        Raises:
            ConfigurationError: the path leads nowhere, what is there makes no ParallelEnv, or one whose
                spaces are not supported.
        """
        try:
            return ForeignVectorEnvironment(
                self.make,
                num_envs,
                seed,
                max_steps=self.max_episode_length,
                indicator=self.agent_indicator,
                autoreset=autoreset,
            )
        except ConfigurationError as error:
            text = str(error)
            raise ConfigurationError(
                text if text.startswith(_SETTING) else f"{_SETTING}: {self.path}: {text}"
            ) from error

    def make(self) -> Any:
        """Return one environment as its author made it.

        Raises:
            ConfigurationError: the path leads nowhere, or what is there refuses the options.
        """
        factory = self._imported()
        try:
            return factory(**self.options)
        except Exception as error:  # whatever somebody else's code raises
            given = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
            raise ConfigurationError(
                f"{_SETTING}: {self.path}({given}) must return an environment, but raised "
                f"{type(error).__name__}: {error}; its arguments are environment.factory_options"
            ) from error

    def _imported(self) -> Any:
        """Return the callable at the path; for a module, say which of its names may have been meant."""
        try:
            return import_callable(self.path, _SETTING)
        except ConfigurationError:
            module = _module_at(self.path)
            if module is None:
                raise
            hint = next((name for name in ("parallel_env", "env") if hasattr(module, name)), "MAKER")
            raise ConfigurationError(
                f"{_SETTING}: must be the dotted path of a function or class, got the module {self.path!r}: "
                f"name what in it makes the environment, {self.path}.{hint}"
            ) from None


def _module_at(path: str) -> ModuleType | None:
    with suppress(Exception):  # whatever somebody else's module raises
        return importlib.import_module(path)
    return None
