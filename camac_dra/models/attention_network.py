"""Multi-head attention between agents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch

from camac_dra.models.base import BaseModel
from camac_dra.models.checks import last_axis, sizes, whole_number
from camac_dra.models.distributions import IMPOSSIBLE
from camac_dra.models.graph_observations import split_entities
from camac_dra.models.networks import MLP, Seed, generator_of, linear
from camac_dra.utils.errors import ConfigurationError, ModelError


class AttentionNetwork(BaseModel):
    """Multi-head attention mechanism for agent interactions (Vaswani et al. 2017).

    Alone it is scaled dot-product attention with learned projections: queries (B, Q, F) attend to entities
    (B, E, F) and become (B, Q, F). With ``hidden_sizes``, fully connected layers over each query beside what
    it attended to follow, and with ``output_size`` a linear output: scores of so many actions. The result
    does not depend on the order of the entities, nor on their number beyond what they say.

    ``width`` is that of all heads together, ``input_dim`` unless given; ``num_heads`` must divide it.
    """

    def __init__(
        self,
        input_dim: int,
        num_heads: int = 8,
        *,
        output_size: int | None = None,
        hidden_sizes: Sequence[int] = (),
        activation: str = "relu",
        width: int | None = None,
        seed: Seed = None,
    ) -> None:
        """``seed`` decides the initial weights."""
        hidden = sizes("hidden_sizes", hidden_sizes)
        last = [*hidden, output_size] if output_size is not None else [*hidden]
        super().__init__(whole_number("input_dim", input_dim), last[-1] if last else input_dim)
        self.num_heads = whole_number("num_heads", num_heads)
        self.width = input_dim if width is None else whole_number("width", width)
        if self.width % num_heads:
            raise ConfigurationError(
                f"num_heads must divide the width {self.width}, got {num_heads}; another width can be given"
            )
        self.hidden_sizes, self.activation, self._scores = hidden, activation, output_size is not None
        generator = generator_of(seed)
        self.query, self.key, self.value = (linear(input_dim, self.width, 1.0, generator) for _ in range(3))
        self.attended = linear(self.width, input_dim, 1.0, generator)
        mixed = 2 * input_dim if last else input_dim
        self.mixer = MLP(mixed, hidden, activation, generator)
        self.output = (
            linear(self.mixer.output_size, output_size, 1.0, generator) if output_size is not None else None
        )
        self._weights: torch.Tensor | None = None

    @property
    def action_size(self) -> int | None:
        """``output_size`` where it was given."""
        return self.output_size if self._scores else None

    def forward(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor | None = None,
        values: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Map queries (B, Q, F) to (B, Q, output_size), attending to entities (B, E, F).

        ``keys`` are the queries and ``values`` the keys unless given; where ``mask``, (B, E) or (B, Q, E), is
        false, an entity has no influence, whatever it holds, and whoever sees none attends to nothing.
        Tensors (F,) and (B, F) are one entity and a batch of single ones; the result has the queries' axes.

        Raises:
            ModelError: shapes do not fit.
        """
        keys = queries if keys is None else keys
        values = keys if values is None else values
        q, k, v = (
            _sets(name, tensor, self.input_size)
            for name, tensor in (("queries", queries), ("keys", keys), ("values", values))
        )
        if k.shape != v.shape or k.shape[0] not in (q.shape[0], 1):
            raise ModelError(
                "keys and values must have one shape and the queries' batch, got queries "
                f"{tuple(queries.shape)}, keys {tuple(keys.shape)}, values {tuple(values.shape)}"
            )
        result = self._attend(q, k, v, _pairs(mask, q, k))
        if self.hidden_sizes or self.output is not None:
            result = self.mixer(torch.cat([q, result], dim=-1))
        if self.output is not None:
            result = self.output(result)
        return result.reshape(*queries.shape[:-1], self.output_size)

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor | None
    ) -> torch.Tensor:
        """Return what queries (B, Q, F) find, (B, Q, F); ``seen`` is (B, Q or 1, E)."""
        if seen is not None:
            anywhere = seen.any(1)[..., None]  # (B, E, 1); what nobody sees may hold NaN
            k, v = k.masked_fill(~anywhere, 0.0), v.masked_fill(~anywhere, 0.0)
        heads = (self.num_heads, self.width // self.num_heads)
        query, key, value = (
            layer(x).unflatten(-1, heads).transpose(1, 2)  # (B, heads, Q or E, D)
            for layer, x in ((self.query, q), (self.key, k), (self.value, v))
        )
        logits = query @ key.mT / math.sqrt(heads[1])  # (B, heads, Q, E)
        if seen is None:
            weights = logits.softmax(-1)
        else:
            seen = seen[:, None]  # (B, 1, Q or 1, E)
            weights = logits.masked_fill(~seen, IMPOSSIBLE).softmax(-1) * seen
        if not torch.compiler.is_compiling():
            self._weights = weights.detach()
        return self.attended((weights @ value).transpose(1, 2).flatten(-2))

    def get_attention_weights(self) -> torch.Tensor:
        """Return who attended to whom in the last call: (B, num_heads, Q, E), without gradient.

        Each query's weights sum to 1, or to 0 where it saw nobody.

        Raises:
            ModelError: nothing was attended to yet.
        """
        if self._weights is None:
            raise ModelError("get_attention_weights needs a forward pass before it, got none")
        return self._weights

    def outputs(self, observations: torch.Tensor) -> torch.Tensor:
        """Map observations to (rows, output_size): what the own row finds in all that is seen.

        ``observations`` are (rows, F) or, as ``graph`` observations are, (rows, E, F + 1).
        """
        entities, mask = split_entities(observations, self.input_size)
        return self(entities[:, :1], entities, entities, mask)[:, 0]

    @classmethod
    def build(cls, input_size: int, output_size: int, **options: Any) -> Self:
        """Return a new network that scores ``output_size`` actions, with a hidden layer of 128 by default."""
        defaults = {"hidden_sizes": (128,)}
        return cls.from_config({"input_dim": input_size, "output_size": output_size, **defaults, **options})

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "input_dim": self.input_size,
            "num_heads": self.num_heads,
            "output_size": self.action_size,
            "hidden_sizes": list(self.hidden_sizes),
            "activation": self.activation,
            "width": self.width,
        }


def _sets(name: str, tensor: torch.Tensor, num_features: int) -> torch.Tensor:
    """Return a tensor as sets of entities (B, E, F)."""
    last_axis(name, tensor, num_features)
    if tensor.ndim > 3:
        raise ModelError(f"{name} must have at most 3 axes, got shape {tuple(tensor.shape)}")
    if tensor.ndim == 3:
        return tensor
    return tensor.reshape(-1, 1, num_features)


def _pairs(mask: torch.Tensor | None, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor | None:
    """Return who sees whom (B, Q or 1, E) bool."""
    if mask is None:
        return None
    batch, entities = q.shape[0], k.shape[1]
    whole = mask[:, None] if mask.ndim == 2 else mask
    if (
        whole.ndim != 3
        or whole.shape[0] not in (batch, 1)
        or whole.shape[1] not in (1, q.shape[1])
        or (whole.shape[2] != entities)
    ):
        raise ModelError(
            f"mask must have shape ({batch}, {entities}) or ({batch}, {q.shape[1]}, {entities}), "
            f"got {tuple(mask.shape)}"
        )
    return whole.bool()
