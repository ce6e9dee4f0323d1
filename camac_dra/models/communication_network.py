"""Agents that tell each other what they see: learned messages, and attention over those received."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional

from camac_dra.models.base import BaseModel
from camac_dra.models.checks import last_axis, sizes, whole_number
from camac_dra.models.distributions import IMPOSSIBLE
from camac_dra.models.graph_observations import split_entities
from camac_dra.models.networks import HIDDEN_GAIN, MLP, Seed, generator_of, linear
from camac_dra.utils.errors import ConfigurationError, ModelError

MOST_BITS = 16  # of a number of a message, where it is quantised
_ENCODER_SIZE = 64  # units of the encoder's hidden layer
_CHUNK = 128  # rows whose products stay in the second-level cache


class CommunicationNetwork(BaseModel):
    """Each agent makes a message of its own row; whoever receives messages attends to them and decides.

    As in CommNet (Sukhbaatar et al. 2016) messages are numbers that gradients pass through, from the
    receiver's loss to the sender's encoder; as in TarMAC (Das et al. 2019) the receiver's attention, asked by
    its own row, decides whom it listens to. Messages do not depend on who receives them, and the result does
    not depend on their order.

    In training, where ``graph`` observations show the neighbours' rows as they were when they were sent, the
    messages are made from those: so they are as late as the rows, and lost where those are.

    ``message_size`` numbers between -1 and 1 are a message; ``message_bits`` rounds each to one of
    ``2 ** message_bits`` values, with straight-through gradients (Bengio et al. 2013). ``width`` is that of
    all ``num_heads`` heads together.
    """

    def __init__(
        self,
        input_dim: int,
        message_size: int = 8,
        *,
        num_heads: int = 4,
        width: int = 64,
        message_bits: int | None = None,
        output_size: int | None = None,
        hidden_sizes: Sequence[int] = (128,),
        activation: str = "relu",
        seed: Seed = None,
    ) -> None:
        """With ``output_size`` a linear output follows: scores of so many actions.

        ``seed`` decides the initial weights.
        """
        hidden = sizes("hidden_sizes", hidden_sizes)
        if not hidden:
            raise ConfigurationError("hidden_sizes must name at least one layer, got none")
        super().__init__(
            whole_number("input_dim", input_dim), hidden[-1] if output_size is None else output_size
        )
        self.message_size = whole_number("message_size", message_size)
        self.num_heads, self.width = whole_number("num_heads", num_heads), whole_number("width", width)
        if self.width % self.num_heads:
            raise ConfigurationError(f"num_heads must divide the width {width}, got {num_heads}")
        self.message_bits = (
            message_bits if message_bits is None else whole_number("message_bits", message_bits)
        )
        if self.message_bits is not None and self.message_bits > MOST_BITS:
            raise ConfigurationError(
                f"message_bits must be None or from 1 to {MOST_BITS}, got {message_bits}"
            )
        self.hidden_sizes, self.activation, self._scores = hidden, activation, output_size is not None
        generator = generator_of(seed)
        self.encoder = nn.ModuleList(
            [
                linear(input_dim, _ENCODER_SIZE, HIDDEN_GAIN, generator),
                linear(_ENCODER_SIZE, message_size, HIDDEN_GAIN, generator),
            ]
        )
        self.query = linear(input_dim, width, 1.0, generator)
        self.key, self.value = (linear(message_size, width, 1.0, generator) for _ in range(2))
        self.mixer = MLP(input_dim + width, hidden, activation, generator)
        self.output = (
            None if output_size is None else linear(self.mixer.output_size, output_size, 1.0, generator)
        )
        self._weights: torch.Tensor | None = None

    @property
    def action_size(self) -> int | None:
        """``output_size`` where it was given."""
        return self.output_size if self._scores else None

    # Speaking

    def encode(self, rows: torch.Tensor) -> torch.Tensor:
        """Map agents' own rows (..., F) to their messages (..., C), between -1 and 1."""
        hidden, last = self.encoder
        return self._rounded(functional.softsign(last(functional.relu(hidden(rows)))))

    @torch.no_grad()
    def encode_alike(self, rows: torch.Tensor) -> torch.Tensor:
        """Do what `encode` does, up to rounding, with the same bits for a row whatever others it is among.

        Sums are taken pair by pair, and nothing but sums, products, quotients and comparisons of single
        numbers is computed, which IEEE 754 rounds in one way only: so is it on any machine.
        """
        flat = rows.reshape(-1, self.input_size)  # (n, F)
        parts = [self._encoded_alike(chunk) for chunk in flat.split(_CHUNK)]
        return torch.cat(parts).reshape(*rows.shape[:-1], self.message_size)

    def _encoded_alike(self, rows: torch.Tensor) -> torch.Tensor:
        hidden, last = self.encoder
        values = _linear_alike(_linear_alike(rows, hidden).relu_(), last)  # type: ignore[arg-type]
        values = values / (values.abs() + 1.0)
        return values if self.message_bits is None else self.from_codes(self.codes(values))

    def codes(self, messages: torch.Tensor) -> torch.Tensor:
        """Return the number, from 0, of that of the ``2 ** message_bits`` values nearest to each number."""
        return torch.round((messages + 1.0) * (self._steps / 2.0))

    def from_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the numbers, between -1 and 1, that ``codes`` stand for."""
        return codes * (2.0 / self._steps) - 1.0

    @property
    def _steps(self) -> int:
        assert self.message_bits is not None
        return 2**self.message_bits - 1

    def _rounded(self, messages: torch.Tensor) -> torch.Tensor:
        if self.message_bits is None:
            return messages
        return messages + (self.from_codes(self.codes(messages)) - messages).detach()

    # Listening

    def forward(
        self, rows: torch.Tensor, messages: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Map own rows (B, F) and messages received (B, M, C) to (B, output_size).

        Where ``mask`` (B, M) is false no message was received, whatever stands there; whoever received none,
        and everybody without ``messages``, attends to nothing.

        Raises:
            ModelError: shapes do not fit.
        """
        last_axis("rows", rows, self.input_size)
        batch = rows.shape[0]
        if messages is None:
            messages = rows.new_zeros(batch, 0, self.message_size)
        if messages.ndim != 3 or messages.shape[0] != batch or messages.shape[2] != self.message_size:
            raise ModelError(
                f"messages must have shape ({batch}, M, {self.message_size}), got {tuple(messages.shape)}"
            )
        if mask is not None and mask.shape != messages.shape[:2]:
            raise ModelError(f"mask must have shape {tuple(messages.shape[:2])}, got {tuple(mask.shape)}")
        result = self.mixer(torch.cat([rows, self._attend(rows, messages, mask)], dim=-1))
        return result if self.output is None else self.output(result)

    def _attend(self, rows: torch.Tensor, messages: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return what own rows (B, F) find in messages (B, M, C): (B, width)."""
        received = messages.new_ones(messages.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
        messages = messages.masked_fill(~received[..., None], 0.0)  # what was not received may hold NaN
        heads = (self.num_heads, self.width // self.num_heads)
        query = self.query(rows).unflatten(-1, heads)[:, :, None]  # (B, heads, 1, D)
        key, value = (
            layer(messages).unflatten(-1, heads).transpose(1, 2)  # (B, heads, M, D)
            for layer in (self.key, self.value)
        )
        logits = query @ key.mT / math.sqrt(heads[1])  # (B, heads, 1, M)
        seen = received[:, None, None]
        weights = logits.masked_fill(~seen, IMPOSSIBLE).softmax(-1) * seen
        if not torch.compiler.is_compiling():
            self._weights = weights.detach()
        return (weights @ value).flatten(1)

    def get_attention_weights(self) -> torch.Tensor:
        """Return who listened to whom in the last call: (B, num_heads, M), without gradient.

        They sum to 1 over the messages, or to 0 where none was received.

        Raises:
            ModelError: nothing was attended to yet.
        """
        if self._weights is None:
            raise ModelError("get_attention_weights needs a forward pass before it, got none")
        return self._weights[:, :, 0]

    def outputs(self, observations: torch.Tensor) -> torch.Tensor:
        """Map observations to (rows, output_size): what the observer decides on all that its neighbours say.

        ``observations`` are (rows, F) or, as ``graph`` observations are, (rows, E, F + 1).
        """
        entities, mask = split_entities(observations, self.input_size)
        others = entities[:, 1:]  # (rows, M, F)
        heard = None if mask is None else mask[:, 1:]
        if heard is not None:
            others = others.masked_fill(~heard[..., None], 0.0)  # padding may hold NaN
        return self(entities[:, 0], self.encode(others), heard)

    # Being built

    @classmethod
    def build(cls, input_size: int, output_size: int, **options: Any) -> Self:
        """Return a new network that scores ``output_size`` actions."""
        return cls.from_config({"input_dim": input_size, "output_size": output_size, **options})

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "input_dim": self.input_size,
            "message_size": self.message_size,
            "num_heads": self.num_heads,
            "width": self.width,
            "message_bits": self.message_bits,
            "output_size": self.action_size,
            "hidden_sizes": list(self.hidden_sizes),
            "activation": self.activation,
        }


def _linear_alike(rows: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    """Return ``layer(rows)`` (n, O) for rows (n, I), every sum taken in the same order for every row."""
    parts = rows.t().contiguous()[:, :, None] * layer.weight.t().contiguous()[:, None, :]  # (I, n, O)
    while len(parts) > 1:
        half = (len(parts) + 1) // 2
        rest = len(parts) - half
        parts[:rest] += parts[half:]
        parts = parts[:half]
    return parts[0] + layer.bias
