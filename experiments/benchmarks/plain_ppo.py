"""PPO as a plain single-file torch loop, the yardstick of ``training.py``: no RLlib,
no runners, no callbacks.

Run it with ``python experiments/benchmarks/plain_ppo.py [--quick] [--json FILE]``: it trains on the default
problem with 16 agents for two minutes, with ``--quick`` for some seconds, and prints rewards and rates.

It is written as such loops are written (one network call per step for actions and values, tensors that are
indexed by shuffled rows, torch's own distribution and optimiser), and steps the same vectorised environment.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.utils.schema.environment import EnvironmentConfig


@dataclass(frozen=True)
class Arguments:
    """Settings of the loop."""

    num_agents: int = 16
    num_envs: int = 32
    num_steps: int = 64
    minibatch_size: int = 2048
    update_epochs: int = 4
    hidden_size: int = 128
    learning_rate: float = 5e-4
    gamma: float = 0.95
    gae_lambda: float = 0.9
    clip_coef: float = 0.2
    entropy_coef: float = 0.01
    value_coef: float = 0.5
    max_grad_norm: float = 0.5
    seed: int = 0


def layer(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """Return an orthogonally initialised layer."""
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


def mlp(inputs: int, hidden: int, outputs: int, gain: float) -> nn.Sequential:
    """Return two hidden layers and an output layer."""
    root = 2.0**0.5
    return nn.Sequential(
        layer(inputs, hidden, root),
        nn.ReLU(),
        layer(hidden, hidden, root),
        nn.ReLU(),
        layer(hidden, outputs, gain),
    )


class Agent(nn.Module):
    """Separate actor and critic."""

    def __init__(self, features: int, hidden: int, actions: int) -> None:
        super().__init__()
        self.actor = mlp(features, hidden, actions, 0.01)
        self.critic = mlp(features, hidden, 1, 1.0)

    def value(self, x: torch.Tensor) -> torch.Tensor:
        """Return values (rows,)."""
        return self.critic(x).squeeze(-1)

    def act(
        self, x: torch.Tensor, action: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return actions, log-probabilities, entropies and values (rows,)."""
        distribution = Categorical(logits=self.actor(x), validate_args=False)
        if action is None:
            action = distribution.sample()
        return action, distribution.log_prob(action), distribution.entropy(), self.value(x)


class PlainPPO:
    """The loop, one ``iterate`` at a time."""

    def __init__(self, arguments: Arguments, environment: EnvironmentConfig) -> None:
        self.args = args = arguments
        torch.manual_seed(args.seed)
        self.env = VectorEnvironment(environment, args.num_envs, args.seed)
        features = int(np.prod(self.env.single_observation_space.shape))
        self.agent = Agent(features, args.hidden_size, int(self.env.single_action_space.n))  # type: ignore[attr-defined]
        self.optimizer = torch.optim.Adam(self.agent.parameters(), lr=args.learning_rate, eps=1e-5)
        rows = (args.num_steps, args.num_envs * args.num_agents)
        self.obs = torch.zeros((*rows, features))  # (T, rows, F)
        self.actions = torch.zeros(rows, dtype=torch.int64)
        self.logprobs, self.rewards, self.values = torch.zeros(rows), torch.zeros(rows), torch.zeros(rows)
        self.last_values = torch.zeros(rows)  # (T, rows) of an episode's last observation, where it ended
        self.dones = torch.zeros((args.num_steps, 1))
        self.next_obs = self._rows(self.env.reset(args.seed))

    def _rows(self, observations: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(observations).flatten(0, 1).flatten(1)

    @torch.no_grad()
    def rollout(self) -> None:
        """Step all copies; all episodes end together in this environment."""
        for step in range(self.args.num_steps):
            self.obs[step] = self.next_obs
            action, logprob, _, value = self.agent.act(self.next_obs)
            self.actions[step], self.logprobs[step], self.values[step] = action, logprob, value
            shape = (self.args.num_envs, self.args.num_agents)
            result = self.env.step(action.reshape(shape).numpy())
            self.rewards[step] = torch.from_numpy(result.rewards).flatten()
            self.dones[step] = float(result.done.all())
            if result.final_observations is not None:
                self.last_values[step] = self.agent.value(self._rows(result.final_observations))
            self.next_obs = self._rows(result.observations)

    @torch.no_grad()
    def advantages(self) -> torch.Tensor:
        """Return advantages (T, rows); episodes that end are truncated, hence bootstrapped."""
        args, advantage = self.args, torch.zeros(self.rewards.shape)
        next_value, running = self.agent.value(self.next_obs), torch.zeros(self.rewards.shape[1])
        for t in reversed(range(args.num_steps)):
            done = self.dones[t]
            bootstrap = torch.where(done > 0, self.last_values[t], next_value)
            delta = self.rewards[t] + args.gamma * bootstrap - self.values[t]
            running = delta + args.gamma * args.gae_lambda * (1 - done) * running
            advantage[t], next_value = running, self.values[t]
        return advantage

    def update(self, advantages: torch.Tensor) -> None:
        """Run all epochs."""
        args = self.args
        obs, actions, logprobs = self.obs.flatten(0, 1), self.actions.flatten(), self.logprobs.flatten()
        returns = (advantages + self.values).flatten()
        advantages = advantages.flatten()
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        for _ in range(args.update_epochs):
            for rows in torch.randperm(len(obs)).split(args.minibatch_size):
                _, new_logprob, entropy, value = self.agent.act(obs[rows], actions[rows])
                ratio = (new_logprob - logprobs[rows]).exp()
                chosen = advantages[rows]
                clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
                policy_loss = -torch.min(chosen * ratio, chosen * clipped).mean()
                value_loss = (value - returns[rows]).square().mean()
                loss = policy_loss + args.value_coef * value_loss - args.entropy_coef * entropy.mean()
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.agent.parameters(), args.max_grad_norm)
                self.optimizer.step()

    def iterate(self) -> float:
        """Sample and learn once; return the mean reward."""
        self.rollout()
        self.update(self.advantages())
        return float(self.rewards.mean())

    @property
    def batch_rows(self) -> int:
        """Agent-steps per iteration."""
        return self.rewards.numel()


def main() -> None:
    """Train, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="some seconds instead of two minutes")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    options = parser.parse_args()
    arguments = Arguments()
    ppo = PlainPPO(arguments, EnvironmentConfig(num_agents=arguments.num_agents))
    start = time.perf_counter()
    curve: list[dict[str, float]] = []
    print(f"{'iteration':>10}{'seconds':>10}{'agent-steps/s':>16}{'mean reward':>14}")
    while time.perf_counter() - start < (10 if options.quick else 120):
        reward = ppo.iterate()
        seconds = time.perf_counter() - start
        curve.append(
            {"seconds": seconds, "reward": reward, "rate": ppo.batch_rows * (len(curve) + 1) / seconds}
        )
        print(f"{len(curve):>10}{seconds:>10.1f}{curve[-1]['rate']:>16,.0f}{reward:>14.4f}")
    if options.json:
        options.json.write_text(json.dumps({"settings": asdict(arguments), "curve": curve}, indent=2) + "\n")


if __name__ == "__main__":
    main()
