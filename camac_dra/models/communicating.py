"""Acting by messages: what of a policy an agent needs to speak, and to decide on what it heard.

Axes: n agents, M neighbours, F features, C numbers of a message.
"""

from __future__ import annotations

import numpy as np
import torch

from camac_dra.models.array_policy import ActingPart
from camac_dra.models.communication_network import CommunicationNetwork
from camac_dra.utils.errors import ConfigurationError


class Listener(ActingPart):
    """The acting half of a `CommunicationNetwork`, whose input is flat: own row, messages, who was heard.

    The three steps, `speak`, `heard` and deciding, may be taken in different processes. An observation of
    rows (`hear`) leads to the same flat input to the last bit as the messages that the neighbours make of
    those rows, wherever they do.

    Attributes:
        message_size: C.
        dtype: of the numbers of messages between processes: float32, or whole numbers where they are
            quantised.
    """

    def __init__(self, module: ActingPart) -> None:
        """Act as ``module`` does, whose weights are used, not copied.

        Raises:
            ConfigurationError: its observations are not rows of entities, so nobody is heard.
        """
        if len(module.input_shape) != 2:
            raise ConfigurationError(
                "environment.observation_type must be 'graph' for agents that communicate, got observations "
                f"of shape {module.input_shape}"
            )
        self._module, self._net = module, _network(module)
        self.head, self.network, self.policy = module.head, module.network, module.policy
        self.observation_scaler = None
        entities, width = module.input_shape
        self.num_features = width - 1  # F
        self.num_neighbors = entities - 1  # M
        self.message_size = self._net.message_size
        bits = self._net.message_bits
        self.dtype = np.dtype(np.float32 if bits is None else np.uint8 if bits <= 8 else np.uint16)
        self.input_shape = (self.num_features + self.num_neighbors * (self.message_size + 1),)

    @torch.no_grad()
    def speak(self, rows: np.ndarray) -> np.ndarray:
        """Return the messages (n, C) of agents with these own rows (n, F + 1) float32, to be sent."""
        scaled = self._module.scaled_rows(torch.from_numpy(rows)[:, None])[:, 0, :-1]
        messages = self._net.encode_alike(scaled)
        if self._net.message_bits is not None:
            messages = self._net.codes(messages)
        return messages.numpy().astype(self.dtype)

    @torch.no_grad()
    def hear(self, observations: torch.Tensor) -> torch.Tensor:
        """Return flat inputs (..., I) for raw ``graph`` observations (..., 1 + M, F + 1)."""
        scaled = self._module.scaled_rows(observations)
        mask = observations[..., 1:, -1] > 0.5  # (..., M)
        return self._flat(scaled[..., 0, :-1], self._net.encode_alike(scaled[..., 1:, :-1]), mask)

    @torch.no_grad()
    def heard(self, rows: np.ndarray, messages: np.ndarray, mask: np.ndarray) -> torch.Tensor:
        """Return flat inputs (n, I) of agents with these own rows (n, F + 1) that received these messages.

        ``messages`` are (n, M, C) as `speak` made them; where ``mask`` (n, M) is false, none was received.
        """
        scaled = self._module.scaled_rows(torch.from_numpy(rows)[:, None])[:, 0, :-1]
        received = torch.from_numpy(messages.astype(np.float32))
        if self._net.message_bits is not None:
            received = self._net.from_codes(received)
        return self._flat(scaled, received, torch.from_numpy(mask))

    @staticmethod
    def _flat(rows: torch.Tensor, messages: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.cat([rows, messages.flatten(-2), mask.to(rows.dtype)], dim=-1)

    def distribution_inputs(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the head's inputs (O, rows) for flat inputs (rows, I)."""
        size, count = self.num_features, self.num_neighbors
        rows, messages, mask = observations.split([size, count * self.message_size, count], dim=-1)
        features = self._net(rows, messages.unflatten(-1, (count, self.message_size)), mask > 0.5)
        return self.policy.from_features(features)


def _network(module: ActingPart) -> CommunicationNetwork:
    network = getattr(module.policy.torso, "model", None)
    if not isinstance(network, CommunicationNetwork):
        raise ConfigurationError(
            f"network of agents that communicate must be of kind 'communication', got {module.network.kind!r}"
        )
    return network
