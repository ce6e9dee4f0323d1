"""The history of a training keeps its columns aligned and comes back from JSON as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camac_dra.training.checkpoints import json_bytes
from camac_dra.training.history import RECENT_EPISODES, History, iteration_row
from camac_dra.utils.errors import CheckpointError

Numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.dictionaries(st.sampled_from(["loss", "jain", "reward"]), Numbers), max_size=8))
def test_columns_are_as_long_as_there_were_iterations(rows: list[dict[str, float]]) -> None:
    history = History()
    for i, row in enumerate(rows):
        history.add_iteration({"iteration": i + 1, **row}, [], rate=1.0)
    assert history.iterations == len(rows)
    for name, column in history.curves.items():
        assert column == [{"iteration": i + 1, **row}.get(name) for i, row in enumerate(rows)]


@given(st.lists(st.tuples(Numbers, st.floats(0, 1)), max_size=5))
def test_it_comes_back_from_json_to_the_last_bit(episodes: list[tuple[float, float]]) -> None:
    history = History(evaluations=[{"score": 0.1 + 0.2}], seconds=1 / 3)
    ended = [{"reward": reward, "success_rate": success} for reward, success in episodes]
    history.add_iteration({"iteration": 1, "loss": 1 / 7}, ended, rate=2 / 3)
    assert History.from_metrics(json.loads(json_bytes(history.to_metrics()))) == history


def test_episodes_get_the_loss_of_their_iteration_and_success_is_of_the_recent_ones() -> None:
    history = History()
    for loss in (2.0, 1.0):
        ended = [{"reward": 10.0 * loss, "success_rate": loss - 1.0}] * RECENT_EPISODES
        history.add_iteration({"iteration": 1, "loss": loss}, ended, rate=1.0)
    training = history.to_metrics()["training"]
    assert training["episode_rewards"] == [20.0] * RECENT_EPISODES + [10.0] * RECENT_EPISODES
    assert training["episode_losses"] == [2.0] * RECENT_EPISODES + [1.0] * RECENT_EPISODES
    assert training["success_rate"] == 0.0


@pytest.mark.parametrize("damage", [{"curves": None}, {"timing": {}}, {"training": []}])
def test_damaged_metrics_are_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"metrics.json of the checkpoint is damaged"):
        History.from_metrics({**History().to_metrics(), **damage})


def test_losses_are_means_over_policies_and_what_is_not_finite_is_left_out() -> None:
    result = {
        "learners": {
            "agent_0": {"total_loss": 1.0, "entropy": float("nan")},
            "agent_1": {"total_loss": 3.0, "entropy": 1.0},
            "__all_modules__": {"total_loss": 99.0},
        },
        "env_runners": {"allocation": {"resolutions": {"equal": 5}}},
    }
    counters = {"iterations": 4, "env_steps": 80}
    assert iteration_row(result, counters, []) == {"iteration": 4, "env_steps": 80, "loss": 2.0}
    row = iteration_row(result, counters, [{"jain": 0.5}, {"jain": 1.0}])
    assert (row["jain"], row["resolutions/equal"]) == (0.75, 5.0)
