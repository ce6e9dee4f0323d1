"""Settings that are known but whose capability this version does not have; each is refused by name."""

from __future__ import annotations

from collections.abc import Iterator

from camac_dra import __version__
from camac_dra.utils.errors import did_you_mean
from camac_dra.utils.schema import KNOWN_MODELS, Config
from camac_dra.utils.validation import Problem

MODELS = ("actor_critic", "dqn")
POLICIES = ("shared", "per_agent")
CRITICS = ("local",)
_THIS = f"version {__version__} does not have"


def missing_capabilities(config: Config) -> Iterator[Problem]:
    """Yield a problem for each setting that asks for what this version does not have yet."""
    training = config.training
    yield from _model(config.model.type)
    for path, value, available, needs in (
        ("training.policies", training.policies, POLICIES, "policies by group"),
        ("training.critic", training.critic, CRITICS, "the centralized critic"),
    ):
        if value not in available:
            yield _missing(path, f"{value!r} needs {needs}, which {_THIS}; it has {', '.join(available)}")


def _model(kind: str) -> Iterator[Problem]:
    if kind in MODELS:
        return
    has = f"it has {', '.join(MODELS)}"
    if kind in KNOWN_MODELS:
        yield _missing("model.type", f"{kind!r} needs a model and trainer that {_THIS}; {has}")
    elif "." in kind.strip("."):
        yield _missing("model.type", f"{kind!r} needs models by dotted path, which {_THIS}; {has}")
    else:
        known = f"must be one of {', '.join(KNOWN_MODELS)}, got {kind!r}"
        yield Problem("model.type", f"{known}.{did_you_mean(kind, KNOWN_MODELS)}")


def _missing(path: str, message: str) -> Problem:
    return Problem(path, message, needs_capability=True)
