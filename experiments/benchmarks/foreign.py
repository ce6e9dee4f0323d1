"""What training and sampling are worth in an environment that others wrote: mpe2's ``simple_spread_v3``.

Run it with ``python experiments/benchmarks/foreign.py [--seeds N] [--minutes M] [--quick] [--json FILE]``:
about a quarter of an hour, with ``--quick`` less than a minute. Three agents have 25 steps to cover three
landmarks.

Learning: N seeds (3 by default) of ``rllib_configs/simple_spread.yaml``, at most M minutes (5 by default)
each, one after the other in this process, as ``python -m camac_dra.run`` does it. The best checkpoint of
each, chosen on episodes of its own, plays 200 held-out episodes, beside random actions and a central
assignment that sees all positions and sends agents to landmarks by the shortest total way. The interval is
over seeds, stratified by episode.

Sampling: the array env runner and RLlib's multi-agent env runner, as it is, on the same environment (RLlib's
through its own ``ParallelPettingZooEnv``) with the same network, each at its best number of copies. Times
are processor seconds of one process with one thread; the best of several rounds, which alternate. ``in its
step`` is the share of the time that passes in the environment's own step, which bounds how fast sampling can
be; it is the same code on both sides, less the detours of PettingZoo's wrappers on ours.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import argparse
import json
import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _training_runs import train
from mpe2 import simple_spread_v3
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from sampling import Clock, Side
from scipy.optimize import linear_sum_assignment

from camac_dra.environment.foreign import ForeignVectorEnvironment
from camac_dra.environment.foreign_factory import ForeignFactory
from camac_dra.models.rl_module import ActorCriticModule
from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.array_env_runner import ArrayEnvRunner
from camac_dra.training.foreign_comparison import mean_interval
from camac_dra.training.foreign_evaluation import Played, RandomActions, play_baseline, play_policy
from camac_dra.training.ray_session import quiet_ray
from camac_dra.training.settings import PPOSettings
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.memory import keep_freed_memory

CONFIG = Path(__file__).resolve().parents[2] / "rllib_configs" / "simple_spread.yaml"
EPISODES, EPISODE_SEED, LENGTH = 200, 1_000_000, 25
HIDDEN = (64, 64)
OUR_COPIES, THEIR_COPIES = (8, 32, 128), (1, 4, 16)
FRAGMENT = 50  # steps of ours per sample
THEIR_STEPS = {False: 2_000, True: 500}  # of all copies per sample
ROUNDS = {False: 5, True: 2}
QUICK_MINUTES = 0.2
TARGET_RETURN, TARGET_RATIO = -20.0, 3.0

# Learning

BRAKING = 0.15  # seconds of the present speed that are taken off the way
ARRIVED = 0.03  # distance at which an agent lets itself glide
DIRECTIONS = ((1, 2), (3, 4))  # actions that push to smaller and larger x, and y


def central_assignment(env: Any, observations: Mapping[Any, Any]) -> dict[Any, int]:
    """Send each agent to the landmark that it has in the assignment of the shortest total way."""
    world = env.unwrapped.world
    places = np.array([agent.state.p_pos for agent in world.agents])  # (N, 2)
    landmarks = np.array([landmark.state.p_pos for landmark in world.landmarks])  # (L, 2)
    ways = landmarks[None] - places[:, None]  # (N, L, 2)
    _, chosen = linear_sum_assignment(np.linalg.norm(ways, axis=-1))
    actions = {}
    for agent, way in zip(world.agents, ways[np.arange(len(chosen)), chosen], strict=True):
        aim = way - BRAKING * agent.state.p_vel
        axis = int(np.abs(aim).argmax())
        actions[agent.name] = 0 if abs(aim[axis]) < ARRIVED else DIRECTIONS[axis][int(aim[axis] > 0)]
    return actions


def learn(seeds: int, minutes: float) -> tuple[dict[str, list[Played]], list[dict[str, Any]]]:
    """Train, and return what all methods earn in the held-out episodes, and what the training took."""
    runs: list[dict[str, Any]] = []
    played: dict[str, list[Played]] = {"trained": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            settings = {"training.seed": seed, "training.time_limit": 60.0 * minutes}
            config = build_config(
                CONFIG, {**settings, "training.output_dir": folder, "training.name": f"{seed}"}
            )
            policy, took = train(config)
            factory = ForeignFactory.of(config.environment)
            played["trained"].append(play_policy(policy, factory, EPISODES, EPISODE_SEED))
            runs.append({**took, "return_per_agent": float(played["trained"][-1].per_agent.mean())})
            print(
                f"seed {seed}: {took['status']} after {took['seconds']:.0f} s, "
                f"{took['agent_steps'] / 1e6:.2f} M agent steps: {runs[-1]['return_per_agent']:.2f}",
                flush=True,
            )
    for name, baseline in (("random", RandomActions(0)), ("central assignment", central_assignment)):
        played[name] = [play_baseline(name, baseline, factory, EPISODES, EPISODE_SEED)]
    return played, runs


# Sampling


def ours(copies: int) -> Side:
    """Return the array env runner with so many copies."""
    clock = Clock()

    def vector(num_envs: int, seed: int) -> ForeignVectorEnvironment:
        env = ForeignVectorEnvironment(simple_spread_v3.parallel_env, num_envs, seed, max_steps=LENGTH)
        for one in env.envs:
            clock.wrap(one, "step")
        return env

    settings = PPOSettings(
        num_envs=copies, fragment_length=FRAGMENT, hidden_sizes=HIDDEN, normalize_observations=True
    )
    runner = ArrayEnvRunner(config=build_algorithm_config(vector, settings), worker_index=0)

    def sample() -> int:
        agent_steps = runner.sample().agent_steps
        runner.get_metrics()
        return agent_steps

    return Side(copies, sample, clock)


def theirs(copies: int, quick: bool) -> Side:
    """Return RLlib's env runner with so many copies."""
    clock = Clock()

    class Timed(ParallelPettingZooEnv):
        """RLlib's face of the environment, with a clock on what it steps."""

        def __init__(self, config: Any) -> None:
            env = simple_spread_v3.parallel_env()
            clock.wrap(env, "step")
            super().__init__(env)

    rllib = PPOConfig()
    rllib.environment(Timed, disable_env_checking=True)
    rllib.multi_agent(policies={"shared"}, policy_mapping_fn=lambda *args, **kwargs: "shared")
    rllib.rl_module(
        rl_module_spec=RLModuleSpec(module_class=ActorCriticModule, model_config={"hidden_sizes": HIDDEN})
    )
    rllib.env_runners(num_env_runners=0, num_envs_per_env_runner=copies)
    runner = MultiAgentEnvRunner(config=rllib, worker_index=0)

    def sample() -> int:
        episodes = runner.sample(num_timesteps=THEIR_STEPS[quick])
        runner.get_metrics()
        return sum(episode.agent_steps() for episode in episodes)

    return Side(copies, sample, clock)


def compare_sampling(quick: bool) -> dict[str, dict[str, float]]:
    """Measure both sides, and return the figures of each at its best number of copies."""
    sides = {
        "array runner": [ours(copies) for copies in OUR_COPIES[1 if quick else 0 :]],
        "RLlib": [theirs(copies, quick) for copies in THEIR_COPIES],
    }
    for _ in range(ROUNDS[quick]):
        for side in (side for kind in sides.values() for side in kind):
            side.round()
    best = {name: max(kind, key=lambda side: side.rate) for name, kind in sides.items()}
    return {
        name: {"rate": side.rate, "copies": side.copies, "share_in_step": side.share}
        for name, side in best.items()
    }


# Output


def show(played: dict[str, list[Played]], sampled: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Print both tables, and return the targets with what was reached."""
    print(f"\nMean return per agent, {EPISODES} held-out episodes [95 %]")
    for name, runs in played.items():
        print(f"{name:>20} {mean_interval(*runs)}" + (f", {len(runs)} seeds" if len(runs) > 1 else ""))
    print("\nAgent-steps per processor second, one process and one thread each")
    for name, row in sampled.items():
        print(
            f"{name:>20}{row['rate']:>10,.0f} with {row['copies']} copies, "
            f"{row['share_in_step']:.0%} in its step"
        )
    trained, ratio = (
        mean_interval(*played["trained"]),
        sampled["array runner"]["rate"] / sampled["RLlib"]["rate"],
    )
    targets = [
        (
            f"return per agent better than {TARGET_RETURN:g}",
            trained.low,
            str(trained),
            trained.low > TARGET_RETURN,
        ),
        (
            f"at least {TARGET_RATIO:g} times RLlib's sampling",
            ratio,
            f"{ratio:.1f} times",
            ratio >= TARGET_RATIO,
        ),
    ]
    print()
    for text, _, shown, met in targets:
        print(f"{'met   ' if met else 'MISSED'}  {text}: {shown}")
    return [{"target": text, "value": value, "met": met} for text, value, _, met in targets]


def main() -> None:
    """Train, sample, print, write."""
    options = _options()
    quiet_ray()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(1)
    keep_freed_memory()
    sampled = compare_sampling(options.quick)
    played, runs = learn(options.seeds, options.minutes)
    targets = show(played, sampled)
    if options.json is not None:
        returns = {name: vars(mean_interval(*of)) for name, of in played.items()}
        figures = {"returns": returns, "runs": runs, "sampling": sampled, "targets": targets}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default: 3)")
    parser.add_argument(
        "--minutes", type=float, default=5.0, metavar="M", help="at most, per seed (default: 5)"
    )
    parser.add_argument("--quick", action="store_true", help="one seed of a fifth of a minute, fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.minutes = 1, QUICK_MINUTES
    return options


if __name__ == "__main__":
    main()
