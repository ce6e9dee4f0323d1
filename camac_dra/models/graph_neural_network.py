"""A graph neural network over the agents' topology."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self, cast

import torch
from torch import nn

from camac_dra.models.base import BaseModel
from camac_dra.models.checks import last_axis, sizes, whole_number
from camac_dra.models.graph_layers import AttentionLayer, MeanLayer
from camac_dra.models.graph_observations import split_entities
from camac_dra.models.layers import activation
from camac_dra.models.networks import Seed, generator_of, linear
from camac_dra.utils.errors import ConfigurationError, ModelError, did_you_mean

AGGREGATIONS = ("attention", "mean")


class GraphNeuralNetwork(BaseModel):
    """GNN for topology-aware learning: a layer of message passing per hidden size, for any number of agents.

    ``aggregation`` is ``attention`` (GATv2, Brody et al. 2022, ``num_heads`` heads) or ``mean`` (GraphSAGE,
    Hamilton et al. 2017). With ``output_size`` a linear output follows: scores of so many actions. Numbering
    the agents otherwise numbers the outputs otherwise, and changes nothing else.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_sizes: Sequence[int] = (64, 64),
        output_size: int | None = None,
        *,
        aggregation: Literal["attention", "mean"] = "attention",
        num_heads: int = 4,
        activation: str = "relu",
        seed: Seed = None,
    ) -> None:
        """``seed`` decides the initial weights."""
        hidden = sizes("hidden_sizes", hidden_sizes)
        if not hidden:
            raise ConfigurationError("hidden_sizes must name at least one layer, got none")
        super().__init__(
            whole_number("input_dim", input_dim), hidden[-1] if output_size is None else output_size
        )
        if aggregation not in AGGREGATIONS:
            raise ConfigurationError(
                f"aggregation must be one of {', '.join(AGGREGATIONS)}, got {aggregation!r}."
                f"{did_you_mean(str(aggregation), AGGREGATIONS)}"
            )
        self.hidden_sizes, self.aggregation, self.activation = hidden, aggregation, activation
        self.num_heads = whole_number("num_heads", num_heads)
        self._scores = output_size is not None
        generator = generator_of(seed)
        inputs = [input_dim, *hidden[:-1]]
        self.layers = nn.ModuleList(
            self._layer(size_in, size_out, generator)
            for size_in, size_out in zip(inputs, hidden, strict=True)
        )
        self.output = linear(hidden[-1], output_size, 1.0, generator) if output_size is not None else None

    def _layer(self, size_in: int, size_out: int, generator: torch.Generator | None) -> nn.Module:
        if self.aggregation == "mean":
            return MeanLayer(size_in, size_out, activation(self.activation), generator)
        if size_out % self.num_heads:
            raise ConfigurationError(
                f"num_heads must divide every hidden size, {list(self.hidden_sizes)}, got {self.num_heads}"
            )
        return AttentionLayer(size_in, size_out, self.num_heads, activation(self.activation), generator)

    @property
    def action_size(self) -> int | None:
        """``output_size`` where it was given."""
        return self.output_size if self._scores else None

    def forward(
        self,
        nodes: torch.Tensor,
        edges: torch.Tensor | None = None,
        *,
        adjacency: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Map nodes (B, N, F) or (N, F) to (B, N, output_size) or (N, output_size).

        Args:
            nodes: what each agent knows.
            edges: (2, E) integers, from whom and to whom messages go, the same in all B graphs.
            adjacency: instead of edges, (N, N) or (B, N, N), not zero at [i, j] where i hears j.
            mask: (B, N) or (N,), false for agents that are absent: nobody hears them, whatever they hold,
                and their outputs are zero.

        Without edges and adjacency nobody hears anybody.

        Raises:
            ModelError: shapes do not fit, or an edge names an agent that does not exist.
        """
        last_axis("nodes", nodes, self.input_size)
        if nodes.ndim not in (2, 3):
            raise ModelError(f"nodes must have shape (B, N, F) or (N, F), got {tuple(nodes.shape)}")
        graphs = nodes.reshape(-1, *nodes.shape[-2:])  # (B, N, F)
        batch, size = graphs.shape[:2]
        present = None if mask is None else _presence(mask, batch, size)
        if present is not None:
            graphs = graphs.masked_fill(~present[..., None], 0.0)
        if adjacency is not None and edges is not None:
            raise ModelError("edges must be None where adjacency is given, got both")
        if adjacency is None:
            result = self._pass(graphs, *_ends(edges, size, graphs.device), present)
        else:
            result = self._pass_dense(graphs, adjacency, present)
        return result.reshape(*nodes.shape[:-1], self.output_size)

    def _pass(
        self, x: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor, present: torch.Tensor | None
    ) -> torch.Tensor:
        heard = None if present is None else present[:, sources]  # (B, E)
        for layer in self.layers:
            x = layer(x, sources, targets, heard)
        if self.output is not None:
            x = self.output(x)
        return x if present is None else x * present[..., None]

    def _pass_dense(
        self, x: torch.Tensor, adjacency: torch.Tensor, present: torch.Tensor | None
    ) -> torch.Tensor:
        """Pass messages where each graph may have edges of its own: as one graph of B N nodes."""
        batch, size = x.shape[:2]
        if adjacency.shape not in ((size, size), (batch, size, size)):
            raise ModelError(
                f"adjacency must have shape ({size}, {size}) or ({batch}, {size}, {size}), "
                f"got {tuple(adjacency.shape)}"
            )
        if adjacency.ndim == 2:
            targets, sources = adjacency.nonzero(as_tuple=True)
            return self._pass(x, sources, targets, present)
        graph, target, source = adjacency.nonzero(as_tuple=True)
        flat = None if present is None else present.reshape(1, -1)
        first = graph * size
        return self._pass(x.reshape(1, batch * size, -1), first + source, first + target, flat)

    def outputs(self, observations: torch.Tensor) -> torch.Tensor:
        """Map observations to (rows, output_size): the own node's, hearing all entities that are seen.

        ``observations`` are (rows, F) or, as ``graph`` observations are, (rows, E, F + 1).
        """
        entities, mask = split_entities(observations, self.input_size)
        own, others = entities[:, 0], entities[:, 1:]
        if not others.shape[1]:
            return self(own[:, None])[:, 0]
        seen = others.new_ones(others.shape[:2], dtype=torch.bool) if mask is None else mask[:, 1:]
        others = others.masked_fill(~seen[..., None], 0.0)  # what nobody hears may hold NaN
        # Nobody but the observer hears anybody: its star needs no sums over edges.
        *first, last = cast(Sequence[Any], self.layers)
        for layer in first:
            own, others = layer.hub(own, others, seen), layer.alone(others)
        own = last.hub(own, others, seen)
        return own if self.output is None else self.output(own)

    @classmethod
    def build(cls, input_size: int, output_size: int, **options: Any) -> Self:
        """Return a new network that scores ``output_size`` actions."""
        return cls.from_config({"input_dim": input_size, "output_size": output_size, **options})

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "input_dim": self.input_size,
            "hidden_sizes": list(self.hidden_sizes),
            "output_size": self.action_size,
            "aggregation": self.aggregation,
            "num_heads": self.num_heads,
            "activation": self.activation,
        }


def both_ways(pairs: Any) -> torch.Tensor:
    """Return the edges (2, 2 E) on which messages go both ways between pairs (E, 2), as in Topology.edges."""
    forth = torch.as_tensor(pairs, dtype=torch.int64).reshape(-1, 2).t()  # (2, E)
    return torch.cat([forth, forth.flip(0)], dim=1)


def _ends(edges: torch.Tensor | None, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sources and targets (E,), checked."""
    if edges is None:
        none = torch.zeros(0, dtype=torch.int64, device=device)
        return none, none
    if edges.ndim != 2 or edges.shape[0] != 2 or edges.is_floating_point() or edges.dtype == torch.bool:
        raise ModelError(
            f"edges must be integers of shape (2, E), got {edges.dtype} of shape {tuple(edges.shape)}"
        )
    if not torch.compiler.is_compiling() and edges.numel() and not (edges.min() >= 0 and edges.max() < size):
        raise ModelError(
            f"edges must name agents from 0 to {size - 1}, got {edges.min().item()} to {edges.max().item()}"
        )
    sources, targets = edges.long().unbind(0)
    return sources, targets


def _presence(mask: torch.Tensor, batch: int, size: int) -> torch.Tensor:
    """Return who is there (B, N) bool."""
    if mask.shape not in ((batch, size), (size,)):  # in this order: exported programs take any batch
        raise ModelError(f"mask must have shape ({batch}, {size}), got {tuple(mask.shape)}")
    return mask.bool().expand(batch, size)
