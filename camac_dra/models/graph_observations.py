"""Reading the environment's ``graph`` observations: rows of entities with a mask in the last column."""

from __future__ import annotations

import torch

from camac_dra.utils.errors import ModelError


def split_entities(observations: torch.Tensor, num_features: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return entities (rows, E, F) and which of them are real (rows, E) bool, the observer's own row first.

    ``observations`` are (rows, F), each the only entity, or (rows, E, F + 1) as the environment's ``graph``
    observations are: the last column is 1 for real entities and 0 for padding.

    Raises:
        ModelError: they are neither.
    """
    if observations.ndim == 2 and observations.shape[1] == num_features:
        return observations[:, None], None
    if observations.ndim == 3 and observations.shape[2] == num_features + 1:
        return observations[..., :-1], observations[..., -1] > 0.5
    raise ModelError(
        f"observations must have shape (rows, {num_features}), or (rows, entities, {num_features + 1}) with "
        f"the mask in the last column, got {tuple(observations.shape)}"
    )
