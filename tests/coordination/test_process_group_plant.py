"""The example of a real plant: worker processes held to the CPU time that they are granted."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from experiments.process_group_plant import ProcessGroupPlant, cpu_seconds, example_config

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_workers_use_what_they_are_granted_and_no_more() -> None:
    plant = ProcessGroupPlant(example_config(2, 0.5), interval=0.5, load=3.0)
    try:
        plant.apply(np.zeros((2, 1)))  # they are up, and stopped
        before = [cpu_seconds(worker.pid) for worker in plant._workers]
        jobs = plant.finished_jobs
        grants = plant.allocate(np.array([[0.3], [0.0]]))
        outcome = plant.apply(grants)
        used = [cpu_seconds(worker.pid) - start for worker, start in zip(plant._workers, before, strict=True)]
        assert outcome.grants[:, 0].tolist() == grants[:, 0].tolist() == [0.3, 0.0]
        assert 0.05 < used[0] < 0.45  # some ticks of the clock more, and less on a busy machine
        assert used[1] <= 0.05
        assert plant.finished_jobs[0] > jobs[0]
    finally:
        plant.close()
    assert not any(worker.is_alive() for worker in plant._workers)


def test_an_unknown_problem_leaves_no_workers() -> None:
    with pytest.raises(ValueError, match="num_agents"):
        ProcessGroupPlant({"num_agents": 0})
