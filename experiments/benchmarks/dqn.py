"""How many agent-steps per second DQN learns from, end to end: ours beside RLlib's own.

Run it with ``python experiments/benchmarks/dqn.py [--quick] [--json FILE]``: about three minutes, with
``--quick`` one. Both train one policy for 16 agents on the default problem in one process and one thread,
with the same network (two layers of 128, dueling, double, one step) and as many updates of as many rows per
agent-step; for each batch size RLlib's DQN, through ``RLlibEnvironment``, has the faster of its two
multi-agent replay buffers. Both sample with epsilon 0.1 and begin with buffers that hold a few batches.

Times are by the clock, so run it on an idle machine: rounds alternate between the two, and the best of each
counts. Processor seconds are shown beside them.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
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

import torch
from ray.rllib.algorithms.dqn import DQN, DQNConfig

from camac_dra.environment.rllib_environment import RLlibEnvironment
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.ray_session import build_algorithm, quiet_ray, ray_session
from camac_dra.training.replay_settings import DQNSettings
from camac_dra.utils.schema.environment import EnvironmentConfig

AGENTS, HIDDEN = 16, 128
BATCHES = (512, 2048)  # rows of an update; one update per so many agent-steps
COPIES, STEPS = 64, 32  # ours
STOCK_COPIES = 8
BUFFERS = ("MultiAgentEpisodeReplayBuffer", "MultiAgentPrioritizedEpisodeReplayBuffer")
CAPACITY = 100_000
EPSILON = 0.1
ROUNDS = {False: 4, True: 1}
STOCK_UPDATES = 4  # per round
TARGET = 20.0


@dataclass
class Contender:
    """One way to train; keeps its best round."""

    name: str
    batch: int
    iterate: Callable[[], tuple[int, int]] = field(repr=False)  # one round: agent-steps and updates
    rate: float = 0.0  # agent-steps per second
    rate_cpu: float = 0.0  # agent-steps per processor second
    rows_per_step: float = 0.0  # learned from, per agent-step

    def round(self) -> None:
        """Run one round and keep the figures if they are better."""
        wall, cpu = time.perf_counter(), time.process_time()
        steps, updates = self.iterate()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        self.rate, self.rate_cpu = max(self.rate, steps / wall), max(self.rate_cpu, steps / cpu)
        self.rows_per_step = updates * self.batch / steps


def make_environment(config: EnvironmentConfig, num_envs: int, seed: int) -> VectorEnvironment:
    """Make the vectorised environment of ``config``."""
    return VectorEnvironment(config, num_envs, seed)


def ours(config: EnvironmentConfig, batch: int, folder: Path) -> Contender:
    """Return ``ArrayDQN``."""
    settings = DQNSettings(
        num_envs=COPIES,
        fragment_length=STEPS,
        batch_size=batch,
        num_epochs=1,
        n_step=1,
        hidden_sizes=(HIDDEN, HIDDEN),
        replay_buffer_size=CAPACITY,
        epsilon_start=EPSILON,
        epsilon_end=EPSILON,
    )
    algorithm = build_algorithm(build_algorithm_config(partial(make_environment, config), settings), folder)

    def iterate() -> tuple[int, int]:
        steps, updates = algorithm.counters.agent_steps, algorithm.learner.updates
        for _ in range(4):
            algorithm.train()
        return algorithm.counters.agent_steps - steps, algorithm.learner.updates - updates

    return Contender("ours", batch, iterate)


def stock(config: EnvironmentConfig, batch: int, buffer: str, folder: Path) -> Contender:
    """Return RLlib's DQN, which updates once per fragment."""
    rllib = DQNConfig()
    rllib.environment(RLlibEnvironment, env_config=config.model_dump(), disable_env_checking=True)
    rllib.multi_agent(policies={"shared"}, policy_mapping_fn=lambda *args, **kwargs: "shared")
    rllib.rl_module(model_config={"fcnet_hiddens": [HIDDEN, HIDDEN], "head_fcnet_hiddens": []})
    rllib.env_runners(
        num_env_runners=0,
        num_envs_per_env_runner=STOCK_COPIES,
        rollout_fragment_length=max(1, batch // (AGENTS * STOCK_COPIES)),
    )
    rllib.training(
        lr=5e-4,
        gamma=0.95,
        train_batch_size_per_learner=batch,
        replay_buffer_config={"type": buffer, "capacity": CAPACITY, "alpha": 0.6, "beta": 0.4},
        epsilon=EPSILON,
        double_q=True,
        dueling=True,
        n_step=1,
        grad_clip=0.5,
        target_network_update_freq=100 * batch // AGENTS,
        num_steps_sampled_before_learning_starts=0,
    )
    rllib.reporting(min_time_s_per_iteration=None, min_sample_timesteps_per_iteration=0)

    class StockDQN(DQN):
        """RLlib's DQN, which would otherwise make a folder in the user's home."""

        def _setup_logdir(self) -> None:
            self._logdir = str(folder)

    rllib.algo_class = StockDQN
    algorithm = rllib.build_algo()

    def iterate() -> tuple[int, int]:
        steps = 0
        for _ in range(STOCK_UPDATES):
            result = algorithm.train()
            steps += int(sum(result["env_runners"]["num_agent_steps_sampled"].values()))
        return steps, STOCK_UPDATES

    return Contender(buffer, batch, iterate)


def run(quick: bool) -> list[Contender]:
    """Measure everything."""
    config = EnvironmentConfig(num_agents=AGENTS)
    torch.set_num_threads(1)
    batches = BATCHES[-1:] if quick else BATCHES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contenders = []
        for batch in batches:
            contenders.append(ours(config, batch, folder))
            contenders += [stock(config, batch, buffer, folder) for buffer in BUFFERS]
        for contender in contenders:
            contender.iterate()  # warms up, and fills the buffers
        for _ in range(ROUNDS[quick]):
            for contender in contenders:
                contender.round()
    return contenders


def ratios(contenders: list[Contender]) -> dict[int, float]:
    """Return how many times RLlib's rate ours is, by batch size."""
    found = {}
    for batch in {c.batch: None for c in contenders}:
        mine = max(c.rate for c in contenders if c.batch == batch and c.name == "ours")
        theirs = max(c.rate for c in contenders if c.batch == batch and c.name != "ours")
        found[batch] = mine / theirs
    return found


def show(contenders: list[Contender]) -> None:
    """Print the table and whether the target is met."""
    print(f"DQN end to end: {AGENTS} agents, 2 x {HIDDEN}, one thread")
    print(f"{'':<42}{'rows':>6}{'agent-steps/s':>15}{'per CPU second':>16}{'learned/step':>14}")
    for c in contenders:
        print(f"{c.name:<42}{c.batch:>6}{c.rate:>15,.0f}{c.rate_cpu:>16,.0f}{c.rows_per_step:>14.2f}")
    print()
    for batch, ratio in ratios(contenders).items():
        met = "met   " if ratio >= TARGET else "MISSED"
        print(f"{met}  at least {TARGET:g} times RLlib's own DQN, {batch} rows: {ratio:.1f} times")


def main() -> None:
    """Run, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one batch size, one round")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    quiet_ray()
    with ray_session(1):  # RLlib's own needs Ray even to sample in this process
        contenders = run(arguments.quick)
    show(contenders)
    if arguments.json:
        keep: Any = [{k: v for k, v in asdict(c).items() if k != "iterate"} for c in contenders]
        arguments.json.write_text(json.dumps({"contenders": keep, "ratios": ratios(contenders)}, indent=2))


if __name__ == "__main__":
    main()
