"""What every model is: a torch module that knows its sizes, saves itself, and can be asked for actions.

How a model gives discrete actions
----------------------------------

``model.outputs(observations)`` maps observations as environments give them, (rows, *shape), to
(rows, output_size). Where ``model.action_size`` is a number, these outputs are scores of so many actions
(logits or Q-values: the best is the highest), and ``greedy`` and ``as_policy`` of
``camac_dra.models.acting`` turn them into actions. Where it is None (an encoder such as an
``AttentionNetwork`` without ``output_size``), ``with_action_head(model, action_size)`` adds the missing
layer.

A model of one's own needs a constructor with ``input_size`` and ``output_size`` and a ``forward``::

    class CustomModel(BaseModel):
        def __init__(self, input_size: int, output_size: int):
            super().__init__(input_size, output_size)
            self.fc = nn.Linear(input_size, output_size)

        def forward(self, state):
            return self.fc(state)

With further arguments, its ``get_config`` returns those too.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import nn

from camac_dra.models.checks import whole_number
from camac_dra.models.model_file import ModelFile, check_weights, read_model_file, write_model_file
from camac_dra.utils.errors import CheckpointError, ConfigurationError, ModelError
from camac_dra.utils.file_handler import StrPath


class BaseModel(nn.Module, ABC):
    """Abstract base class of all models.

    ``input_size`` is the number of features of a state, ``output_size`` that of outputs per state.
    """

    memory_size = 0  # M: numbers that it remembers per row between steps, see ``step``

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.input_size = whole_number("input_size", input_size)
        self.output_size = whole_number("output_size", output_size)

    @abstractmethod
    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Map states (..., input_size) float32 to outputs (..., output_size)."""

    # Acting

    @property
    def action_size(self) -> int | None:
        """Number of discrete actions that the outputs score; None where they are no scores."""
        return self.output_size

    @property
    def can_take_action_head(self) -> bool:
        """Whether a layer that scores actions may be put on the outputs."""
        return True

    def outputs(self, observations: torch.Tensor) -> torch.Tensor:
        """Map observations as environments give them, (rows, *shape), to outputs (rows, output_size)."""
        return self(observations)

    def initial_memory(self, rows: int) -> torch.Tensor:
        """Return empty memories (rows, M)."""
        return torch.zeros(rows, self.memory_size, device=self.device)

    def step(self, observations: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return outputs (rows, output_size) and the memories (rows, M) to give with the next observations.

        Models without memory return what they were given.
        """
        return self.outputs(observations), memory

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for a model without any."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    # Saving

    @classmethod
    def build(cls, input_size: int, output_size: int, **options: Any) -> Self:
        """Return a new model of these sizes, whatever the constructor calls them.

        Raises:
            ConfigurationError: the constructor does not know an option.
        """
        return cls.from_config({"input_size": input_size, "output_size": output_size, **options})

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a new model made by the constructor from these arguments, weights drawn anew.

        Raises:
            ConfigurationError: the constructor does not take them.
        """
        try:
            arguments = inspect.signature(cls).bind(**config)
        except TypeError as error:
            raise ConfigurationError(
                f"options of {cls.__name__} must be arguments of its constructor, "
                f"{', '.join(inspect.signature(cls).parameters)}: {error}"
            ) from None
        return cls(*arguments.args, **arguments.kwargs)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, without which weights it began with: plain values only.

        ``type(model).from_config(model.get_config())`` has the same architecture.
        """
        return {"input_size": self.input_size, "output_size": self.output_size}

    def training_state(self) -> dict[str, Any]:
        """Return what learning goes on from besides the weights: tensors and plain values."""
        return {}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Continue learning from what ``training_state`` returned."""

    def save(self, path: StrPath) -> None:
        """Write class, configuration and weights into one file; it is there whole, or all is as it was.

        Raises:
            OutputError: it cannot be written there, or the disk is full.
            ModelError: ``get_config`` does not return the constructor's arguments as plain values.
        """
        config = self.get_config()
        try:
            inspect.signature(type(self)).bind(**config)
        except TypeError as error:
            raise ModelError(
                f"{type(self).__name__}.get_config must return the arguments of its constructor, "
                f"got {config}: {error}"
            ) from None
        weights = dict(self.state_dict())
        write_model_file(
            path, ModelFile(str(path), class_path(type(self)), config, weights, self.training_state())
        )

    def load(self, path: StrPath) -> None:
        """Take over the weights of a file that ``save`` of an equal model wrote, or stay as it was.

        Nothing in the file is run.

        Raises:
            CheckpointError: there is none, it is foreign, damaged, or of another model.
        """
        content = read_model_file(path)
        self._check_same(content)
        check_weights(str(path), self.state_dict(), content.weights)
        self.load_state_dict(content.weights)
        self.load_training_state(content.training)

    def _check_same(self, content: ModelFile) -> None:
        name = type(self).__name__
        if content.class_path.rpartition(".")[2] != name:
            raise CheckpointError(
                f"{content.path}: must hold a {name}, got a {content.class_path.rpartition('.')[2]}"
            )
        own = self.get_config()
        differing = [
            f"{key} is {content.config.get(key)!r} in the file, {own.get(key)!r} in this model"
            for key in dict.fromkeys([*own, *content.config])
            if _plain(content.config.get(key)) != _plain(own.get(key))
        ]
        if differing:
            raise CheckpointError(f"{content.path}: belongs to another {name}: {'; '.join(differing)}")


def class_path(model_class: type[BaseModel]) -> str:
    """Return the dotted path of a model's class."""
    return f"{model_class.__module__}.{model_class.__qualname__}"


def _plain(value: Any) -> Any:
    """Return tuples as lists, so that they compare alike."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
