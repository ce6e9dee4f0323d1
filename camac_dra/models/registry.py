"""Models by name: the kinds that ``model.type`` knows, and classes of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from camac_dra.models.base import BaseModel, class_path
from camac_dra.models.model_file import check_weights, read_model_file
from camac_dra.utils.errors import CheckpointError, ConfigurationError, did_you_mean
from camac_dra.utils.file_handler import StrPath

PACKAGE = "camac_dra.models."
BUILT_IN = {
    "dqn": PACKAGE + "dqn_agent.DQNAgent",
    "policy_gradient": PACKAGE + "policy_network.PolicyNetwork",
    "actor_critic": PACKAGE + "policy_network.PolicyNetwork",
    "attention": PACKAGE + "attention_network.AttentionNetwork",
    "gnn": PACKAGE + "graph_neural_network.GraphNeuralNetwork",
    "communication": PACKAGE + "communication_network.CommunicationNetwork",
    "value": PACKAGE + "value_network.ValueNetwork",
    "q": PACKAGE + "q_network.QNetwork",
}
_registered: dict[str, type[BaseModel]] = {}


def register_model(name: str, model_class: type[BaseModel]) -> type[BaseModel]:
    """Make a class known by a name, so that configurations can say it; return the class.

    Raises:
        ConfigurationError: it is no `BaseModel`, or the name is taken by another class.
    """
    if not (isinstance(model_class, type) and issubclass(model_class, BaseModel)):
        raise ConfigurationError(f"model_class must be a subclass of BaseModel, got {model_class!r}")
    if not name or "." in name or name in BUILT_IN:
        raise ConfigurationError(
            f"name of a model must have no dot and not be one of {', '.join(BUILT_IN)}, got {name!r}"
        )
    if _registered.setdefault(name, model_class) is not model_class:
        raise ConfigurationError(
            f"name of a model must be free, got {name!r}, which is {class_path(_registered[name])}"
        )
    return model_class


def model_names() -> tuple[str, ...]:
    """Return all names that `model_class` knows."""
    return (*BUILT_IN, *_registered)


def model_class(name: str) -> type[BaseModel]:
    """Return the class of a name, or of a dotted path such as ``my_package.my_models.MyModel``.

    The path's module is imported: give it only what the user wrote.

    Raises:
        ConfigurationError: there is none.
    """
    if name in _registered:
        return _registered[name]
    path = BUILT_IN.get(name, name)
    if "." not in path:
        raise ConfigurationError(
            f"model.type must be one of {', '.join(model_names())}, or a class's dotted path, got {name!r}."
            f"{did_you_mean(name, model_names())}"
        )
    return _imported(path)


def _imported(path: str) -> type[BaseModel]:
    if not all(part.isidentifier() for part in path.split(".")):
        raise ConfigurationError(
            f"model.type must be a dotted path such as package.module.Class, got {path!r}"
        )
    module_name, _, class_name = path.rpartition(".")
    try:
        found = getattr(import_module(module_name), class_name)
    except Exception as error:  # whatever somebody else's module raises
        raise ConfigurationError(
            f"model.type: {path!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise ConfigurationError(f"model.type must be a subclass of BaseModel, got {path!r}: {found!r}")
    return found


def make_model(name: str, input_size: int, output_size: int, **options: Any) -> BaseModel:
    """Return a new model by name or dotted path, for states of ``input_size`` features.

    Raises:
        ConfigurationError: the model, an option or a value is not known.
    """
    return model_class(name).build(input_size, output_size, **options)


def load_model(path: StrPath) -> BaseModel:
    """Return the model in a file that ``BaseModel.save`` wrote.

    Nothing in the file is run, and nothing is imported because the file names it: the module of a class of
    one's own must have been imported before.

    Raises:
        CheckpointError: there is none, it is foreign, damaged, or of a class that is not known here.
    """
    content = read_model_file(path)
    try:
        model = known_class(content.class_path).from_config(content.config)
    except ConfigurationError as error:
        raise CheckpointError(f"{path}: cannot be built: {error}") from None
    check_weights(str(path), model.state_dict(), content.weights)
    model.load_state_dict(content.weights)
    model.load_training_state(content.training)
    return model


def known_class(path: str) -> type[BaseModel]:
    """Return the class of a dotted path that a file names, importing nothing but this package's own.

    Raises:
        ConfigurationError: no such class is known.
    """
    if path in BUILT_IN.values():
        return _imported(path)
    for candidate in _subclasses(BaseModel):  # type: ignore[type-abstract]
        if class_path(candidate) == path:
            return candidate
    raise ConfigurationError(
        f"class of a model must be known before its file is read, got {path!r}: import its module first"
    )


def _subclasses(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for child in reversed(base.__subclasses__()):  # of several with one path the latest counts
        yield child
        yield from _subclasses(child)
