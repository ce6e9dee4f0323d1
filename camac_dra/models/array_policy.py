"""Acting for all copies and agents at once, without gradients: what env runners and evaluation use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from camac_dra.models.distributions import IMPOSSIBLE, ActionDistribution, ActionHead
from camac_dra.models.layers import activate_
from camac_dra.models.network_spec import NetworkSpec
from camac_dra.models.networks import DistributionNetwork, RecurrentTorso
from camac_dra.models.normalization import ObservationScaler
from camac_dra.models.products import affine_by_column, product
from camac_dra.utils.errors import ConfigurationError


class ActingPart:
    """What of a module acting needs; an `ActorCriticModule` has it, and an `Actor`."""

    head: ActionHead
    network: NetworkSpec
    input_shape: tuple[int, ...]  # of one observation, as the network takes it
    policy: DistributionNetwork
    observation_scaler: ObservationScaler | None

    def scaled(self, observations: torch.Tensor) -> torch.Tensor:
        """Return observations (..., *shape) as the networks take them, (rows, *input_shape)."""
        x = observations.reshape(-1, *self.input_shape)
        return x if self.observation_scaler is None else self.observation_scaler(x)

    def scaled_rows(self, observations: torch.Tensor) -> torch.Tensor:
        """Return observations (..., E, F + 1), which may be of fewer entities than usual, as networks take
        them.
        """
        return observations if self.observation_scaler is None else self.observation_scaler(observations)

    def distribution_inputs(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the head's inputs (O, rows) for raw observations (rows, *shape)."""
        return self.policy(self.scaled(observations))

    def step(self, observations: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the head's inputs (O, rows) and the memories (rows, M) after raw observations."""
        torso: RecurrentTorso = self.policy.torso
        memory = torso.step(self.scaled(observations), memory)
        return self.policy.from_features(memory), memory


BLOCK_ROWS = 1024  # rows whose activations stay in the second-level cache


@dataclass(frozen=True, slots=True)
class _Layers:
    """Weights of G networks of one shape: lists over layers of (G, in, out) and (G, 1, out)."""

    weights: list[torch.Tensor]
    biases: list[torch.Tensor]
    log_std: torch.Tensor | None  # (G, 1, D)
    mean: torch.Tensor | None  # (G, 1, F)
    scale: torch.Tensor | None  # (G, 1, F)
    clip: float
    activation: str


def _stack(modules: Sequence[ActingPart]) -> _Layers:
    policies = [m.policy for m in modules]
    layers = [p.layers() for p in policies]
    depth = range(len(layers[0]))
    scalers = [s for m in modules if isinstance(s := m.observation_scaler, ObservationScaler)]
    log_stds = [p.log_std for p in policies if p.log_std is not None]
    return _Layers(
        weights=[torch.stack([net[d].weight.t() for net in layers]) for d in depth],
        biases=[torch.stack([net[d].bias[None] for net in layers]) for d in depth],
        log_std=torch.stack([s[None] for s in log_stds]) if log_stds else None,
        mean=torch.stack([s.mean[None] for s in scalers]) if scalers else None,
        scale=torch.stack([s.scale[None] for s in scalers]) if scalers else None,
        clip=scalers[0].clip if scalers else 0.0,
        activation=policies[0].torso.activation_name,
    )


def _forward(layers: _Layers, x: torch.Tensor) -> torch.Tensor:
    """Map observations (G, rows, F) to network outputs (O, G, rows)."""
    if layers.mean is not None and layers.scale is not None:
        x = ((x - layers.mean).mul_(layers.scale)).clamp_(-layers.clip, layers.clip)
    if len(x) == 1:
        return _forward_one(layers, x[0])[:, None]
    for weight, bias in zip(layers.weights[:-1], layers.biases[:-1], strict=True):
        x = activate_(torch.baddbmm(bias, x, weight), layers.activation)
    outputs = torch.bmm(layers.weights[-1].mT, x.mT)  # (G, O, rows)
    return outputs.add_(layers.biases[-1].mT).transpose(0, 1)


def _forward_one(layers: _Layers, x: torch.Tensor) -> torch.Tensor:
    """Map (rows, F) to (O, rows) with a single network; unbatched products are faster."""
    for weight, bias in zip(layers.weights[:-1], layers.biases[:-1], strict=True):
        x = activate_(product(x, weight[0].t(), bias[0, 0]), layers.activation)
    return affine_by_column(x, layers.weights[-1][0].t(), layers.biases[-1][0, 0])


class StackedPolicy:
    """Policies of fully connected layers, applied to (B, N) observations in as few matrix products as
    possible.

    One module for everybody is one product per layer; several modules with equally many agents each are one
    batched product per layer.
    """

    memory_size = 0

    def __init__(self, modules: Sequence[ActingPart], assignment: Sequence[int]) -> None:
        self.head: ActionHead = modules[0].head
        self.observation_size = modules[0].input_shape[0]
        self.num_agents = len(assignment)
        members = [np.flatnonzero(np.asarray(assignment) == m) for m in range(len(modules))]
        if len({len(m) for m in members}) != 1 or len(members[0]) == 0:
            raise ConfigurationError(
                f"assignment must give every module equally many agents, got {[len(m) for m in members]}"
            )
        self._modules = list(modules)
        order = np.concatenate(members)
        self._order = None if (order == np.arange(self.num_agents)).all() else torch.from_numpy(order)
        self._inverse = None if self._order is None else torch.from_numpy(np.argsort(order))
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the modules' weights; call it after they changed."""
        self._layers = _stack(self._modules)

    @torch.inference_mode()
    def act(
        self,
        observations: torch.Tensor,
        generator: torch.Generator | None,
        *,
        explore: bool = True,
        masks: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return actions (B, N, *action_shape) and their log-probabilities (B, N).

        ``observations`` is (B, N, *shape) float32. Without ``explore`` the most likely actions are taken,
        whose log-probabilities are those under the sampling distribution. Where ``masks`` (B, N, O) is
        false, an action is impossible.
        """
        copies = observations.shape[0]
        rows = self._rows(
            observations.reshape(copies, self.num_agents, self.observation_size)
        )  # (G, rows, F)
        step = max(1, BLOCK_ROWS // len(self._modules))
        possible = [None] * (-(-rows.shape[1] // step)) if masks is None else self._rows(masks).split(step, 1)
        parts = [
            self._act_on(block, mask, generator, explore)
            for block, mask in zip(rows.split(step, dim=1), possible, strict=True)
        ]
        actions, log_probs = (
            parts[0] if len(parts) == 1 else (torch.cat(c, dim=1) for c in zip(*parts, strict=True))
        )
        return self._by_agent(actions, copies), self._by_agent(log_probs, copies)

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        """Turn (B, N, F) into (G, B * N / G, F)."""
        copies, groups = len(x), len(self._modules)
        if groups == 1:
            return x.reshape(1, -1, x.shape[-1])
        x = x if self._order is None else x[:, self._order]
        return x.reshape(copies, groups, -1, x.shape[-1]).transpose(0, 1).reshape(groups, -1, x.shape[-1])

    def _act_on(
        self,
        rows: torch.Tensor,
        mask: torch.Tensor | None,
        generator: torch.Generator | None,
        explore: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return actions (G, rows, *action_shape) and log-probabilities (G, rows) for (G, rows, F)."""
        groups = len(rows)
        outputs = _forward(self._layers, rows)  # (O, G, rows)
        if mask is not None:
            outputs = outputs.masked_fill(~mask.permute(2, 0, 1), IMPOSSIBLE)
        actions, log_probs = _choose(self._distribution(outputs), generator, explore=explore)
        return actions.unflatten(0, (groups, -1)), log_probs.unflatten(0, (groups, -1))

    def _distribution(self, outputs: torch.Tensor) -> ActionDistribution:
        """Read network outputs (O, G, rows)."""
        if self._layers.log_std is not None:  # (G, 1, D)
            log_std = self._layers.log_std.permute(2, 0, 1)  # (D, G, 1)
            outputs = torch.cat([outputs, log_std.expand_as(outputs)], dim=0)
        return self.head.distribution(outputs.flatten(1))

    def _by_agent(self, grouped: torch.Tensor, copies: int) -> torch.Tensor:
        """Turn (G, B * N / G, ...) into (B, N, ...)."""
        if len(self._modules) == 1:
            return grouped.reshape(copies, self.num_agents, *grouped.shape[2:])
        split = grouped.unflatten(1, (copies, -1)).transpose(0, 1)  # (B, G, N / G, ...)
        result = split.reshape(copies, self.num_agents, *grouped.shape[2:])
        return result if self._inverse is None else result[:, self._inverse]


class SeparatePolicy:
    """Policies of any kind, a forward pass for each, with memory where the networks have some.

    What they remember is kept here, a row for each agent of each copy, from call to call; `forget` ends it.
    """

    def __init__(self, modules: Sequence[ActingPart], assignment: Sequence[int]) -> None:
        self.head: ActionHead = modules[0].head
        self.num_agents = len(assignment)
        self.memory_size = modules[0].network.memory_size
        self._modules = list(modules)
        self._members = [np.flatnonzero(np.asarray(assignment) == m) for m in range(len(modules))]
        self._memory: torch.Tensor | None = None  # (B, N, M)

    def refresh(self) -> None:
        """Nothing is held that changes with the modules' weights."""

    def memory(self, copies: int) -> torch.Tensor:
        """Return what is remembered, (B, N, M); zero where nothing was seen yet."""
        if self._memory is None or len(self._memory) != copies:
            self._memory = torch.zeros(copies, self.num_agents, self.memory_size)
        return self._memory

    def set_memory(self, memory: torch.Tensor | None) -> None:
        """Remember this, (B, N, M); None: nothing."""
        self._memory = None if memory is None else memory.clone()

    def forget(self, copies: np.ndarray) -> None:
        """Forget what was seen in those copies (B,) bool, whose episodes begin anew."""
        if self._memory is not None and copies.any():
            self._memory[torch.tensor(copies)] = 0.0

    @torch.no_grad()
    def act(
        self,
        observations: torch.Tensor,
        generator: torch.Generator | None,
        *,
        explore: bool = True,
        masks: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return actions (B, N, *action_shape) and their log-probabilities (B, N); see `StackedPolicy`."""
        copies = len(observations)
        cells = (copies, self.num_agents)
        inputs: torch.Tensor | None = None  # (O, B, N)
        for module, members in zip(self._modules, self._members, strict=True):
            mine = observations if len(members) == self.num_agents else observations[:, members]
            outputs = self._inputs(module, mine, members)  # (O, B * n)
            if inputs is None:
                inputs = outputs.new_empty(len(outputs), *cells)
            inputs[:, :, members] = outputs.unflatten(1, (copies, -1))
        assert inputs is not None
        if masks is not None:
            inputs[: masks.shape[-1]].masked_fill_(~masks.permute(2, 0, 1), IMPOSSIBLE)
        actions, log_probs = _choose(self.head.distribution(inputs.flatten(1)), generator, explore=explore)
        return actions.unflatten(0, cells), log_probs.unflatten(0, cells)

    def _inputs(self, module: ActingPart, observations: torch.Tensor, members: np.ndarray) -> torch.Tensor:
        """Return the head's inputs (O, B * n) for observations (B, n, *shape) of the agents ``members``."""
        rows = observations.flatten(0, 1)
        if not self.memory_size:
            parts = [module.distribution_inputs(block) for block in rows.split(BLOCK_ROWS)]
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        memory = self.memory(len(observations))
        outputs, after = module.step(rows, memory[:, members].flatten(0, 1))
        memory[:, members] = after.unflatten(0, (len(observations), -1))
        return outputs


ArrayPolicy = StackedPolicy | SeparatePolicy


def array_policy(modules: Sequence[ActingPart], assignment: Sequence[int]) -> ArrayPolicy:
    """Return the policies of N agents, applied to (B, N) observations at once, by the fastest way there is.

    ``assignment[i]`` is the index of the module that decides for agent i.

    Raises:
        ConfigurationError: a module decides for nobody.
    """
    numbers = np.bincount(np.asarray(assignment), minlength=len(modules))
    if not numbers.all():
        raise ConfigurationError(f"assignment must give every module agents, got {numbers.tolist()}")
    if modules[0].policy.is_layered and len(set(numbers.tolist())) == 1:
        return StackedPolicy(modules, assignment)
    return SeparatePolicy(modules, assignment)


def _choose(
    distribution: ActionDistribution, generator: torch.Generator | None, *, explore: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return actions (rows, *action_shape), drawn or the most likely ones, and their log-probabilities."""
    if explore:
        return distribution.sample(generator)
    actions = distribution.mode()
    return actions, distribution.log_prob(actions)
