"""Models of the user's own as networks: built, tried once, and blamed by name where they fail."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from camac_dra.models.base import BaseModel
from camac_dra.models.registry import make_model, model_class
from camac_dra.utils.errors import CamacError, ConfigurationError, ModelError

SIZES = ("input_size", "output_size")  # constructor arguments that the environment decides


def custom_model(
    path: str,
    sizes: tuple[int, int],
    hidden_sizes: Sequence[int],
    activation: str,
    options: Mapping[str, Any],
    generator: torch.Generator | None,
) -> BaseModel:
    """Return a model of the class with this dotted path.

    Args:
        path: of the class, which is imported.
        sizes: of inputs and outputs.
        hidden_sizes: given to the constructor where it takes them.
        activation: likewise.
        options: further arguments of the constructor.
        generator: seeds the initial weights, which the model draws as it likes; None: they are not seeded.

    Raises:
        ConfigurationError: there is no such class, or it does not take the options.
        ModelError: it cannot be made, or remembers between steps, which is not trained.
    """
    if taken := [name for name in SIZES if name in options]:
        raise ConfigurationError(
            f"model.options: must not have {', '.join(taken)}, which the environment decides, got "
            f"{dict(options)}"
        )
    known = inspect.signature(model_class(path)).parameters
    common = {"hidden_sizes": list(hidden_sizes), "activation": activation}
    arguments = {**{name: value for name, value in common.items() if name in known}, **options}
    with torch.random.fork_rng(devices=[], enabled=generator is not None):
        if generator is not None:
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        try:
            model = make_model(path, *sizes, **arguments)
        except CamacError as error:
            raise ConfigurationError(f"model.type, model.options: {error}") from None
        except Exception as error:
            raise ModelError(
                f"model.type: {path} must take the sizes {sizes} and {arguments}, but raised "
                f"{type(error).__name__}: {error}"
            ) from error
    if model.memory_size:
        raise ModelError(
            f"model.type: {path} must remember nothing between steps to be trained, got memory_size "
            f"{model.memory_size}"
        )
    return model


class CustomTorso(nn.Module):
    """A model of the user's own, whose outputs are final.

    Raises:
        ModelError: (when called) the outputs are not what the model was made for.
    """

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.model = model
        self.output_size = model.output_size

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Map observations (rows, *shape) to (rows, output_size)."""
        outputs = self.model.outputs(observations)
        expected = (len(observations), self.output_size)
        if not isinstance(outputs, torch.Tensor) or outputs.dtype != torch.float32:
            found = outputs.dtype if isinstance(outputs, torch.Tensor) else type(outputs).__name__
            raise ModelError(f"{self._rule(observations)} {expected} float32, got {found}")
        if outputs.shape != expected:
            raise ModelError(f"{self._rule(observations)} {expected}, got {tuple(outputs.shape)}")
        return outputs

    def _rule(self, observations: torch.Tensor) -> str:
        name = type(self.model).__name__
        return f"model.type: {name} must map observations of shape {tuple(observations.shape)} to"

    @torch.no_grad()
    def try_once(self, input_shape: tuple[int, ...]) -> None:
        """Map two observations of zeros.

        Raises:
            ModelError: the model raises something, or its outputs are not what it was made for.
        """
        observations = torch.zeros(2, *input_shape)
        try:
            self(observations)
        except CamacError:
            raise
        except Exception as error:
            expected = (2, self.output_size)
            raise ModelError(
                f"{self._rule(observations)} {expected}, but raised {type(error).__name__}: {error}"
            ) from error
