"""How many agent-steps per second PPO learns from, end to end: ours, RLlib's own, and a plain torch loop.

Run it with ``python experiments/benchmarks/training.py [--quick] [--json FILE]``: about three minutes, with
``--quick`` less than one. All train one policy for 16 agents on the default problem in one process, with the
same network (separate actor and critic of two layers of 128), train batch, minibatches and epochs; RLlib's
PPO through ``RLlibEnvironment`` at the better of two numbers of copies, the plain loop (``plain_ppo.py``) and
ours on the vectorised environment. Each is shown with one and with two threads; its best counts.

The arithmetic bound is the time of the matrix products alone: sampling forward, values, and forward and
backward passes of all epochs, each at the rate measured for products of the minibatch's own shapes with as
many threads. Times are by the clock, so run it on an idle machine: rounds alternate between the contenders,
and the best of each counts. Processor seconds are shown beside them.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain_ppo import Arguments, PlainPPO
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from camac_dra.environment.rllib_environment import RLlibEnvironment
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.products import product
from camac_dra.models.rl_module import ActorCriticModule
from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.ray_session import build_algorithm, quiet_ray, ray_session
from camac_dra.training.settings import PPOSettings
from camac_dra.utils.schema.environment import EnvironmentConfig

AGENTS, COPIES, STEPS = 16, 64, 32
HIDDEN, EPOCHS, MINIBATCH = 128, 4, 2048
STOCK_COPIES = (1, 8)
STOCK_SHARE = {False: 4, True: 16}  # RLlib's own trains on this fraction of the batch per round: it is slow
ROUNDS = {False: 6, True: 2}
TARGETS = (("stock", 8.0), ("plain", 1.0))
TARGET_BOUND = 0.35


@dataclass
class Contender:
    """One way to train, with a number of threads; keeps its best round."""

    name: str
    threads: int
    iterate: Callable[[], int] = field(repr=False)  # runs one iteration, returns agent-steps
    rate: float = 0.0  # agent-steps per second
    rate_cpu: float = 0.0  # agent-steps per processor second

    def round(self) -> None:
        """Run one iteration and keep the figures if they are better."""
        torch.set_num_threads(self.threads)
        wall, cpu = time.perf_counter(), time.process_time()
        agent_steps = self.iterate()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        self.rate, self.rate_cpu = max(self.rate, agent_steps / wall), max(self.rate_cpu, agent_steps / cpu)


def make_environment(config: EnvironmentConfig, num_envs: int, seed: int) -> VectorEnvironment:
    """Make the vectorised environment of ``config``."""
    return VectorEnvironment(config, num_envs, seed)


def ours(config: EnvironmentConfig, threads: int, folder: Path) -> Contender:
    """Return ``ArrayPPO``."""
    settings = PPOSettings(
        num_envs=COPIES,
        fragment_length=STEPS,
        batch_size=MINIBATCH,
        num_epochs=EPOCHS,
        hidden_sizes=(HIDDEN, HIDDEN),
        torch_threads=threads,
    )
    algorithm = build_algorithm(build_algorithm_config(partial(make_environment, config), settings), folder)

    def iterate() -> int:
        before = algorithm.counters.agent_steps
        algorithm.train()
        return algorithm.counters.agent_steps - before

    return Contender("ours", threads, iterate)


def plain(config: EnvironmentConfig, threads: int) -> Contender:
    """Return the plain torch loop."""
    loop = PlainPPO(
        Arguments(
            num_agents=AGENTS,
            num_envs=COPIES,
            num_steps=STEPS,
            minibatch_size=MINIBATCH,
            update_epochs=EPOCHS,
            hidden_size=HIDDEN,
        ),
        config,
    )

    def iterate() -> int:
        loop.iterate()
        return loop.batch_rows

    return Contender("plain", threads, iterate)


def stock(config: EnvironmentConfig, threads: int, copies: int, share: int, folder: Path) -> Contender:
    """Return RLlib's PPO, which trains on a ``share``-th of the batch per round."""
    env_steps = COPIES * STEPS // share
    rllib = PPOConfig()
    rllib.environment(RLlibEnvironment, env_config=config.model_dump(), disable_env_checking=True)
    rllib.multi_agent(policies={"shared"}, policy_mapping_fn=lambda *args, **kwargs: "shared")
    network = {"network": {"hidden_sizes": (HIDDEN, HIDDEN)}}
    rllib.rl_module(rl_module_spec=RLModuleSpec(module_class=ActorCriticModule, model_config=network))
    rllib.env_runners(num_env_runners=0, num_envs_per_env_runner=copies)
    rllib.training(
        lr=5e-4,
        gamma=0.95,
        lambda_=0.9,
        clip_param=0.2,
        vf_clip_param=float("inf"),
        vf_loss_coeff=0.5,
        entropy_coeff=0.01,
        use_kl_loss=False,
        grad_clip=0.5,
        num_epochs=EPOCHS,
        minibatch_size=min(MINIBATCH, env_steps),  # RLlib compares it with env steps, but slices agent-steps
        train_batch_size_per_learner=env_steps,
    )
    rllib.experimental(_validate_config=False)
    rllib.minibatch_size = MINIBATCH

    class StockPPO(PPO):
        """RLlib's PPO, which would otherwise make a folder in the user's home."""

        def _setup_logdir(self) -> None:
            self._logdir = str(folder)

    rllib.algo_class = StockPPO
    algorithm = rllib.build_algo()

    def iterate() -> int:
        result = algorithm.train()
        return int(sum(result["env_runners"]["num_agent_steps_sampled"].values()))

    return Contender("stock", threads, iterate)


def products(rows: int, features: int, actions: int) -> list[tuple[int, int, int, bool]]:
    """Return the products of one network's forward pass: (rows, inputs, outputs,
    whether inputs need gradients).
    """
    return [
        (rows, features, HIDDEN, False),
        (rows, HIDDEN, HIDDEN, True),
        (rows, HIDDEN, actions, True),
    ]


def multiply_adds(shapes: list[tuple[int, int, int, bool]], backward: bool) -> int:
    """Return the multiply-adds of a forward pass, or of a forward and backward pass."""
    return sum(m * k * n * (1 + backward * (1 + inputs)) for m, k, n, inputs in shapes)


def seconds_of_products(shapes: list[tuple[int, int, int, bool]], threads: int) -> float:
    """Return the least time that forward and backward products of these shapes take."""
    torch.set_num_threads(threads)
    operands = [(torch.randn(m, k), torch.randn(n, k), torch.randn(m, n)) for m, k, n, _ in shapes]
    best = float("inf")
    for _ in range(40):
        start = time.perf_counter()
        for (x, weight, gradient), (*_, inputs) in zip(operands, shapes, strict=True):
            product(x, weight)
            product(gradient.t(), x.t())
            if inputs:
                product(gradient, weight.t())
        best = min(best, time.perf_counter() - start)
    return best


def bound(features: int, actions: int, threads: int) -> float:
    """Return the agent-steps per second that matrix products alone would allow."""
    rows = COPIES * STEPS * AGENTS
    both = products(MINIBATCH, features, actions) + products(MINIBATCH, features, 1)
    rate = multiply_adds(both, True) / seconds_of_products(both, threads)
    needed = multiply_adds(products(rows, features, actions), False)
    needed += multiply_adds(products(rows, features, 1), False)
    learning = products(rows, features, actions) + products(rows, features, 1)
    needed += EPOCHS * multiply_adds(learning, True)
    return rows * rate / needed


def run(quick: bool) -> tuple[list[Contender], dict[int, float]]:
    """Measure everything; return the contenders and the bound by threads."""
    config = EnvironmentConfig(num_agents=AGENTS)
    env = VectorEnvironment(config, 1, 0)
    features = int(np.prod(env.single_observation_space.shape))
    actions = int(env.single_action_space.n)  # type: ignore[attr-defined]
    share = STOCK_SHARE[quick]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contenders = []
        for threads in (1, 2):
            contenders += [ours(config, threads, folder), plain(config, threads)]
            if threads == 1 or not quick:
                copies = STOCK_COPIES[-1:] if quick else STOCK_COPIES
                contenders += [stock(config, threads, count, share, folder) for count in copies]
        for contender in contenders:
            contender.iterate()  # warms up
        bounds = {1: 0.0, 2: 0.0}
        for _ in range(ROUNDS[quick]):
            for contender in contenders:
                contender.round()
            bounds = {t: max(b, bound(features, actions, t)) for t, b in bounds.items()}
    return contenders, bounds


def best_of(contenders: list[Contender], name: str) -> Contender:
    """Return the fastest of one kind."""
    return max((c for c in contenders if c.name == name), key=lambda c: c.rate)


def targets(contenders: list[Contender], bounds: dict[int, float]) -> list[tuple[str, str, bool]]:
    """Return each target, what was reached, and whether it is met."""
    best = best_of(contenders, "ours")
    found = []
    for name, least in TARGETS:
        ratio = best.rate / best_of(contenders, name).rate
        whose = "RLlib's own PPO" if name == "stock" else "the plain torch loop"
        found.append((f"at least {least:g} times {whose}", f"{ratio:.2f} times", ratio >= least))
    share = best.rate / bounds[best.threads]
    found.append(
        (f"at least {TARGET_BOUND:.0%} of the arithmetic bound", f"{share:.0%}", share >= TARGET_BOUND)
    )
    return found


def show(contenders: list[Contender], bounds: dict[int, float]) -> None:
    """Print the table and whether the targets are met."""
    print(f"PPO end to end: {AGENTS} agents, 2 x {HIDDEN}, {EPOCHS} epochs, minibatches of {MINIBATCH}")
    print(f"{'':<8}{'threads':>8}{'agent-steps/s':>15}{'of the bound':>14}{'per CPU second':>16}")
    for c in contenders:
        share = c.rate / bounds[c.threads]
        print(f"{c.name:<8}{c.threads:>8}{c.rate:>15,.0f}{share:>14.0%}{c.rate_cpu:>16,.0f}")
    for threads, value in bounds.items():
        print(f"{'bound':<8}{threads:>8}{value:>15,.0f}")
    print()
    for text, reached, met in targets(contenders, bounds):
        print(f"{'met   ' if met else 'MISSED'}  {text}: {reached}")


def main() -> None:
    """Run, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less than a minute: few and small rounds")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    quiet_ray()
    with ray_session(1):  # RLlib's own needs Ray even to sample in this process
        contenders, bounds = run(arguments.quick)
    show(contenders, bounds)
    if arguments.json:
        keep: Any = [{k: v for k, v in asdict(c).items() if k != "iterate"} for c in contenders]
        reached = [{"target": t, "value": v, "met": m} for t, v, m in targets(contenders, bounds)]
        figures = {"contenders": keep, "bound_by_threads": bounds, "targets": reached}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
