"""``EnvironmentValidator``: everything about a configuration that can be checked before anything is built."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from camac_dra.utils.errors import ConfigurationError, did_you_mean
from camac_dra.utils.schema import KNOWN_MODELS, Config, EnvironmentConfig, ModelConfig
from camac_dra.utils.validation import Origin, Problem, invalid, validated

DOTTED = r"[^\W\d]\w*(\.[^\W\d]\w*)+"  # a dotted path such as package.module.name
BUILTIN = "builtin:"  # prefix of data sets that come with the package
UNIMPORTABLE = "unimportable:"  # prefix of a reward function that a saved configuration could not name


class EnvironmentValidator:
    """Checks a whole configuration: the schema, and the names and files that it refers to."""

    def __init__(self, config: Mapping[str, Any] | Config, origin: Origin | None = None) -> None:
        self.config = config
        self.origin = origin

    def validate(self) -> Config:
        """Return the typed configuration.

        Raises:
            ConfigurationError: lists every setting that is wrong.
        """
        config = validated(self.config, self.origin)
        problems = [
            *unknown_names(config.environment),
            *missing_files(config.environment),
            *_reward_path(config.environment),
            *_model_type(config.model),
            *_foreign_paths(config.environment),
        ]
        if problems:
            raise invalid(problems, self.origin)
        return config

    def is_valid(self) -> bool:
        """Return whether ``validate`` finds nothing wrong."""
        try:
            self.validate()
        except ConfigurationError:
            return False
        return True


def check_model_sizes(model: ModelConfig, observation_size: int, num_actions: int) -> None:
    """Compare the sizes a model was given with what the environment turned out to have.

    Args:
        model: the ``model`` section; sizes left out (null) fit anything.
        observation_size: numbers in an agent's observation.
        num_actions: levels of a discrete action (per resource, where it is multi-discrete), or the numbers of
            a continuous one.

    Raises:
        ConfigurationError: a size differs; the message has both numbers.
    """
    wanted = {"state_size": observation_size, "action_size": num_actions}
    problems = [
        Problem(
            f"model.{name}",
            f"must be {size}, as the environment has, got {getattr(model, name)}; null takes it from there",
        )
        for name, size in wanted.items()
        if getattr(model, name) not in (None, size)
    ]
    if problems:
        raise invalid(problems)


def unknown_names(environment: EnvironmentConfig) -> Iterator[Problem]:
    """Yield a problem for each agent or resource that ``constraints`` names but is not there."""
    constraints = environment.constraints
    for i, group in enumerate(constraints.groups or ()):
        path = f"environment.constraints.groups.{i}"
        yield from _unknown_agents(environment, f"{path}.agents", group.agents)
        yield from _unknown_resources(environment, f"{path}.limits", group.limits)
    yield from _unknown_resources(
        environment, "environment.constraints.agent_limits", constraints.agent_limits
    )
    yield from _unknown_resources(environment, "environment.constraints.access", constraints.access or {})
    for resource, agents in (constraints.access or {}).items():
        yield from _unknown_agents(environment, f"environment.constraints.access.{resource}", agents)


def _unknown_agents(environment: EnvironmentConfig, path: str, agents: list[int | str]) -> Iterator[Problem]:
    known = set(environment.agent_ids)
    most = environment.num_agents - 1
    for i, agent in enumerate(agents):
        if isinstance(agent, int) and not 0 <= agent <= most:
            yield Problem(f"{path}.{i}", f"must be an agent, from 0 to {most}, got {agent}")
        elif isinstance(agent, str) and agent not in known:
            names = f"{environment.agent_prefix}_0 to {environment.agent_prefix}_{most}"
            yield Problem(f"{path}.{i}", f"must be an agent, {names}, got {agent!r}")


def _unknown_resources(
    environment: EnvironmentConfig, path: str, limits: Mapping[str, Any]
) -> Iterator[Problem]:
    known = environment.resource_ids
    for name in limits:
        if name not in known:
            rule = f"must be a resource, one of {', '.join(known)}, got {name!r}"
            yield Problem(f"{path}.{name}", f"{rule}.{did_you_mean(name, known)}")


def missing_files(environment: EnvironmentConfig) -> Iterator[Problem]:
    """Yield a problem for each file that is named and is not there."""
    dynamics = environment.dynamics
    yield from _missing_file("topology_options.file", environment.topology_options.file)
    for kind in ("replay", "sessions"):
        section = getattr(dynamics, kind)
        for path, part in ((kind, section), (f"{kind}.evaluation", getattr(section, "evaluation", None))):
            for name in ("demand", "sessions", "price", "capacity"):
                yield from _missing_file(f"dynamics.{path}.{name}", getattr(part, name, None))


def _missing_file(path: str, file: str | None) -> Iterator[Problem]:
    if file is not None and not file.startswith(BUILTIN) and not Path(file).is_file():
        rule = f"must be a file, got {file!r}, which is not there (seen from {Path.cwd()})"
        yield Problem(f"environment.{path}", rule)


def _model_type(model: ModelConfig) -> Iterator[Problem]:
    kind = model.type
    if kind not in KNOWN_MODELS and not re.fullmatch(DOTTED, kind):
        known = f"must be one of {', '.join(KNOWN_MODELS)}, or the dotted path of a class, got {kind!r}"
        yield Problem("model.type", f"{known}.{did_you_mean(kind, KNOWN_MODELS)}")


def _reward_path(environment: EnvironmentConfig) -> Iterator[Problem]:
    path = environment.reward_fn
    if not isinstance(path, str):
        return
    if path.startswith(UNIMPORTABLE):
        name = path.removeprefix(UNIMPORTABLE)
        yield Problem(
            "environment.reward_fn", f"was {name}, which cannot be imported: pass the function again"
        )
    elif not re.fullmatch(DOTTED, path):
        yield Problem(
            "environment.reward_fn", f"must be a dotted path such as package.module.function, got {path!r}"
        )


def _foreign_paths(environment: EnvironmentConfig) -> Iterator[Problem]:
    paths = {f"environment.baselines.{i}": path for i, path in enumerate(environment.baselines)}
    if environment.factory is not None:
        paths["environment.factory"] = environment.factory
    for name, path in paths.items():
        if not re.fullmatch(DOTTED, path):
            yield Problem(name, f"must be a dotted path such as package.module.function, got {path!r}")
    names = [path.rpartition(".")[2] for path in environment.baselines]
    for i, name in enumerate(names):
        if name in {*names[:i], "trained", "random"}:
            yield Problem(f"environment.baselines.{i}", f"must have a function name of its own, got {name!r}")
