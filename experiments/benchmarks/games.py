"""Games whose best return is known: what the algorithms reach, seed by seed.

Run it with ``python experiments/benchmarks/games.py [--seeds N] [--quick] [--json FILE]``. The two-step game
(Rashid et al. 2018: 8, or 7 for whoever is careful), the climbing and the penalty game (Claus and Boutilier
1998) and Gymnasium's CartPole-v1 are learned through the same env runner as everything else, each seed from
scratch; then the policy plays without exploring. CartPole is solved where the mean return of 20 episodes that
training never saw, played by Gymnasium itself, is at least 475 of 500.

An algorithm is one entry of ``GAME_SETTINGS`` and ``CARTPOLE_SETTINGS``: a settings object without its seed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "games"))

from matrix_games import (
    CLIMBING_BEST,
    PENALTY_BEST,
    TWO_STEP_BEST,
    climbing_game,
    penalty_game,
    two_step_game,
)

from camac_dra.environment.foreign import ForeignVectorEnvironment
from camac_dra.environment.single_agent import SingleAgentParallelEnv
from camac_dra.training.algorithms import build_algorithm_config
from camac_dra.training.policy import TrainedPolicy
from camac_dra.training.ray_session import build_algorithm, quiet_ray
from camac_dra.training.replay_settings import DQNSettings
from camac_dra.training.settings import ArraySettings, PPOSettings

Factory = Callable[[int, int], Any]  # (copies, seed) to a vector environment

PENALTIES = (0.0, -25.0, -50.0, -100.0)
GAMES: dict[str, tuple[Factory, float]] = {  # with the best return
    "two-step": (two_step_game, TWO_STEP_BEST),
    "climbing": (climbing_game, CLIMBING_BEST),
    **{f"penalty {k:.0f}": (partial(penalty_game, penalty=k), PENALTY_BEST) for k in PENALTIES},
}
CARTPOLE = "CartPole-v1"
SOLVED = 475.0
HELD_OUT = range(1_000_000, 1_000_020)  # seeds of the episodes
CHOSEN_ON = range(2_000_000, 2_000_005)  # of those on which the best policy is chosen
LOOKS = 10  # at a policy, during training


def _settings(kind: type[ArraySettings], task: dict[str, Any], **own: Any) -> ArraySettings:
    """Return the settings of an algorithm: what all have, all of its kind, all on its task, and its own."""
    replayed = {"num_epochs": 8, "target_update_rate": 0.02, "grad_clip": 10.0}
    of_kind = replayed if kind is DQNSettings else {"normalize_returns": True, "gae_lambda": 0.95}
    return kind(**{"activation": "tanh", "gamma": 0.99, **of_kind, **task, **own})


_GAME: dict[str, Any] = {
    "hidden_sizes": (32,),
    "num_envs": 64,
    "fragment_length": 4,
    "learning_rate": 3e-3,
    "total_env_steps": 15_360,
}
_CARTPOLE: dict[str, Any] = {"hidden_sizes": (64, 64), "num_envs": 8, "total_env_steps": 51_200}
_GAME_PPO: dict[str, Any] = {
    "batch_size": 512,
    "entropy_coeff": 0.5,  # nobody settles before both know what both can have
    "entropy_coeff_end": 0.0,
}
GAME_SETTINGS: dict[str, ArraySettings] = {
    "PPO, central critic": _settings(PPOSettings, _GAME, critic="centralized", **_GAME_PPO),
    "PPO, local critic": _settings(PPOSettings, _GAME, **_GAME_PPO),
    "DQN": _settings(
        DQNSettings,
        _GAME,
        batch_size=256,
        learning_rate_schedule="linear",
        epsilon_steps=7_680,
        epsilon_end=0.05,
        replay_buffer_size=5_000,
    ),
}
# In games of one state there is nothing that only others see: a local critic is a central one there.
LEFT_OUT = {("PPO, local critic", game) for game in GAMES if game != "two-step"}
CARTPOLE_SETTINGS: dict[str, ArraySettings] = {
    "PPO": _settings(
        PPOSettings,
        _CARTPOLE,
        normalize_observations=True,
        fragment_length=128,
        batch_size=256,
        num_epochs=8,
        learning_rate=1e-3,
        learning_rate_schedule="linear",
        entropy_coeff=0.0,
    ),
    "DQN": _settings(
        DQNSettings,
        _CARTPOLE,
        normalize_observations=True,  # without, most seeds fail
        fragment_length=16,
        batch_size=128,
        n_step=3,
        learning_rate=2e-3,
        learning_rate_schedule="linear",
        epsilon_steps=8_000,
        replay_buffer_size=100_000,
        total_env_steps=102_400,
    ),
}


def learn(
    factory: Factory, settings: ArraySettings, score: Callable[[TrainedPolicy], float] | None = None
) -> tuple[TrainedPolicy, dict[str, float]]:
    """Train for ``total_env_steps`` and return the policy and the seconds that training took, by the clock
    and of this process.

    It is the last policy or, with ``score``, the best of those looked at ten times on the way.
    """
    assert settings.total_env_steps is not None
    found: list[tuple[float, TrainedPolicy]] = []
    wall = busy = 0.0
    with tempfile.TemporaryDirectory() as folder:
        algorithm = build_algorithm(build_algorithm_config(factory, settings), Path(folder))
        for look in range(1, LOOKS + 1):
            started = time.perf_counter(), time.process_time()
            while algorithm.counters.env_steps < settings.total_env_steps * look / LOOKS:
                algorithm.train()
            wall, busy = wall + time.perf_counter() - started[0], busy + time.process_time() - started[1]
            if score is not None or look == LOOKS:
                policy = TrainedPolicy.from_algorithm(algorithm)
                found.append((0.0 if score is None else score(policy), policy))
        algorithm.stop()
    return max(found, key=lambda pair: pair[0])[1], {"seconds": wall, "cpu_seconds": busy}


def play(policy: TrainedPolicy, factory: Factory) -> float:
    """Return what the agents get in one game, in which nothing is drawn."""
    env = factory(1, 0)
    observations, total = env.reset(0), 0.0
    while True:
        result = env.step(policy.actions(observations))
        total += float(result.rewards[0].mean())
        observations = result.observations
        if result.done[0]:
            return total


def game_row(game: str, name: str, seeds: int) -> dict[str, Any]:
    """Learn one game with one algorithm from several seeds."""
    factory, best = GAMES[game]
    outcomes = [learn(factory, dataclasses.replace(GAME_SETTINGS[name], seed=seed)) for seed in range(seeds)]
    returns = [play(policy, factory) for policy, _ in outcomes]
    return {
        "game": game,
        "algorithm": name,
        "best": best,
        "returns": returns,
        "mean": float(np.mean(returns)),
        "at_optimum": int(np.sum(np.isclose(returns, best))),
        "seeds": seeds,
        **_seconds([took for _, took in outcomes]),
    }


def _seconds(took: list[dict[str, float]]) -> dict[str, float]:
    return {f"{name}_per_seed": float(np.mean([one[name] for one in took])) for name in took[0]}


def cartpole(num_envs: int, seed: int) -> ForeignVectorEnvironment:
    """Return copies of CartPole, as any environment of somebody else's becomes them."""
    return ForeignVectorEnvironment(partial(SingleAgentParallelEnv, CARTPOLE), num_envs, seed)


def cartpole_returns(policy: TrainedPolicy, seeds: range) -> float:
    """Return the mean return of episodes with these seeds, which Gymnasium itself plays."""
    env, total = gym.make(CARTPOLE), 0.0
    for seed in seeds:
        observation, _ = env.reset(seed=seed)
        over = False
        while not over:
            action = int(policy.actions(observation[None, None])[0, 0])
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
    env.close()
    return total / len(seeds)


def cartpole_row(name: str, seeds: int) -> dict[str, Any]:
    """Learn CartPole with one algorithm from several seeds."""
    settings = CARTPOLE_SETTINGS[name]
    chosen = partial(cartpole_returns, seeds=CHOSEN_ON)
    outcomes = [learn(cartpole, dataclasses.replace(settings, seed=seed), chosen) for seed in range(seeds)]
    returns = [cartpole_returns(policy, HELD_OUT) for policy, _ in outcomes]
    return {
        "game": CARTPOLE,
        "algorithm": name,
        "best": 500.0,
        "returns": returns,
        "mean": float(np.mean(returns)),
        "solved": int(np.sum(np.array(returns) >= SOLVED)),
        "seeds": seeds,
        **_seconds([took for _, took in outcomes]),
        "env_steps": settings.total_env_steps,
    }


def main() -> None:
    """Learn, print, write."""
    options = _options()
    quiet_ray()
    rows = [
        game_row(game, name, options.seeds)
        for game in GAMES
        for name in GAME_SETTINGS
        if (name, game) not in LEFT_OUT
    ]
    rows += [cartpole_row(name, options.cartpole_seeds) for name in CARTPOLE_SETTINGS]
    Console(width=110).print(_table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2))


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        "game", "algorithm", "best", "mean return", "at the optimum (CartPole: solved)", "s per seed"
    )
    for row in rows:
        reached = row.get("at_optimum", row.get("solved"))
        table.add_row(
            row["game"],
            row["algorithm"],
            f"{row['best']:g}",
            f"{row['mean']:.2f}",
            f"{reached} of {row['seeds']} seeds",
            f"{row['cpu_seconds_per_seed']:.1f}",
        )
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="of each game (default: 10)")
    parser.add_argument(
        "--cartpole-seeds", type=int, default=10, metavar="N", help="of CartPole (default: 10)"
    )
    parser.add_argument("--quick", action="store_true", help="two seeds of each game, one of CartPole")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.cartpole_seeds = min(options.seeds, 2), 1
    return options


if __name__ == "__main__":
    main()
