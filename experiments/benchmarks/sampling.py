"""How many agent-steps per second the array env runner samples, against RLlib's own multi-agent env runner.

Run it with ``python experiments/benchmarks/sampling.py [--quick] [--json FILE]``: about two minutes, with
``--quick`` less than one. Both step the default problem (5 resources, partial observations) with other
numbers of agents: ours as the vectorised environment, RLlib's through ``RLlibEnvironment``, which has the
same rules. Both act with the same network (two layers of 128, one for all agents, no critic while sampling)
and keep everything that PPO needs; RLlib's runner is used as it is, metrics and connectors included. Each
side is shown at its best number of copies, and for RLlib's the share of its time that passes in our face of
the environment.

Times are processor seconds of one process with one thread each: other processes disturb them less than the
clock. They are the best of several rounds, which alternate between the two sides.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import argparse
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner

from camac_dra.environment.rllib_environment import RLlibEnvironment
from camac_dra.environment.vector_environment import VectorEnvironment
from camac_dra.models.rl_module import ActorCriticModule
from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.array_env_runner import ArrayEnvRunner
from camac_dra.training.settings import PPOSettings
from camac_dra.utils.memory import keep_freed_memory
from camac_dra.utils.schema.environment import EnvironmentConfig

AGENTS = (16, 100, 1_000)
OUR_COPIES = {16: (32, 64, 128, 256), 100: (16, 32, 64, 128), 1_000: (2, 4, 8, 16)}
THEIR_COPIES = {16: (1, 4, 16), 100: (1, 4), 1_000: (1, 2)}
FRAGMENT = 32  # steps of ours per sample
THEIR_AGENT_STEPS = {False: 8_000, True: 3_000}  # per sample, about
ROUNDS = {False: 5, True: 2}
TARGET_RATIO = 30.0
MOST_IN_FACE = 0.10


@dataclass(frozen=True)
class Row:
    """Both sides at one number of agents, each at its best number of copies."""

    agents: int
    rate: float  # agent-steps per processor second
    copies: int
    share_in_environment: float
    stock_rate: float
    stock_copies: int
    stock_share_in_face: float

    @property
    def ratio(self) -> float:
        """How many times faster the array env runner is."""
        return self.rate / self.stock_rate


class Clock:
    """Adds up the processor seconds that pass in wrapped methods."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, owner: Any, name: str) -> None:
        """Time every call of ``owner.name``."""
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds += time.process_time() - start

        setattr(owner, name, timed)


class Side:
    """One sampler at one number of copies; keeps its best rate, and the environment's share of all rounds."""

    def __init__(self, copies: int, sample: Callable[[], int], clock: Clock) -> None:
        self.copies = copies
        self._sample = sample
        self._clock = clock
        self.rate = 0.0
        self._spent = self._spent_in_environment = 0.0
        sample()  # the first one resets environments and allocates

    @property
    def share(self) -> float:
        """Share of the time that passed in the environment, over all rounds: that of one is mostly chance."""
        return self._spent_in_environment / self._spent

    def round(self) -> None:
        """Sample once."""
        self._clock.seconds = 0.0
        start = time.process_time()
        agent_steps = self._sample()
        spent = time.process_time() - start
        self.rate = max(self.rate, agent_steps / spent)
        self._spent += spent
        self._spent_in_environment += self._clock.seconds


def make_environment(config: EnvironmentConfig, num_envs: int, seed: int) -> VectorEnvironment:
    """Make the vectorised environment of ``config``."""
    return VectorEnvironment(config, num_envs, seed)


def ours(config: EnvironmentConfig, copies: int) -> Side:
    """Return the array env runner with so many copies."""
    settings = PPOSettings(num_envs=copies, fragment_length=FRAGMENT)
    runner = ArrayEnvRunner(
        config=build_algorithm_config(partial(make_environment, config), settings), worker_index=0
    )
    clock = Clock()
    clock.wrap(runner.env, "step")

    def sample() -> int:
        agent_steps = runner.sample().agent_steps
        runner.get_metrics()
        return agent_steps

    return Side(copies, sample, clock)


def theirs(config: EnvironmentConfig, copies: int, quick: bool) -> Side:
    """Return RLlib's env runner with so many copies."""
    clock = Clock()

    class TimedEnvironment(RLlibEnvironment):
        """Our face of the environment, with a clock."""

        def __init__(self, env_config: Any) -> None:
            super().__init__(env_config)
            clock.wrap(self, "step")
            clock.wrap(self, "reset")

    steps = max(copies * 2, THEIR_AGENT_STEPS[quick] // config.num_agents)
    rllib = PPOConfig()
    rllib.environment(TimedEnvironment, env_config=config.model_dump(), disable_env_checking=True)
    rllib.multi_agent(policies={"shared"}, policy_mapping_fn=lambda *args, **kwargs: "shared")
    rllib.rl_module(
        rl_module_spec=RLModuleSpec(
            module_class=ActorCriticModule, model_config={"network": {"hidden_sizes": (128, 128)}}
        )
    )
    rllib.env_runners(num_env_runners=0, num_envs_per_env_runner=copies)
    runner = MultiAgentEnvRunner(config=rllib, worker_index=0)

    def sample() -> int:
        episodes = runner.sample(num_timesteps=steps)
        runner.get_metrics()
        return sum(episode.agent_steps() for episode in episodes)

    return Side(copies, sample, clock)


def compare(agents: int, quick: bool) -> Row:
    """Measure both sides at one number of agents."""
    config = EnvironmentConfig(num_agents=agents)
    mine = [ours(config, copies) for copies in OUR_COPIES[agents][1 : 3 if quick else None]]
    stock = [theirs(config, copies, quick) for copies in THEIR_COPIES[agents][-1 if quick else 0 :]]
    for _ in range(ROUNDS[quick]):
        for side in (*mine, *stock):
            side.round()
    best, best_stock = (max(sides, key=lambda side: side.rate) for sides in (mine, stock))
    return Row(
        agents,
        best.rate,
        best.copies,
        best.share,
        best_stock.rate,
        best_stock.copies,
        best_stock.share,
    )


def targets(rows: list[Row]) -> list[tuple[str, str, bool]]:
    """Return each target, what was reached, and whether it is met."""
    found = []
    for row in rows:
        text = f"{row.agents:,} agents: at least {TARGET_RATIO:g} times RLlib's env runner"
        found.append((text, f"{row.ratio:.1f} times", row.ratio >= TARGET_RATIO))
    worst = max(row.stock_share_in_face for row in rows)
    text = f"our face takes at most {MOST_IN_FACE:.0%} of RLlib's time"
    found.append((text, f"{worst:.1%}", worst <= MOST_IN_FACE))
    return found


def show(rows: list[Row]) -> None:
    """Print the table and whether the targets are met."""
    print("Agent-steps per processor second, one process and one thread each")
    print(
        f"{'agents':>8}{'array runner':>14}{'copies':>8}{'in env':>8}"
        f"{'RLlib':>12}{'copies':>8}{'in face':>9}{'ratio':>8}"
    )
    for row in rows:
        print(
            f"{row.agents:>8,}{row.rate:>14,.0f}{row.copies:>8}{row.share_in_environment:>8.0%}"
            f"{row.stock_rate:>12,.0f}{row.stock_copies:>8}{row.stock_share_in_face:>9.1%}{row.ratio:>8.1f}"
        )
    print()
    for text, value, met in targets(rows):
        print(f"{'met   ' if met else 'MISSED'}  {text}: {value}")


def main() -> None:
    """Run, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less than a minute: fewer copies and rounds")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = [compare(agents, arguments.quick) for agents in AGENTS]
    show(rows)
    if arguments.json:
        figures = {
            "rows": [asdict(row) | {"ratio": row.ratio} for row in rows],
            "targets": [{"target": text, "value": value, "met": met} for text, value, met in targets(rows)],
        }
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
